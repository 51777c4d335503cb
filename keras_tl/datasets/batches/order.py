"""In which order an epoch goes through samples: the same from MongoDB, the cache and memory."""

from __future__ import annotations

import numpy as np

_WINDOW_BYTES = 64 << 20
_LEAST, _MOST = 10, 256  # packs of a window
_FIRST = 5  # of the first one of many: its rows are all there after some 10 ms
_MANY = 40
_PACKS, _ROWS = 0, 1  # streams of random numbers


def window_packs(row_bytes: int, rows: int) -> int:
    """How many packs an epoch mixes at a time: 64 MB of rows, 10 to 256 packs.

    Args:
        row_bytes: Bytes of a sample, of all fields.
        rows: Rows of a pack.

    Example:

    >>> window_packs(3072, 256), window_packs(8, 256), window_packs(50 << 20, 1)
    (85, 256, 10)
    """
    return min(_MOST, max(_LEAST, _WINDOW_BYTES // max(1, row_bytes * rows)))


def epoch_order(
    at: np.ndarray, rows: int, seed: int, epoch: int, window: int = _MOST
) -> np.ndarray:
    """Shuffles samples so that they can be read pack by pack, a window of packs at a time.

    The packs are permuted and cut into windows, and the rows of a window are permuted. The first
    window has 10 packs, or 5 of more than 40, so that the first batch waits for few; each is twice
    as large as the one before, up to `window`. All is made of numbers whose stream NumPy guarantees
    (`Philox.random_raw`), so it is the same on every machine and with every version.

    Args:
        at: int64, the addresses of the samples: `pack * rows + row`.
        rows: Rows of a pack.
        seed: The order's seed.
        epoch: The epoch's number; each has an order of its own.
        window: Packs of a window at most (see `window_packs`).

    Returns:
        int64, a permutation of the positions in `at`.

    Example:

    >>> epoch_order(np.array([3, 7, 9, 12]), rows=4, seed=0, epoch=0).tolist()
    [2, 0, 1, 3]
    """
    count = len(at)
    if count == 0:
        return np.empty(0, np.int64)
    pack, packs = numbered(at // rows)
    place = np.empty(packs, np.int64)
    place[_permutation(packs, seed, epoch)] = np.arange(packs)
    ends = _ends(packs, window)
    windows = np.searchsorted(ends, place, "right").astype(np.uint64)
    # The window, random bits and the position, in one number that need only be sorted: where
    # random bits are equal the position decides, and so nothing depends on how NumPy sorts.
    low, high = (count - 1).bit_length(), (len(ends) - 1).bit_length()
    keys = _random(count, seed, epoch, _ROWS)
    keys >>= np.uint64(low + high)
    keys <<= np.uint64(low)
    keys |= np.arange(count, dtype=np.uint64)
    if high:
        keys |= (windows << np.uint64(64 - high))[pack]
    keys.sort()
    keys &= np.uint64((1 << low) - 1)
    return keys.view(np.int64)


def shard(
    order: np.ndarray, size: int, index: int = 0, count: int = 1, drop_remainder: bool = False
) -> np.ndarray:
    """The part of an epoch that one of several readers takes: as much as each of the others.

    The order is cut into batches of all shards together, `size * count` samples, of which each
    shard takes its slice. So what is trained in a step is the same for any number of shards.

    Args:
        order: The order of all samples.
        size: Samples of a batch of a shard.
        index: Which of the shards.
        count: How many shards.
        drop_remainder: Whether samples that do not fill a batch are left out. With more than one
            shard those that cannot be shared evenly, fewer than `count`, always are.

    Returns:
        Its samples in order: batches of `size`, of which the last may be smaller.

    Example:

    >>> [shard(np.arange(11), 2, i, 2).tolist() for i in range(2)]
    [[0, 1, 4, 5, 8], [2, 3, 6, 7, 9]]
    """
    full = len(order) // (size * count)
    whole, rest = np.split(order, [full * size * count])
    each = 0 if drop_remainder else len(rest) // count
    own = rest[index * each : (index + 1) * each]
    if count == 1:
        return np.concatenate([whole, own]) if drop_remainder else order
    return np.concatenate([whole.reshape(full, count, size)[:, index].ravel(), own])


def batch_random(seed: int, epoch: int, batch: int, shard: int = 0) -> np.random.Generator:
    """Random numbers that belong to one batch, whoever makes it."""
    counter = [0, shard, batch, _ROWS + 1]
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch), counter=counter))


def numbered(packs: np.ndarray) -> tuple[np.ndarray, int]:
    """The packs as numbers from 0 up, and how many there are."""
    first, there = _there(packs)
    if there is None:
        found, pack = np.unique(packs, return_inverse=True)
        return pack, len(found)
    number = np.cumsum(there) - 1
    return number[packs - first], int(number[-1]) + 1


def distinct(packs: np.ndarray) -> np.ndarray:
    """The packs, each once, ascending."""
    first, there = _there(packs)
    return np.unique(packs) if there is None else np.flatnonzero(there) + first


def _there(packs: np.ndarray) -> tuple[int, np.ndarray | None]:
    """The first pack, and which of those from it on there are, without a sort."""
    first = int(packs.min())
    span = int(packs.max()) - first + 1
    if span > 4 * len(packs) + 1024:  # a few samples of a large dataset
        return first, None
    there = np.zeros(span, np.bool_)
    there[packs - first] = True
    return first, there


def _ends(packs: int, window: int) -> np.ndarray:
    ends: list[int] = []
    size = min(_FIRST if packs > _MANY else _LEAST, window)
    while (ends[-1] if ends else 0) < packs:
        ends.append((ends[-1] if ends else 0) + size)
        size = min(2 * size, window)
    return np.array(ends)


def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(_random(count, seed, epoch, _PACKS), kind="stable")


def _random(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    return np.random.Philox(key=_key(seed, epoch), counter=[0, 0, 0, stream]).random_raw(count)


def _key(seed: int, epoch: int) -> np.ndarray:
    return np.array([seed % (1 << 64), epoch % (1 << 64)], np.uint64)

"""The order of an epoch: a permutation, from few packs at a time, shared evenly, and for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.batches.order import batch_random, epoch_order, shard, window_packs

ROWS = 8


@st.composite
def addresses(draw: st.DrawFn) -> np.ndarray:
    """Some samples of a dataset, in any order, of packs that lie close together or far apart."""
    packs = draw(st.lists(st.integers(0, draw(st.sampled_from([40, 10**9]))), max_size=60))
    rows = [draw(st.integers(0, ROWS - 1)) for _ in packs]
    at = {pack * ROWS + row: None for pack, row in zip(packs, rows, strict=True)}
    return np.array(list(at), np.int64)


@given(at=addresses(), seed=st.integers(-5, 2**70), epoch=st.integers(0, 3))
def test_an_epoch_sees_each_sample_once(at: np.ndarray, seed: int, epoch: int) -> None:
    order = epoch_order(at, ROWS, seed, epoch, 16)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(at)))
    assert order.tolist() == epoch_order(at.copy(), ROWS, seed, epoch, 16).tolist()


@pytest.mark.parametrize("packs", [40, 300])
@pytest.mark.parametrize("window", [10, 16, 256])
def test_an_epoch_goes_from_window_to_window(packs: int, window: int) -> None:
    order = epoch_order(np.arange(packs * ROWS), ROWS, 3, 1, window)
    seen: set[int] = set()
    size = 5 if packs > 40 else 10
    while len(order):
        rows, order = order[: size * ROWS], order[size * ROWS :]
        here = set((rows // ROWS).tolist())
        assert len(here) == min(size, packs - len(seen)) and not here & seen
        seen |= here
        size = min(2 * size, window)
    assert len(seen) == packs


def test_each_seed_and_epoch_has_an_order() -> None:
    at = np.arange(40 * ROWS)
    orders = [epoch_order(at, ROWS, s, e, 20) for s in (0, 1) for e in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.05
            # neither the packs nor the rows within them come in the same order
            assert np.mean(one // ROWS == other // ROWS) < 0.2
            assert np.mean(one % ROWS == other % ROWS) < 0.3


def test_the_first_batch_is_any_sample() -> None:
    """Over the seeds, each pack and each row comes first about as often as the others."""
    first = np.array([epoch_order(np.arange(20 * ROWS), ROWS, s, 0, 16)[0] for s in range(2000)])
    assert np.bincount(first // ROWS, minlength=20).min() > 60  # 100 expected
    assert np.bincount(first % ROWS, minlength=ROWS).min() > 190  # 250 expected


def test_the_order_is_the_same_on_every_machine() -> None:
    """Of the bits, so that a later NumPy, or a change here, cannot break a resumed epoch."""
    at = np.arange(3000) * 5 % 3001
    order = epoch_order(at, 256, 7, 2, 12)
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "9e812322086778cc"


def test_nothing_is_ordered_too() -> None:
    assert epoch_order(np.empty(0, np.int64), ROWS, 0, 0).tolist() == []
    assert epoch_order(np.array([5]), ROWS, 0, 0).tolist() == [0]


@given(
    total=st.integers(0, 60),
    size=st.integers(1, 7),
    count=st.integers(1, 5),
    drop=st.booleans(),
)
def test_shards_share_evenly(total: int, size: int, count: int, drop: bool) -> None:
    order = np.random.default_rng(0).permutation(total)
    parts = [shard(order, size, i, count, drop) for i in range(count)]
    assert len({len(part) for part in parts}) == 1
    together = np.concatenate(parts).tolist()
    assert len(set(together)) == len(together) and set(together) <= set(order.tolist())
    assert total - len(together) < (size * count if drop else count)
    # A step of all shards trains what a step of one reader with large batches does.
    whole = shard(order, size * count, 0, 1, drop)
    for step in range(-(-len(parts[0]) // size)):
        here = np.concatenate([part[step * size : (step + 1) * size] for part in parts])
        one = whole[step * size * count : (step + 1) * size * count]
        assert here.tolist() == one[: len(here)].tolist()


@given(row_bytes=st.integers(1, 1 << 26), power=st.integers(0, 8))
def test_a_window_is_64_megabytes(row_bytes: int, power: int) -> None:
    window = window_packs(row_bytes, 1 << power)
    assert 10 <= window <= 256
    if 10 < window < 256:
        assert window * row_bytes << power <= 64 << 20 < (window + 1) * row_bytes << power


def test_random_numbers_belong_to_a_batch() -> None:
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 1)]
    drawn = [batch_random(*place).integers(0, 1 << 62) for place in places]
    assert len(set(drawn)) == len(drawn)
    assert drawn == [batch_random(*place).integers(0, 1 << 62) for place in places]

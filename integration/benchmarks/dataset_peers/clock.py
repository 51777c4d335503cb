"""How contenders are timed: in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_SETTLE = 0.02  # s between two calls

Batch = tuple[np.ndarray, np.ndarray]


@dataclass
class Reader:
    """A way to read the samples in batches.

    Attributes:
        name: what the row says.
        epoch: gives the batches `(x, y)` of an epoch.
        passes: epochs that are timed together, so that a fast one takes long enough to be timed.
    """

    name: str
    epoch: Callable[[], Iterable[Any]]
    passes: int = 1


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def drain(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def first(batches: Iterable[Any]) -> Any:
    """The first batch; what reads ahead is stopped."""
    iterator: Iterator[Any] = iter(batches)
    found = next(iterator)
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
    return found


def checked(reader: Reader, x: np.ndarray, y: np.ndarray) -> None:
    """Reads an epoch and compares it with the samples, whatever their order is.

    Raises:
        SystemExit: if it is not all the samples, each once and each with its label.
    """
    batches = [(np.asarray(bx), np.asarray(by)) for bx, by in reader.epoch()]
    found = digest(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    if not np.array_equal(found, digest(x, y)):
        raise SystemExit(f"{reader.name}: an epoch does not have all the samples, each once")
    if batches[0][0].shape[1:] != x.shape[1:] or batches[0][0].dtype != x.dtype:
        raise SystemExit(f"{reader.name}: {batches[0][0].dtype} of {batches[0][0].shape}")


def digest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A number for each sample with its label, sorted."""
    weights = np.random.default_rng(0).integers(1, 1 << 31, size=x[0].size, dtype="int64")
    rows = x.reshape(len(x), -1)
    # In parts: as int64 the samples would take eight times their memory.
    sums = [rows[i : i + 4096].astype("int64") @ weights for i in range(0, len(rows), 4096)]
    return np.sort(np.concatenate(sums) * 16 + y)


def rates(readers: list[Reader], n: int, rounds: int, least: float) -> dict[str, list[float]]:
    """Samples a second of each reader, by round.

    Args:
        readers: the contenders.
        n: samples of an epoch.
        rounds: each reader has a turn in each.
        least: seconds that a turn takes at least, in whole epochs.
    """
    for reader in readers:
        once = seconds(lambda: drain(reader.epoch()))  # noqa: B023
        reader.passes = max(1, round(least / once))
    found: dict[str, list[float]] = {reader.name: [] for reader in readers}
    for _ in range(rounds):
        for reader in readers:
            took = seconds(lambda: [drain(reader.epoch()) for _ in range(reader.passes)])  # noqa: B023
            found[reader.name].append(reader.passes * n / took)
    return found


def milliseconds(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median milliseconds of each call, in turns; the first round does not count.

    What a call leaves behind, as a read ahead that nobody wants, has some time to end.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            took = seconds(call)
            time.sleep(_SETTLE)
            if number:
                taken[name].append(1e3 * took)
    return {name: statistics.median(its) for name, its in taken.items()}


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(its) for name, its in found.items()}


def spread(values: list[float]) -> float:
    """The distance of the best round from the worst, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)

"""Rows that are read together: where an epoch can be cut so that no pack is read twice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from keras_tl.datasets.batches.order import distinct, numbered
from keras_tl.datasets.reading.memory import Memory

_TARGET_BYTES = 16 << 20
_MOST_BYTES, _MOST_VARYING = 64 << 20, 1 << 30  # a window of an epoch: up to 256 packs of 4 MB
_AHEAD_BYTES = 32 << 20  # that are asked for before they are wanted; and one span in any case


def cut(
    at: np.ndarray, rows: int, first: int, row_bytes: Callable[[], int], varies: bool = False
) -> Iterator[tuple[int, int]]:
    """Cuts rows into spans: where no pack lies on both sides, if there is such a place.

    Args:
        at: the addresses, in the order in which they are read.
        rows: rows of a pack.
        first: rows that are waited for first; spans grow from there on.
        row_bytes: bytes of a row, about, as far as that is known when a span is wanted.
        varies: whether rows may turn out to be much larger than their packs were planned for.

    Yields:
        Begin and end of each span: of some 16 MB, of 64 at most where it can be cut nowhere (of
        1 GB if rows vary).

    Example:

    >>> list(cut(np.array([0, 2, 1, 9, 8, 4, 5]), rows=4, first=1, row_bytes=lambda: 1))
    [(0, 3), (3, 7)]
    """
    count = len(at)
    if not count:
        return
    pack, packs = numbered(at // rows)
    last = np.zeros(packs, np.int64)
    last[pack] = np.arange(count)  # of equal indices the last one counts
    reach = np.maximum.accumulate(last[pack])
    ends = np.flatnonzero(reach == np.arange(count)) + 1
    begin, wanted = 0, first
    while begin < count:
        most = max(first, (_MOST_VARYING if varies else _MOST_BYTES) // row_bytes())
        wanted = min(wanted, max(first, _TARGET_BYTES // row_bytes()))
        place = int(np.searchsorted(ends, begin + wanted))
        end = int(ends[min(place, len(ends) - 1)])
        if end - begin > most:
            end = begin + most
            clean = int(np.searchsorted(ends, end, "right"))
            if clean and ends[clean - 1] > begin:
                end = int(ends[clean - 1])
        yield begin, end
        begin, wanted = end, 2 * max(wanted, end - begin)


class Span:
    """Some rows on their way; threads put what does not come from the local columns.

    Args:
        begin: the first row's position.
        at: the rows' addresses.
        rows: rows of a pack.
        memory: where its values are put.
    """

    def __init__(self, begin: int, at: np.ndarray, rows: int, memory: Memory | None = None) -> None:
        self.begin, self.end = begin, begin + len(at)
        self.at = at
        self._rows, self._memory = rows, memory or Memory()
        self._pack = at // rows
        self.packs = distinct(self._pack)
        #: Values by field, and which rows have one.
        self.own: dict[str, np.ndarray] = {}
        self.has: dict[str, np.ndarray] = {}
        self.futures: list[Future[None]] = []
        self._lock = threading.Lock()
        self._order: np.ndarray | None = None

    @property
    def done(self) -> bool:
        """Whether all that it waits for is there, or failed."""
        return all(future.done() for future in self.futures)

    def wait(self) -> None:
        """Until it is done.

        Raises:
            Exception: what a thread has raised.
        """
        for future in self.futures:
            future.result()

    def put(self, pack: int, name: str, column: Any) -> None:
        """Keeps the rows of a pack that are in the span."""
        mine = self._positions(pack)
        values = self._values(name, column)
        from_row = self.at[mine] % self._rows
        if isinstance(column, np.ndarray):
            whole = len(mine) == len(column) and np.array_equal(from_row, np.arange(len(column)))
            values[mine] = column if whole else column[from_row]
        else:
            for position, row in zip(mine.tolist(), from_row.tolist(), strict=True):
                values[position] = column[row]
        self.has[name][mine] = True

    def _positions(self, pack: int) -> np.ndarray:
        """Where the pack's rows are in the span, in the pack's order."""
        with self._lock:
            if self._order is None:
                self._order = np.argsort(self.at, kind="stable")
                self._pack = self._pack[self._order]
        begin, end = np.searchsorted(self._pack, [pack, pack + 1])
        return self._order[begin:end]

    def _values(self, name: str, column: Any) -> np.ndarray:
        with self._lock:
            if name not in self.own:
                count = len(self.at)
                if isinstance(column, np.ndarray):
                    shape = (count, *column.shape[1:])
                    self.own[name] = self._memory.empty(shape, column.dtype)
                else:
                    self.own[name] = np.empty(count, object)
                self.has[name] = np.zeros(count, np.bool_)
            return self.own[name]


class Ahead:
    """Spans in their order, of which some are begun before they are asked for.

    Args:
        plan: their begins and ends.
        begin: begins one.
        row_bytes: bytes of a row, about.
    """

    def __init__(
        self,
        plan: Iterator[tuple[int, int]],
        begin: Callable[[int, int], Span],
        row_bytes: Callable[[], int],
    ) -> None:
        self._plan, self._begin, self._row_bytes = plan, begin, row_bytes
        self._begun: deque[Span] = deque()

    def next(self) -> Span:
        """The next span, once it is done; there must be one.

        Raises:
            Exception: what a thread has raised.
        """
        if not self._begun:
            self._begun.append(self._begin(*next(self._plan)))
        self._begun[0].wait()
        return self._begun.popleft()

    @property
    def done(self) -> bool:
        """Whether the next span is there already."""
        return bool(self._begun) and self._begun[0].done

    def fill(self) -> None:
        """Begins the next span, and more if they are small."""
        waiting = sum(len(span.at) for span in self._begun)
        while not self._begun or waiting * self._row_bytes() < _AHEAD_BYTES:
            bounds = next(self._plan, None)
            if bounds is None:
                return
            self._begun.append(self._begin(*bounds))
            waiting += bounds[1] - bounds[0]


def overlap(spans: Sequence[Span], begin: int, end: int) -> list[tuple[Span, slice]]:
    """The spans between two positions, and which of their rows are."""
    return [
        (span, slice(max(0, begin - span.begin), min(end, span.end) - span.begin))
        for span in spans
        if span.begin < end and begin < span.end
    ]

"""The order of records: one of each partition in turn, the same on every replay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

Record = TypeVar("Record")
Entry = tuple[int, str, int]

# A partition that the broker has not answered for is probably not empty, but slow.
_UNKNOWN_FACTOR = 10


class Merge(Generic[Record]):
    """Round robin over partitions; the order is a function of the records and of `schedule`.

    The next active partition (by number, after the last one) gives one record. If it has none
    while others have, it is waited for `idle_timeout` seconds, then leaves the rotation; it joins
    again at the next turn boundary where it has data. The clock decides only these two things, so
    they are written to `schedule` as `(turn, "leave" | "join", partition)`.

    Args:
        turn, last, active: where a cursor stands; the defaults begin a stream.
        unfinished: the record in progress: the partition whose record is handed out first,
            without a new turn.
        idle_timeout: seconds.
        at_end: whether the broker said that a partition has nothing beyond what was read.
        replay: entries to follow instead of own decisions in all turns before `until`.
        clock: monotonic seconds.

    Example:

    >>> merge = Merge([0, 1])
    >>> for record in ("a", "b"):
    ...     merge.offer(0, record)
    >>> merge.offer(1, "A")
    >>> merge.next(), merge.next(), merge.next()
    ((0, 'a'), (1, 'A'), (0, 'b'))
    >>> merge.schedule
    [(0, 'join', 0), (0, 'join', 1)]
    """

    def __init__(
        self,
        partitions: Iterable[int],
        *,
        turn: int = 0,
        last: int | None = None,
        active: Iterable[int] | None = None,
        unfinished: int | None = None,
        idle_timeout: float = 1.0,
        at_end: Callable[[int], bool] = lambda partition: True,
        replay: Sequence[Entry] = (),
        until: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turn = turn
        self.last = last
        self.schedule: list[Entry] = []
        self._waiting: dict[int, deque[Record]] = {p: deque() for p in sorted(partitions)}
        self._unfinished = unfinished
        self._idle_timeout = idle_timeout
        self._at_end = at_end
        self._replay = deque(entry for entry in replay if entry[0] >= turn)
        self._until = until
        self._clock = clock
        self._finished: set[int] = set()
        self._held: tuple[int, float] | None = None
        self.active: tuple[int, ...] = ()
        if active is not None:
            self.active = tuple(sorted(active))
        elif not self._replaying:
            # Also how it began is in the schedule: a replay may meet a topic with more partitions.
            for partition in self._waiting:
                self._decide("join", partition)

    @property
    def _replaying(self) -> bool:
        return self.turn < self._until

    @property
    def waits_for(self) -> int | None:
        """The partition that holds the merge."""
        return self._held[0] if self._held else None

    def add(self, partition: int) -> None:
        """A partition that the topic did not have before; it joins when it has data."""
        self._waiting.setdefault(partition, deque())

    def offer(self, partition: int, record: Record) -> None:
        """The next record of a partition."""
        self._waiting[partition].append(record)

    def finish(self, partition: int) -> None:
        """Nothing follows in this partition (a bounded stream): the others go on without it."""
        self._finished.add(partition)

    @property
    def done(self) -> bool:
        """Whether all partitions are finished and handed out."""
        return all(p in self._finished and not queue for p, queue in self._waiting.items())

    def next(self) -> tuple[int, Record] | None:
        """The next record and its partition, or `None` while it is not there yet."""
        if self._unfinished is not None:
            if not self._waiting[self._unfinished]:
                return None
            partition, self._unfinished = self._unfinished, None
            return partition, self._waiting[partition].popleft()
        while True:
            while self._replay and self._replay[0][0] == self.turn:
                self._decide(*self._replay.popleft()[1:])
            if not self._replaying:
                for partition, queue in self._waiting.items():
                    if queue and partition not in self.active:
                        self._decide("join", partition)
            candidate = self._candidate()
            if candidate is None:
                return None
            if queue := self._waiting[candidate]:
                self._held = None
                self.turn += 1
                self.last = candidate
                return candidate, queue.popleft()
            if self._replaying or not any(self._waiting[p] for p in self.active):
                self._held = None
                return None
            if not self._patience_is_over(candidate):
                return None
            self._decide("leave", candidate)

    def _candidate(self) -> int | None:
        rotation = [p for p in self.active if self._waiting[p] or p not in self._finished]
        if not rotation:
            return None
        return next((p for p in rotation if self.last is not None and p > self.last), rotation[0])

    def _patience_is_over(self, partition: int) -> bool:
        now = self._clock()
        if self._held is None or self._held[0] != partition:
            self._held = (partition, now)
        known = self._at_end(partition)
        limit = self._idle_timeout * (1 if known else _UNKNOWN_FACTOR)
        return now - self._held[1] >= limit

    def _decide(self, what: str, partition: int) -> None:
        self._held = None
        changed = {*self.active, partition} if what == "join" else {*self.active} - {partition}
        self.active = tuple(sorted(changed))
        self.schedule.append((self.turn, what, partition))

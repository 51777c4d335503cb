"""A topic in memory, injected where a stream would read Kafka; and blocks to fill it with."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from keras_tl.storage import records
from keras_tl.streams import Stream
from keras_tl.streams.source import Record


class Topic:
    """Records by partition; grows while it is read."""

    def __init__(self, partitions: int = 1, topic_id: str = "id-1") -> None:
        self.logs: list[list[Record]] = [[] for _ in range(partitions)]
        self.id = topic_id
        self.changed = threading.Condition()
        self.failure: Exception | None = None

    def add(self, partition: int, **columns: Any) -> None:
        value, headers = records.encode({name: np.asarray(c) for name, c in columns.items()})
        self.add_raw(partition, value, headers)

    def add_raw(self, partition: int, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        with self.changed:
            log = self.logs[partition]
            log.append(Record(partition, len(log), value, headers))
            self.changed.notify_all()

    def grow(self) -> None:
        with self.changed:
            self.logs.append([])


class MemorySource:
    """A `Source` that reads a `Topic`."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.at: dict[int, int] = {}
        self.paused: frozenset[int] = frozenset()
        self.most_paused: frozenset[int] = frozenset()
        self.closed = threading.Event()

    def partitions(self) -> Collection[int]:
        return range(len(self.topic.logs))

    def topic_id(self, partition: int) -> str | None:
        return self.topic.id

    def seek(self, positions: Mapping[int, int]) -> None:
        self.at.update(positions)

    def _new(self) -> list[Record]:
        # A few at a time, as a broker sends them.
        return [
            record
            for partition, offset in self.at.items()
            if partition not in self.paused
            for record in self.topic.logs[partition][offset : offset + 3]
        ]

    def poll(self, timeout: float) -> Iterable[Record]:
        with self.topic.changed:
            if self.topic.failure is not None:
                raise self.topic.failure
            if not (found := self._new()):
                self.topic.changed.wait(timeout)
                found = self._new()
        for record in found:
            self.at[record.partition] = record.offset + 1
        return found

    def position(self, partition: int) -> int:
        return self.at[partition]

    def at_end(self, partition: int) -> bool:
        return self.at[partition] >= len(self.topic.logs[partition])

    def pause(self, partitions: Collection[int]) -> None:
        self.paused = frozenset(partitions)
        self.most_paused |= self.paused

    def close(self) -> None:
        self.closed.set()


def stream(topic: Topic, batch_size: int = 8, **options: Any) -> Stream:
    """A stream of the topic that never skips a partition because of the clock."""
    options = {"idle_timeout": 1e9, "source": MemorySource(topic), **options}
    return Stream(None, "memory", batch_size, **options)  # type: ignore[arg-type]


def samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` of always the same inputs and targets."""
    random = np.random.default_rng(7)
    x = random.normal(size=(4000, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True) + random.normal(size=(4000, 1)).astype("float32")
    return x[:count], y[:count]


def filled(count: int, block: int = 5, partitions: int = 1) -> Topic:
    """A topic with `samples(count)` in blocks, block `i` in partition `i % partitions`."""
    x, y = samples(count)
    topic = Topic(partitions)
    for i, row in enumerate(range(0, count, block)):
        topic.add(i % partitions, x=x[row : row + block], y=y[row : row + block])
    return topic

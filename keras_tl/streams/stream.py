"""A Kafka topic as the data of `fit`."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_tl.streams import identity
from keras_tl.streams.adapter import Batch, Feed
from keras_tl.streams.batcher import to_keras
from keras_tl.streams.cursor import Cursor, Position
from keras_tl.streams.errors import StreamError
from keras_tl.streams.reader import Decode, Reader
from keras_tl.streams.source import KafkaSource, Source, changed, highwaters, open_consumer

if TYPE_CHECKING:
    from kafka import KafkaConsumer

    from keras_tl.storage.connection import Connection


class Stream(Feed):
    """The samples of a topic, in batches of one size, for `model.fit(stream, steps_per_epoch=n)`.

    The records are blocks of samples (`Producer`). Fields `x`, `y` and `sample_weight` are what
    `fit` calls so; inputs of other names become a dict `x`. Partitions take turns, one record
    each, so the order depends on the records alone; which partition was skipped because it was
    idle is part of `cursor`. A stream without new data waits, and so does one whose broker is
    away; `close()` from another thread ends the wait. What `fit` pulled and did not train (a
    look at the shapes, an epoch that was stopped) comes again.

    Args:
        connection: gives Kafka clients, `keras_tl.storage.connection.Connection`.
        topic: its name.
        batch_size: samples in a batch.
        start: `"earliest"` or `"latest"`: where to begin without a `cursor`.
        cursor: what `Stream.cursor` gave; the stream goes on there. Another `batch_size` is fine.
        prefetch_bytes: how much is read ahead; the fetches on their way add half of it at most.
        idle_timeout: seconds that a partition without data holds up the others.
        end: `None` for a stream without end; `"now"` to stop at what the topic holds when the
            stream is made; or `{partition: offset}`. The last batch may then be a shorter one.
        replay: a cursor whose decisions about idle partitions are repeated up to its turn.
        source, decode, clock: other than Kafka, `storage.records.decode` and `time.monotonic`.

    Raises:
        ValueError: if an argument is not one of these.
        StreamError: if no broker answers or the topic does not exist.
        TopicChanged: if `cursor` was made on another topic of this name.

    Example:

    ```python
    stream = Stream(Connection(kafka="broker:9092"), "digits", batch_size=128)
    model.fit(stream, steps_per_epoch=500)
    ```
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        batch_size: int,
        *,
        start: Literal["earliest", "latest"] = "earliest",
        cursor: Mapping[str, Any] | None = None,
        prefetch_bytes: int = 64 << 20,
        idle_timeout: float = 1.0,
        end: Literal["now"] | Mapping[int, int] | None = None,
        replay: Mapping[str, Any] | None = None,
        source: Source | None = None,
        decode: Decode | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        _check_arguments(batch_size, start, prefetch_bytes, idle_timeout, end)
        stored = None if cursor is None else Cursor.from_dict(cursor)
        followed = None if replay is None else Cursor.from_dict(replay)
        if stored is not None and stored.topic != topic:
            raise ValueError(
                f"`cursor` must be one of the topic {topic!r}. Received: one of {stored.topic!r}"
            )
        if followed is not None and followed.since > (stored.turn if stored else 0):
            raise ValueError(
                f"`replay` must know all turns from {stored.turn if stored else 0} on. Received: "
                f"one that knows those from {followed.since} on"
            )
        if decode is None:
            from keras_tl.storage import records

            decode = records.decode
        #: Key of the model whose version it starts from, until a checkpoint has restored that.
        self.resumed: str | None = None
        #: What the last `fit` trained on it: the checkpoint's, for the next `fit`.
        self.fitted: Any = None
        # Of a batch: {name: [dtype, shape of a sample]}, from the cursor or the first batch.
        self._fields: dict[str, list[Any]] | None = cursor.get("fields") if cursor else None
        self._connection = connection
        self._topic = topic
        self._batch_size = batch_size
        self._trained = 0
        self._kept: deque[tuple[Batch, Cursor]] = deque()
        self._lock = threading.Lock()
        self._pulling = threading.Lock()

        if source is None:
            if stored is not None:
                identity.verify(connection, stored)
            # 4 MB where there is room: kafka-python asks again only when an answer is read, and
            # 1 MB, its default, costs a third of the throughput.
            fetch_bytes = min(4 << 20, max(1 << 16, prefetch_bytes // 16))
            source = KafkaSource(connection, topic, fetch_bytes)
        try:
            self._cursor = self._begin(source, start, stored)
            ends = self._ends() if end == "now" else end
        except BaseException:
            source.close()
            raise
        self._reader = Reader(
            source,
            self._cursor,
            batch_size,
            prefetch_bytes=prefetch_bytes,
            idle_timeout=idle_timeout,
            end=None if ends is None else {p: ends.get(p, 0) for p in self._cursor.positions},
            replay=followed,
            decode=decode,
            clock=clock,
        )
        # The reader does not know the stream, so that a stream nobody holds stops reading.
        self._finalizer = weakref.finalize(self, _close, self._reader, os.getpid())

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        return self._batch_size

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def trained(self) -> int:
        """Batches trained since this object was made."""
        return self._trained

    @property
    def handed_out(self) -> int:
        """Batches handed out since this object was made, trained or not."""
        with self._lock:
            return self._trained + len(self._kept)

    @property
    def cursor(self) -> dict[str, Any]:
        """The position after `trained` batches, as a document that `Stream(cursor=)` takes."""
        return {**self._cursor.to_dict(), "fields": self._fields}

    def mark_trained(self, n: int) -> None:
        """Say that exactly the first `n` batches of this object are in the weights.

        Raises:
            ValueError: if fewer were marked before, or so many were never handed out.
        """
        if not self._trained <= n <= self._trained + len(self._kept):
            raise ValueError(
                f"`n` must be between {self._trained}, which are marked, and "
                f"{self._trained + len(self._kept)}, which were handed out. Received: n={n}"
            )
        self._forget(n)

    def peek(self) -> Batch:
        """The first untrained batch, as NumPy arrays; it does not count as trained.

        Raises:
            StreamError: if the stream is at its end, or cannot go on.
        """
        batch = self._batch(self._trained)
        if batch is None:
            raise StreamError(f"The stream of topic {self._topic!r} is at its end.")
        return batch

    def example(self) -> Batch:
        """Arrays of a batch's shapes and dtypes: zeros if a cursor told them, else `peek`.

        A model can so be built, and a training that was complete be found complete, while a
        resumed stream is quiet.
        """
        if self._fields is None:
            return self.peek()
        return to_keras(
            {
                name: np.zeros((self._batch_size, *shape), dtype)
                for name, (dtype, shape) in self._fields.items()
            }
        )

    def verify(self, cursor: Mapping[str, Any], consumer: KafkaConsumer | None = None) -> None:
        """Raise unless the broker's topic is the one of `cursor`; see `identity.verify`.

        Safe on any thread: it uses a consumer of its own.

        Raises:
            TopicChanged: if it is another topic, or retention passed the cursor.
            StreamError: if the broker does not answer: then nothing is known.
        """
        identity.verify(self._connection, Cursor.from_dict(cursor), consumer)

    def close(self) -> None:
        """Stop reading. A `fit` that waits for a batch ends as at the end of the data."""
        self._finalizer()

    def _begin(self, source: Source, start: str, stored: Cursor | None) -> Cursor:
        partitions = sorted(source.partitions())
        ids = {p: source.topic_id(p) for p in partitions}
        if stored is None:
            first = dict.fromkeys(partitions, 0)
            if isinstance(source, KafkaSource):
                first = self._ends() if start == "latest" else source.beginnings()
            return Cursor(
                self._topic, self._batch_size, {p: Position(first[p]) for p in partitions}, ids
            )
        for partition, stored_id in stored.topic_ids.items():
            found = ids.get(partition)
            if partition not in ids or (stored_id and found and stored_id != found):
                raise changed(self._topic, f"its id was {stored_id} and is {found}", partition)
        # Partitions that were added since begin at their first record.
        return Cursor(
            self._topic,
            self._batch_size,
            {p: stored.positions.get(p, Position(0)) for p in partitions},
            ids,
            turn=stored.turn,
            last=stored.last,
            active=stored.active,
            since=stored.turn,
        )

    def _ends(self) -> dict[int, int]:
        consumer = open_consumer(self._connection, self._topic)
        try:
            return highwaters(
                consumer, self._topic, sorted(consumer.partitions_for_topic(self._topic))
            )
        finally:
            consumer.close(timeout_ms=1000)

    def _batch(self, index: int) -> Batch | None:
        self._check_process()
        # One puller at a time, but `trained` and `cursor` never wait for data.
        with self._pulling:
            while True:
                with self._lock:
                    at = index - self._trained
                    if at < 0:
                        raise StreamError(
                            f"An iterator of an earlier `fit` asks for batch {index}, and "
                            f"{self._trained} are trained."
                        )
                    if at < len(self._kept):
                        return self._kept[at][0]
                taken = self._reader.get()
                if taken is None:
                    return None
                columns, cursor = taken
                if self._fields is None:
                    self._fields = {
                        name: [column.dtype.name, list(column.shape[1:])]
                        for name, column in columns.items()
                    }
                with self._lock:
                    self._kept.append((to_keras(columns), cursor))

    def _forget(self, count: int) -> None:
        with self._lock:
            while self._trained < count and self._kept:
                self._cursor = self._kept.popleft()[1]
                self._trained += 1


def _close(reader: Reader, pid: int) -> None:
    # A forked child inherits the finalizer, not the thread.
    if os.getpid() == pid:
        reader.close()


def _check_arguments(
    batch_size: int, start: str, prefetch_bytes: int, idle_timeout: float, end: Any
) -> None:
    for name, value in (("batch_size", batch_size), ("prefetch_bytes", prefetch_bytes)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if not idle_timeout > 0:
        raise ValueError(f"`idle_timeout` must be over 0. Received: idle_timeout={idle_timeout!r}")
    if start not in ("earliest", "latest"):
        raise ValueError(f'`start` must be "earliest" or "latest". Received: start={start!r}')
    if end is not None and end != "now" and not isinstance(end, Mapping):
        raise ValueError(
            f'`end` must be None, "now" or {{partition: offset}}. Received: end={end!r}'
        )

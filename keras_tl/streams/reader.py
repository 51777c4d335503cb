"""One thread that turns records into batches ahead of the training, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_tl.streams.batcher import Batcher
from keras_tl.streams.cursor import Checksum, Cursor, Position
from keras_tl.streams.errors import StreamError, TopicChanged
from keras_tl.streams.merge import Merge
from keras_tl.streams.source import Source, changed

Batch = dict[str, np.ndarray]
Decode = Callable[[bytes, Sequence[tuple[str, bytes]]], Mapping[str, np.ndarray]]

_POLL = 0.05


class Reader:
    """Reads `source` from `cursor` on, merges its partitions, cuts batches, keeps a few ready.

    Half of `prefetch_bytes` is for records as they came, shared between the partitions (one that
    is above its share is paused), half for batches.

    Args:
        source: used by the reader's thread alone once it runs.
        cursor: where to begin.
        batch_size: samples in a batch.
        prefetch_bytes: bound of what is kept; one batch and a record of each partition always fit.
        idle_timeout: see `Merge`.
        end: offsets to stop before, or `None`.
        replay: a cursor whose schedule is followed, see `Merge`.
        decode: record to columns.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        cursor: Cursor,
        batch_size: int,
        *,
        prefetch_bytes: int,
        idle_timeout: float,
        end: Mapping[int, int] | None,
        replay: Cursor | None,
        decode: Decode,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._topic = cursor.topic
        self._positions = dict(cursor.positions)
        self._topic_ids = dict(cursor.topic_ids)
        self._since = cursor.turn
        self._batcher = Batcher(batch_size)
        self._batch_size = batch_size
        self._share = prefetch_bytes // 2
        self._end = end
        self._decode = decode
        self._merge: Merge[Any] = Merge(
            self._positions,
            turn=cursor.turn,
            last=cursor.last,
            active=cursor.active or None,
            unfinished=next((p for p, at in self._positions.items() if at.row), None),
            idle_timeout=idle_timeout,
            at_end=source.at_end,
            replay=replay.schedule[: replay.decisions] if replay else (),
            until=replay.turn if replay else 0,
            clock=clock,
        )
        self._held = dict.fromkeys(self._positions, 0)
        self._paused: set[int] = set()

        self._ready = threading.Condition()
        self._queue: deque[tuple[Batch, Cursor, int]] = deque()
        self._queued = 0
        self._over = False
        self._closed = False
        self._error: StreamError | None = None
        self._thread: threading.Thread | None = None

    def get(self) -> tuple[Batch, Cursor] | None:
        """The next batch and the position after it; waits for it; `None` at the end.

        Raises:
            StreamError: if the reader failed; the batches that it read before come first, unless
                the topic turned out to be another one.
        """
        with self._ready:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name=f"keras_tl-stream-{self._topic}", daemon=True
                )
                self._thread.start()
            while not (self._queue or self._over or self._closed):
                self._ready.wait()
            if self._closed:
                return None
            if self._queue:
                batch, cursor, size = self._queue.popleft()
                self._queued -= size
                self._ready.notify_all()
                return batch, cursor
            if self._error is not None:
                # A new object each time: a raised one drags its traceback along.
                raise type(self._error)(*self._error.args) from self._error.__cause__
            return None

    def close(self) -> None:
        """Stop reading; a `get` that waits returns `None`."""
        with self._ready:
            self._closed = True
            self._queue.clear()
            self._ready.notify_all()
            thread = self._thread
        if thread is None:
            self._source.close()
        elif thread is not threading.current_thread():
            thread.join(timeout=5)

    def _run(self) -> None:
        error: StreamError | None = None
        try:
            self._source.seek({p: at.offset for p, at in self._positions.items()})
            self._read()
        except StreamError as failure:
            error = failure
        except Exception as failure:
            error = StreamError(
                f"Reading the topic {self._topic!r} failed: {type(failure).__name__}: {failure}"
            )
            error.__cause__ = failure
        finally:
            with self._ready:
                self._error = error
                if isinstance(error, TopicChanged):
                    self._queue.clear()
                self._over = True
                self._ready.notify_all()
            self._source.close()

    def _read(self) -> None:
        while not self._closed:
            self._pause()
            for record in self._source.poll(_POLL):
                if self._end is None or record.offset < self._end[record.partition]:
                    self._merge.offer(record.partition, record)
                    self._held[record.partition] += len(record.value or b"")
            self._see_growth()
            if self._end is not None:
                for partition, end in self._end.items():
                    if self._source.position(partition) >= end:
                        self._merge.finish(partition)
            while not self._closed and (taken := self._merge.next()):
                self._take(*taken)
            if self._end is not None and self._merge.done:
                if rest := self._batcher.rest():
                    self._put(rest, 0)
                return

    def _see_growth(self) -> None:
        if self._end is not None:
            return
        new = set(self._source.partitions()) - self._positions.keys()
        if not new:
            return
        for partition in sorted(new):
            self._positions[partition] = Position(0)
            self._topic_ids[partition] = self._source.topic_id(partition)
            self._held[partition] = 0
            self._merge.add(partition)
        self._source.seek(dict.fromkeys(new, 0))

    def _pause(self) -> None:
        mark = max(1, self._share // len(self._held))
        for partition, held in self._held.items():
            if held >= mark:
                self._paused.add(partition)
            elif held <= mark // 2:
                self._paused.discard(partition)
        self._source.pause(self._paused)

    def _take(self, partition: int, record: Any) -> None:
        self._held[partition] -= len(record.value or b"")
        at = self._positions[partition]
        try:
            block = self._decode(record.value, record.headers)
            self._batcher.check(block)
        except ValueError as error:
            raise StreamError(
                f"Topic {self._topic!r}, partition {partition}, offset {record.offset}: the record "
                f"cannot be trained on: {error}"
            ) from error
        count = len(next(iter(block.values())))
        if at.row and (record.offset != at.offset or at.row >= count):
            raise changed(
                self._topic,
                f"row {at.row} of offset {at.offset} comes next, and the record there is now "
                f"offset {record.offset} with {count} rows",
                partition,
            )
        after = Position(record.offset + 1, 0, Checksum(record.value))
        for row, batch in self._batcher.add(block, at.row):
            self._positions[partition] = (
                after if row == count else Position(record.offset, row, at.before)
            )
            self._put(batch, len(record.value))
        self._positions[partition] = after

    def _put(self, batch: Batch, pinned: int) -> None:
        cursor = Cursor(
            topic=self._topic,
            batch_size=self._batch_size,
            positions=dict(self._positions),
            topic_ids=self._topic_ids,
            turn=self._merge.turn,
            last=self._merge.last,
            active=self._merge.active,
            since=self._since,
            schedule=self._merge.schedule,
            decisions=len(self._merge.schedule),
        )
        size = sum(column.nbytes for column in batch.values()) + pinned
        with self._ready:
            while self._queue and self._queued + size > self._share and not self._closed:
                self._ready.wait()
            self._queue.append((batch, cursor, size))
            self._queued += size
            self._ready.notify_all()

"""Samples into a topic, many to a record."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.streams.errors import StreamError, checked_options

if TYPE_CHECKING:
    from keras_tl.storage.connection import Connection

log = logging.getLogger(__name__)

# Brokers refuse records over 1 MB unless they are told otherwise.
_RECORD_BYTES = 900_000
_TIMEOUT = 120.0


class Producer:
    """Collects samples into blocks and sends each as one record, acknowledged by all replicas.

    Block `i` goes to partition `i % partitions`, so that what a stream reads does not depend on a
    hash. The fields, dtypes and shapes of the first sample hold for all. Not to be shared between
    threads.

    Args:
        connection: gives Kafka clients, `keras_tl.storage.connection.Connection`.
        topic: its name.
        block_size: samples in a record; fewer where they would take over 0.9 MB.
        partitions: makes the topic with so many if it does not exist; `None` expects it to exist.
        max_bytes: how much may be on its way; `send` waits beyond.

    Raises:
        ValueError: if the topic has another number of partitions, or kafka-python refuses the
            connection's options.
        StreamError: if it does not exist, or no broker answers.

    Example:

    ```python
    with Producer(Connection(kafka="broker:9092"), "digits", partitions=2) as producer:
        producer.send_many(x=images, y=labels)      # (n, 28, 28) and (n,)
        producer.send(x=image, y=3)
    ```
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        block_size: int = 64,
        partitions: int | None = None,
        max_bytes: int = 32 << 20,
    ) -> None:
        for name, value in (("block_size", block_size), ("max_bytes", max_bytes)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={value!r}")
        if partitions is not None and partitions < 1:
            raise ValueError(f"`partitions` must be at least 1. Received: partitions={partitions}")
        self._topic = topic
        self._block_size = block_size
        self._max_bytes = max_bytes
        self._partitions = _ensure_topic(connection, topic, partitions)
        with checked_options(connection.kafka):
            self._client = connection.producer(
                acks="all",
                enable_idempotence=True,
                linger_ms=10,
                batch_size=1 << 19,
                # The broker would make a mistyped topic with its own number of partitions.
                allow_auto_create_topics=False,
            )
        self._schema: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] | None = None
        self._rows: dict[str, np.ndarray] = {}
        self._filled = 0
        self._blocks = 0
        self._sending: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._closed = False

    @property
    def partitions(self) -> int:
        """Partitions of the topic."""
        return self._partitions

    def send(self, **sample: Any) -> None:
        """Add one sample: an array or number for each field.

        Raises:
            ValueError: if fields, dtypes or shapes are not those of the first sample.
            StreamError: if a record could not be sent.
        """
        self.send_many(**{name: self._as_column(name, value) for name, value in sample.items()})

    def send_many(self, **columns: Any) -> None:
        """Add many samples: for each field an array whose axis 0 is the sample.

        Raises:
            ValueError: as `send`, or if the columns are not of one length.
            StreamError: if a record could not be sent.
        """
        if self._closed:
            raise StreamError(f"The producer of topic {self._topic!r} is closed.")
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        count = self._check(arrays)
        size = self._rows_in_a_block()
        row = 0
        while row < count:
            if self._filled == 0 and count - row >= size:
                self._send_block({name: a[row : row + size] for name, a in arrays.items()})
                row += size
                continue
            if not self._rows:
                self._rows = {
                    name: np.empty((size, *a.shape[1:]), a.dtype) for name, a in arrays.items()
                }
            taken = min(count - row, size - self._filled)
            for name, a in arrays.items():
                self._rows[name][self._filled : self._filled + taken] = a[row : row + taken]
            self._filled += taken
            row += taken
            if self._filled == size:
                self._send_rest()

    def flush(self) -> None:
        """Send what is collected, also a block that is not full, and wait until it is stored.

        Raises:
            StreamError: if a record could not be stored.
        """
        self._send_rest()
        self._client.flush(timeout=_TIMEOUT)
        self._settle(0)

    def close(self) -> None:
        """`flush`, and let go of the broker.

        Raises:
            StreamError: if a record could not be stored.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._client.close(timeout=2)

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StreamError:
            if error is None:
                raise
            log.exception("Not all samples of topic %r were stored.", self._topic)

    def _as_column(self, name: str, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if self._schema and name in self._schema and not hasattr(value, "dtype"):
            # A Python number has no dtype of its own.
            dtype = self._schema[name][0]
            if np.can_cast(array.dtype, dtype, "same_kind"):
                array = array.astype(dtype)
        return array[np.newaxis]

    def _check(self, arrays: Mapping[str, np.ndarray]) -> int:
        counts = {name: a.shape[0] if a.ndim else None for name, a in arrays.items()}
        if not counts or None in counts.values() or len(set(counts.values())) > 1:
            raise ValueError(
                "Columns must have one axis 0, the sample, of one length. "
                f"Received: {[(name, a.shape) for name, a in arrays.items()]}"
            )
        schema = {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}
        if self._schema is None:
            for name, (dtype, _) in schema.items():
                if dtype.hasobject or dtype.kind in "USMm":
                    raise ValueError(
                        f"field `{name}` must hold numbers or booleans. Received: {dtype}"
                    )
            self._schema = schema
        if schema.keys() != self._schema.keys():
            raise ValueError(
                f"Fields must be those of the first sample, {sorted(self._schema)}. "
                f"Received: {sorted(schema)}"
            )
        for name, (dtype, shape) in schema.items():
            if (dtype, shape) != self._schema[name]:
                raise ValueError(
                    f"field `{name}` must be {self._schema[name][0]} of shape "
                    f"{self._schema[name][1]}, as in the first sample. "
                    f"Received: {dtype} of shape {shape}"
                )
        return next(iter(arrays.values())).shape[0]

    def _rows_in_a_block(self) -> int:
        assert self._schema is not None
        row = sum(d.itemsize * int(np.prod(shape)) for d, shape in self._schema.values())
        return max(1, min(self._block_size, _RECORD_BYTES // max(row, 1)))

    def _send_rest(self) -> None:
        if self._filled:
            rows, filled = self._rows, self._filled
            self._rows, self._filled = {}, 0
            self._send_block({name: column[:filled] for name, column in rows.items()})

    def _send_block(self, block: Mapping[str, np.ndarray]) -> None:
        from kafka.errors import KafkaError

        from keras_tl.storage import records

        value, headers = records.encode(block)
        self._settle(max(0, self._max_bytes - len(value)))
        try:
            future = self._client.send(
                self._topic,
                value=value,
                headers=headers,
                partition=self._blocks % self._partitions,
            )
        except KafkaError as error:
            raise self._failed(error) from error
        self._blocks += 1
        self._sending.append((future, len(value)))
        self._bytes += len(value)

    def _settle(self, limit: int) -> None:
        """Wait until at most `limit` bytes are on their way; what arrived is looked at once."""
        from kafka.errors import KafkaError

        while self._sending and (self._bytes > limit or self._sending[0][0].is_done):
            future, size = self._sending.popleft()
            self._bytes -= size
            try:
                future.get(timeout=_TIMEOUT)
            except KafkaError as error:
                raise self._failed(error) from error

    def _failed(self, error: Exception) -> StreamError:
        return StreamError(
            f"A block of samples could not be stored in topic {self._topic!r}: "
            f"{type(error).__name__}: {error}"
        )


def _ensure_topic(connection: Connection, topic: str, partitions: int | None) -> int:
    from kafka import KafkaAdminClient, errors
    from kafka.admin import NewTopic

    options = connection.kafka
    try:
        with checked_options(options):
            admin = KafkaAdminClient(**options)
    except errors.KafkaError as error:
        raise StreamError(
            f"No broker answers for the topic {topic!r}: {type(error).__name__}."
        ) from error
    try:
        found = _partitions(admin, topic)
        if not found and partitions is not None:
            try:
                admin.create_topics([NewTopic(topic, partitions, -1)])
            except errors.TopicAlreadyExistsError:
                pass
        # Brokers learn of a topic a moment after it was made.
        deadline = time.monotonic() + 1
        while not found and time.monotonic() < deadline:
            time.sleep(0.02)
            found = _partitions(admin, topic)
        found = found or partitions or 0
    finally:
        admin.close()
    if not found:
        raise StreamError(
            f"`topic` must exist, or `partitions` be given to make it. Received: {topic!r}, which "
            "the broker does not have"
        )
    if partitions is not None and found != partitions:
        raise ValueError(
            f"`partitions` must be what the topic {topic!r} has, {found}, or None. "
            f"Received: partitions={partitions}"
        )
    return found


def _partitions(admin: Any, topic: str) -> int:
    from kafka import errors

    try:
        (described,) = admin.describe_topics([topic])
    except errors.UnknownTopicOrPartitionError:
        return 0
    return 0 if described.get("error_code") else len(described["partitions"])

"""Reads a topic's partitions with `assign` and `seek`, and notices when it is another topic."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from keras_tl.streams.errors import StreamError, TopicChanged, checked_options

if TYPE_CHECKING:
    from kafka import KafkaConsumer

    from keras_tl.storage.connection import Connection

log = logging.getLogger(__name__)

_WARN_EVERY = 30.0
_REMEDY = (
    'Start over with `start="earliest"` and without `resume`, or bring the old topic back and '
    "resume again."
)


class Record(NamedTuple):
    """What a source yields; the same names as kafka-python's `ConsumerRecord`."""

    partition: int
    offset: int
    value: bytes
    headers: list[tuple[str, bytes]]


class Source(Protocol):
    """Where a reader takes records from; one thread uses it at a time."""

    def partitions(self) -> Collection[int]:
        """The partitions known now; more may come."""

    def topic_id(self, partition: int) -> str | None:
        """The id of the topic that a partition is of, where the broker tells."""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Also read these partitions, from these offsets on."""

    def poll(self, timeout: float) -> Iterable[Any]:
        """Records in the order of each partition; waits `timeout` seconds at most if none is there.

        Raises:
            StreamError: if no further record can be read. What may pass is waited out, not raised.
        """

    def position(self, partition: int) -> int:
        """The offset that is read next."""

    def at_end(self, partition: int) -> bool:
        """Whether the broker said that nothing lies beyond `position`."""

    def pause(self, partitions: Collection[int]) -> None:
        """Read only from the other partitions."""

    def close(self) -> None:
        """Let go of the broker."""


def open_consumer(
    connection: Connection, topic: str, fetch_bytes: int = 1 << 16, timeout: float = 30.0
) -> KafkaConsumer:
    """A consumer of its own, without a group; `fetch_bytes` limits a fetch from one partition.

    Raises:
        StreamError: if no broker answers within `timeout` seconds.
        ValueError: if kafka-python refuses the connection's options.
    """
    import kafka
    from kafka import errors

    options: dict[str, Any] = {
        "group_id": None,
        "enable_auto_commit": False,
        # Never a silent jump to another offset.
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        # Tansu looks for new data only every half of this wait; Apache Kafka does not mind.
        "fetch_max_wait_ms": 10,
        "max_partition_fetch_bytes": fetch_bytes,
        "fetch_max_bytes": 4 * fetch_bytes,
        # The topic's id is read from metadata: this is how soon a new one is noticed.
        "metadata_max_age_ms": 1000,
        "reconnect_backoff_max_ms": 1000,
        "bootstrap_timeout_ms": int(timeout * 1000),
    }
    own = connection.kafka
    if "bootstrap_timeout_ms" in own:
        del options["bootstrap_timeout_ms"]
    try:
        with checked_options(own):
            consumer = connection.consumer(**options)
    except errors.KafkaError as error:
        raise StreamError(
            f"No broker answers for the topic {topic!r}: {type(error).__name__}. Is it running, "
            "and are `kafka=` and its TLS and SASL options right?"
        ) from error
    assert isinstance(consumer, kafka.KafkaConsumer)
    return consumer


def topic_id(consumer: KafkaConsumer, topic: str) -> str | None:
    """The topic's id in the consumer's metadata, `None` where the broker gives none."""
    # kafka-python offers ids only through its admin client; this is the same table, kept fresh.
    found = consumer._client.cluster.topic_id(topic)
    return str(found) if found is not None and found.int else None


def highwaters(
    consumer: KafkaConsumer, topic: str, partitions: Iterable[int], timeout: float = 30.0
) -> dict[int, int]:
    """The end of each partition, of a consumer that is used for nothing else.

    From fetches: Tansu's ListOffsets is wrong after a record batch of several records.

    Raises:
        StreamError: if the broker does not tell within `timeout` seconds.
    """
    from kafka import TopicPartition

    assigned = [TopicPartition(topic, p) for p in partitions]
    consumer.assign(assigned)
    for tp, offset in consumer.end_offsets(assigned).items():
        consumer.seek(tp, offset)
    deadline = time.monotonic() + timeout
    while any(consumer.highwater(tp) is None for tp in assigned):
        consumer.poll(timeout_ms=50, max_records=1)
        if time.monotonic() > deadline:
            raise StreamError(f"The broker does not tell where the topic {topic!r} ends.")
    return {tp.partition: int(consumer.highwater(tp)) for tp in assigned}


def changed(topic: str, what: str, partition: int | None = None) -> TopicChanged:
    """The error that says which topic, what was found and what can be done."""
    where = f"Topic {topic!r}" + ("" if partition is None else f", partition {partition}")
    return TopicChanged(f"{where} is not the one that was trained on: {what}. {_REMEDY}")


def _metadata_age(consumer: KafkaConsumer) -> float:
    refreshed = getattr(consumer._client.cluster, "_last_successful_refresh_ms", None)
    return 0.0 if refreshed is None else time.monotonic() - refreshed / 1000


class KafkaSource:
    """A `Source` on kafka-python; a broker that is away is waited for.

    Args:
        connection: gives `consumer(**options)` and `kafka`.
        topic: its name.
        fetch_bytes: limit of one fetch from one partition, and of a quarter of a whole fetch.

    Raises:
        StreamError: if no broker answers or the topic does not exist.
    """

    def __init__(self, connection: Connection, topic: str, fetch_bytes: int = 4 << 20) -> None:
        from kafka import TopicPartition

        self._tp = TopicPartition
        self._topic = topic
        self._consumer = open_consumer(connection, topic, fetch_bytes)
        # Brokers learn of a topic a moment after it was made.
        deadline = time.monotonic() + 1
        while not self._consumer.partitions_for_topic(topic) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.partitions():
            self._consumer.close()
            raise StreamError(
                f"`topic` must exist. Received: {topic!r}, which the broker does not have; "
                "`hub.producer(topic, partitions=...)` makes it."
            )
        self._id = topic_id(self._consumer, topic)
        self._assigned: list[Any] = []
        self._paused: frozenset[int] = frozenset()
        self._warned = float("-inf")

    def partitions(self) -> Collection[int]:
        return self._consumer._client.cluster.partitions_for_topic(self._topic) or ()

    def topic_id(self, partition: int) -> str | None:
        return self._id

    def beginnings(self) -> dict[int, int]:
        """The first offset of each partition."""
        tps = [self._tp(self._topic, p) for p in self.partitions()]
        return {tp.partition: int(at) for tp, at in self._consumer.beginning_offsets(tps).items()}

    def seek(self, positions: Mapping[int, int]) -> None:
        kept = {tp: self._consumer.position(tp) for tp in self._assigned}
        self._assigned += [self._tp(self._topic, p) for p in positions]
        self._consumer.assign(self._assigned)
        for tp in self._assigned:
            self._consumer.seek(tp, kept.get(tp, positions.get(tp.partition)))
        paused, self._paused = self._paused, frozenset()
        self.pause(paused)

    def poll(self, timeout: float) -> Iterable[Any]:
        from kafka import errors

        try:
            found = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=1000)
        except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
            self._check_id()
            raise changed(
                self._topic,
                f"an offset is no longer there ({error}); retention passed it or the log was cut",
            ) from error
        except errors.KafkaError as error:
            if isinstance(error, errors.RetriableError) or getattr(error, "retriable", False):
                self._warn(f"{type(error).__name__}: {error}")
                return []
            raise
        self._check_id()
        if not found and _metadata_age(self._consumer) > 5:
            self._warn("it does not answer")
        return [record for records in found.values() for record in records]

    def position(self, partition: int) -> int:
        return self._consumer.position(self._tp(self._topic, partition), timeout_ms=0) or 0

    def at_end(self, partition: int) -> bool:
        highwater = self._consumer.highwater(self._tp(self._topic, partition))
        return highwater is not None and highwater <= self.position(partition)

    def pause(self, partitions: Collection[int]) -> None:
        wanted = frozenset(partitions)
        self._consumer.resume(*(self._tp(self._topic, p) for p in self._paused - wanted))
        self._consumer.pause(*(self._tp(self._topic, p) for p in wanted - self._paused))
        self._paused = wanted

    def close(self) -> None:
        self._consumer.close(timeout_ms=2000)

    def _check_id(self) -> None:
        found = topic_id(self._consumer, self._topic)
        if self._id is not None and found is not None and found != self._id:
            raise changed(self._topic, f"its id was {self._id} and is now {found}")

    def _warn(self, what: str) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            log.warning("The stream of topic %r waits for its broker (%s).", self._topic, what)

"""Whether a topic is still the one that a cursor was made on."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.streams.cursor import Cursor
from keras_tl.streams.errors import StreamError, TopicChanged
from keras_tl.streams.source import changed, open_consumer, topic_id

if TYPE_CHECKING:
    from kafka import KafkaConsumer

    from keras_tl.storage.connection import Connection


def verify(
    connection: Connection,
    cursor: Cursor,
    consumer: KafkaConsumer | None = None,
    timeout: float = 10.0,
) -> None:
    """Raise unless offsets of `cursor` mean today what they meant when it was made.

    Compares, for each partition, the topic's id, the first and last offset there are, and the
    checksum of the record before the stored offset, read again.

    Args:
        connection: gives `consumer(**options)`.
        cursor: what to check.
        consumer: one that nothing else uses; without it one is opened and closed here, which
            costs some 10 to 150 ms and never sees old metadata.
        timeout: seconds to wait for the broker.

    Raises:
        TopicChanged: if the topic is another one, or has lost what follows the cursor.
        StreamError: if the broker does not answer, so that nothing is known.
    """
    if consumer is not None:
        return _verify(consumer, cursor, timeout)
    consumer = open_consumer(connection, cursor.topic, timeout=timeout)
    try:
        _verify(consumer, cursor, timeout)
    finally:
        consumer.close(timeout_ms=1000)


def refusal(connection: Connection, cursor: Mapping[str, Any]) -> TopicChanged | None:
    """Why the document `cursor` does not hold any more, or `None`.

    Raises:
        StreamError: if the broker does not answer, so that nothing is known.
    """
    try:
        verify(connection, Cursor.from_dict(cursor))
    except TopicChanged as error:
        return error
    return None


def _verify(consumer: KafkaConsumer, cursor: Cursor, timeout: float) -> None:
    from kafka import TopicPartition, errors

    topic = cursor.topic
    try:
        known = consumer.partitions_for_topic(topic)
        if not known:
            raise changed(topic, "the broker has no topic of this name")
        found_id = topic_id(consumer, topic)
        for partition, stored in cursor.topic_ids.items():
            if stored is not None and found_id is not None and stored != found_id:
                raise changed(topic, f"its id was {stored} and is now {found_id}", partition)
            if partition not in known:
                raise changed(topic, "it no longer exists", partition)
        assigned = [TopicPartition(topic, p) for p in cursor.positions]
        begins = consumer.beginning_offsets(assigned)
        consumer.assign(assigned)
        for tp in assigned:
            offset = cursor.positions[tp.partition].offset
            if begins[tp] > offset:
                raise changed(
                    topic,
                    f"offset {offset} comes next, and the first that is left is {begins[tp]} "
                    "(retention passed it)",
                    tp.partition,
                )
            consumer.seek(tp, max(begins[tp], offset - 1))
        _check_records(consumer, cursor, {tp: begins[tp] for tp in assigned}, timeout)
    except errors.OffsetOutOfRangeError as error:
        raise changed(topic, f"it ends before a stored offset ({error})") from error
    except errors.KafkaError as error:
        raise _unanswered(topic) from error


def _check_records(
    consumer: KafkaConsumer, cursor: Cursor, begins: dict[Any, int], timeout: float
) -> None:
    deadline = time.monotonic() + timeout
    open_ = set(begins)
    while open_:
        if time.monotonic() > deadline:
            raise _unanswered(cursor.topic)
        # One record at a time: what a fetch brings besides is kept for the other partitions.
        found = consumer.poll(timeout_ms=100, max_records=1)
        for tp in list(open_):
            position = cursor.positions[tp.partition]
            highwater = consumer.highwater(tp)
            if highwater is not None and highwater < position.offset:
                raise changed(
                    cursor.topic,
                    f"offset {position.offset} comes next, and the log ends at {highwater}",
                    tp.partition,
                )
            needed = position.offset - 1 >= begins[tp] and position.before.crc is not None
            if not needed and highwater is not None:
                open_.discard(tp)
            elif records := found.get(tp):
                # A later record here means that compaction took the one to compare with.
                crc = zlib.crc32(records[0].value or b"")
                if records[0].offset == position.offset - 1 and crc != position.before.crc:
                    raise changed(
                        cursor.topic,
                        f"the record at offset {position.offset - 1} had the checksum "
                        f"{position.before.crc} and has now {crc}",
                        tp.partition,
                    )
                open_.discard(tp)
        consumer.pause(*(tp for tp in begins if tp not in open_))


def _unanswered(topic: str) -> StreamError:
    return StreamError(f"The topic {topic!r} could not be checked: the broker does not answer.")

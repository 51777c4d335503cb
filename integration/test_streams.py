"""Streams and producers on real brokers."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from kafka.errors import KafkaError

from keras_tl.storage.connection import Connection
from keras_tl.streams import Producer, Stream, StreamError, TopicChanged, refusal

# What Keras' own `get_weights` does on NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KAFKA_ONLY = pytest.mark.parametrize("broker_kind", ["kafka"], indirect=True)


@pytest.fixture
def kafka(broker: str) -> Connection:
    return Connection(kafka=broker)


@pytest.fixture
def admin(broker: str) -> Iterator[Any]:
    from kafka import KafkaAdminClient

    client = KafkaAdminClient(bootstrap_servers=broker)
    yield client
    client.close()


def unconnected() -> list[socket.socket]:
    found = [o for o in gc.get_objects() if type(o) is socket.socket and o.fileno() >= 0]
    for connected in list(found):
        with contextlib.suppress(OSError):
            connected.getpeername()
            found.remove(connected)
    return found


@pytest.fixture
def lost_sockets() -> Iterator[None]:
    """kafka-python leaves the socket of a refused connection to the garbage collector."""
    before = set(unconnected())
    yield
    for lost in set(unconnected()) - before:
        lost.close()


def numbers(first: int, count: int) -> dict[str, np.ndarray]:
    y = np.arange(first, first + count)
    return {"x": np.repeat(y[:, np.newaxis], 3, axis=1).astype("float32"), "y": y}


def produce(kafka: Connection, topic: str, count: int, first: int = 0, **options: Any) -> None:
    with Producer(kafka, topic, **{"block_size": 4, "partitions": 1, **options}) as producer:
        producer.send_many(**numbers(first, count))


def test_who_only_asks_for_a_topic_makes_none(kafka: Connection, admin: Any, topic: str) -> None:
    consumer = kafka.consumer(allow_auto_create_topics=False)
    producer = kafka.producer(allow_auto_create_topics=False, max_block_ms=500)
    try:
        assert not consumer.partitions_for_topic(topic)
        with contextlib.suppress(KafkaError):
            producer.partitions_for(topic)
        assert topic not in admin.list_topics()
    finally:
        consumer.close()
        producer.close()


def take(stream: Stream, batches: int) -> list[int]:
    taken: list[int] = []
    for _ in range(batches):
        taken += stream.peek()[1].tolist()
        stream.mark_trained(stream.trained + 1)
    return taken


def make_again(admin: Any, topic: str) -> None:
    """Delete the topic and make it again; a broker deletes when it comes to it."""
    from kafka.admin import NewTopic
    from kafka.errors import TopicAlreadyExistsError

    admin.delete_topics([topic])
    for _ in range(200):
        try:
            admin.create_topics([NewTopic(topic, 1, 1)])
            return
        except TopicAlreadyExistsError:
            pass
    raise AssertionError("the broker did not delete the topic")


def test_samples_arrive_in_turns_of_partitions(kafka: Connection, topic: str) -> None:
    with Producer(kafka, topic, block_size=4, partitions=3) as producer:
        assert producer.partitions == 3
        producer.send_many(**numbers(0, 6))  # the second block is half full ...
        for i in range(6, 9):
            producer.send(x=np.full(3, i, "float32"), y=i)
        producer.send_many(**numbers(9, 21))
        producer.send_many(**numbers(30, 2))  # ... and the last one too
    stream = Stream(kafka, topic, 5, end="now", idle_timeout=60)
    batches = list(stream.get_numpy_iterator())
    assert np.concatenate([y for _, y in batches]).tolist() == list(range(32))
    assert [len(y) for _, y in batches] == [5] * 6 + [2]
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], y)
    stream.close()


def test_fit_resumes_from_a_cursor(kafka: Connection, topic: str) -> None:
    produce(kafka, topic, 120, block_size=7, partitions=2)

    def model() -> keras.Model:
        keras.utils.set_random_seed(1)
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        made.compile(keras.optimizers.SGD(1e-5), "mse")
        return made

    def fit(net: keras.Model, steps: int, **options: Any) -> dict[str, Any]:
        stream = Stream(kafka, topic, 10, idle_timeout=60, **options)
        net.fit(stream, steps_per_epoch=steps, verbose=0)
        cursor = stream.cursor
        stream.verify(cursor)
        stream.close()
        return cursor

    whole, parts = model(), model()
    fit(whole, 12)
    cursor = fit(parts, 5)
    fit(parts, 7, cursor=cursor)
    for found, wanted in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_topic_made_again_is_recognised(kafka: Connection, admin: Any, topic: str) -> None:
    produce(kafka, topic, 40)
    stream = Stream(kafka, topic, 8)
    take(stream, 2)
    cursor = stream.cursor
    stream.verify(cursor)
    assert refusal(kafka, cursor) is None

    make_again(admin, topic)
    produce(kafka, topic, 400, partitions=None)  # the old offsets exist in the new topic, too
    with pytest.raises(TopicChanged, match=rf"'{topic}', partition 0.*its id was .*earliest"):
        stream.verify(cursor)
    assert isinstance(refusal(kafka, cursor), TopicChanged)
    with pytest.raises(TopicChanged, match="its id was"):
        Stream(kafka, topic, 8, cursor=cursor)
    with pytest.raises(TopicChanged):  # the batches read before do not last for ever
        take(stream, 60)
    stream.close()


def test_other_records_at_the_stored_offsets_are_recognised(kafka: Connection, topic: str) -> None:
    """As on a broker that gives no topic ids, and after a log was cut."""
    produce(kafka, topic, 40)
    stream = Stream(kafka, topic, 8)
    take(stream, 2)
    cursor = stream.cursor
    stream.close()
    (part,) = cursor["partitions"]
    for changes, message in [
        ({"checksum": part["checksum"] ^ 1}, "offset 3 had the checksum"),
        ({"offset": 11}, "offset 11 comes next, and the log ends at 10"),
        ({"offset": 500}, "ends"),
        ({"partition": 1}, "no longer exists"),
    ]:
        other = {**cursor, "partitions": [{**part, **changes}]}
        with pytest.raises(TopicChanged, match=message):
            stream.verify(other)
    with pytest.raises(TopicChanged, match="no topic of this name"):
        stream.verify({**cursor, "topic": f"{topic}-gone"})


@KAFKA_ONLY
def test_records_that_retention_took_are_missed(kafka: Connection, admin: Any, topic: str) -> None:
    from kafka import TopicPartition

    produce(kafka, topic, 40)
    slow = Stream(kafka, topic, 8)  # has not read anything yet
    stream = Stream(kafka, topic, 8)
    take(stream, 1)
    at_2 = stream.cursor
    admin.delete_records({TopicPartition(topic, 0): 2})
    stream.verify(at_2)  # the record before is gone, the next one is there
    admin.delete_records({TopicPartition(topic, 0): 5})
    with pytest.raises(TopicChanged, match="offset 2 comes next, and the first that is left is 5"):
        stream.verify(at_2)
    with pytest.raises(TopicChanged, match="no longer there"):
        slow.peek()
    stream.close()
    slow.close()


@KAFKA_ONLY
def test_partitions_that_are_added_join(kafka: Connection, admin: Any, topic: str) -> None:
    produce(kafka, topic, 8)
    stream = Stream(kafka, topic, 4)
    assert take(stream, 2) == list(range(8))
    admin.create_partitions({topic: 2})
    with Producer(kafka, topic, block_size=4) as producer:
        while producer.partitions < 2:  # until the broker knows
            producer.close()
            producer = Producer(kafka, topic, block_size=4)
        producer.send_many(**numbers(8, 8))
        producer.flush()
        assert sorted(take(stream, 2)) == list(range(8, 16))
        producer.close()
    assert [2, "join", 1] in stream.cursor["schedule"] or [3, "join", 1] in stream.cursor[
        "schedule"
    ]
    stream.close()


def test_latest_begins_behind_what_is_there(kafka: Connection, topic: str) -> None:
    produce(kafka, topic, 40, partitions=2)
    stream = Stream(kafka, topic, 4, start="latest")
    assert [p["offset"] for p in stream.cursor["partitions"]] == [5, 5]
    produce(kafka, topic, 4, first=100, partitions=2)
    assert take(stream, 1) == [100, 101, 102, 103]
    stream.close()


def test_an_idle_partition_does_not_stop_the_others(kafka: Connection, topic: str) -> None:
    with Producer(kafka, topic, block_size=4, partitions=2) as producer:
        producer.send_many(**numbers(0, 4))
    stream = Stream(kafka, topic, 4, idle_timeout=0.05)
    assert take(stream, 1) == [0, 1, 2, 3]
    produce(kafka, topic, 4, first=4, partitions=2)
    assert take(stream, 1) == [4, 5, 6, 7]
    assert [1, "leave", 1] in stream.cursor["schedule"]
    stream.close()


@KAFKA_ONLY
@pytest.mark.kafka
def test_a_broker_that_is_away_is_waited_for(
    stack_factory: Callable[..., Any],
    broker_kind: str,
    lost_sockets: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stack = stack_factory(broker_kind, services=("kafka",))
    kafka = Connection(kafka=stack.kafka)
    produce(kafka, "digits", 40)
    stream = Stream(kafka, "digits", 8)
    got = take(stream, 5)
    stack.kill("kafka")
    with pytest.raises(StreamError, match="No broker answers") as caught:
        Stream(Connection(kafka={**kafka.kafka, "bootstrap_timeout_ms": 500}), "digits", 8)
    assert not isinstance(caught.value, TopicChanged)
    waiter = threading.Thread(target=lambda: got.extend(take(stream, 5)))
    waiter.start()
    stack.restart("kafka")
    produce(kafka, "digits", 40, first=40)
    waiter.join(timeout=120)
    assert got == list(range(80))
    stream.verify(stream.cursor)
    stream.close()


@pytest.mark.parametrize("broker_kind", ["tansu"], indirect=True)
def test_a_volatile_broker_that_was_restarted_is_recognised(
    stack_factory: Callable[..., Any], broker_kind: str, lost_sockets: None
) -> None:
    stack = stack_factory(broker_kind, services=("kafka",))
    kafka = Connection(kafka=stack.kafka)
    produce(kafka, "digits", 40)
    stream = Stream(kafka, "digits", 8)
    take(stream, 2)
    cursor = stream.cursor
    stack.kill("kafka")
    stack.restart("kafka")
    with pytest.raises(TopicChanged, match="no topic of this name"):
        Stream(kafka, "digits", 8, cursor=cursor)
    produce(kafka, "digits", 40, first=1000)
    with pytest.raises(TopicChanged, match="its id was"):
        stream.verify(cursor)
    with pytest.raises(TopicChanged):
        take(stream, 60)
    stream.close()


def test_a_producer_refuses_what_does_not_fit(kafka: Connection, topic: str) -> None:
    with pytest.raises(StreamError, match="`topic` must exist"):
        Producer(kafka, topic)
    with pytest.raises(StreamError, match="`topic` must exist"):
        Stream(kafka, topic, 8)
    with Producer(kafka, topic, block_size=2, partitions=2) as producer:
        producer.send(x=np.zeros(3, "float32"), y=1)
        for sample, message in [
            ({"x": np.zeros(3, "float32")}, r"Fields must be .*\['x', 'y'\].*Received: \['x'\]"),
            ({"x": np.zeros(4, "float32"), "y": 1}, r"field `x` must be float32 of shape \(3,\)"),
            ({"x": np.zeros(3, "float64"), "y": 1}, "Received: float64"),
            ({"x": np.zeros(3, "float32"), "y": 1.5}, "field `y` must be int64"),
            ({"x": np.zeros(3, "float32"), "y": "cat"}, "field `y` must be int64"),
        ]:
            with pytest.raises(ValueError, match=message):
                producer.send(**sample)
        with pytest.raises(ValueError, match="one length"):
            producer.send_many(x=np.zeros((2, 3), "float32"), y=np.zeros(3, "int64"))
    with pytest.raises(StreamError, match="closed"):
        producer.send(x=np.zeros(3, "float32"), y=1)
    with pytest.raises(ValueError, match="`partitions` must be what the topic .* has, 2"):
        Producer(kafka, topic, partitions=3)
    for options in ({"block_size": 0}, {"partitions": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be at least 1"):
            Producer(kafka, topic, **options)
    with (
        Producer(kafka, topic) as producer,
        pytest.raises(ValueError, match="`x` must hold numbers"),
    ):
        producer.send(x=np.array(["a"]))


def test_large_samples_make_small_blocks(kafka: Connection, topic: str) -> None:
    images = np.zeros((7, 300_000), "float32")
    images[:, 0] = np.arange(7)
    with Producer(kafka, topic, partitions=1, max_bytes=1 << 20) as producer:
        producer.send_many(x=images[:, :200_000])
    stream = Stream(kafka, topic, 7)
    np.testing.assert_array_equal(stream.peek()[0][:, 0], np.arange(7))
    stream.mark_trained(1)
    assert stream.cursor["partitions"][0]["offset"] == 7
    stream.close()


@KAFKA_ONLY
def test_a_block_that_the_broker_refuses_is_raised(
    kafka: Connection, admin: Any, topic: str
) -> None:
    from kafka.admin import NewTopic

    admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "1000"})])
    producer = Producer(kafka, topic)
    producer.send_many(x=np.random.default_rng(0).normal(size=(64, 64)))
    with pytest.raises(StreamError, match=rf"could not be stored in topic '{topic}': .*TooLarge"):
        producer.close()


def test_a_process_ends_although_nothing_was_closed(kafka: Connection, topic: str) -> None:
    produce(kafka, topic, 40)
    script = (
        "import sys\n"
        "from keras_tl.storage.connection import Connection\n"
        "from keras_tl.streams import Stream, Producer\n"
        "kafka = Connection(kafka=sys.argv[1])\n"
        "stream = Stream(kafka, sys.argv[2], 8)\n"
        "producer = Producer(kafka, sys.argv[2])\n"
        "print(stream.peek()[1].tolist())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, kafka.kafka["bootstrap_servers"], topic],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "[0, 1, 2, 3, 4, 5, 6, 7]\n"), ended.stderr


@KAFKA_ONLY
@pytest.mark.kafka
def test_waiting_for_the_broker_is_said_once(
    stack_factory: Callable[..., Any],
    broker_kind: str,
    lost_sockets: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stack = stack_factory(broker_kind, services=("kafka",))
    kafka = Connection(kafka=stack.kafka)
    produce(kafka, "digits", 8)
    stream = Stream(kafka, "digits", 8)
    take(stream, 1)
    said = threading.Event()

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    logger = logging.getLogger("keras_tl.streams.source")
    handler = Said()
    logger.addHandler(handler)
    try:
        stack.kill("kafka")
        assert said.wait(60)
    finally:
        logger.removeHandler(handler)
        stream.close()
    (record,) = [r for r in caplog.records if r.name == logger.name]
    assert "'digits' waits for its broker" in record.getMessage()

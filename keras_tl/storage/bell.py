"""A bell: tells other processes at once that something is new, where there is a Kafka.

What is new stands in MongoDB, and who waits for it looks there every second: a ring that is lost
costs that second, so that nothing here waits, repeats, or raises.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from typing import Any

from keras_tl.storage.connection import Connection

log = logging.getLogger("keras_tl")

_IDLE = 5.0  # s after which the producer of a bell that is not rung is closed
_AGAIN = 5.0  # s between tries to reach a broker
_CLIENT = {"bootstrap_timeout_ms": 3000, "reconnect_backoff_max_ms": 1000}


def topic(connection: Connection) -> str:
    """The Kafka topic of the project's bell."""
    return f"{connection.project}.bell"


def ring(connection: Connection, kind: str, **payload: Any) -> None:
    """Ring, in the background; nothing happens without a Kafka.

    Args:
        connection: whose project the bell belongs to.
        kind: what happened, as `"version.published"`.
        **payload: what JSON can hold, for those who listen.
    """
    if connection.has_kafka:
        with _making:
            key = (id(connection), os.getpid())
            found = _ringers.get(key)
            if found is None:
                found = _ringers[key] = _Ringer(connection)
        found.put(json.dumps({**payload, "kind": kind}).encode())


def close(connection: Connection, timeout: float = 5.0) -> None:
    """Let what was rung be sent, at most for `timeout` s, and let go of the broker."""
    found = _ringers.pop((id(connection), os.getpid()), None)
    if found is not None:
        found.close(timeout)


class Listener:
    """Hears the rings of one kind from its making on.

    Args:
        connection: whose project the bell belongs to.
        kind: what to listen for.
        **match: what the payload of a ring must hold to be heard.

    Example:

    ```python
    with Listener(connection, "version.published", model="digits") as listener:
        listener.wait(1.0)  # True if it rang, False after a second without
    ```
    """

    def __init__(self, connection: Connection, kind: str, **match: Any) -> None:
        self.connection = connection
        self._match = {**match, "kind": kind}
        self._rang = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if connection.has_kafka:
            self._thread = threading.Thread(target=self._work, name="keras_tl-bell", daemon=True)
            self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait(self, timeout: float) -> bool:
        """Wait for a ring, at most `timeout` s; whether there was one since the last call."""
        rang = self._rang.wait(timeout)
        self._rang.clear()
        return rang

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except Exception as error:
                _complain(error)
                self._closed.wait(_AGAIN)

    def _listen(self) -> None:
        from kafka import TopicPartition

        # An admin client or a consumer of kafka-python (3.0) that finds no broker leaves a thread
        # and its sockets behind, a producer does not.
        self.connection.producer(**_CLIENT).close(1.0)
        _make_topic(self.connection)
        partition = TopicPartition(topic(self.connection), 0)
        options = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "latest"}
        # Tansu looks for new data only every half of this wait; Apache Kafka does not mind.
        consumer = self.connection.consumer(**_CLIENT, **options, fetch_max_wait_ms=10)
        try:
            consumer.assign([partition])
            consumer.seek_to_end(partition)
            consumer.position(partition)  # where the end is, is asked for here
            self._rang.set()  # what happened before is heard as one ring
            while not self._closed.is_set():
                for records in consumer.poll(timeout_ms=200).values():
                    if any(self._hears(record.value) for record in records):
                        self._rang.set()
        finally:
            consumer.close(autocommit=False)

    def _hears(self, value: bytes | None) -> bool:
        try:
            payload = json.loads(value or b"")
            return all(payload.get(name) == wanted for name, wanted in self._match.items())
        except (ValueError, AttributeError):
            return False  # another program's


class _Ringer:
    """Sends rings from a thread that lives while there are some."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection  # kept, so that its id stays its own
        self._waiting: deque[bytes] = deque(maxlen=100)
        self._changed = threading.Condition()
        self._alive = self._closing = False

    def put(self, message: bytes) -> None:
        with self._changed:
            self._waiting.append(message)
            self._changed.notify_all()
            if not self._alive:
                self._start()

    def _start(self) -> None:
        self._alive = True
        threading.Thread(target=self._work, name="keras_tl-ring", daemon=True).start()

    def close(self, timeout: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._alive, timeout)

    def _work(self) -> None:
        producer: Any = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, _IDLE)
                if not self._waiting:
                    break
                messages = list(self._waiting)
                self._waiting.clear()
            try:
                if producer is None:
                    producer = self.connection.producer(**_CLIENT, acks=1, retries=0)
                    _make_topic(self.connection)
                for message in messages:
                    producer.send(topic(self.connection), message, partition=0)
                producer.flush(3.0)
            except Exception as error:
                _complain(error)
        if producer is not None:
            producer.close(1.0)
        with self._changed:
            self._alive = False
            self._changed.notify_all()
            if self._waiting:  # rung meanwhile
                self._start()


_ringers: dict[tuple[int, int], _Ringer] = {}
_making = threading.Lock()
_complained = False


def _make_topic(connection: Connection) -> None:
    from kafka import KafkaAdminClient, errors
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(**{**connection.kafka, **_CLIENT})
    try:
        admin.create_topics([NewTopic(topic(connection), 1, -1)])
    except errors.TopicAlreadyExistsError:
        pass
    finally:
        admin.close()


def _complain(error: Exception) -> None:
    # kafka-python's texts may list the values of options, and one of them may be a password.
    global _complained
    if not _complained:
        _complained = True
        log.warning(
            "Kafka does not carry notifications (%s): those who follow a model look for new "
            "versions each second instead.",
            type(error).__name__,
        )


def _forget_in_child() -> None:
    global _making
    _making = threading.Lock()  # a thread of the parent may have held it
    _ringers.clear()


os.register_at_fork(after_in_child=_forget_in_child)

"""One connection to MongoDB and Kafka: lazy, a client for each process, no secret in sight."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Mapping
from multiprocessing.context import assert_spawning
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer
    from pymongo import MongoClient
    from pymongo.database import Database

_SECRET_OPTION = re.compile(
    r"((?:password|token|secret|properties|credential|signature|(?:api|access)[_-]?key)[^=&]*="
    r"|(?<=[?&;])(?:sig|key|pwd|auth)=)[^&]*",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(
    r"pass(w|phrase)|pwd|token|secret|credential|(api|access|private)_?key", re.IGNORECASE
)
_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,38}")

# The writer's defaults. The driver's own wait of 30 s for a dead server is what froze other
# trackers; the URI's own options win over these.
_CLIENT_DEFAULTS: dict[str, Any] = {
    "appname": "keras_tl",
    "maxPoolSize": 8,
    "serverSelectionTimeoutMS": 3000,
    "connectTimeoutMS": 3000,
    "timeoutMS": 20000,
    "w": "majority",
    "readConcernLevel": "majority",
    "tz_aware": True,
}


def redact(uri: str) -> str:
    """The URI without its password and without secret options.

    Example:

    >>> redact("mongodb://ada:pass@db:27017/?tls=true")
    'mongodb://ada:***@db:27017/?tls=true'
    """
    uri = re.sub(r"(//[^/@:]*):.*@(?=[^@/]*(?:/|\?|$))", r"\1:***@", uri)
    uri = re.sub(r"(https?://)[^/@:?#\s]+@", r"\1***@", uri)  # a token alone
    return _SECRET_OPTION.sub(r"\1***", uri)


def redact_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every secret value replaced by `***`."""
    return {k: "***" if _SECRET_KEY.search(k) else v for k, v in options.items()}


class Connection:
    """Lazily made clients of one MongoDB and one Kafka, safe across `fork` and threads.

    Args:
        mongodb: MongoDB URI with any pymongo option (TLS, SCRAM, ...); `None` if unused.
        kafka: bootstrap servers (`"host:9092,host2:9092"`), or a mapping of options in
            kafka-python's own names (`bootstrap_servers`, `security_protocol`,
            `sasl_mechanism`, ...); `None` if unused.
        project: name of the database that keeps this project's documents.
        **mongo_options: passed to `pymongo.MongoClient`; they win over the URI's.

    Raises:
        ValueError: if `project` cannot be a database name.

    Example:

    >>> Connection("mongodb://ada:pass@db:27017", kafka="broker:9092")
    Connection(mongodb='mongodb://ada:***@db:27017', kafka='broker:9092', project='keras_tl')
    """

    def __init__(
        self,
        mongodb: str | None = None,
        kafka: str | Mapping[str, Any] | None = None,
        project: str = "keras_tl",
        **mongo_options: Any,
    ) -> None:
        if not _PROJECT.fullmatch(project):
            raise ValueError(
                "`project` must be 1 to 38 letters, digits, `_` or `-`. "
                f"Received: project={project!r}"
            )
        if mongodb is not None and not mongodb.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError(
                "`mongodb` must be a URI that begins with `mongodb://` or `mongodb+srv://`. "
                "Received: something else"
            )
        self._uri = mongodb
        self._kafka = {"bootstrap_servers": kafka} if isinstance(kafka, str) else kafka
        self.project = project
        self._mongo_options = mongo_options
        self._lock = threading.Lock()
        self._client: MongoClient[dict[str, Any]] | None = None
        self._ensured: MongoClient[dict[str, Any]] | None = None
        self._pid = 0
        _live.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is being spawned, and nowhere else: the URI has the password."""
        assert_spawning(self)
        return _again, (self._uri, self._kafka, self.project, self._mongo_options)

    def __deepcopy__(self, memo: Any) -> Connection:
        return self

    def __repr__(self) -> str:
        servers = self._kafka.get("bootstrap_servers") if self._kafka else None
        return f"Connection(mongodb={self.address!r}, kafka={servers!r}, project={self.project!r})"

    @property
    def address(self) -> str | None:
        """The MongoDB URI without its secrets."""
        return redact(self._uri) if self._uri else None

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """The process's `MongoClient`.

        Raises:
            ValueError: if no MongoDB was given.
        """
        if self._uri is None:
            raise ValueError(
                "`mongodb` is needed for this: pass a URI, set KERAS_TL_MONGODB, or start a "
                "local stack with `keras-tl up`. Received: mongodb=None"
            )
        with self._lock:
            # A client's sockets and threads do not survive a fork, so a child makes its own.
            if self._client is None or self._pid != os.getpid():
                import pymongo

                query = urlsplit(self._uri).query.replace(";", "&")
                named = {key.lower() for key, _ in parse_qsl(query)}
                named |= {key.lower() for key in self._mongo_options}
                defaults = {k: v for k, v in _CLIENT_DEFAULTS.items() if k.lower() not in named}
                self._client = pymongo.MongoClient(self._uri, **{**defaults, **self._mongo_options})
                self._pid = os.getpid()
            return self._client

    @property
    def db(self) -> Database[dict[str, Any]]:
        """The project's database; its collections and indexes exist after the first use.

        Raises:
            ValueError: if no MongoDB was given, or the server is a standalone one.
            RuntimeError: if a newer keras_tl wrote the store.
        """
        from keras_tl.storage import schema

        client = self.client
        db = client[self.project]
        if self._ensured is not client:
            schema.ensure(db)
            self._ensured = client
        return db

    @property
    def kafka(self) -> dict[str, Any]:
        """Kafka client options, in kafka-python's own names.

        Raises:
            ValueError: if no Kafka was given.
        """
        if self._kafka is None:
            raise ValueError(
                "`kafka` is needed for this: pass bootstrap servers, set KERAS_TL_KAFKA, or "
                "start a local stack with `keras-tl up`. Received: kafka=None"
            )
        return dict(self._kafka)

    @property
    def has_kafka(self) -> bool:
        """Whether a Kafka was given."""
        return self._kafka is not None

    def consumer(self, **options: Any) -> KafkaConsumer:
        """A new `KafkaConsumer` on this connection's servers."""
        consumer = _kafka_module().KafkaConsumer(**{**self.kafka, **options})
        _heed(consumer._client.cluster, consumer.config)
        return consumer

    def producer(self, **options: Any) -> KafkaProducer:
        """A new `KafkaProducer` on this connection's servers."""
        producer = _kafka_module().KafkaProducer(**{**self.kafka, **options})
        _heed(producer._metadata, producer.config)
        return producer

    def close(self, timeout: float = 2.0) -> None:
        """Close the client; a server that does not answer holds this up for `timeout` s at most."""
        with self._lock:
            client, self._client = self._client, None
            owned = self._pid == os.getpid()
        if client is not None and owned:
            # MongoClient.close() ends its sessions on the server and waits for a dead one 30 s.
            closer = threading.Thread(target=client.close, name="keras_tl-close", daemon=True)
            closer.start()
            closer.join(timeout)


def _again(mongodb: Any, kafka: Any, project: str, options: Mapping[str, Any]) -> Connection:
    return Connection(mongodb, kafka, project, **options)


# A thread of the parent may hold a lock at the time of a fork, and is not there to release it.
_live: weakref.WeakSet[Connection] = weakref.WeakSet()


def _renew_locks() -> None:
    for connection in list(_live):
        connection._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


def _heed(cluster: Any, config: Mapping[str, Any]) -> None:
    """Metadata requests make no topics where the client is told so.

    kafka-python 3.0.12 does not hand the option on (`kafka/net/manager.py`), and a broker makes a
    topic that somebody only asks for, with its own number of partitions.
    """
    cluster.config["allow_auto_create_topics"] = config["allow_auto_create_topics"]


def _kafka_module() -> Any:
    try:
        import crc32c  # noqa: F401  # without it kafka-python computes CRCs in Python, 10x slower
        import kafka
    except ImportError as error:
        raise ImportError(
            "Kafka needs kafka-python and crc32c: `pip install keras_tl[kafka]`."
        ) from error
    return kafka


_shared: dict[tuple[Any, ...], Connection] = {}


def connect(target: Any) -> Connection:
    """The connection of a hub, of a URI (one for each URI and process), or the one given.

    Raises:
        ValueError: if `target` is none of these.
    """
    connection = getattr(target, "connection", target)
    if isinstance(connection, Connection):
        if connection.address is None:
            raise ValueError(
                "`hub` must have a MongoDB: pass a URI, set KERAS_TL_MONGODB, or start a local "
                "stack with `keras-tl up`. Received: mongodb=None"
            )
        return connection
    if isinstance(connection, str):
        key = (connection, os.getpid())
        if key not in _shared:
            from keras_tl.storage.settings import configured

            _shared[key] = Connection(connection, project=configured().get("project", "keras_tl"))
        return _shared[key]
    raise ValueError(
        f"`hub` must be a `Hub` or a MongoDB URI. Received: hub of type {type(target).__name__}"
    )

"""`up`, `status`, `down`: a stack is a folder with servers that belong to it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_tl.services.broker import Broker
from keras_tl.services.container import KafkaContainer, image_is_here
from keras_tl.services.errors import EarlyExit, ServiceError
from keras_tl.services.folder import Folder
from keras_tl.services.kafka import ApacheKafka
from keras_tl.services.mongod import Mongod
from keras_tl.services.service import Service, stop
from keras_tl.services.tansu import Tansu

BROKERS: dict[str, type[Broker]] = {
    kind.kind: kind for kind in (ApacheKafka, KafkaContainer, Tansu)
}
SERVICES = ("mongodb", "kafka")
PATIENCE = 60.0
NO_AUTHENTICATION = (
    "The local stack has no authentication: every user of this machine can reach it."
)
VOLATILE = (
    "The broker is Tansu in memory: topics are lost when it stops. What must outlive it belongs "
    "in MongoDB or on Apache Kafka (set KAFKA_HOME, with Java 17)."
)


class Stack:
    """A running local stack; made by `up`.

    Leaving the `with` block (or `close`) stops the servers that this object started and nothing
    else: a stack that was joined keeps running.

    Attributes:
        folder: where data, logs and ports are kept.
        started: names of the servers that this object started, of "mongodb" and "kafka".
        broker: "kafka" (Apache Kafka), "kafka-docker" (the same in a container) or "tansu".
        volatile: whether topics are lost when the broker stops.
        notes: sentences that a caller should show to the user.
    """

    def __init__(self, folder: Folder, services: dict[str, Service]) -> None:
        self._folder = folder
        self._services = services
        self._owned: dict[str, int] = {}
        self._owner = os.getpid()

    @property
    def folder(self) -> Path:
        return self._folder.path

    @property
    def started(self) -> list[str]:
        return list(self._owned)

    @property
    def mongodb(self) -> str:
        """The URI of MongoDB."""
        service = self._service("mongodb")
        assert isinstance(service, Mongod)
        return service.address

    @property
    def kafka(self) -> str:
        """Kafka's bootstrap address, `host:port`."""
        return self._broker.address

    @property
    def broker(self) -> str:
        return self._broker.kind

    @property
    def volatile(self) -> bool:
        return "kafka" in self._services and self._broker.volatile

    @property
    def notes(self) -> list[str]:
        return [NO_AUTHENTICATION, VOLATILE] if self.volatile else [NO_AUTHENTICATION]

    @property
    def _broker(self) -> Broker:
        service = self._service("kafka")
        assert isinstance(service, Broker)
        return service

    def _service(self, name: str) -> Service:
        if name not in self._services:
            raise ServiceError(
                f"`service` must be one of {sorted(self._services)}. Received: {name!r}"
            )
        return self._services[name]

    def kill(self, service: str) -> None:
        """End a server with SIGKILL and return when it is gone: what a crash looks like."""
        found = self._service(service)
        with self._folder.locked():
            found.signal(signal.SIGKILL)
            stop([found])

    def restart(self, service: str) -> None:
        """Start a server again on its port and data, after a SIGTERM if it still runs."""
        found = self._service(service)
        with self._folder.locked():
            found.prepare()
            stop([found])
            found.start()
            found.wait_ready(time.monotonic() + PATIENCE)
            if service in self._owned:
                self._owned[service] = found.running() or 0

    def close(self) -> None:
        """Stop what this object started, if it still is the same process; twice does no harm."""
        owned, self._owned = self._owned, {}
        if owned and self._owner == os.getpid():  # a forked child owns nothing
            with self._folder.locked():
                mine = [self._services[name] for name, pid in owned.items()]
                stop([service for service in mine if service.running() == owned[service.name]])

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Stack({str(self.folder)!r}, started={self.started})"


def _kept_broker(folder: Folder) -> Broker | None:
    """The broker that the folder has, also when its stack.json was deleted."""
    kind = folder.section("kafka").get("broker")
    if kind in BROKERS:
        return BROKERS[kind](folder)
    apache, tansu = ApacheKafka(folder), Tansu(folder)
    if tansu.running() is not None:
        return tansu
    return apache if apache.running() is not None or apache.formatted else None


def _choose_broker(folder: Folder, forced: str | None) -> Broker:
    if forced is not None and forced not in BROKERS:
        raise ServiceError(f"`broker` must be one of {sorted(BROKERS)}. Received: {forced!r}")
    kept = _kept_broker(folder)
    if kept is not None:
        alive = kept.running() is not None
        if forced in (None, kept.kind):
            # Topics stay where they are; a volatile broker that stopped has none to keep.
            if alive or not kept.volatile:
                return kept
        elif alive:
            raise ServiceError(
                f"`broker` must be {kept.kind!r}, which this folder runs now: stop it first "
                f"(`down`). Received: {forced!r}"
            )
    if forced is None:
        # Who sets KAFKA_HOME wants Apache Kafka: a fault in it is told, not stepped around.
        if os.environ.get("KAFKA_HOME"):
            forced = "kafka"
        else:
            forced = "kafka-docker" if image_is_here() else "tansu"
    return BROKERS[forced](folder)


def up(
    folder: str | os.PathLike[str] | None = None,
    *,
    broker: str | None = None,
    services: Sequence[str] = SERVICES,
) -> Stack:
    """Start a MongoDB and a Kafka on loopback, or join the ones that already run.

    Data, logs, ports and pids are kept in `folder` and survive restarts and crashes; the servers
    survive this process. What runs is joined, what does not is started on the ports of the first
    time. There is no authentication: every user of this machine can reach the servers.

    Args:
        folder: the stack's folder; default `$KERAS_TL_HOME/local`, else `~/.keras_tl/local`.
        broker: "kafka" (needs `KAFKA_HOME` and Java 17), "kafka-docker" (needs a Docker engine;
            downloads the image `apache/kafka` once) or "tansu" (in memory: topics are lost when
            it stops, see `Stack.notes`). Default: the durable broker that the folder already
            has, else Apache Kafka where `KAFKA_HOME` is set, else the container where its image
            is present, else Tansu.
        services: "mongodb", "kafka" or both.

    Returns:
        Stack: the addresses, and a context manager that stops what this call started.

    Raises:
        ServiceError: a program is missing or too old, a port is taken, the folder is of a newer
            version, or a server did not start. Nothing that this call started is left running.

    Example:

    ```python
    with services.up() as stack:
        hub = keras_tl.Hub(stack.mongodb, kafka=stack.kafka)
    ```
    """
    unknown = set(services) - set(SERVICES)
    if unknown or not services:
        raise ServiceError(f"`services` must be of {list(SERVICES)}. Received: {list(services)}")
    place = Folder(folder)
    with place.locked():
        wanted: dict[str, Service] = {}
        if "mongodb" in services:
            wanted["mongodb"] = Mongod(place)
        if "kafka" in services:
            wanted["kafka"] = _choose_broker(place, broker)
        stack = Stack(place, wanted)
        missing = [service for service in wanted.values() if service.running() is None]
        for service in missing:
            service.prepare()
        launched: list[Service] = []
        try:
            for service in missing:
                launched.append(service)
                service.start()
            deadline = time.monotonic() + PATIENCE
            for service in wanted.values():
                try:
                    service.wait_ready(deadline)
                except EarlyExit:
                    if service in launched:
                        raise
                    # It was dying when we joined it: a SIGKILL acts some time after its sender.
                    service.prepare()
                    launched.append(service)
                    service.start()
                    service.wait_ready(deadline)
            place.save()
        except BaseException:
            stop(launched)
            raise
        stack._owned = {service.name: service.running() or 0 for service in launched}
        return stack


def _known(folder: Folder) -> list[Service]:
    """The servers that the folder has ever had."""
    broker = _kept_broker(folder)
    every: list[Service] = [Mongod(folder), *([broker] if broker else [])]
    # A server whose stack.json was deleted is still known by its pid.
    return [one for one in every if "port" in one.state or one.running() is not None]


def down(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Stop every server of `folder`, whoever started it; data and ports are kept.

    Returns:
        list[str]: names of the servers that were running, of "mongodb" and "kafka".

    Raises:
        ServiceError: a server did not end, or belongs to another user.
    """
    place = Folder(folder)
    if not (place.path / "lock").exists():  # no stack was ever here: leave no trace
        return []
    with place.locked():
        return stop(_known(place))


def status(folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What runs in `folder`; starts and changes nothing.

    Returns:
        dict: `folder`, `notes`, and for each of "mongodb" and "kafka" a dict of `running`,
        `pid`, `port`, `uri`, `version`, `volatile` (and `broker`), None where unknown.
    """
    place = Folder(folder)
    place.load()
    report: dict[str, Any] = {"folder": str(place.path), "notes": [NO_AUTHENTICATION]}
    blank = dict.fromkeys(("pid", "port", "uri", "version"))
    report |= {name: {"running": False, **blank, "volatile": False} for name in SERVICES}
    report["kafka"]["broker"] = None
    for service in _known(place):
        pid = service.running()
        assert isinstance(service, Mongod | Broker)
        report[service.name] |= {
            "running": pid is not None,
            "pid": pid,
            "port": service.state.get("port"),
            "uri": service.address if "port" in service.state else None,
            "version": service.state.get("version"),
        }
        if isinstance(service, Broker):
            report["kafka"] |= {"volatile": service.volatile, "broker": service.kind}
            report["notes"] += [VOLATILE] if service.volatile else []
    return report

"""What the brokers share: the address, and a readiness check in Kafka's own protocol."""

from __future__ import annotations

import socket
import struct
from typing import ClassVar

from keras_tl.services.folder import HOST
from keras_tl.services.service import Service

_METADATA, _VERSION = 3, 1


def live_brokers(port: int, timeout: float = 2.0) -> int:
    """How many brokers the cluster behind `port` says are usable; 0 if nothing answers.

    A Metadata request over a plain socket: kafka-python is not needed to start a stack. (A
    broker of Apache Kafka answers ApiVersions before its controller lets it serve.)
    """
    body = struct.pack(">hhih", _METADATA, _VERSION, 1, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection((HOST, port), timeout=timeout) as link:
            link.sendall(struct.pack(">i", len(body)) + body)
            answer = link.makefile("rb").read(12)
    except OSError:
        return 0
    return max(0, struct.unpack(">i", answer[8:])[0]) if len(answer) == 12 else 0


class Broker(Service):
    """The stack's Kafka, whichever program it is."""

    name = "kafka"
    kind: ClassVar[str]
    volatile: ClassVar[bool] = False
    _version = ""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        self.state.update(broker=self.kind, version=self._version)
        super().start()

    def ready(self) -> bool:
        return live_brokers(self.port) > 0

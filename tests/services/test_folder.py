"""stack.json, its lock, and ports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.services import ServiceError, status
from keras_tl.services.errors import EarlyExit
from keras_tl.services.folder import (
    HOST,
    PORTS,
    SCHEMA,
    Folder,
    choose_port,
    default_folder,
    port_is_free,
)

Make = Callable[..., Any]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        yield server.getsockname()[1]


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "local"
    monkeypatch.delenv("KERAS_TL_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".keras_tl" / "local"


def test_state_round_trip(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b")
    with folder.locked():
        assert folder.state == {}
        folder.section("mongodb")["port"] = 20001
        folder.save()
    assert folder.path.stat().st_mode & 0o077 == 0, "data without a password is for its owner"
    again = Folder(folder.path)
    again.load()
    assert again.state == {"mongodb": {"port": 20001}}
    assert json.loads(again.file.read_text())["schema"] == SCHEMA
    assert again.ports() == {20001}


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"schema": SCHEMA + 1, "mongodb": 3}))
    with pytest.raises(ServiceError, match="newer keras_tl"):
        status(tmp_path)


@given(text=st.one_of(st.text(max_size=40), st.sampled_from(["[]", "{}", '{"schema": "1"}'])))
def test_damaged_state_says_what_to_do(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Folder(tmp_path_factory.mktemp("damaged"))
    folder.file.write_text(text)
    with pytest.raises(ServiceError, match="Delete it"):
        folder.load()


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ServiceError, match="`folder`.*Received"),
        Folder(tmp_path / "file").locked(),
    ):
        pass


def test_lock_keeps_others_out(tmp_path: Path) -> None:
    program = (
        "import sys; from keras_tl.services.folder import Folder\n"
        "print('asks', flush=True)\n"
        "with Folder(sys.argv[1]).locked(): print('has it', flush=True)"
    )
    with Folder(tmp_path).locked():
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None and other.stdout.readline() == "asks\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.3)
    assert other.communicate(timeout=60)[0] == "has it\n"


def test_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ServiceError, match="POSIX"), Folder(tmp_path).locked():
        pass


def test_port_is_free(taken: int) -> None:
    assert not port_is_free(taken)
    assert port_is_free(choose_port(set()))


def test_chosen_ports_are_distinct() -> None:
    chosen: set[int] = set()
    for _ in range(20):
        port = choose_port(chosen)
        assert port in PORTS and port not in chosen
        chosen.add(port)


def test_no_port_left() -> None:
    with pytest.raises(ServiceError, match="No free port"):
        choose_port(set(PORTS))


def test_kept_port_taken(sleeper: Make, taken: int) -> None:
    one = sleeper()
    one.state["port"] = taken
    with pytest.raises(ServiceError, match=f"Port {taken} .*another program.*stack.json"):
        one.start()
    assert one.running() is None


def test_port_survives_restarts(sleeper: Make, tmp_path: Path) -> None:
    one = sleeper()
    one.start()
    port = one.port
    again = sleeper()
    assert again.folder.section("kafka") == {"port": port}


def test_lost_race_for_the_first_port(
    sleeper: Make, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first port is taken between the choice and the server's bind: choose another."""
    ports = iter([taken, choose_port(set())])
    monkeypatch.setattr("keras_tl.services.service.choose_port", lambda used: next(ports))
    one = sleeper()
    command = one.command
    one.command = lambda: [*command(), "1" if one.port == taken else "0"]
    one.program = "import sys, time; sys.argv[2] == '1' and sys.exit(48); time.sleep(600)"
    one.ready = lambda: one.port != taken
    one.start()
    assert one.port == taken
    one.wait_ready(time.monotonic() + 30)
    assert one.port != taken and one.running() is not None
    kept = Folder(one.folder.path)
    kept.load()
    assert kept.section("kafka")["port"] == one.port


def test_kept_port_is_never_exchanged(sleeper: Make, taken: int) -> None:
    one = sleeper()
    one.state["port"] = choose_port(set())
    one.program = "import sys; sys.exit(48)"
    one.ready = lambda: False
    one.start()
    one.state["port"] = taken  # as if it had been lost after the check
    with pytest.raises(EarlyExit):
        one.wait_ready(time.monotonic() + 30)
    assert one.port == taken

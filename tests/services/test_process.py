"""Which process is ours, and how it ends; with real child processes, without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_tl.services.errors import EarlyExit, ServiceError
from keras_tl.services.process import arguments, names
from keras_tl.services.service import stop

Make = Callable[..., Any]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


def test_starts_and_ends(sleeper: Make) -> None:
    one = sleeper()
    assert one.running() is None
    one.start()
    one.wait_ready(time.monotonic() + 30)
    pid = one.running()
    assert pid is not None and names(pid, one.marker)
    assert os.getsid(pid) == pid, "a Ctrl-C in the parent's terminal must not reach the server"
    assert stop([one]) == ["kafka"]
    assert one.running() is None
    assert stop([one]) == []


def test_another_process_recognises_it(sleeper: Make) -> None:
    one = sleeper()
    one.start()
    again = sleeper()
    one.wait_ready(time.monotonic() + 30)
    program = (
        "import sys; from keras_tl.services.process import names;"
        "print(names(int(sys.argv[1]), sys.argv[2]), names(int(sys.argv[1]), sys.argv[2][:-1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(one.running()), one.marker],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"], "only the whole argument counts"
    while again.running() is None:  # the child writes its pid file in its own time
        time.sleep(0.01)
    assert again.running() == one.running()


def test_without_proc(sleeper: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: `ps` says what /proc says on Linux."""
    one = sleeper()
    one.start()
    while one.marker not in arguments(one.running() or 0):  # past the shell that launches it
        time.sleep(0.01)
    pid = one.running()
    assert pid is not None
    monkeypatch.setattr("keras_tl.services.process.os.path.isdir", lambda path: False)
    assert names(pid, one.marker)
    assert not names(pid, one.marker[:-1])
    assert stop([one]) == ["kafka"]
    assert not names(pid, one.marker)


def test_foreign_pid_is_left_alone(
    sleeper: Make, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    one = sleeper()
    (tmp_path / "kafka.pid").write_text(f"{stranger.pid}\n")
    assert one.running() is None
    assert stop([one]) == []
    one.signal(signal.SIGKILL)
    assert stranger.poll() is None


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "1", "99999999999", "4194305"])
def test_senseless_pid_file(sleeper: Make, tmp_path: Path, text: str) -> None:
    one = sleeper()
    (tmp_path / "kafka.pid").write_text(text)
    assert one.running() is None
    assert stop([one]) == []


def test_folder_whose_name_begins_alike(sleeper: Make, tmp_path: Path) -> None:
    short, long = sleeper(tmp_path / "local"), sleeper(tmp_path / "local2")
    long.start()
    pid = long.running()
    (tmp_path / "local" / "kafka.pid").write_text(str(pid))
    assert short.running() is None
    assert stop([short]) == [] and long.running() == pid


def test_zombie_is_not_running(sleeper: Make) -> None:
    one = sleeper()
    one.start()
    pid = one.running()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has reaped it
    assert not names(pid, one.marker)
    assert one.running() is None


def test_sigkill_after_a_deaf_sigterm(sleeper: Make) -> None:
    one = sleeper()
    one.program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(600)"
    )
    one.start()
    while "deaf" not in one.log.read_text():
        time.sleep(0.01)
    assert stop([one], patience=0.1) == ["kafka"]
    assert one.running() is None


def test_early_exit_shows_code_and_log(sleeper: Make) -> None:
    one = sleeper()
    one.program = "import sys; print('no space for it', file=sys.stderr); sys.exit(7)"
    one.ready = lambda: False
    one.start()
    with pytest.raises(EarlyExit, match=r"exit code 7[\s\S]*no space for it"):
        one.wait_ready(time.monotonic() + 30)


def test_only_the_log_of_this_start_is_shown(sleeper: Make) -> None:
    one = sleeper()
    one.log.write_text("old trouble\n")
    one.program = "print('new trouble')"
    one.ready = lambda: False
    one.start()
    with pytest.raises(EarlyExit, match="new trouble") as caught:
        one.wait_ready(time.monotonic() + 30)
    assert "old trouble" not in str(caught.value)


def test_deadline(sleeper: Make) -> None:
    one = sleeper()
    one.ready = lambda: False
    one.start()
    with pytest.raises(ServiceError, match="did not become ready in time"):
        one.wait_ready(time.monotonic())
    assert one.running() is not None  # who called decides what to stop


def test_parent_dies_right_after_the_launch(sleeper: Make, tmp_path: Path) -> None:
    one = sleeper()
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from conftest import Sleeper\n"
        "from keras_tl.services.folder import Folder\n"
        f"folder = Folder({str(tmp_path)!r})\n"
        "with folder.locked():\n"
        "    Sleeper(folder).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL
    while one.running() is None:
        time.sleep(0.01)
    assert stop([one]) == ["kafka"]

"""The folder of a local stack: its lock, its `stack.json`, and how ports are chosen."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_tl.services.errors import ServiceError

SCHEMA = 1
HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: a port kept for
# years must not be in use by somebody's browser on the day of a restart.
PORTS = range(20000, 32000)


def default_folder() -> Path:
    """`$KERAS_TL_HOME/local`, else `~/.keras_tl/local`."""
    home = os.environ.get("KERAS_TL_HOME")
    return (Path(home) if home else Path.home() / ".keras_tl") / "local"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of loopback now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            return False  # macOS would let us bind beside a server on 0.0.0.0
    with socket.socket() as probe:
        # As servers do: the remains of closed connections do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port(taken: set[int]) -> int:
    """A free port that is not in `taken`."""
    # Seeds that a program sets for its training must not make two stacks choose alike.
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.choice(PORTS)
        if port not in taken and port_is_free(port):
            return port
    raise ServiceError(
        f"No free port found on {HOST} between {PORTS.start} and {PORTS.stop - 1} "
        "in 200 attempts. Received: every port tried is in use"
    )


class Folder:
    """Where a stack keeps its data, logs, pids and ports.

    Args:
        path: the folder; made when the lock is first taken.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path if path is not None else default_folder()).expanduser().resolve()
        self.state: dict[str, dict[str, Any]] = {}

    @property
    def file(self) -> Path:
        return self.path / "stack.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder alone: `up` and `down` of all processes take turns."""
        try:
            import fcntl
        except ImportError:
            raise ServiceError(
                "The local stack needs a POSIX system (Linux, macOS, WSL): it locks its folder "
                f"with `fcntl`. Received: os.name={os.name!r}. Give the addresses of running "
                "servers instead (KERAS_TL_MONGODB, KERAS_TL_KAFKA)"
            ) from None
        try:
            # 0700: the data has no password of its own.
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = open(self.path / "lock", "w")
        except OSError as error:
            raise ServiceError(
                f"`folder` must be a folder that can be written. Received: {self.path} ({error})"
            ) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self.load()
            yield

    def load(self) -> None:
        """Read `stack.json`; an absent file is an empty state."""
        try:
            state = json.loads(self.file.read_bytes())
        except FileNotFoundError:
            state = {"schema": SCHEMA}
        except (OSError, ValueError) as error:
            raise ServiceError(
                f"{self.file} cannot be read ({error}). Delete it: the next `up` chooses new "
                "ports and keeps the data"
            ) from error
        if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
            raise ServiceError(
                f"{self.file} is not the state of a stack. Delete it: the next `up` chooses new "
                "ports and keeps the data"
            )
        if state.pop("schema") > SCHEMA:
            raise ServiceError(
                f"{self.path} was written by a newer keras_tl: this one reads schema {SCHEMA}. "
                f"Received: a newer schema in {self.file}. Upgrade keras_tl or use another folder"
            )
        self.state = state

    def save(self) -> None:
        """Replace `stack.json` in one step."""
        draft = self.file.with_suffix(".tmp")
        with open(draft, "w") as handle:
            json.dump({"schema": SCHEMA, **self.state}, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(draft, self.file)

    def section(self, service: str) -> dict[str, Any]:
        """The part of the state that belongs to one service; changes are kept by `save`."""
        return self.state.setdefault(service, {})

    def ports(self) -> set[int]:
        """Every port that this stack uses."""
        return {
            value
            for section in self.state.values()
            for key, value in section.items()
            if key.endswith("port")
        }

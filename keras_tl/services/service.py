"""One server of a stack: start, readiness, signals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

from keras_tl.services.errors import EarlyExit, ServiceError
from keras_tl.services.folder import Folder, choose_port, port_is_free
from keras_tl.services.process import POLL, exit_code, is_child, launch, names


class Service:
    """One server of a stack.

    Subclasses say which program runs (`prepare`, `command`), what tells it apart (`marker`) and
    how it answers (`ready`).

    Args:
        folder: the stack's folder, its lock held while anything is changed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]] = ("port",)

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.log = folder.path / f"{self.name}.log"
        self._log_start = 0
        self._pid: int | None = None  # of the process that this object launched
        self._fresh = False

    @property
    def state(self) -> dict[str, Any]:
        return self.folder.section(self.name)

    @property
    def port(self) -> int:
        return int(self.state["port"])

    # What a subclass says

    @property
    def marker(self) -> str:
        """An argument of the server's command line that no other stack's server has."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Find the program. Raises ServiceError with what to install; starts nothing."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers its own protocol and can be used."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what `ready` opened."""

    def explain(self, lines: list[str]) -> str:
        """The lines of the log in which a reader finds why the server ended."""
        return "\n".join(lines[-12:])

    # What every server does

    @property
    def _pid_file(self) -> Path:
        return self.folder.path / f"{self.name}.pid"

    def _last_pid(self) -> int | None:
        if is_child(self._pid):
            return self._pid  # it writes the file in its own time
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if pid > 1 else None

    def running(self) -> int | None:
        """The pid, if this folder's server lives; a pid that means another program is not ours."""
        pid = self._last_pid()
        exit_code(pid)  # reaps it
        return pid if pid is not None and names(pid, self.marker) else None

    def take_ports(self) -> None:
        """Choose ports on the very first start; later insist on the ones of the first."""
        self._fresh = "port" not in self.state
        for key in self.port_names:
            port = self.state.get(key)
            if port is None:
                self.state[key] = choose_port(self.folder.ports())
            elif not port_is_free(port):
                raise ServiceError(
                    f"Port {port} of {self.title} is taken by another program. Received: "
                    f"`{key}` = {port} of {self.name!r} in {self.folder.file}. End that program, "
                    "or write another number there: the data is kept"
                )
        self.folder.save()

    def start(self) -> None:
        """Launch the server; `wait_ready` says when it can be used."""
        self.take_ports()
        self._launch()

    def _launch(self) -> None:
        command = self.command()
        if self.log.exists() and self.log.stat().st_size > 16 << 20:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._pid = launch(command, self._pid_file, self.log)

    def wait_ready(self, deadline: float) -> None:
        """Return when the server is ready.

        Raises:
            ServiceError: it ended, or `deadline` (monotonic) passed; with the log's last lines.
        """
        while True:
            try:
                return self._wait_ready(deadline)
            except EarlyExit:
                lost = any(not port_is_free(self.state[key]) for key in self.port_names)
                if not (self._fresh and lost) or time.monotonic() > deadline:
                    raise
                for key in self.port_names:
                    del self.state[key]
                self.start()
            finally:
                self.close()

    def _wait_ready(self, deadline: float) -> None:
        if "port" not in self.state:
            raise ServiceError(
                f"{self.title} runs, but {self.folder.file} no longer says on which port. "
                "Received: no `port`. End it (`down`), then call `up`"
            )
        # The second look at the process: what answered may be another program on our port.
        while not (self.ready() and self.running()):
            if self.running() is None:
                code = exit_code(self._pid)
                ended = "" if code is None else f" with exit code {code}"
                raise EarlyExit(f"{self.title} ended at its start{ended}. {self._tail()}")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.title} runs but did not become ready in time. Received: no answer "
                    f"on port {self.state.get('port')}. {self._tail()}"
                )
            time.sleep(POLL)

    def _tail(self) -> str:
        try:
            text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f"Last lines of {self.log}:\n{self.explain(lines)}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server if it lives."""
        pid = self.running()
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                raise ServiceError(
                    f"{self.title} of {self.folder.path} belongs to another user. "
                    f"Received: process {pid} ({error})"
                ) from error


def stop(services: list[Service], patience: float = 20.0) -> list[str]:
    """End servers together: SIGTERM, then SIGKILL after `patience` seconds; names of the ended."""
    ended = [service for service in services if service.running() is not None]
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        for service in ended:
            service.signal(number)
        deadline = time.monotonic() + seconds
        while any(service.running() is not None for service in ended):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL)
        else:
            return [service.name for service in ended]
    left = [f"{service.title} (process {service.running()})" for service in ended]
    raise ServiceError(f"A server did not end after SIGKILL. Received: {', '.join(left)}")

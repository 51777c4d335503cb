"""Processes of `savers.py`, and the project in which they write."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import history
import pymongo
import savers

import keras_tl as ktl
from keras_tl import services
from keras_tl.storage import hooks

PATIENCE = history.PATIENCE
#: Whether sizes are those of the issue, as in `tox -e faults-full`.
FULL = int(os.environ.get("KERAS_TL_TEST_KILLS", "20")) >= 100

# Forked from a process that has imported everything and has no threads: a start takes no time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("keras", "gridfs", "keras_tl.models", "keras_tl.callbacks", "keras_tl.streams"),
        "keras_tl.datasets",
    ]
)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Child:
    """A process that does one act of `savers.py`; what it says is read as it comes.

    Args:
        act: name of the act.
        home: its `KERAS_TL_HOME`.
        **options: of the act; `kill=(phase, nth)` and `mutants` are for all.
    """

    def __init__(self, act: str, home: Path, **options: Any) -> None:
        self.said: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._over = False
        self._errors = home / f"stderr-{uuid.uuid4().hex[:6]}"
        home.mkdir(parents=True, exist_ok=True)
        reader, writer = CONTEXT.Pipe(duplex=False)
        given = (act, str(home), str(self._errors), writer, options)
        self.process = CONTEXT.Process(target=savers.run, args=given, daemon=True)
        with _environment(KERAS_BACKEND="jax"):  # which starts with the first process
            self.process.start()
        writer.close()
        self._thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._thread.start()

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._errors.read_text() if self._errors.exists() else ""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines with this field."""
        return [line for line in list(self.said) if name in line]

    def wait_said(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until it has said so many lines with these fields, and return the last of them."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines(name) if fields.items() <= line.items()]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._over, PATIENCE)
        there = found()
        assert len(there) >= count, f"{name} {fields}: {there}; {self.errors[-3000:]}"
        return there[count - 1]

    def wait_line(self, count: int) -> None:
        """Wait until it has said so many lines of any kind, or is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.said) >= count or self._over, PATIENCE)

    def kill(self) -> None:
        """`kill -9`; wait until it is gone."""
        self.process.kill()
        self.wait()

    def wait(self) -> int | None:
        """Wait for its end; the exit status, negative if a signal has ended it."""
        self.process.join(PATIENCE)
        self._thread.join(PATIENCE)
        return self.process.exitcode

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self.wait() == 0 and self.lines("done"), self.errors[-3000:]

    def close(self) -> None:
        """End it if it runs still."""
        if self.process.is_alive():
            self.process.kill()
        self.wait()

    def _read(self, reader: Any) -> None:
        with reader:
            while True:
                try:
                    line = reader.recv()
                except (EOFError, OSError):  # killed, maybe in the middle of a line
                    break
                with self._changed:
                    self.said.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Place:
    """A project of its own, with a home for the journals of those who write there.

    Args:
        mongodb: URI.
        folder: gets the `KERAS_TL_HOME` of its children and, until `close`, of this process.
    """

    def __init__(self, mongodb: str, folder: Path) -> None:
        self.home = folder / uuid.uuid4().hex[:8]
        self._restore = ExitStack()
        self._restore.enter_context(_environment(KERAS_TL_HOME=str(self.home)))
        self.about = {"mongodb": mongodb, "project": f"faults_{uuid.uuid4().hex[:12]}"}
        self.hub = ktl.Hub(mongodb, project=self.about["project"])
        # The oracles look with a client of their own, at what a majority has.
        self.client: Any = pymongo.MongoClient(mongodb, readConcernLevel="majority")
        self.db = self.client[self.about["project"]]
        self.children: list[Child] = []

    @property
    def journals(self) -> list[str]:
        """Names of the files that processes have left in the journal's folder."""
        return sorted(path.name for path in self.home.glob("journal/*"))

    def start(self, act: str, **options: Any) -> Child:
        """Start a child that writes here."""
        self.children.append(Child(act, self.home, place=self.about, **options))
        return self.children[-1]

    def note(self, what: str, versions: bool = True) -> None:
        """Note a kill in the summary of the session: of one that makes versions, or not."""
        count = self.db["versions"].count_documents({}) if versions else None
        history.kills.append(history.Kill(what, "jax", count))

    def rows(self, run: str, kind: str) -> Counter[tuple[int, int, float]]:
        """Epoch, batch and loss of a run's rows, as a `savers.Witness` sees them."""
        found = self.hub.runs[run].events("loss", kind=kind, superseded=True)
        columns = [found[name].tolist() for name in ("epoch", "batch", "loss")]
        return Counter(zip(*columns, strict=True))

    def close(self) -> None:
        """End what runs still, and drop the project."""
        hooks.hook = None
        for child in self.children:
            child.close()
        self.client.drop_database(self.about["project"])
        self.client.close()
        self.hub.close()
        self._restore.close()


def witnessed(child: Child) -> Counter[tuple[int, int, float]]:
    """The batches that a child's callback saw after the logger was through with them."""
    return Counter(line["row"] for line in child.lines("logged") if line["logged"] == "batch")


@contextmanager
def frozen(stack: services.Stack) -> Iterator[Callable[[], None]]:
    """mongod is stopped (SIGSTOP) until the block, or the function that it is given, ends."""
    server = stack._service("mongodb")

    def thaw() -> None:
        server.signal(signal.SIGCONT)

    server.signal(signal.SIGSTOP)
    try:
        yield thaw
    finally:
        thaw()

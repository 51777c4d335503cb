"""A model's history: trainers that are started and killed one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracles

import keras_tl as ktl

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # s; a start alone takes 5 s, on a busy machine several times that

# Versions fall into the middle of epochs, and the last step has one.
EPOCHS, STEPS, BATCH, BLOCK, SAVE_FREQ = 6, 14, 32, 24, 4
BATCHES = EPOCHS * STEPS


@dataclass(frozen=True)
class Kill:
    """One `kill -9`."""

    what: str
    backend: str
    versions: int | None  # `None`: of one that makes none

    def __str__(self) -> str:
        if self.versions is None:
            return self.what
        return f"{self.what} ({self.backend}) with {self.versions} versions committed"


#: Of the whole session, without those of mutants.
kills: list[Kill] = []


class Trainer:
    """The process `trainer.py`; what it prints is read as it comes.

    Args:
        options: see `trainer.py`.
        backend: Keras' backend.
        home: its `KERAS_TL_HOME`.
        kill_on_line: number of the logged line on reading which it is killed.
    """

    def __init__(
        self,
        options: dict[str, Any],
        backend: str,
        home: Path,
        kill_on_line: int | None = None,
    ) -> None:
        self.logged: list[dict[str, Any]] = []
        self.said: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._kill_on_line = kill_on_line
        self._errors = home / f"stderr-{uuid.uuid4().hex[:6]}"
        home.mkdir(parents=True, exist_ok=True)
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("trainer.py"), json.dumps(options)],
                env=environment(backend, home),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._errors.read_text()

    def wait_logged(self, count: int) -> None:
        """Wait until it has logged so many lines; it must not end before."""
        with self._changed:
            there = self._changed.wait_for(
                lambda: len(self.logged) >= count or "end" in self.said, PATIENCE
            )
        assert there and len(self.logged) >= count, (
            f"{len(self.logged)} lines of {count} came: {self.errors[-3000:]}"
        )

    def wait(self) -> int:
        """Wait for its end and return the exit status; all that it said is read then."""
        code = self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        return code

    def close(self) -> None:
        """End it if it runs still."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            for text in pipe:
                line = json.loads(text)
                with self._changed:
                    if "logged" in line:
                        self.logged.append(line)
                        if len(self.logged) == self._kill_on_line:
                            self.process.kill()
                    else:
                        self.said.update(line)
                    self._changed.notify_all()
        with self._changed:
            self.said["end"] = True
            self._changed.notify_all()


class History:
    """One model on one stream, trained by one process after the other in one project.

    Args:
        mongodb: URI.
        kafka: bootstrap servers.
        topic: of the samples.
        folder: becomes the trainers' `KERAS_TL_HOME`.
        backend: Keras' backend.
        **options: further options of all its trainers.
    """

    def __init__(
        self,
        mongodb: str,
        kafka: str,
        topic: str,
        folder: Path,
        backend: str,
        **options: Any,
    ) -> None:
        self.backend = backend
        self.home = folder / uuid.uuid4().hex[:8]
        self.options = {
            **{"mongodb": mongodb, "kafka": kafka, "topic": topic, "batch_size": BATCH},
            **{"epochs": EPOCHS, "steps": STEPS, "save_freq": SAVE_FREQ, "pause": 0.03},
            "patience": 0,
            **{"project": f"faults_{uuid.uuid4().hex[:12]}", **options},
        }
        self.hub = ktl.Hub(mongodb, kafka, self.options["project"])
        self.trainers: list[Trainer] = []
        self.kills: list[Kill] = []

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All that was logged, as far as it reached the parent."""
        return [line for trainer in self.trainers for line in trainer.logged]

    def start(self, kill_on_line: int | None = None, **options: Any) -> Trainer:
        """Start a trainer."""
        trainer = Trainer(self.options | options, self.backend, self.home, kill_on_line)
        self.trainers.append(trainer)
        return trainer

    def note(self, what: str) -> None:
        """Note a kill that is about to come or has just come; MongoDB runs."""
        kill = Kill(what, self.backend, len(self.hub.models[oracles.MODEL]))
        self.kills.append(kill)
        if "mutant" not in self.options:
            kills.append(kill)

    def killed(self, at: str, nth: int) -> bool:
        """Run a trainer until it is killed; whether it was, or was through before.

        Args:
            at: a phase, where it kills itself, or `"line"`: the parent kills it on reading it.
            nth: which one.
        """
        if at == "line":
            trainer = self.start(kill_on_line=nth)
        else:
            trainer = self.start(kill={"phase": at, "nth": nth})
        code = trainer.wait()
        if code == 0 and trainer.said.get("done"):
            print(f"{at} {nth} was not reached: {trainer.errors[-3000:]}")
            return False
        assert code == -9, trainer.errors[-3000:]
        if at == "line":
            assert len(trainer.logged) >= nth
        else:
            assert trainer.said["killed"] == at
        self.note(f"trainer at {at} {nth}")
        return True

    def finish(self, trainer: Trainer | None = None) -> oracles.Outcome:
        """Run a trainer to its end, without a kill, and read what is in MongoDB then."""
        trainer = trainer or self.start()
        code = trainer.wait()
        assert code == 0 and trainer.said.get("done"), trainer.errors[-3000:]
        self.sync()
        assert not list(self.home.glob("journal/*")), "the journals were all replayed"
        return oracles.Outcome.of(self.hub)

    def sync(self) -> dict[str, int]:
        """`hub.sync()` on the journals of this history's trainers."""
        return self.at_home(self.hub.sync)

    def at_home(self, call: Callable[[], Any]) -> Any:
        """Call something with this history's `KERAS_TL_HOME`."""
        before = os.environ.get("KERAS_TL_HOME")
        os.environ["KERAS_TL_HOME"] = str(self.home)
        try:
            return call()
        finally:
            if before is None:
                del os.environ["KERAS_TL_HOME"]
            else:
                os.environ["KERAS_TL_HOME"] = before

    def differences(self, expected: oracles.Outcome, found: oracles.Outcome) -> list[str]:
        """All oracles at once."""
        return [
            *oracles.weights(expected, found),
            *oracles.chain(expected, self.hub, BATCH, BLOCK),
            *oracles.sequence(expected, found),
            *oracles.witnessed(self.lines, self.hub, STEPS),
        ]

    def close(self) -> None:
        """End what runs still, and drop the project."""
        for trainer in self.trainers:
            trainer.close()
        self.hub.connection.client.drop_database(self.hub.project)
        self.hub.close()


def environment(backend: str, home: Path) -> dict[str, str]:
    """Of a process of its own."""
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "KERAS_TL_HOME": str(home),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }

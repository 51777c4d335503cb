"""A run: the life of one training, its attempts and its events."""

from __future__ import annotations

import atexit
import datetime
import os
import socket
import struct
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras

from keras_tl.models import buckets, environment
from keras_tl.models.events import Events
from keras_tl.models.outbox import Outbox, outbox
from keras_tl.models.plain import plain
from keras_tl.storage.connection import connect
from keras_tl.storage.journal import Kind

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Run(Events):
    """One training as it is written: rows and events go to the journal, never to a socket.

    The callbacks of one `fit` share a run. It gets its identity when it starts, since a model
    that is resumed goes on with the run that saved it. Without `fit`, a `with` block is a run:
    `finished` at its end, or `failed` if an exception leaves it.

    Args:
        connection: where the run is kept: a `Hub`, a connection or a MongoDB URI.
        name: for people; several runs may have the same.
        model: key of the model it trains, if it has one.
        params: hyper-parameters and the like that identify the run for people.
        rank: number of the process in a data-parallel run.
        parent: the run that this one is a part of, or its id.
        tags: strings and numbers to find the run by.

    Example:

    ```python
    with Run(hub, "evaluation", parent=logger.run) as run:
        run.log(step=1, logs={"accuracy": 0.93})
        run.confusion_matrix("test", y_true=y, y_pred=predicted, step=1)
    ```
    """

    def __init__(
        self,
        connection: Any,
        name: str | None = None,
        model: str | None = None,
        params: Mapping[str, Any] | None = None,
        rank: int = 0,
        parent: Any = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.connection = connect(connection)
        self.id = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        self.attempt = uuid.uuid4().hex
        self.number = 0
        self.name = name or model or "run"
        self.model = model
        self.params = dict(params or {})
        self.tags = dict(tags or {})
        self.parent = parent_id(parent)
        self.rank = rank
        self.began = time.time()
        self.start_step = self.start_batch = 0
        #: Batches of the first epoch that are counted by Keras and trained by an earlier attempt.
        self.skipped = 0
        self.started = False
        self.outcome = "finished"  # the state that a `fit` ends in which nobody cut short
        self.members: set[int] = set()
        #: Called, once, when the run ends.
        self.on_end: list[Callable[[], None]] = []
        self._layouts: dict[tuple[str, ...], tuple[int, Any]] = {}
        self._outbox: Outbox | None = None
        self._describing: threading.Thread | None = None

    @property
    def outbox(self) -> Outbox:
        """The process's outbox, where everything of this run goes first."""
        if self._outbox is None or self._outbox.closed:  # by `Hub.close`, or by a fork
            self._outbox = outbox(self.connection)
            self._layouts.clear()
            # Registered after the outbox's own hook, so it runs before it.
            atexit.unregister(_end_all)
            atexit.register(_end_all)
        return self._outbox

    def resume(self, version: Mapping[str, Any]) -> None:
        """Go on with the run that saved `version`, as its next attempt."""
        self.id = version["run"]
        self.number = version["number"] + 1
        self.start_step, self.start_batch = version["step"], version["batch"]

    def start(self, config: Mapping[str, Any] | None = None) -> None:
        """Put the run's document on its way; once."""
        if self.started:
            return
        self.started = True
        attempt = {
            "number": self.number,
            "start_step": self.start_step,
            "started": datetime.datetime.fromtimestamp(self.began, datetime.UTC),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        state = {"state": "running", "attempt": self.attempt, "number": self.number}
        first = {"name": plain(self.name), "started": attempt["started"], "best": {}, **state}
        now: dict[str, Any] = {f"attempts.{self.attempt}": attempt}
        for name, value in (("model", self.model), ("parent", self.parent)):
            if value is not None:
                first[name] = value
        if self.rank == 0:
            self.outbox.document("runs", self.id, set=now, setOnInsert=first)
            # The journal of an earlier attempt may be sent when a later one is long over.
            later = {"number": {"$not": {"$gt": self.number}}}
            heard = {"heartbeat": True}  # by the server's clock, from the first moment on
            self.outbox.document("runs", self.id, later, set=state, currentDate=heard)
            about = {"params": {**(config or {}), **self.params}, "tags": self.tags}
            if self.number and config is None:
                del about["params"]  # those of the attempt before say more
            about = {name: plain(value) for name, value in about.items() if value}
            if about:
                self.outbox.document("runs", self.id, later, set=about)
            for kind in self.kinds:
                self.describe_kind(kind)
            self.outbox.beat(self.id, self.attempt)
            # git may take long in a large work tree, and nobody waits for it.
            self._describing = threading.Thread(
                target=self._describe, args=(self.outbox,), name="keras_tl-describe", daemon=True
            )
            self._describing.start()

    def log(
        self,
        step: int,
        epoch: int = 0,
        batch: int = -1,
        logs: Mapping[str, Any] = _NOTHING,
        kind: str = "batch",
    ) -> None:
        """Append a row of numbers: about two microseconds, from any thread.

        Args:
            step: training step it belongs to.
            epoch: epoch it belongs to.
            batch: batch of the epoch; -1 where there is none.
            logs: numbers by name; NaN and infinities are kept, what is no number is not.
            kind: `"batch"`, `"epoch"`, or a kind of numbers of your own.

        Raises:
            ValueError: for a kind that `Run.image` and its like write, or that `define` gave other
                fields, and for what is no text.

        Example:

        ```python
        run.log(step=1, logs={"reward": 0.25})
        ```
        """
        names = (kind, *logs)
        journal = self._outbox
        if journal is None or journal._closing:
            journal = self.outbox
        layout = self._layouts.get(names)
        if layout is None:
            columns = self._columns(kind, names[1:])  # not at each step
            number = journal.columns(self.id, self.attempt, self.rank, kind, columns)
            layout = self._layouts[names] = (number, buckets.row_struct(len(logs)).pack)
        number, pack = layout
        try:
            row = pack(number, step, epoch, batch, time.time(), *logs.values())
        except (struct.error, TypeError, ValueError, OverflowError):
            values = {k: plain(v) for k, v in logs.items()}
            numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
            if len(numbers) == len(logs):
                raise
            return self.log(step, epoch, batch, numbers, kind)  # what is no number is not kept
        journal.append(Kind.ROW, row, droppable=kind == "batch")

    def end(self, state: str | None = None, error: str | None = None) -> None:
        """Say that the run is over: `finished`, `failed` or `stopped`; default: its `outcome`."""
        while self.on_end:
            self.on_end.pop()()
        if self.started and self.rank == 0:
            if self._describing is not None:
                self._describing.join(2.0)  # a short run is described, too
            self.outbox.beat(self.id, None)
            ended = datetime.datetime.now(datetime.UTC)
            about = {"state": state or self.outcome, "ended": ended}
            if error is not None:
                about["error"] = error
            self.outbox.document("runs", self.id, {"attempt": self.attempt}, set=about)
        under_way.pop(id(self), None)

    def __enter__(self) -> Run:
        self.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if error is None:
            self.end()
        else:
            self.end("failed", error.__name__)
        self.outbox.flush()

    def _describe(self, box: Outbox) -> None:
        git = environment.git()
        if box.closed:  # git took longer than the run, and nothing may open a journal again
            return
        patch = git.pop("patch") if git else None
        if git and patch is not None:  # apart: many runs have the same one, few read it
            box.document("patches", git["diff"], setOnInsert={"patch": patch})
        box.document(
            "runs",
            self.id,
            {},  # no upsert: a run that was deleted meanwhile is not made again, by half
            set={
                "git": git,
                f"attempts.{self.attempt}.git": git,  # one that resumes may run other code
                "env": environment.packages(),
                "host": socket.gethostname(),
            },
        )


def parent_id(parent: Any) -> str | None:
    """The id of a run, of a stored run, or the one given.

    Raises:
        ValueError: if `parent` is none of these.
    """
    found = getattr(parent, "id", parent)
    if found is not None and (not isinstance(found, str) or not found):
        raise ValueError(f"`parent` must be a run or the id of one. Received: {parent!r}")
    return found


# The run of a `fit` that is under way, by model: how callbacks made apart find one another.
under_way: dict[int, tuple[weakref.ref[keras.Model], Run]] = {}

# The runs of a forked process's parent are not its own to end.
os.register_at_fork(after_in_child=under_way.clear)


def _end_all() -> None:
    for _, run in list(under_way.values()):
        run.end("failed")  # the process ends in the middle of a `fit`

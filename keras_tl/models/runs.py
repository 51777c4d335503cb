"""A run: the life of one training, its attempts and its events."""

from __future__ import annotations

import atexit
import datetime
import operator
import os
import socket
import struct
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from typing import Any

import keras

from keras_tl.models import buckets, environment
from keras_tl.models.outbox import Outbox, outbox
from keras_tl.models.plain import plain
from keras_tl.storage.connection import Connection
from keras_tl.storage.journal import Kind

_EVENT = 1 << 20  # bytes
_DEPTH = 50  # levels; MongoDB takes about 180, in all


class Run:
    """One training as it is written: rows and events go to the journal, never to a socket.

    The callbacks of one `fit` share a run. It gets its identity when it starts, since a model
    that is resumed goes on with the run that saved it.

    Args:
        connection: where the run is kept.
        name: for people; several runs may have the same.
        model: key of the model it trains, if it has one.
        params: hyper-parameters, tags and the like that identify the run for people.
        rank: number of the process in a data-parallel run.
    """

    def __init__(
        self,
        connection: Connection,
        name: str | None = None,
        model: str | None = None,
        params: Mapping[str, Any] | None = None,
        rank: int = 0,
    ) -> None:
        self.connection = connection
        self.id = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        self.attempt = uuid.uuid4().hex
        self.number = 0
        self.name = name or model or "run"
        self.model = model
        self.params = dict(params or {})
        self.rank = rank
        self.began = time.time()
        self.start_step = self.start_batch = 0
        #: Batches of the first epoch that are counted by Keras and trained by an earlier attempt.
        self.skipped = 0
        self.started = False
        self.outcome = "finished"  # the state that a `fit` ends in which nobody cut short
        self.members: set[int] = set()
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
        if self.model is not None:
            first["model"] = self.model
        if self.rank == 0:
            self.outbox.document("runs", self.id, set=now, setOnInsert=first)
            # The journal of an earlier attempt may be sent when a later one is long over.
            later = {"number": {"$not": {"$gt": self.number}}}
            heard = {"heartbeat": True}  # by the server's clock, from the first moment on
            self.outbox.document("runs", self.id, later, set=state, currentDate=heard)
            if self.params or config:
                params = plain({**dict(config or {}), **self.params})
                self.outbox.document("runs", self.id, later, set={"params": params})
            self.outbox.beat(self.id, self.attempt)
            # git may take long in a large work tree, and nobody waits for it.
            self._describing = threading.Thread(
                target=self._describe, name="keras_tl-describe", daemon=True
            )
            self._describing.start()

    def log(
        self, step: int, epoch: int, batch: int, logs: Mapping[str, Any], kind: str = "batch"
    ) -> None:
        """Append a row of numbers: about two microseconds, from any thread."""
        names = (kind, *logs)
        journal = self._outbox
        if journal is None or journal._closing:
            journal = self.outbox
        layout = self._layouts.get(names)
        if layout is None:
            number = journal.columns(self.id, self.attempt, self.rank, kind, names[1:])
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

    def event(self, kind: str, step: int = 0, epoch: int = 0, **values: Any) -> None:
        """Log an event of your own.

        Args:
            kind: its kind; `"batch"` and `"epoch"` belong to the logger.
            step: training step it belongs to.
            epoch: epoch it belongs to.
            **values: numbers, strings, booleans, `None`, or lists and dicts of these; at most
                1 MB. What is named like a secret is stored as `"***"`.

        Raises:
            ValueError: if `kind` is taken or no text, `step` or `epoch` is no integer, or a value
                is nothing that a document can hold.

        Example:

        ```python
        run.event("drift", step=1200, score=0.93, detector="adwin")
        ```
        """
        import json

        from bson import encode
        from bson.errors import BSONError

        if kind in ("batch", "epoch"):
            raise ValueError(
                f'`kind` must not be "batch" or "epoch", which are the logger\'s. Received: {kind}'
            )
        if not isinstance(kind, str) or not kind or buckets.text(kind) != kind:
            raise ValueError(f"`kind` must be a string of valid Unicode. Received: {kind!r}")
        step, epoch = _integer("step", step, 64), _integer("epoch", epoch, 32)
        try:
            # What MongoDB would refuse would have to be set aside, long after this call.
            values = json.loads(json.dumps(values))
            size = len(encode({"values": values}))
            if _depth(values) > _DEPTH:
                raise ValueError(f"values nested in more than {_DEPTH} levels")
        except (TypeError, ValueError, OverflowError, RecursionError, BSONError) as error:
            raise ValueError(
                "`values` must be numbers of 64 bits, strings, booleans, None, lists or dicts. "
                f"Received: {error}"
            ) from error
        if size > _EVENT:
            raise ValueError(f"`values` must be at most {_EVENT} bytes. Received: {size} bytes")
        number = self.outbox.columns(self.id, self.attempt, self.rank, kind, None)
        about = {"columns": number, "step": step, "epoch": epoch, "batch": -1, "time": time.time()}
        payload = json.dumps({**about, "values": plain(values, "", buckets.text)})
        self.outbox.append(Kind.EVENT, payload.encode())

    def end(self, state: str | None = None) -> None:
        """Say that the run is over: `finished`, `failed` or `stopped`; default: its `outcome`."""
        if self.started and self.rank == 0:
            if self._describing is not None:
                self._describing.join(2.0)  # a short run is described, too
            self.outbox.beat(self.id, None)
            ended = datetime.datetime.now(datetime.UTC)
            own = {"attempt": self.attempt}
            self.outbox.document(
                "runs", self.id, own, set={"state": state or self.outcome, "ended": ended}
            )
        under_way.pop(id(self), None)

    def _describe(self) -> None:
        git = environment.git()
        patch = git.pop("patch") if git else None
        if git and patch is not None:  # apart: many runs have the same one, few read it
            self.outbox.document("patches", git["diff"], setOnInsert={"patch": patch})
        self.outbox.document(
            "runs",
            self.id,
            {},  # no upsert: a run that was deleted meanwhile is not made again, by half
            set={
                "git": git,
                "env": environment.packages(),
                "host": socket.gethostname(),
            },
        )


def _integer(name: str, value: Any, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 1 << bits
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise ValueError(f"`{name}` must be an integer of {bits} bits. Received: {value!r}")
    return number


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


# The run of a `fit` that is under way, by model: how callbacks made apart find one another.
under_way: dict[int, tuple[weakref.ref[keras.Model], Run]] = {}

# The runs of a forked process's parent are not its own to end.
os.register_at_fork(after_in_child=under_way.clear)


def _end_all() -> None:
    for _, run in list(under_way.values()):
        run.end("failed")  # the process ends in the middle of a `fit`

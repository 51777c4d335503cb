"""A run as it is stored: what it was, its rows, and orders to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_tl.models import buckets, fields, orders, reading
from keras_tl.models.liveness import LIVE, mark_lost
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    import pandas


class BestValue(NamedTuple):
    """The best finite value of a metric among a run's epochs, and its step."""

    value: float
    step: int


class RunRecord:
    """A run as it is stored.

    Attributes:
        id: its id.
        document: the run's document, as it was when the record was read; `refresh` reads it anew.
    """

    def __init__(self, connection: Connection, document: Mapping[str, Any]) -> None:
        self.connection = connection
        self.document = document
        self.id: str = document["_id"]

    def __repr__(self) -> str:
        return f"RunRecord({self.id!r}, name={self.name!r}, state={self.state!r})"

    @property
    def name(self) -> str:
        """Its name, for people."""
        return str(self.document["name"])

    @property
    def state(self) -> str:
        """`running`, `paused`, `finished`, `failed`, `stopped`, or `lost`: its process is gone."""
        return str(self.document["state"])

    @property
    def last(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {buckets.name(k): v for k, v in self.document.get("last", {}).items()}

    @property
    def best(self) -> dict[str, BestValue]:
        """The best value of each metric: `run.best["val_loss"].value`, `.step`."""
        found = self.document.get("best", {})
        return {buckets.name(k): BestValue(v["v"], v["step"]) for k, v in found.items()}

    @property
    def params(self) -> dict[str, Any]:
        """Hyper-parameters, by the names that `Runs.where` takes: `params["optimizer.name"]`."""
        return fields.flat(self.document.get("params", {}))

    @property
    def tags(self) -> dict[str, Any]:
        """Tags, by the names that `Runs.where` takes."""
        return fields.flat(self.document.get("tags", {}))

    @property
    def git(self) -> dict[str, Any]:
        """The commit it ran on (`sha`) and a hash of what was changed since (`diff`), if known."""
        return dict(self.document.get("git") or {})

    @property
    def parent(self) -> str | None:
        """The id of the run that this one is nested in."""
        return self.document.get("parent")

    def children(self) -> list[RunRecord]:
        """The runs nested in this one, newest first."""
        from keras_tl.models.history import Runs

        return Runs(self.connection).where(parent=self.id)

    def refresh(self) -> RunRecord:
        """Read the document anew.

        Returns:
            The record itself.

        Raises:
            KeyError: if the run was deleted meanwhile.
        """
        mark_lost(self.connection.db)
        found = self.connection.db["runs"].find_one({"_id": self.id})
        if found is None:
            raise KeyError(f"`run` must be the id of a run: there is none. Received: {self.id!r}")
        self.document = found
        return self

    def kinds(self) -> list[str]:
        """The kinds of events that the run has."""
        return sorted(self.connection.db["events"].distinct("kind", {"run": self.id}))

    def events(
        self, *names: str, kind: str = "epoch", superseded: bool = False
    ) -> dict[str, np.ndarray]:
        """Rows of one kind as columns, ordered by step.

        Args:
            *names: metrics or values to read; none means all. Only these travel.
            kind: `"batch"`, `"epoch"`, or a kind of your own.
            superseded: whether to include rows that a resumed attempt has done again.

        Returns:
            `step` (int64), `epoch`, `batch` (int32), `time` (float64, s since 1970, UTC),
            `attempt` (object), `rank` (int32), where asked for `superseded` (bool), and a column
            for each name: float64, NaN where a row has no such value; objects for kinds of your
            own, `None` where a row has none. A value that has the name of one of the first ones
            is there as `value:NAME`. All have shape `(rows,)`.

        Raises:
            ValueError: if no row has a name that was asked for.

        Example:

        ```python
        found = run.events("loss", kind="batch")
        found["step"], found["loss"]
        ```
        """
        return reading.read(self.connection.db, self.document, names, kind, superseded)

    def frame(self, *names: str, kind: str = "epoch", superseded: bool = False) -> pandas.DataFrame:
        """Like `events`, as a data frame: `time` as UTC times, `attempt` as categories.

        Raises:
            ImportError: without pandas (`pip install 'keras_tl[pandas]'`).
            ValueError: if no row has a name that was asked for.
        """
        from keras_tl.models import frames

        frames.module()  # before anything is read
        return frames.of_events(self.events(*names, kind=kind, superseded=superseded))

    def tail(
        self, *names: str, kind: str = "batch", after: int = -1, poll: float = 0.5
    ) -> Iterator[dict[str, Any]]:
        """Rows as they arrive, from this or another process, until the run is over.

        First come the rows that are there, then new ones, each once, ordered by step among those
        that arrive together. Rows that a later attempt has done again when they arrive are left
        out; those it does again later are given again, as the new attempt's.

        Args:
            *names: metrics or values to read; none means all. A row has those that it has.
            kind: `"batch"`, `"epoch"`, or a kind of your own.
            after: only rows of later steps.
            poll: seconds between two looks.

        Returns:
            A generator of rows: `step`, `epoch`, `batch`, `time`, `attempt`, `rank` and values.

        Example:

        ```python
        for row in hub.runs[id].tail("loss"):
            print(row["step"], row["loss"])
        ```
        """
        rows, over = reading.Tail(self.connection.db, names, kind), False
        while True:
            try:
                self.refresh()
            except KeyError:
                return
            news = rows.news(self.document, all_of_them=over)
            for row in news:
                if row["step"] > after:
                    yield row
            if over and not news:
                return
            # The last rows may arrive after the state: it is over when a look brings nothing.
            over = self.state not in LIVE
            time.sleep(poll)

    def set(self, **values: float | int | bool) -> str:
        """Give the run an order: set its learning rate, or another variable, while it trains.

        Args:
            **values: `learning_rate`, or a scalar variable of the optimizer or a non-trainable
                one of the model, by its name or the end of its path.

        Returns:
            The order's id.

        Raises:
            ValueError: if the run does not train, or a value is no finite number or bool.

        Example:

        ```python
        hub.runs[id].set(learning_rate=1e-4)
        ```
        """
        return orders.send(self.connection, self.id, "set", values)

    def pause(self) -> str:
        """Order the run to wait before its next batch; returns the order's id."""
        return orders.send(self.connection, self.id, "pause")

    def resume(self) -> str:
        """Order a paused run to go on; returns the order's id."""
        return orders.send(self.connection, self.id, "resume")

    def stop(self) -> str:
        """Order the run to end after the batch under way; returns the order's id."""
        return orders.send(self.connection, self.id, "stop")

    def orders(self) -> list[dict[str, Any]]:
        """The orders that it was given, oldest first; see `keras_tl.models.orders.listing`."""
        return orders.listing(self.connection, self.id)

    def to_parquet(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the run's events as Parquet files, one a kind; see `Runs.to_parquet`.

        Raises:
            ImportError: without pyarrow (`pip install 'keras_tl[parquet]'`).
        """
        from keras_tl.models import parquet

        return parquet.write_events(self, folder)

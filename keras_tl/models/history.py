"""`hub.runs`: runs and their events, read back."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_tl.models import buckets
from keras_tl.storage.connection import Connection

#: A run whose heartbeat is older than this is taken for lost.
LOST_AFTER = datetime.timedelta(seconds=30)

_INDEX = ("step", "epoch", "batch", "time", "attempt")


class RunRecord:
    """A run as it is stored.

    Attributes:
        id: its id.
        document: the run's document.
    """

    def __init__(self, connection: Connection, document: Mapping[str, Any]) -> None:
        self.connection = connection
        self.document = document
        self.id: str = document["_id"]

    def __repr__(self) -> str:
        return f"RunRecord({self.id!r}, name={self.document['name']!r}, state={self.state!r})"

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, or `lost` if its process was not heard of lately."""
        state = str(self.document["state"])
        heartbeat = self.document.get("heartbeat") or self.document["started"]
        now = datetime.datetime.now(datetime.UTC)
        return "lost" if state == "running" and now - heartbeat > LOST_AFTER else state

    @property
    def last(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {buckets.name(k): v for k, v in self.document.get("last", {}).items()}

    def kinds(self) -> list[str]:
        """The kinds of events that the run has."""
        return sorted(self.connection.db["events"].distinct("kind", {"run": self.id}))

    def events(
        self, *names: str, kind: str = "epoch", superseded: bool = False
    ) -> dict[str, np.ndarray]:
        """Rows of one kind as columns, ordered by step.

        Args:
            *names: metrics or values to read; none means all.
            kind: `"batch"`, `"epoch"`, or a kind of your own.
            superseded: whether to include rows that a resumed attempt has done again.

        Returns:
            `step`, `epoch`, `batch` (int), `time` (s since 1970, UTC), `attempt`, and a column for
            each name: float64, NaN where a row has no such value; objects for kinds of your own.
            A value that has the name of one of the first five is there as `value:NAME`.

        Raises:
            ValueError: if no row has a name that was asked for.
        """
        parts: list[dict[str, np.ndarray]] = []
        query = {"run": self.id, "kind": kind}
        for document in self.connection.db["events"].find(query).sort("first_step", 1):
            part = buckets.unpack(document)
            part["attempt"] = np.full(document["n"], document["attempt"], object)
            if not superseded:
                keep = part["step"] <= self._valid_until(document["attempt"])
                part = {name: column[keep] for name, column in part.items()}
            parts.append(part)
        found = {name for part in parts for name in part}
        missing = [name for name in names if f"value:{name}" not in found]
        if missing and parts:
            raise ValueError(
                f"`names` must be values that the run's {kind!r} events have: "
                f"{sorted(n.removeprefix('value:') for n in found if n.startswith('value:'))}. "
                f"Received: {missing}"
            )
        wanted = [f"value:{name}" for name in names] or sorted(
            name for name in found if name.startswith("value:")
        )
        columns = {name: _join(parts, name) for name in _INDEX}
        for name in wanted:
            plain = name.removeprefix("value:")
            columns[name if plain in _INDEX else plain] = _join(parts, name)
        order = np.lexsort((columns["time"], columns["step"]))
        return {name: column[order] for name, column in columns.items()}

    def _valid_until(self, attempt: str) -> float:
        """The last step of an attempt that no later attempt has done again."""
        attempts = self.document["attempts"]
        own = attempts.get(attempt, {"number": 0, "started": self.document["started"]})
        later = [
            other["start_step"]
            for other in attempts.values()
            if (other["number"], other["started"]) > (own["number"], own["started"])
        ]
        return min(later, default=np.inf)


def _join(parts: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    pieces = []
    for part in parts:
        column = part.get(name)
        if column is None:
            column = np.full(len(part["step"]), np.nan)
        pieces.append(column)
    return np.concatenate(pieces) if pieces else np.empty(0)


class Runs:
    """The runs of a project: `hub.runs`.

    Args:
        connection: where they are kept.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __getitem__(self, run: str) -> RunRecord:
        """A run by id, or by the beginning of its id if only one begins so."""
        if not isinstance(run, str) or not run:
            raise KeyError(f"`run` must be a run's id. Received: {run!r}")
        query = {"_id": {"$gte": run, "$lt": run + "\uffff"}}
        found = list(self.connection.db["runs"].find(query).limit(2))
        exact = [d for d in found if d["_id"] == run]
        if len(found) != 1 and not exact:
            many = "several runs begin so" if found else "there is none"
            raise KeyError(f"`run` must be the id of one run: {many}. Received: {run!r}")
        return RunRecord(self.connection, (exact or found)[0])

    def __iter__(self) -> Iterator[RunRecord]:
        """All runs, newest first."""
        return iter(self.where())

    def where(self, limit: int = 0, **conditions: Any) -> list[RunRecord]:
        """Runs that meet all conditions, newest first.

        Args:
            limit: at most so many; 0 means all.
            **conditions: as in `state="running"`, `model="digits"`, `started__after=...`.

        Raises:
            ValueError: for a condition that is not understood.
        """
        from keras_tl.storage.query import compile_query

        cursor = self.connection.db["runs"].find(compile_query(conditions))
        return [RunRecord(self.connection, d) for d in cursor.sort("started", -1).limit(limit)]

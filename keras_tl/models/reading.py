"""Rows of events as they are read: buckets become columns, or arrive one by one while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import buckets

if TYPE_CHECKING:
    from pymongo.database import Database

#: Columns that all rows have.
INDEX = ("step", "epoch", "batch", "time", "attempt", "rank")
_TYPES = {"step": "int64", "epoch": "int32", "batch": "int32", "time": "float64", "rank": "int32"}
_VALUE = "value:"
_LATE = 10  # polls between two looks for buckets that came late


def read(
    db: Database[dict[str, Any]],
    run: Mapping[str, Any],
    names: tuple[str, ...] = (),
    kind: str = "epoch",
    superseded: bool = False,
) -> dict[str, np.ndarray]:
    """A run's rows of one kind as columns, ordered by step; see `RunRecord.events`."""
    return read_present(db, run, names, kind, superseded)[0]


def read_present(
    db: Database[dict[str, Any]],
    run: Mapping[str, Any],
    names: tuple[str, ...] = (),
    kind: str = "epoch",
    superseded: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The columns, and of those that some rows do not have, which rows have them (bool)."""
    query = {"run": run["_id"], "kind": kind}
    until = _Until(run)
    parts: list[dict[str, np.ndarray]] = []
    about: list[tuple[str, int]] = []
    for document in db["events"].find(query, _projection(names)).sort("first_step", 1):
        part = buckets.unpack(document)
        last = until[document["attempt"]]
        if superseded:
            part["superseded"] = part["step"] > last
        elif document["last_step"] > last:
            keep = part["step"] <= last
            part = {name: column[keep] for name, column in part.items()}
        parts.append(part)
        about.append((document["attempt"], document["rank"]))
    found = {name for part in parts for name in part if name.startswith(_VALUE)}
    missing = [name for name in names if _VALUE + name not in found]
    if missing and parts:
        there = {name for document in db["events"].find(query) for name in buckets.unpack(document)}
        raise ValueError(
            f"`names` must be values that the run's {kind!r} events have: "
            f"{sorted(n.removeprefix(_VALUE) for n in there if n.startswith(_VALUE))}. "
            f"Received: {missing}"
        )
    counts = [len(part["step"]) for part in parts]
    own = ("step", "epoch", "batch", "time", *(["superseded"] if superseded else []))
    columns = {name: _join(parts, counts, name) for name in own}
    columns["attempt"] = np.repeat(np.array([a for a, _ in about], object), counts)
    columns["rank"] = np.repeat(np.array([r for _, r in about], "int32"), counts)
    present = {}
    for name in [_VALUE + name for name in names] or sorted(found):
        plain = name.removeprefix(_VALUE)
        public = name if plain in (*INDEX, *own) else plain
        columns[public] = _join(parts, counts, name)
        has = [name in part for part in parts]
        if not all(has):
            present[public] = np.repeat(has, counts)
    if not (np.diff(columns["step"]) > 0).all():  # attempts or threads overlap
        order = np.lexsort((columns["time"], columns["step"]))
        columns = {name: column[order] for name, column in columns.items()}
        present = {name: mask[order] for name, mask in present.items()}
    return columns, present


class Tail:
    """Rows of one kind as they arrive, each once.

    Args:
        db: the project's database.
        names: values to read; none means all.
        kind: kind of events.
    """

    def __init__(self, db: Database[dict[str, Any]], names: tuple[str, ...], kind: str) -> None:
        self.db = db
        self.names = names
        self.kind = kind
        self._seen: set[str] = set()
        self._attempts: set[str] = set()
        self._mark = -(2**63)
        self._at_mark: list[str] = []
        self._polls = 0

    def news(self, run: Mapping[str, Any], all_of_them: bool = False) -> list[dict[str, Any]]:
        """The rows that came since the last call, in the order of steps.

        Args:
            run: the run's document as it is.
            all_of_them: look for late buckets, too, as every tenth call does.
        """
        events, query = self.db["events"], {"run": run["_id"], "kind": self.kind}
        if self._attempts != set(run["attempts"]):  # one that resumed begins at earlier steps
            self._attempts = set(run["attempts"])
            self._mark, self._at_mark = -(2**63), sorted(self._seen)
        # A run of days has very many buckets, and nearly always the new ones are the last.
        newer = {"first_step": {"$gte": self._mark}, "_id": {"$nin": self._at_mark}}
        found = list(events.find({**query, **newer}, _projection(self.names)))
        self._note(found)
        self._polls += 1
        late = all_of_them or self._polls % _LATE == 0
        if late and events.count_documents(query) != len(self._seen):
            ids = [d["_id"] for d in events.find(query, {"_id": 1}) if d["_id"] not in self._seen]
            missed = list(events.find({"_id": {"$in": ids}}, _projection(self.names)))
            self._note(missed)
            found += missed
        until = _Until(run)
        rows = [row for d in found for row in _rows(d) if row["step"] <= until[d["attempt"]]]
        return sorted(rows, key=lambda row: (row["step"], row["time"]))

    def _note(self, documents: Iterable[Mapping[str, Any]]) -> None:
        for document in documents:
            self._seen.add(document["_id"])
            if document["first_step"] > self._mark:
                self._mark, self._at_mark = document["first_step"], []
            if document["first_step"] == self._mark:
                self._at_mark.append(document["_id"])


class _Until(dict[str, float]):
    """The last step of each attempt that no later attempt has done again."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run

    def __missing__(self, attempt: str) -> float:
        attempts = self.run["attempts"]
        own = attempts.get(attempt)
        later = [
            other["start_step"]
            for other in attempts.values()
            # Other ranks' attempts are not told to the run: their rows say what a machine did.
            if own and (other["number"], other["started"]) > (own["number"], own["started"])
        ]
        self[attempt] = min(later, default=np.inf)
        return self[attempt]


def _projection(names: tuple[str, ...]) -> dict[str, int] | None:
    """Of a bucket, what is asked for: the other values stay where they are."""
    if not names:
        return None
    wanted = ["kind", "attempt", "rank", "n", "first_step", "last_step", "index"]
    wanted += [f"{packed}.{buckets.key(n)}" for n in names for packed in ("columns", "values")]
    return dict.fromkeys(wanted, 1)


def _join(parts: list[dict[str, np.ndarray]], counts: list[int], name: str) -> np.ndarray:
    there = [part[name] for part in parts if name in part]
    if not there:
        return np.empty(0, _TYPES.get(name, bool if name == "superseded" else "float64"))
    if len(there) < len(parts):
        objects = any(column.dtype == object for column in there)
        fill, dtype = (None, object) if objects else (np.nan, "float64")
        there = [
            part[name] if name in part else np.full(count, fill, dtype)
            for part, count in zip(parts, counts, strict=True)
        ]
    return np.concatenate(there)


def _rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    columns = {name: column.tolist() for name, column in buckets.unpack(document).items()}
    plain = [name.removeprefix(_VALUE) for name in columns]
    names = [
        name if n in INDEX and name != n else n for n, name in zip(plain, columns, strict=True)
    ]
    for row in zip(*columns.values(), strict=True):
        yield {
            **dict(zip(names, row, strict=True)),
            "attempt": document["attempt"],
            "rank": document["rank"],
        }

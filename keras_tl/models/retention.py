"""Which versions a model keeps, and the deletion of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import aliases, liveness, versions
from keras_tl.models.buckets import key as encoded
from keras_tl.models.selection import Best
from keras_tl.storage import hooks
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

#: States of runs that may go on, from the newest version that they have saved.
_RESUMABLE = (*liveness.LIVE, "lost")
_BATCH = 50  # versions a transaction
_TOUCHED = 2000  # blobs a transaction


@dataclass(frozen=True)
class Keep:
    """A retention policy: a version that meets any of these is kept.

    Whatever it says, `latest`, `best` and the newest version of each run that may be resumed stay.

    Args:
        last: so many of the newest.
        best: so many of the best by `monitor`.
        monitor: name of a metric.
        mode: `"min"`, `"max"` or `"auto"`, as of `keras_tl.models.best`.
        every: those whose number is a multiple of it.
        aliased: those that an alias points to. If `False`, aliases are removed with the versions.

    Raises:
        ValueError: if none of `last`, `best` and `every` is given, or one is not a positive
            integer, or `mode` cannot be told from the name of `monitor`.

    Example:

    >>> Keep(last=5, best=3, every=10)
    Keep(last=5, best=3, monitor='val_loss', mode='auto', every=10, aliased=True)
    """

    last: int | None = None
    best: int | None = None
    monitor: str = "val_loss"
    mode: str = "auto"
    every: int | None = None
    aliased: bool = True

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("last", "best", "every")}
        for name, value in given.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
        if all(value is None for value in given.values()):
            raise ValueError(
                "`Keep` needs `last`, `best` or `every`, or it would keep almost nothing. "
                "Received: none of them"
            )
        rule = Best(self.monitor, self.mode)
        if self.best is not None:
            rule.direction()
        if not isinstance(self.aliased, bool):
            raise ValueError(f"`aliased` must be True or False. Received: {self.aliased!r}")

    def to_dict(self) -> dict[str, Any]:
        """What a document can hold; `Keep(**keep.to_dict())` is equal."""
        return asdict(self)

    def chosen(self, found: Sequence[Mapping[str, Any]]) -> set[int]:
        """Numbers of the versions that the policy itself keeps.

        Args:
            found: documents of versions, with `version` and `metrics`.
        """
        numbers = sorted((d["version"] for d in found), reverse=True)
        kept = set(numbers[: self.last or 0])
        if self.every is not None:
            kept |= {number for number in numbers if number % self.every == 0}
        if self.best is not None:
            kept |= set(self.ranked(found)[: self.best])
        return kept

    def ranked(self, found: Sequence[Mapping[str, Any]]) -> list[int]:
        """Numbers of the versions that have a finite value of `monitor`, the best first."""
        sign = 1 if Best(self.monitor, self.mode).direction() == "min" else -1
        name = encoded(self.monitor)
        order = sorted(
            (sign * d["metrics"][name], d["version"])
            for d in found
            if np.isfinite(d["metrics"].get(name, np.nan))
        )
        return [number for _, number in order]


def apply(
    connection: Connection,
    key: str,
    keep: Keep | Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> list[int]:
    """Delete the versions of a model that a policy does not keep; repeating it changes nothing.

    Args:
        connection: where they are kept.
        key: the model's key.
        keep: the policy, or its `to_dict()`; default: the one stored with the model, if any.
        dry_run: delete nothing.

    Returns:
        Numbers of the versions that were deleted, or would be.

    Raises:
        pymongo.errors.PyMongoError: if the server does not take it.
        ValueError: if the policy asks for the best by a metric that no version has.
    """
    db = connection.db
    model = db["models"].find_one({"_id": key})
    keep = keep or (model or {}).get("retention")
    if model is None or keep is None:
        return []
    policy = keep if isinstance(keep, Keep) else Keep(**keep)
    fields = ["version", "run", "number", "step", f"metrics.{encoded(policy.monitor)}"]
    query = {"model": key, "deleted": None}
    found = [
        {"metrics": {}, **document}
        for document in db["versions"].find(query, dict.fromkeys(fields, 1))
    ]
    kept = policy.chosen(found) | _needed(db, key, found)
    kept |= _pointed_to(model["aliases"], policy.aliased)
    doomed = sorted(d["version"] for d in found if d["version"] not in kept)
    if doomed and policy.best is not None and not policy.ranked(found):
        raise ValueError(
            f"`monitor` must be a metric of which a version of {key!r} has a finite value, or "
            f"nothing is deleted. Received: {policy.monitor!r}"
        )
    if dry_run:
        return doomed
    done = []
    numbers = iter(doomed)
    while batch := list(islice(numbers, _BATCH)):
        done += _bury(db, key, batch, policy.aliased)
    return done


def delete(connection: Connection, key: str, number: int) -> None:
    """Delete one version.

    Raises:
        KeyError: if there is no such version, or it was deleted.
        ValueError: if an alias points to it.
    """
    db = connection.db
    if _bury(db, key, [number], aliased=True):
        return
    model = db["models"].find_one({"_id": key}) or {"aliases": {}}
    names = [alias for alias, version in model["aliases"].items() if version == number]
    if names:
        raise ValueError(
            f"`version` must not have an alias: move {', '.join(names)} first. Received: {number}"
        )
    raise KeyError(f"`version` must be one of the model {key!r} that is kept. Received: {number!r}")


def delete_model(connection: Connection, key: str, force: bool = False) -> None:
    """Remove a model, its versions and its aliases' history; its runs stay.

    Raises:
        KeyError: if there is no such model.
        ValueError: if a run trains it and `force` is not given.
    """
    db = connection.db
    if db["models"].find_one({"_id": key}, {"_id": 1}) is None:
        raise aliases.no_model(key)
    liveness.mark_lost(db)
    running = db["runs"].find_one({"model": key, "state": {"$in": list(liveness.LIVE)}})
    if running is not None and not force:
        raise ValueError(
            f"`key` must not be a model that a run trains, unless `force` is given: the run "
            f"{running['_id']} does. Received: {key!r}"
        )

    def remove(session: ClientSession) -> None:
        aliases.hold(db, key, session)
        db["models"].delete_one({"_id": key}, session=session)
        for name in ("versions", "transitions"):
            db[name].delete_many({"model": key}, session=session)

    with db.client.start_session() as session:
        session.with_transaction(remove)


def _pointed_to(found: Mapping[str, int], aliased: bool) -> set[int]:
    return {version for alias, version in found.items() if aliased or alias in aliases.KEPT}


def _needed(db: Database[dict[str, Any]], key: str, found: Sequence[Mapping[str, Any]]) -> set[int]:
    """The newest version of each run that may be resumed."""
    query = {"model": key, "state": {"$in": list(_RESUMABLE)}}
    alive = {run["_id"] for run in db["runs"].find(query, {"_id": 1})}
    newest: dict[str, Mapping[str, Any]] = {}
    for document in found:
        order = (document["number"], document["step"], document["version"])
        held = newest.get(document["run"])
        if document["run"] in alive and (
            held is None or order > (held["number"], held["step"], held["version"])
        ):
            newest[document["run"]] = document
    return {document["version"] for document in newest.values()}


def _bury(
    db: Database[dict[str, Any]], key: str, numbers: Iterable[int], aliased: bool
) -> list[int]:
    """Make tombstones of those that no alias points to by now; their numbers.

    A tombstone keeps what the version was, for its children's lineage, and refers to no blob. Its
    blobs count as referred to until now, so that a reader that has just begun has `gc`'s grace.
    """
    query = {"model": key, "version": {"$in": list(numbers)}, "deleted": None}
    fields = ["version", "model", "tensors.hash", "config", "manifest"]
    doomed = list(db["versions"].find(query, dict.fromkeys(fields, 1)))
    _spare(db, {name for document in doomed for name in _blobs(db, document)})

    def change(session: ClientSession) -> list[int]:
        try:
            model = aliases.hold(db, key, session)
        except KeyError:  # the model was deleted meanwhile
            return []
        spared = _pointed_to(model["aliases"], aliased)
        ids = [document["_id"] for document in doomed if document["version"] not in spared]
        one = {"_id": {"$in": ids}, "deleted": None}
        found = list(db["versions"].find(one, {"version": 1}, session=session))
        db["versions"].update_many(
            {"_id": {"$in": [document["_id"] for document in found]}},
            [
                {"$set": {"deleted": "$$NOW", "tensors": [], "callbacks": []}},
                {"$unset": ["config", "manifest"]},
            ],
            session=session,
        )
        gone = [document["version"] for document in found]
        lost = {alias: n for alias, n in model["aliases"].items() if n in gone}
        if lost:
            unset = {f"aliases.{alias}": "" for alias in lost}
            db["models"].update_one({"_id": key}, {"$unset": unset}, session=session)
            about = {"model": key, "version": None, "rev": model["rev"], "note": "retention"}
            moves = [{**about, "alias": alias, "from": n} for alias, n in lost.items()]
            aliases.record(db, moves, session)
        hooks.phase("version-buried")
        return sorted(gone)

    with db.client.start_session() as session:
        return session.with_transaction(change)


def _spare(db: Database[dict[str, Any]], names: set[str]) -> None:
    """Let blobs count as referred to until now: in short transactions, as savers need the same."""
    rest = iter(sorted(names))
    with db.client.start_session() as session:
        while part := list(islice(rest, _TOUCHED)):
            session.with_transaction(lambda s: Blobs(db).touch(part, s))  # noqa: B023


def _blobs(db: Database[dict[str, Any]], document: Mapping[str, Any]) -> set[str]:
    try:
        found = {entry["hash"] for entry in versions.entries(db, document)}
    except (KeyError, ValueError):  # a manifest that is lost or damaged: all the more reason
        found = set()
    return found | {document[k] for k in ("config", "manifest") if document.get(k)}

"""Aliases of versions: moved by compare-and-set, each move recorded in the same transaction."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import environment
from keras_tl.models.buckets import text
from keras_tl.models.plain import plain
from keras_tl.models.selection import Best, Reference, Selection, Version
from keras_tl.storage import hooks

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

#: Moved by the library itself.
KEPT = ("latest", "best")


class _Any:
    def __repr__(self) -> str:
        return "ANY"


#: Wherever the alias points to.
ANY: Any = _Any()


class AliasMoved(ValueError):
    """An alias does not point to where it was expected to.

    Attributes:
        alias: the alias.
        found: number of the version that it points to, or `None` if it does not exist.
    """

    def __init__(self, alias: str, expected: int | None, found: int | None) -> None:
        self.alias, self.found = alias, found
        where = f"points to version {found}" if found is not None else "does not exist"
        super().__init__(
            f"`expected` must be where the alias {alias!r} points to: it {where}. "
            f"Received: expected={expected!r}"
        )


class Aliases(Selection):
    """Moves aliases of a model's versions and tells their history."""

    def promote(
        self,
        alias: str,
        version: Reference,
        *,
        expected: int | None = ANY,
        unless_worse: str | Best | None = None,
        note: str = "",
        by: str | None = None,
    ) -> Version:
        """Let an alias point to a version; of two processes at once with `expected`, one wins.

        Args:
            alias: its name, as `"prod"`; `latest` and `best` are the library's own.
            version: what it shall point to.
            expected: number of the version that it must point to until then, `None` if it must
                not exist yet. Default: wherever it points to.
            unless_worse: a metric (or `best(metric, mode=...)`) by which the version must not be
                worse than the one that the alias points to.
            note: why, for people.
            by: who; default: user and host.

        Returns:
            The version.

        Raises:
            AliasMoved: if the alias does not point to `expected`.
            KeyError: if there is no such version, or it was deleted.
            ValueError: if `alias` is no name for an alias, or the version is worse.

        Example:

        ```python
        digits = hub.models["digits"]
        digits.promote("prod", best("val_loss"), expected=digits.aliases.get("prod"))
        serving = digits.load("prod")
        ```
        """
        check(alias)
        chosen = self.version(version)

        def move(session: ClientSession) -> None:
            model = self._hold(session)
            query = {"model": self.key, "version": chosen.number, "deleted": None}
            if self._collection.find_one(query, {"_id": 1}, session=session) is None:
                raise KeyError(
                    f"`version` must be one of the model {self.key!r} that is kept. "
                    f"Received: {version!r}, which was deleted"
                )
            before = model["aliases"].get(alias)
            if expected is not ANY and before != expected:
                raise AliasMoved(alias, expected, before)
            if unless_worse is not None and before is not None:
                self._compare(unless_worse, chosen, self._find(before), model.get("best"))
            self._set(model, alias, chosen.number, note, by, session)

        self._transact(move)
        return chosen

    def demote(
        self, alias: str, *, expected: int | None = ANY, note: str = "", by: str | None = None
    ) -> None:
        """Remove an alias; the version stays.

        Args:
            alias: its name.
            expected: number of the version that it must point to. Default: any.
            note: why, for people.
            by: who; default: user and host.

        Raises:
            AliasMoved: if the alias does not point to `expected`.
            KeyError: if there is no such alias.
            ValueError: if `alias` is no name for an alias.
        """
        check(alias)

        def remove(session: ClientSession) -> None:
            model = self._hold(session)
            before = model["aliases"].get(alias)
            if expected is not ANY and before != expected:
                raise AliasMoved(alias, expected, before)
            if before is None:
                raise KeyError(
                    f"`alias` must be one of the model {self.key!r}: "
                    f"{sorted(model['aliases'])}. Received: {alias!r}"
                )
            self._set(model, alias, None, note, by, session)

        self._transact(remove)

    def history(self, alias: str | None = None) -> list[dict[str, Any]]:
        """Every move of an alias, or of all, oldest first.

        Returns:
            `alias`, `version` (`None`: removed), `from` (a number or `None`), `at` (UTC, the
            server's time), and for those moved by `promote` and `demote` `by` and `note`.
        """
        query = {"model": self.key, **({"alias": alias} if alias is not None else {})}
        hidden = {"_id": 0, "model": 0, "rev": 0}
        found = self.connection.db["transitions"].find(query, hidden)
        return list(found.sort([("at", 1), ("rev", 1)]))

    def aliases_at(self, time: datetime.datetime) -> dict[str, int]:
        """Where every alias pointed to at a time.

        Args:
            time: an aware datetime.

        Raises:
            ValueError: if `time` has no time zone.

        Example:

        ```python
        served = digits.aliases_at(datetime(2026, 5, 1, tzinfo=UTC))["prod"]
        ```
        """
        if not isinstance(time, datetime.datetime) or time.utcoffset() is None:
            raise ValueError(f"`time` must be an aware datetime. Received: {time!r}")
        newest = self.connection.db["transitions"].aggregate(
            [
                {"$match": {"model": self.key, "at": {"$lte": time}}},
                {"$sort": {"at": -1, "rev": -1}},
                {"$group": {"_id": "$alias", "version": {"$first": "$version"}}},
                {"$match": {"version": {"$ne": None}}},
                {"$sort": {"_id": 1}},
            ]
        )
        return {found["_id"]: found["version"] for found in newest}

    def _transact(self, change: Any) -> None:
        with self.connection.db.client.start_session() as session:
            session.with_transaction(change)
        hooks.phase("alias-committed")

    def _hold(self, session: ClientSession) -> dict[str, Any]:
        """The model's document, written to first: whoever changes the model waits or tries again.

        That write is what keeps a version from being deleted while it is promoted.
        """
        return hold(self.connection.db, self.key, session)

    def _set(
        self,
        model: Mapping[str, Any],
        alias: str,
        version: int | None,
        note: str,
        by: str | None,
        session: ClientSession,
    ) -> None:
        db = self.connection.db
        field = f"aliases.{alias}"
        change = {"$unset": {field: ""}} if version is None else {"$set": {field: version}}
        db["models"].update_one({"_id": self.key}, change, session=session)
        move = {"model": self.key, "alias": alias, "version": version}
        move |= {"from": model["aliases"].get(alias), "rev": model["rev"]}
        move |= {"by": plain(by if by is not None else environment.user()), "note": plain(note)}
        record(db, [move], session)
        hooks.phase("alias-transaction")

    def _compare(
        self, by: str | Best, new: Version, old: Version, judged: Mapping[str, Any] | None
    ) -> None:
        rule = by if isinstance(by, Best) else Best(by)
        sign = 1 if rule.direction(judged) == "min" else -1
        value, held = new.metrics.get(rule.monitor), old.metrics.get(rule.monitor)
        worse = held is not None and np.isfinite(held) and sign * (value or 0) > sign * held
        if value is None or not np.isfinite(value) or worse:
            raise ValueError(
                f"`version` must have a finite {rule.monitor!r} that is not worse than that of "
                f"version {old.number}, which has {held}. Received: version {new.number} with "
                f"{value}"
            )


def hold(db: Database[dict[str, Any]], model: str, session: ClientSession) -> dict[str, Any]:
    """A model's document as it is after a write to it in the session's transaction.

    Raises:
        KeyError: if there is no such model.
    """
    from pymongo import ReturnDocument

    found = db["models"].find_one_and_update(
        {"_id": model},
        {"$inc": {"rev": 1}},
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    if found is None:
        raise no_model(model)
    return found


def no_model(key: str) -> KeyError:
    """What is raised where there is no such model."""
    return KeyError(f"`key` must be the key of a model. Received: {key!r}")


def record(
    db: Database[dict[str, Any]], moves: Iterable[Mapping[str, Any]], session: ClientSession
) -> None:
    """Note moves of aliases, in the transaction that makes them, with the server's time.

    Args:
        db: the project's database.
        moves: `model`, `alias`, `version`, `from` and the model's `rev`, which orders moves
            within a millisecond.
        session: the transaction.
    """
    from bson import ObjectId

    for move in moves:
        fields = {name: {"$literal": value} for name, value in move.items()}
        change = [{"$set": {**fields, "at": "$$NOW"}}]
        db["transitions"].update_one({"_id": ObjectId()}, change, upsert=True, session=session)


def check(alias: Any) -> None:
    """Refuse what is no name for an alias.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(alias, str) or not alias or set(alias) & set(".$\0") or text(alias) != alias:
        raise ValueError(
            f"`alias` must be a name without `.`, `$` and NUL, not empty. Received: {alias!r}"
        )
    if alias in KEPT:
        raise ValueError(
            f"`alias` must not be one of {', '.join(KEPT)}, which the library moves itself. "
            f"Received: {alias!r}"
        )
    if alias.lstrip("-").isdigit():
        raise ValueError(
            f"`alias` must not be a number, which names a version. Received: {alias!r}"
        )

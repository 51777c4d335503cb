"""Changes to heads: rows that die, labels that change; always in the transaction of the samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset


def kill(dataset: Dataset, rows: Mapping[int, str], now: datetime, session: ClientSession) -> None:
    """Marks rows as dead; when the last one of a pack dies is noted.

    Args:
        dataset: the dataset.
        rows: whose they were, by address: a snapshot may have them, and is found by it.
        now: the server's time.
        session: with the transaction.
    """
    from pymongo import UpdateOne

    dying = by_pack(dataset, rows)
    changes = []
    for head in _read(dataset, dying, {"n": 1, "dead": 1}, session):
        n = head["n"]
        dead = dead_rows(head)
        dead[list(dying[head["_id"]])] = True
        live = n - int(dead.sum())
        values: dict[str, Any] = {
            "dead": np.packbits(dead, bitorder="little").tobytes(),
            "live": live,
        }
        if not live:
            values["died"] = now
        gone = [{"row": row, "key": key} for row, key in dying[head["_id"]].items()]
        change = {"$set": values, "$push": {"gone": {"$each": gone}}}
        changes.append(UpdateOne({"_id": head["_id"]}, change))
    if changes:
        dataset.heads.bulk_write(changes, ordered=False, session=session)


def relabel(
    dataset: Dataset, labels: Mapping[int, Mapping[str, Any]], session: ClientSession
) -> None:
    """Sets labels (name: value, or `None`) of the rows at these addresses."""
    from pymongo import UpdateOne

    changed = by_pack(dataset, labels)
    names = {name for values in labels.values() for name in values}
    changes = []
    for head in _read(dataset, changed, {f"labels.{name}": 1 for name in names}, session):
        columns: dict[str, np.ndarray] = {}
        for row, values in changed[head["_id"]].items():
            for name, value in values.items():
                if name not in columns:
                    columns[name] = label_column(dataset, name, head["labels"]).copy()
                missing = dataset.schema.labels[name].missing
                columns[name][row] = missing if value is None else value
        values = {f"labels.{name}": column.tobytes() for name, column in columns.items()}
        changes.append(UpdateOne({"_id": head["_id"]}, {"$set": values}))
    if changes:
        dataset.heads.bulk_write(changes, ordered=False, session=session)


def dead_rows(head: Mapping[str, Any]) -> np.ndarray:
    """Which rows of a pack are dead: booleans, one a row."""
    bits = np.frombuffer(head.get("dead") or bytes(-(-head["n"] // 8)), np.uint8)
    return np.unpackbits(bits, count=head["n"], bitorder="little").astype(bool)


def label_column(dataset: Dataset, name: str, labels: Mapping[str, bytes]) -> np.ndarray:
    """A label's column of a pack, read-only."""
    return np.frombuffer(labels[name], dataset.schema.labels[name].dtype)


def by_pack(dataset: Dataset, rows: Mapping[int, Any]) -> dict[int, dict[int, Any]]:
    """What is given by address, by pack and row."""
    found: dict[int, dict[int, Any]] = {}
    for at, value in rows.items():
        pack, row = divmod(at, dataset.rows)
        found.setdefault(pack, {})[row] = value
    return found


def _read(
    dataset: Dataset, numbers: Iterable[int], fields: Mapping[str, Any], session: ClientSession
) -> list[dict[str, Any]]:
    query = {"_id": {"$in": list(numbers)}}
    return list(dataset.heads.find(query, fields, session=session))

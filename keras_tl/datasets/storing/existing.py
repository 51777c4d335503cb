"""Samples that are inserted under keys that exist: the same, refused, or replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.storing import heads
from keras_tl.datasets.storing.block import Block

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset


class Moved(Exception):
    """What was looked up before a transaction is no longer so: look again."""


class Plan(NamedTuple):
    """What has to be written of a group.

    Attributes:
        blocks: rows that are new, or that take another one's place.
        moved: documents, by key, of the samples whose row another one replaces.
        edited: documents, by key, of the samples that keep their row.
        labels: labels that change, by key of those.
        tags: tags that change, by key of those.
    """

    blocks: list[Block]
    moved: dict[str, dict[str, Any]]
    edited: dict[str, dict[str, Any]]
    labels: dict[str, dict[str, Any]]
    tags: dict[str, dict[str, Any]]


def look(dataset: Dataset, group: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """The samples that exist, by key: their documents, with the row's `digest`."""
    keys = [key for block in group for key in block.keys]
    fields = {"at": 1, "labels": 1, "tags": 1}
    with dataset.connection.client.start_session(snapshot=True) as session:
        samples = dataset.samples.find({"_id": {"$in": keys}}, fields, session=session)
        found = {document["_id"]: document for document in samples}
        numbers = {document["at"] // dataset.rows for document in found.values()}
        query = {"_id": {"$in": list(numbers)}}
        heads = dataset.heads.find(query, {"digests": 1}, session=session) if found else ()
        digests = {head["_id"]: head["digests"] for head in heads}
    for document in found.values():
        pack, row = divmod(document["at"], dataset.rows)
        document["digest"] = digests[pack][32 * row : 32 * row + 32]
    return found


def plan(
    schema: Schema,
    group: Sequence[Block],
    found: Mapping[str, dict[str, Any]],
    replace: bool,
    keep: bool = False,
) -> Plan:
    """What is to be written, where these samples exist.

    A label or a tag that the new samples do not have stays as it is; where only labels and tags
    are others, all of them do if `keep` is given, and not `replace`.

    Raises:
        ValueError: if one has other values, unless `replace`.
    """
    made = Plan([], {}, {}, {}, {})
    for block in group:
        if not found:
            made.blocks.append(block)
            continue
        given = {name: kind.plain(_copied(block, name)) for name, kind in schema.labels.items()}
        rows = []
        for row, key in enumerate(block.keys):
            old = found.get(key)
            if old is None:
                rows.append(row)
                continue
            labels = _changes(given, row, old["labels"])
            tags = _changes(block.tags, row, old["tags"])
            same = block.digests[32 * row : 32 * row + 32] == old["digest"]
            if same and ((keep and not replace) or not (labels or tags)):
                continue
            if not replace:
                names = [*([] if same else schema.tensors), *labels, *tags]
                raise ValueError(
                    "A key that exists must come with the content that it has, unless "
                    f"`replace=True`. Received: {key!r} with another {' or '.join(names)}"
                )
            if same:
                made.edited[key] = old
                made.labels[key], made.tags[key] = labels, tags
            else:
                made.moved[key] = old
                rows.append(row)
                _keep(schema, block, row, old)
        if rows:
            made.blocks.append(block.take(rows))
    return made


def _copied(block: Block, name: str) -> np.ndarray:
    block.columns[name] = column = np.array(block.columns[name])
    return column


def _changes(given: Mapping[str, list[Any]], row: int, old: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: values[row]
        for name, values in given.items()
        if values[row] is not None and values[row] != old.get(name)
    }


def _keep(schema: Schema, block: Block, row: int, old: Mapping[str, Any]) -> None:
    """Gives a row that replaces another one the labels and tags that it does not have itself."""
    for name, kind in schema.labels.items():
        column = block.columns[name]
        if kind.plain(np.asarray(column[row : row + 1])) == [None]:
            value = old["labels"].get(name)
            column[row] = kind.missing if value is None else value
    for name, value in old["tags"].items():
        if name not in block.tags:
            block.tags[name] = [None] * len(block)
        if block.tags[name][row] is None:
            block.tags[name] = [*block.tags[name]]
            block.tags[name][row] = value


def apply(
    dataset: Dataset,
    plan: Plan,
    samples: Sequence[Mapping[str, Any]],
    now: datetime,
    session: ClientSession,
) -> list[str]:
    """Changes the samples that exist, in the transaction that writes the new packs.

    Args:
        dataset: the dataset.
        plan: what is to be written.
        samples: documents of the new rows of those that are moved.
        now: the server's time.
        session: with the transaction.

    Returns:
        The keys that were changed.

    Raises:
        Moved: if one is no longer as it was when `plan` was made.
    """
    from pymongo import UpdateOne

    seen = {**plan.moved, **plan.edited}
    fields = {"at": 1, "labels": 1, "tags": 1}
    there = 0
    for document in dataset.samples.find({"_id": {"$in": list(seen)}}, fields, session=session):
        old = seen[document["_id"]]
        if any(document[name] != old[name] for name in fields):
            raise Moved
        there += 1
    if there != len(seen):
        raise Moved
    heads.kill(dataset, {old["at"]: key for key, old in plan.moved.items()}, now, session)
    changes = [
        UpdateOne({"_id": new["_id"]}, {"$set": {name: new[name] for name in fields}})
        for new in samples
    ]
    rows = {plan.edited[key]["at"]: labels for key, labels in plan.labels.items() if labels}
    heads.relabel(dataset, rows, session)
    for key in plan.edited:
        labels = {f"labels.{name}": value for name, value in plan.labels[key].items()}
        tags = {f"tags.{name}": value for name, value in plan.tags[key].items()}
        changes.append(UpdateOne({"_id": key}, {"$set": {**labels, **tags}}))
    dataset.samples.bulk_write(changes, ordered=False, session=session)
    return list(seen)

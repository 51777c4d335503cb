"""Packs that nothing refers to: of writers that were killed, and those whose samples are gone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.snapshots.held import Held
from keras_tl.storage import hooks

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

#: s for which packs are spared that nothing refers to.
GRACE = 7200.0
_BATCH = 100  # packs a transaction


def collect(dataset: Dataset, grace: float, dry_run: bool = False) -> dict[str, int]:
    """Removes packs (see `Dataset.gc`)."""
    if not grace >= 0:
        raise ValueError(f"`grace` must be 0 s or more. Received: {grace}")
    horizon = dataset.now() - timedelta(seconds=grace)
    done = {"packs": 0, "bytes": 0, "orphans": 0}
    for numbers in _batches(_orphans(dataset, horizon)):
        if dry_run or _remove_orphans(dataset, numbers):
            done["orphans"] += len(numbers)
    dead = {"died": {"$lt": horizon}, "live": 0}
    sizes = {head["_id"]: head["bytes"] for head in dataset.heads.find(dead, {"bytes": 1})}
    held = Held(dataset)
    for numbers in _batches(list(sizes)):
        free = sorted(set(numbers) - held.among(numbers))
        if free and not dry_run:
            with dataset.connection.client.start_session() as session:
                free = session.with_transaction(lambda s: _remove(dataset, free, dead, held, s))  # noqa: B023
        done["packs"] += len(free)
        done["bytes"] += sum(sizes[number] for number in free)
    return done


def _orphans(dataset: Dataset, horizon: datetime) -> list[int]:
    """Packs without a head; their numbers are looked up in indexes alone."""
    packs = {d["_id"] for d in dataset.packs.find({}, {"_id": 1}).hint("_id_")}
    packs -= {d["_id"] for d in dataset.heads.find({}, {"_id": 1}).hint("_id_")}
    query: dict[str, Any] = {"added": {"$lt": horizon}}
    return [
        d["_id"]
        for part in _batches(sorted(packs))
        for d in dataset.packs.find({"_id": {"$in": part}, **query}, {"_id": 1})
    ]


def _remove_orphans(dataset: Dataset, numbers: list[int]) -> bool:
    """Removes packs that have no head; whether it did: a writer may have come first.

    A head is written and removed again: a writer's transaction that is about to write the same head
    conflicts with that, and its next try finds that the pack is gone.
    """
    from pymongo.errors import BulkWriteError

    def remove(session: ClientSession) -> None:
        heads = [{"_id": number} for number in numbers]
        dataset.heads.insert_many(heads, session=session)
        dataset.heads.delete_many({"_id": {"$in": numbers}}, session=session)
        dataset.packs.delete_many({"_id": {"$in": numbers}}, session=session)
        hooks.phase("dataset-gc")

    try:
        with dataset.connection.client.start_session() as session:
            session.with_transaction(remove)
    except BulkWriteError:
        return False
    return True


def _remove(
    dataset: Dataset,
    numbers: list[int],
    dead: Mapping[str, Any],
    held: Held,
    session: ClientSession,
) -> list[int]:
    # Dead rows stay dead, but a snapshot that began before they died may have come meanwhile, or
    # one that had them may have gone, with which their grace begins anew.
    query = {"_id": {"$in": numbers}, **dead}
    numbers = sorted(d["_id"] for d in dataset.heads.find(query, {"_id": 1}, session=session))
    numbers = sorted(set(numbers) - held.among(numbers, session))
    dataset.hold(session)
    dataset.heads.delete_many({"_id": {"$in": numbers}}, session=session)
    dataset.packs.delete_many({"_id": {"$in": numbers}}, session=session)
    hooks.phase("dataset-gc")
    return numbers


def _batches(numbers: list[int]) -> list[list[int]]:
    return [numbers[at : at + _BATCH] for at in range(0, len(numbers), _BATCH)]

"""Blobs that nothing refers to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_tl.models import versions
from keras_tl.storage import references
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    from pymongo.database import Database


#: s for which garbage is spared: longer than the longest upload or load.
GRACE = 7200.0
_EVERY = 3600.0  # s


def collect_when_due(connection: Connection) -> bool:
    """Delete garbage as `collect` does, unless it was done in this project within the last hour.

    Who is killed while it collects leaves the rest to the next hour.
    """
    meta = connection.db["meta"]
    meta.update_one({"_id": "gc"}, [{"$set": {"at": {"$ifNull": ["$at", None]}}}], upsert=True)
    # A date minus milliseconds; before the first time it is null, and null is less than any date.
    due = {"$lt": ["$at", {"$subtract": ["$$NOW", 1000 * _EVERY]}]}
    now = [{"$set": {"at": "$$NOW"}}]
    if not meta.update_one({"_id": "gc", "$expr": due}, now).modified_count:
        return False
    collect(connection, GRACE)
    return True


def collect(connection: Connection, grace: float, dry_run: bool = False) -> dict[str, int]:
    """Delete blobs that nothing refers to (see `Models.gc`)."""
    db = connection.db
    return Blobs(db).gc(partial(live, db), grace, dry_run=dry_run)


def live(db: Database[dict[str, Any]], names: set[str]) -> set[str]:
    """Those of `names` that a version, a dataset or a snapshot refers to, as of now.

    Raises:
        ValueError: if a version's manifest cannot be read, so that nobody knows what it refers to.
    """
    found = references.of_datasets(db, names)
    query: dict[str, Any] = {"deleted": None}
    project = {
        "names": {"$concatArrays": ["$tensors.hash", ["$config"], ["$manifest"]]},
        **{"manifest": 1, "model": 1, "version": 1},
    }
    for document in db["versions"].aggregate([{"$match": query}, {"$project": project}]):
        found.update(name for name in document["names"] if name in names)
        if document.get("manifest"):
            found.update(names & _inside(db, document))
    return found


def _inside(db: Database[dict[str, Any]], document: Mapping[str, Any]) -> set[str]:
    try:
        return {entry["hash"] for entry in versions.entries(db, document)}
    except (KeyError, ValueError) as error:
        if db["versions"].find_one({"_id": document["_id"], "deleted": None}) is None:
            return set()  # deleted meanwhile, and collected by another process
        raise ValueError(
            f"Nothing was collected: the manifest of version {document['version']} of "
            f"{document['model']!r} is damaged or missing, and with it the list of its tensors. "
            f"Received: {error}"
        ) from error

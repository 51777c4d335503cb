"""The samples of datasets that versions were trained on, and what changed from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_tl.models.selection import Version
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.frozen import FrozenRows, RowChanges, compare

if TYPE_CHECKING:
    from pymongo.database import Database


@dataclass(frozen=True)
class Samples:
    """A view of a dataset that a version was trained on.

    Args:
        dataset: the dataset's key.
        query: the view, in words.
        snapshot: id of the snapshot that it was a view of; `None`: the dataset as it was then.
    """

    dataset: str
    query: str
    snapshot: str | None = None

    def __str__(self) -> str:
        of = f" of the snapshot {self.snapshot[:12]}" if self.snapshot else ""
        return f"{self.dataset}: {self.query}{of}"


@dataclass(frozen=True)
class SamplesChange:
    """What changed in the samples that two versions were trained on.

    Args:
        old: what the first one was trained on, or `None`.
        new: what the second one was trained on, or `None`.
        rows: keys of the samples that differ between the two whole snapshots, also where a version
            was trained on a part of one; `None` if one of them was trained on something else.
    """

    old: Samples | None
    new: Samples | None
    rows: RowChanges | None

    def __str__(self) -> str:
        change = f"{self.old or 'other data'} -> {self.new or 'other data'}"
        if self.rows is None or self.old is None or self.new is None:
            return change
        if self.old.query == self.new.query == "all":
            return f"{change}: {self.rows}"
        if self.old.snapshot == self.new.snapshot:
            return f"{change}: other parts of one snapshot"
        return f"{change}: between the whole snapshots, and not the parts: {self.rows}"


def samples(version: Version) -> Samples | None:
    """What a version was trained on, if that was a dataset."""
    data = version.document.get("data")
    return Samples(data["dataset"], data["text"], data["snapshot"]) if data else None


def change(db: Database[dict[str, Any]], old: Version, new: Version) -> list[SamplesChange]:
    """What changed from one version to another, as a list of one; empty if nothing did."""
    before, after = samples(old), samples(new)
    if before == after:
        return []
    rows = [_rows(db, version.document.get("data")) for version in (old, new)]
    differ = compare(rows[0], rows[1]) if rows[0] is not None and rows[1] is not None else None
    return [SamplesChange(before, after, differ)]


def _rows(db: Database[dict[str, Any]], data: Mapping[str, Any] | None) -> FrozenRows | None:
    if data is None or data["snapshot"] is None:
        return None
    found = db["snapshots"].find_one({"uid": data["uid"], "root": data["snapshot"]}, {"blobs": 1})
    return None if found is None else FrozenRows.loads(Blobs(db).get(found["blobs"][0]))

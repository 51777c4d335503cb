"""Whether what is stored of a dataset agrees with itself, looked at without its own code."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from keras_tl.datasets.storing import packs


def rows(dataset: Any) -> dict[str, dict[str, Any]]:
    """The samples by key, as stored: values by field, `labels`, `tags`; all must agree.

    A sample has a live row in a pack with a head, nobody else has it, its labels are those of the
    head, its tensors those of the digest; all other rows of heads are dead.
    """
    db = dataset.connection.db
    found: dict[int, dict[str, Any]] = {}
    fetched = packs_by_number(dataset)
    for head in db[f"heads.{dataset.slug}"].find():
        pack = fetched[head["_id"]]
        packs.verify(pack)
        assert pack["n"] == head["n"]
        assert len(head["digests"]) == 32 * head["n"]
        columns = packs.decode(pack)
        labels = {
            name: np.frombuffer(column, dataset.schema.labels[name].dtype)
            for name, column in head["labels"].items()
        }
        dead = np.frombuffer(head.get("dead") or bytes(head["n"]), np.uint8)
        dead = np.unpackbits(dead, bitorder="little")[: head["n"]]
        assert head["live"] == head["n"] - dead.sum()
        assert ("died" in head) == (head["live"] == 0)
        for row in np.flatnonzero(dead == 0).tolist():
            found[head["_id"] * dataset.rows + row] = {
                "digest": head["digests"][32 * row : 32 * row + 32],
                "labels": {name: column[row] for name, column in labels.items()},
                **{name: column[row] for name, column in columns.items()},
            }
    samples: dict[str, dict[str, Any]] = {}
    for sample in db[f"samples.{dataset.slug}"].find().sort("at", 1):
        assert sample["at"] in found, f"a sample without a row: {sample}"
        row = found.pop(sample["at"])
        for name, value in row.pop("labels").items():
            missing = value != value or (value == -1 and isinstance(value, np.signedinteger))
            assert (None if missing else value) == sample["labels"][name], sample
        digest = row.pop("digest")
        if len(row) == 1 and isinstance(value := next(iter(row.values())), np.ndarray):
            assert hashlib.sha256(value.tobytes()).digest() == digest or value.ndim == 0
        samples[sample["_id"]] = {**row, "labels": sample["labels"], "tags": sample["tags"]}
    assert not found, f"rows without a sample: {sorted(found)}"
    return samples


def packs_by_number(dataset: Any) -> dict[int, dict[str, Any]]:
    return {pack["_id"]: pack for pack in dataset.packs.find()}


def told(dataset: Any) -> Counter[str]:
    """How many samples the outbox tells of, by kind."""
    counts: Counter[str] = Counter()
    for event in dataset.connection.db["outbox"].find({"uid": dataset.uid}):
        assert "keys" not in event or len(event["keys"]) == event["n"] <= 1000
        counts[event["kind"]] += event["n"]
    return counts

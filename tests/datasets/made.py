"""A dataset without a server: packs in a dict, and views on them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_tl.datasets import Array, Boxes, Field, Label, Mask, Schema, Text
from keras_tl.datasets.batches.batches import Batches
from keras_tl.datasets.storing import packs
from keras_tl.datasets.views.resolved import Resolved


class Packs:
    """The collection of packs: finds them, counts that, and fails when it should."""

    def __init__(self) -> None:
        self.documents: dict[int, dict[str, Any]] = {}
        self.asked: list[list[int]] = []
        self.failures: list[Exception] = []

    def find(self, query: Any, projection: Mapping[str, int] | None) -> list[dict[str, Any]]:
        numbers = query["_id"]["$in"]
        self.asked.append(numbers)
        if self.failures:
            raise self.failures.pop()
        return [self._projected(n, projection) for n in numbers if n in self.documents]

    def _projected(self, number: int, projection: Mapping[str, int] | None) -> dict[str, Any]:
        document = self.documents[number]
        if projection is None:
            return document
        fields = {
            name: about if f"fields.{name}" in projection else {"hash": about["hash"]}
            for name, about in document["fields"].items()
        }
        return {**document, "fields": fields}


class Made:
    """A dataset that has what reading needs of one."""

    def __init__(self, fields: Mapping[str, Field], rows: int = 8) -> None:
        self.key, self.uid = "made", uuid.uuid4().hex
        self.schema = Schema(fields)
        self.rows = rows
        self.packs = Packs()
        self.events: list[dict[str, Any]] = []
        outbox = SimpleNamespace(find=lambda *_, **__: list(self.events))
        self.connection = SimpleNamespace(db={"outbox": outbox})
        self.columns: dict[str, Any] = {name: [] for name in fields}
        self.at = np.empty(0, np.int64)

    def insert(self, columns: Mapping[str, Any], gap: int = 0) -> None:
        """Adds samples as packs; as many numbers as the gap are left out before them."""
        self.tell()
        number = max(self.packs.documents, default=-1) + 1 + gap
        count = len(next(iter(columns.values())))
        for begin in range(0, count, self.rows):
            part = {
                name: field.check_column(columns[name][begin : begin + self.rows], str)
                for name, field in self.schema.fields.items()
            }
            pack, _ = packs.encode(self.schema, part, lambda contents: [])
            self.packs.documents[number] = {"_id": number, **pack}
            at = number * self.rows + np.arange(pack["n"])
            self.at = np.concatenate([self.at, at])
            number += 1
        for name, values in columns.items():
            self.columns[name].extend(values)

    def check_exists(self) -> None:
        """It does."""

    def tell(self) -> None:
        """Something has happened: views are to be resolved again."""
        self.events.append({"at": len(self.events)})


class Seen:
    """A view: positions of a dataset's samples, in any order, which may change."""

    def __init__(self, dataset: Made, positions: Any = None, tags: Any = None) -> None:
        self.dataset = dataset
        self.positions = positions
        self.chosen: tuple[str, ...] | None = None
        self.base = None
        self.tags: Mapping[str, Any] = tags or {}
        self.resolved = 0

    def resolve(self, extra: Sequence[str] = ()) -> Resolved:
        self.resolved += 1
        positions = np.arange(len(self.dataset.at)) if self.positions is None else self.positions
        columns = {}
        for name in extra:
            values = self.tags[name] if name in self.tags else self.dataset.columns[name]
            kind = self.dataset.schema.labels.get(name)
            columns[name] = np.asarray(values, kind and kind.dtype)[positions]
        return Resolved(self.dataset, self.dataset.at[positions], columns)  # type: ignore[arg-type]

    def batches(self, size: int, **options: Any) -> Batches:
        return Batches(self, size, **options)  # type: ignore[arg-type]


def numbered(count: int = 50, rows: int = 8, gap: int = 0) -> Made:
    """Samples whose values are their numbers: x has it in each place, y is it modulo 3."""
    dataset = Made({"x": Array((4,), "float32"), "y": Label(3)}, rows)
    numbers = np.arange(count)
    dataset.insert({"x": np.repeat(numbers[:, None], 4, 1), "y": numbers % 3}, gap)
    return dataset


def pictures(count: int = 6) -> Made:
    """Images in which each pixel tells its place, with masks that equal them, boxes and texts."""
    fields = {
        "image": Array((8, 8, 1), "uint8"),
        "mask": Mask(8, 8),
        "boxes": Boxes("xyxy"),
        "classes": Array((None,), "int64"),
        "name": Text(),
        "y": Label(3),
    }
    dataset = Made(fields, 4)
    random = np.random.default_rng(0)
    boxes = [random.integers(0, 4, (n % 3, 4)) + [0, 0, 4, 4] for n in range(count)]
    places = np.arange(64).reshape(8, 8)
    dataset.insert(
        {
            "image": np.stack([places[..., None]] * count).astype(np.uint8),
            "mask": np.stack([places] * count).astype(np.uint8),
            "boxes": [value.astype("float32") for value in boxes],
            "classes": [np.arange(len(value)) + 10 * n for n, value in enumerate(boxes)],
            "name": [f"sample {n}" for n in range(count)],
            "y": np.arange(count) % 3,
        }
    )
    return dataset

"""Samples as they were: keys, labels and tags of a snapshot, as the bundle that its blob holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from keras_tl.storage import tensors

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_NUMBERS: dict[str, tuple[type, str]] = {
    "bool": (bool, "bool"),
    "int": (int, "int64"),
    "float": (float, "float64"),
    "datetime": (datetime, "int64"),
}


@dataclass(frozen=True)
class FrozenRows:
    """Samples of a dataset, as they were at one moment, by their addresses.

    Args:
        keys: the samples' keys.
        at: int64 `(n,)`, where each one's row is, ascending.
        digests: uint8 `(n, 32)`, the SHA-256 of each row's tensors.
        labels: columns `(n,)` by name: integers with -1, or floats with NaN, where one is missing.
        tags: values by name, `None` where a sample has none.
        added: when each sample was inserted.
    """

    keys: Sequence[str]
    at: np.ndarray
    digests: np.ndarray
    labels: Mapping[str, np.ndarray]
    tags: Mapping[str, Sequence[Any]]
    added: Sequence[datetime]

    def take(self, places: np.ndarray) -> FrozenRows:
        """The samples at these places."""
        chosen = places.tolist()
        return FrozenRows(
            [self.keys[i] for i in chosen],
            self.at[places],
            self.digests[places],
            {name: column[places] for name, column in self.labels.items()},
            {name: [values[i] for i in chosen] for name, values in self.tags.items()},
            [self.added[i] for i in chosen],
        )

    def label(self, name: str) -> list[Any]:
        """A label's values, `None` where one is missing."""
        if name not in self.labels:
            return [None] * len(self.keys)
        missing = _missing(self.labels[name])
        values: list[Any] = self.labels[name].tolist()
        for i in np.flatnonzero(missing).tolist():
            values[i] = None
        return values

    def tag(self, name: str) -> Sequence[Any]:
        """A tag's values, `None` where a sample has none."""
        return self.tags.get(name) or [None] * len(self.keys)

    def dumps(self, types: Mapping[str, str]) -> list[bytes | memoryview]:
        """The bundle, in pieces as `Blobs.put` takes them.

        Args:
            types: of the tags: `str`, `int`, `float`, `bool` or `datetime` by name.
        """
        bundle = {"at": self.at, "digests": self.digests}
        bundle |= _dump("keys", self.keys, "str") | _dump("added", self.added, "datetime")
        for name, column in self.labels.items():
            bundle[f"label/{name}"] = column
        for name, values in self.tags.items():
            bundle |= _dump(f"tag/{name}", values, types[name])
        return tensors.pieces(bundle)

    @classmethod
    def loads(cls, data: bytes | memoryview) -> FrozenRows:
        """What `dumps` has packed.

        Raises:
            ValueError: if `data` is something else.
        """
        bundle = tensors.loads(data)
        try:
            tags = {}
            for entry in bundle:
                name, _, kind = entry.removeprefix("tag/").rpartition("/")
                if entry.startswith("tag/") and kind in ("str", *_NUMBERS):
                    tags[name] = _load(f"tag/{name}", bundle, kind)
            labels = {
                entry.removeprefix("label/"): column
                for entry, column in bundle.items()
                if entry.startswith("label/")
            }
            keys, added = _load("keys", bundle, "str"), _load("added", bundle, "datetime")
            return cls(keys, bundle["at"], bundle["digests"], labels, tags, added)
        except KeyError as error:
            raise ValueError(
                f"`data` must be the rows of a snapshot. Received: a bundle without {error}"
            ) from error


@dataclass(frozen=True)
class RowChanges:
    """Keys of the samples that differ between two sets of samples.

    Args:
        added: only in the newer one.
        removed: only in the older one.
        changed: in both, with other tensors.
        relabelled: in both, with other labels.
        retagged: in both, with other tags.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]
    relabelled: list[str]
    retagged: list[str]

    def __str__(self) -> str:
        counts = [f"{len(keys)} {name}" for name, keys in vars(self).items() if keys]
        return ", ".join(counts) or "the same samples"


def compare(old: FrozenRows, new: FrozenRows) -> RowChanges:
    """What changed from one set of samples to another; each list is in the order of keys."""
    before = {key: place for place, key in enumerate(old.keys)}
    both = [(before[key], place) for place, key in enumerate(new.keys) if key in before]
    a, b = np.array(both, np.int64).reshape(-1, 2).T
    keys = [new.keys[place] for place in b.tolist()]
    first, second = old.take(a), new.take(b)

    def differ(names: Iterable[str], values: str) -> list[str]:
        found: set[str] = set()
        for name in names:
            pairs = zip(
                keys, getattr(first, values)(name), getattr(second, values)(name), strict=True
            )
            found.update(key for key, one, other in pairs if one != other)
        return sorted(found)

    later = set(new.keys)
    return RowChanges(
        added=sorted(key for key in new.keys if key not in before),
        removed=sorted(key for key in old.keys if key not in later),
        changed=sorted(
            keys[i] for i in np.flatnonzero((first.digests != second.digests).any(axis=1)).tolist()
        ),
        relabelled=differ({*old.labels, *new.labels}, "label"),
        retagged=differ({*old.tags, *new.tags}, "tag"),
    )


def _missing(column: np.ndarray) -> np.ndarray:
    return np.isnan(column) if column.dtype.kind == "f" else column == -1


def _dump(name: str, values: Sequence[Any], kind: str) -> dict[str, np.ndarray]:
    there = np.fromiter((value is not None for value in values), bool, len(values))
    bundle = {f"{name}/there": there}
    if kind == "str":
        encoded = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        data = np.frombuffer(b"".join(encoded), np.uint8)
        return bundle | {f"{name}/str": data, f"{name}/ends": ends}
    if kind == "datetime":
        values = [None if value is None else (value - _EPOCH) // _MS for value in values]
    filled = (0 if value is None else value for value in values)
    return bundle | {f"{name}/{kind}": np.fromiter(filled, _NUMBERS[kind][1], len(values))}


def _load(name: str, bundle: Mapping[str, np.ndarray], kind: str) -> list[Any]:
    values: list[Any]
    if kind == "str":
        text, ends = bundle[f"{name}/str"].tobytes(), bundle[f"{name}/ends"].tolist()
        values = [text[i:j].decode() for i, j in zip([0, *ends], ends, strict=False)]
    else:
        values = bundle[f"{name}/{kind}"].tolist()
        if kind == "datetime":
            values = [_EPOCH + value * _MS for value in values]
    for place in np.flatnonzero(~bundle[f"{name}/there"]).tolist():
        values[place] = None
    return values

"""What changed between two versions of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_tl.models import trained, versions
from keras_tl.models.lineage import Range, ranges, surroundings
from keras_tl.models.selection import Selection, Version

#: Old and new value by name; `MISSING` where there is none.
Changes = Mapping[str, tuple[Any, Any]]
MISSING = "(none)"
_SHOWN = 40  # lines of each part in the text
# Numbers that Keras takes from the addresses of objects: they differ in every process.
_ADDRESSES = "shared_object_id"


@dataclass(frozen=True)
class TensorChange:
    """A tensor that is not the same in both versions.

    Args:
        path: the variable's path, in the newer version if it is there.
        role: one of `trainable`, `non_trainable`, `seed`, `optimizer`.
        change: `"added"`, `"removed"` or `"changed"`.
        shape: old and new shape; `None` where there is none.
        dtype: old and new dtype; `None` where there is none.
        distance: L2 norm of the difference divided by that of the old values, if asked for.
    """

    path: str
    role: str
    change: str
    shape: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtype: tuple[str | None, str | None]
    distance: float | None = None

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.change]
        sides = [
            f"{dtype}{list(shape)}"
            for dtype, shape in zip(self.dtype, self.shape, strict=True)
            if shape is not None and dtype is not None
        ]
        what = " -> ".join(dict.fromkeys(sides))
        far = "" if self.distance is None else f", moved by {self.distance:.3g}"
        return f"{sign} {self.path} ({self.role}) {what}{far}"


@dataclass(frozen=True)
class Diff:
    """What changed from one version to another.

    Args:
        old: number of the first version.
        new: number of the second version.
        config: changed values of the model's config (layers, optimizer, loss) by path.
        tensors: tensors that differ.
        same: number of tensors that do not.
        metrics: metrics that differ.
        tags: tags that differ.
        data: what a stream had between the two, by partition; of datasets the samples that changed.
        git: `sha` and `diff` of the runs' code, where they differ.
        env: packages and platform of the runs, where they differ.
    """

    old: int
    new: int
    config: Changes
    tensors: Sequence[TensorChange]
    same: int
    metrics: Changes
    tags: Changes
    data: Sequence[Range | trained.SamplesChange]
    git: Changes
    env: Changes

    def __str__(self) -> str:
        lines = [f"version {self.old} -> {self.new}"]
        for title in ("metrics", "tags", "config", "git", "env"):
            changes: Changes = getattr(self, title)
            found = [f"{name}: {old} -> {new}" for name, (old, new) in changes.items()]
            lines += _section(title, found)
        lines += _section(
            f"tensors ({self.same} the same)", [str(change) for change in self.tensors]
        )
        lines += _section("data", [str(part) for part in self.data])
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def diff(selection: Selection, old: Version, new: Version, values: bool = False) -> Diff:
    """What changed between two versions (see `Versions.diff`)."""
    db = selection.connection.db
    tensors, same = _tensors(db, old, new, values)
    runs = {run["_id"]: run for run in db["runs"].find({"_id": {"$in": [old.run, new.run]}})}
    before, after = (surroundings(v, runs.get(v.run)) for v in (old, new))
    return Diff(
        old.number,
        new.number,
        config=changes(_config(db, old), _config(db, new)),
        tensors=tensors,
        same=same,
        metrics=changes(old.metrics, new.metrics),
        tags=changes(old.tags, new.tags),
        data=[*ranges(old.cursor, new.cursor), *trained.change(db, old, new)],
        git=changes(_git(before), _git(after)),
        env=changes(before.get("env"), after.get("env")),
    )


def changes(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Values that differ between two JSON-like values, by path.

    Example:

    >>> changes({"lr": 0.1, "layers": [{"units": 4}]}, {"lr": 0.1, "layers": [{"units": 8}]})
    {'layers[0].units': (4, 8)}
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    found = {}
    for path in dict.fromkeys([*before, *after]):
        pair = before.get(path, MISSING), after.get(path, MISSING)
        if not _equal(*pair):
            found[path] = pair
    return found


def _equal(old: Any, new: Any) -> bool:
    both_nan = old != old and new != new
    return both_nan or (type(old) is type(new) and old == new)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inside in value.items():
            if name != _ADDRESSES:
                yield from _leaves(inside, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)) and value:
        for i, inside in enumerate(value):
            yield from _leaves(inside, f"{path}[{i}]")
    elif path:
        yield path, value


def _config(db: Any, version: Version) -> Any:
    config = versions.config(db, version.document)
    return json.loads(config) if config is not None else None


def _git(made: Mapping[str, Any]) -> dict[str, Any]:
    git = made.get("git") or {}
    return {name: git[name] for name in ("sha", "diff") if git.get(name)}


Pair = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]


def _tensors(db: Any, old: Version, new: Version, values: bool) -> tuple[list[TensorChange], int]:
    # The running sums of an epoch's metrics are no part of what was learnt.
    before, after = (
        [e for e in versions.entries(db, v.document) if e["role"] != "metric"] for v in (old, new)
    )
    pairs = _pair(before, after)
    differ = [(a, b) for a, b in pairs if a is None or b is None or a["hash"] != b["hash"]]
    distances = _distances(db, old, new, differ) if values else {}
    found = []
    for i, (a, b) in enumerate(differ):
        entry = b or a
        assert entry is not None  # one of them is there
        found.append(
            TensorChange(
                entry["path"],
                entry["role"],
                "added" if a is None else "removed" if b is None else "changed",
                (tuple(a["shape"]) if a else None, tuple(b["shape"]) if b else None),
                (a["dtype"] if a else None, b["dtype"] if b else None),
                distances.get(i),
            )
        )
    return found, len(pairs) - len(differ)


def _pair(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Entries of two manifests that are one variable: by path, else, as on loading, in order."""
    before = _named(old)
    after = _named(new)
    gone = [name for name in before if name not in after]
    come = [name for name in after if name not in before]
    renamed: dict[Any, Any] = {}
    for role in {name[0] for name in come}:
        a = [name for name in gone if name[0] == role]
        b = [name for name in come if name[0] == role]
        # Keras numbers the layers of a model that is made again in the same process.
        if [before[n]["shape"] for n in a] == [after[n]["shape"] for n in b]:
            renamed.update(zip(b, a, strict=True))
    pairs: list[Pair] = [
        (before.get(renamed.get(name, name)), entry) for name, entry in after.items()
    ]
    used = set(renamed.values())
    return pairs + [(before[name], None) for name in gone if name not in used]


def _named(entries: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        times = 0
        while (entry["role"], entry["path"], times) in found:  # paths need not be unique
            times += 1
        found[entry["role"], entry["path"], times] = entry
    return found


def _distances(db: Any, old: Version, new: Version, pairs: Sequence[Pair]) -> dict[int, float]:
    """Relative distances by index in `pairs`, of those whose shapes agree."""
    both = [
        (i, a, b)
        for i, (a, b) in enumerate(pairs)
        if a is not None and b is not None and a["shape"] == b["shape"]
    ]
    before = _read(db, old, [a for _, a, _ in both])
    after = _read(db, new, [b for _, _, b in both])
    found = {}
    for (i, _, _), a, b in zip(both, before, after, strict=True):
        norm = np.linalg.norm(a)
        moved = np.linalg.norm(b - a)
        found[i] = float(moved / norm) if norm else float(np.inf if moved else 0.0)
    return found


def _read(db: Any, version: Version, entries: list[Any]) -> Iterator[np.ndarray]:
    # The same version with fewer tensors, so that no other is read.
    part = {**version.document, "tensors": entries, "manifest": None}
    for _, array in versions.read(db, part):
        yield array.astype("float64").ravel()


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [title, *(f"  {line}" for line in lines[:_SHOWN]), *more]

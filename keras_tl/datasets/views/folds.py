"""Which samples are drawn, and into which part each falls: by chance, as its key decides.

A keyed hash of a sample's key is its lot. An edited sample keeps its key and with it its place, and
a sample that comes or goes moves no other one (or, where parts are stratified or a fixed number is
drawn, only those beside a boundary). Each step has lots of its own (`salt`): a part of a part, or
of what was drawn, is as random as one of all samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from keras_tl.datasets.views.plan import Draw, Part, Plan, canonical


def salt(before: Plan, step: Draw | Part) -> bytes:
    """16 bytes that give a step lots of its own.

    They are made of the kind of the step, its seed, fractions and strata, and of all steps before
    it. The parts of one split have the same lots, and so have draws of more or fewer samples: the
    smaller one is inside the larger one.

    Args:
        before: the steps whose samples the step takes, those behind a snapshot's included.
        step: the step.

    Example:

    >>> step = Draw(10)
    >>> salt((), step) == salt((), Draw(20)), salt((), step) == salt((step,), step)
    (True, False)
    """
    same: Draw | Part = (
        replace(step, count=0) if isinstance(step, Draw) else replace(step, index=0, outside=False)
    )
    text = json.dumps(canonical((*before, same)), sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16, key=b"keras_tl").digest()


def lots(keys: Sequence[str], salt: bytes) -> np.ndarray:
    """A number from 0 to 2**64 - 1 for each key: the first 8 bytes of its BLAKE2b under `salt`.

    Example:

    >>> lots(["a", "b"], salt=b"sixteen bytes...")
    array([4100852274264328196, 2118224020358968064], dtype=uint64)
    """
    start = blake2b(digest_size=8, key=b"keras_tl", salt=salt)
    digests = bytearray()
    for key in keys:
        one = start.copy()
        one.update(key.encode())
        digests += one.digest()
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def drawn(keys: Sequence[str], count: int, salt: bytes) -> np.ndarray:
    """Which of the samples are among the `count` with the smallest lots.

    Returns:
        A mask, in the order of `keys`.
    """
    mask = np.zeros(len(keys), bool)
    mask[_ranked(keys, salt)[:count]] = True
    return mask


def part(
    keys: Sequence[str],
    fractions: Sequence[float],
    index: int,
    salt: bytes,
    classes: Sequence[Any] | None = None,
) -> np.ndarray:
    """Which of the samples are in one of several disjoint parts.

    Args:
        keys: the samples' keys.
        fractions: the share of each part; their sum is 1.
        index: which part.
        salt: another one gives other parts.
        classes: a value of each sample: then each part has its fraction of each value, within one.
            Default: the lot alone decides, so that the sizes are what chance makes of the
            fractions.

    Returns:
        A mask, in the order of `keys`.

    Example:

    >>> keys, classes = list("abcdefgh"), [0, 0, 0, 0, 1, 1, 1, 1]
    >>> [classes[i] for i in part(keys, [0.5, 0.5], 0, bytes(16), classes).nonzero()[0]]
    [0, 0, 1, 1]
    """
    if classes is None:
        bounds = _bounds(fractions)
        found = lots(keys, salt)
        inside = found >= np.uint64(bounds[index])
        end = bounds[index + 1]
        return inside & (found < np.uint64(end)) if end < 2**64 else inside
    places: dict[Any, list[int]] = {}
    for place in _ranked(keys, salt).tolist():
        places.setdefault(_class(classes[place]), []).append(place)
    mask = np.zeros(len(keys), bool)
    given, wanted = [0] * len(fractions), [0.0] * len(fractions)
    for value in sorted(places, key=repr):
        members = places[value]
        sizes = _sizes(len(members), fractions, given, wanted)
        begin = sum(sizes[:index])
        mask[members[begin : begin + sizes[index]]] = True
    return mask


def _bounds(fractions: Sequence[float]) -> list[int]:
    """Where each part begins among the lots, and where the last one ends."""
    total = math.fsum(fractions)
    sums = [math.fsum(fractions[:i]) / total for i in range(len(fractions))]
    return [round(share * 2**64) for share in sums] + [2**64]


def _sizes(
    members: int, fractions: Sequence[float], given: list[int], wanted: list[float]
) -> list[int]:
    """How many members of a class each part gets: its fraction, within one.

    What does not divide goes to the parts that are furthest behind over all classes so far, so that
    many small classes do not fill the first part alone.
    """
    total = math.fsum(fractions)
    exact = [members * fraction / total for fraction in fractions]
    whole = [round(e) if abs(e - round(e)) < 1e-9 * max(1, members) else int(e) for e in exact]
    short = [e - w > 1e-9 * max(1, members) for e, w in zip(exact, whole, strict=True)]
    behind = [wanted[i] + exact[i] - given[i] - whole[i] for i in range(len(fractions))]
    queue = sorted(range(len(fractions)), key=lambda i: (not short[i], -behind[i], i))
    for i in queue[: members - sum(whole)]:
        whole[i] += 1
    for i, size in enumerate(whole):
        given[i] += size
        wanted[i] += exact[i]
    return whole


def _ranked(keys: Sequence[str], salt: bytes) -> np.ndarray:
    """Positions by lot; the key decides between equal ones, not the place."""
    found = lots(keys, salt)
    order = np.argsort(found, kind="stable")
    ranked = found[order]
    if (ranked[1:] == ranked[:-1]).any():
        return np.array(sorted(range(len(keys)), key=lambda i: (found[i], keys[i])), np.int64)
    return order


def _class(value: Any) -> Any:
    return "nan" if value != value else value


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Weights by which each class counts the same, as scikit-learn's `"balanced"` has them.

    Args:
        labels: `(n,)` integers; those that are -1 are missing and do not count.

    Returns:
        `n / (classes * count)` by class, for the `class_weight` of `fit`.

    Example:

    >>> class_weights(np.array([0, 0, 0, 1]))
    {0: 0.6666666666666666, 1: 2.0}
    """
    known = labels[labels != -1]
    classes, counts = np.unique(known, return_counts=True)
    return {
        int(value): len(known) / (len(classes) * int(count))
        for value, count in zip(classes, counts, strict=True)
    }


def shares(parts: Mapping[str, float]) -> tuple[float, ...]:
    """The fractions of a split, checked.

    Raises:
        ValueError: if one is not above 0, or their sum is not 1.

    Example:

    >>> shares({"train": 0.8, "test": 0.2})
    (0.8, 0.2)
    """
    numbers = isinstance(parts, Mapping) and all(
        isinstance(f, (int, float)) and not isinstance(f, bool) and f > 0 for f in parts.values()
    )
    if not numbers or not math.isclose(math.fsum(parts.values()), 1.0, rel_tol=1e-9):
        raise ValueError(
            f"`parts` must be fractions above 0 by name, whose sum is 1. Received: {parts!r}"
        )
    return tuple(float(fraction) for fraction in parts.values())

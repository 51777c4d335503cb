"""Draws, folds, splits and class weights, as functions of keys and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets import Label, Schema
from keras_tl.datasets.views.folds import class_weights, drawn, lots, part, salt, shares
from keras_tl.datasets.views.plan import Combine, Draw, Part, Plan, Where
from keras_tl.datasets.views.rows import evaluate

keys = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=60)
salts = st.binary(min_size=16, max_size=16)
fractions = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(
    lambda parts: [p / sum(parts) for p in parts]
)
classes = st.sampled_from([None, 0, 1, 2, "a"])


def masks(
    names: list[str], parts: list[float], salt: bytes, values: Any = None
) -> list[np.ndarray]:
    return [part(names, parts, i, salt, values) for i in range(len(parts))]


def test_a_lot_is_the_keyed_hash_of_the_key() -> None:
    """The construction is a promise: another one would move samples from train to test."""
    text = (
        '[{"conditions":[["q__gte",3],["y__in",[1,2]]],"step":"where"},'
        '{"fractions":[0.8,0.2],"index":0,"seed":7,"step":"part"}]'
    )
    before = (Where((("y__in", (2, 1)), ("q__gte", 3))),)
    made = blake2b(text.encode(), digest_size=16, key=b"keras_tl").digest()
    for part_of in (Part((0.8, 0.2), 1, seed=7), Part((0.8, 0.2), 0, True, seed=7)):
        assert salt(before, part_of) == made
    digest = blake2b("ä".encode(), digest_size=8, key=b"keras_tl", salt=made).digest()
    assert lots(["x", "ä"], made)[1] == int.from_bytes(digest, "little")


def test_each_step_has_a_salt_of_its_own() -> None:
    half = Part((0.5, 0.5), 0)
    several = [
        ((), half),
        ((), Part((0.5, 0.5), 0, seed=1)),
        ((), Part((0.5, 0.5), 0, seed=-1)),
        ((), Part((0.5, 0.5), 0, stratify="y")),
        ((), Part((0.25,) * 4, 0)),
        ((), Draw(9)),
        ((), Draw(9, seed=1)),
        ((half,), half),
        ((replace(half, index=1),), half),
        ((replace(half, outside=True),), half),
        ((Draw(9),), half),
        ((Draw(10),), half),
        ((Draw(9),), Draw(9)),
        ((Where((("y", 1),)),), half),
        ((Combine("and", (half,)),), half),
    ]
    assert len({salt(before, step) for before, step in several}) == len(several)


class Stored:
    """Keys as a store of plans has them."""

    schema: Any = Schema({"y": Label()}, {})

    def __init__(self, keys: list[str], origin: Plan = ()) -> None:
        self._keys, self.origin = keys, origin

    def select(self, query: Any, sort: Any, limit: Any) -> np.ndarray:
        assert not query
        return np.arange(len(self._keys))

    def keys(self, rows: Any) -> list[str]:
        return [self._keys[at] for at in rows.at]

    def values(self, rows: Any, path: str) -> list[int]:
        return [int(key[1:]) % 3 for key in self.keys(rows)]


ODD = pytest.mark.parametrize("stratify", [None, "y"])
COUNT = 20_000
ALL = Stored([f"k{i}" for i in range(COUNT)])


def sizes(*plans: Plan, store: Any = ALL) -> list[int]:
    return [len(evaluate(plan, store).at) for plan in plans]


@ODD
@pytest.mark.parametrize(
    "before",
    [
        (Part((0.8, 0.2), 0),),
        (Part((0.8, 0.2), 0, stratify="y"),),
        (Part((0.2,) * 5, 0, outside=True),),
        (Draw(4000),),
        (Draw(4000), Part((0.5, 0.5), 1)),
    ],
)
def test_a_part_of_what_chance_chose_is_as_random(before: Plan, stratify: str | None) -> None:
    """Everybody leaves the seed as it is: an empty view to validate on must not come of it."""
    chosen: Any = ALL
    frozen = Stored(chosen.keys(evaluate(before, chosen)), before)
    inside = len(frozen._keys)
    for fractions in [(0.8, 0.2), (0.2,) * 5]:
        steps = [Part(fractions, i, stratify=stratify) for i in range(len(fractions))]
        found = sizes(*((*before, step) for step in steps))
        assert sum(found) == inside
        for size, fraction in zip(found, fractions, strict=True):
            assert abs(size - fraction * inside) < 5 * (fraction * (1 - fraction) * inside) ** 0.5
        # The same parts of the snapshot, whose own plan is empty.
        assert sizes(*((step,) for step in steps), store=frozen) == found


@pytest.mark.parametrize(
    "other", [Part((0.8, 0.2), 0, stratify="y"), Draw(4000), Part((0.5, 0.5), 0)]
)
def test_steps_beside_each_other_are_independent(other: Any) -> None:
    mine = Part((0.8, 0.2), 1)
    part, whole, common = sizes((mine,), (other,), (mine, Combine("and", (other,))))
    expected = part * whole / COUNT
    assert abs(common - expected) < 5 * expected**0.5


def test_a_smaller_draw_is_inside_a_larger_one() -> None:
    assert sizes((Draw(100), Combine("and", (Draw(200),)))) == [100]


@given(keys, st.integers(0, 70), salts)
def test_a_draw_has_the_smallest_lots(names: list[str], count: int, salt: bytes) -> None:
    mask = drawn(names, count, salt)
    chosen = {name for name, inside in zip(names, mask, strict=True) if inside}
    ranked = sorted(names, key=lambda name: (int(lots([name], salt)[0]), name))
    assert chosen == set(ranked[:count])


@given(keys, st.text(min_size=1), st.integers(0, 70), salts)
def test_one_more_sample_takes_the_place_of_one_at_most(
    names: list[str], new: str, count: int, salt: bytes
) -> None:
    rest = [name for name in names if name != new]
    before = {n for n, inside in zip(rest, drawn(rest, count, salt), strict=True) if inside}
    more = [*rest, new]
    after = {n for n, inside in zip(more, drawn(more, count, salt), strict=True) if inside}
    assert len(before - after) <= 1 and after - before <= {new}


@given(keys, fractions, salts, st.data())
def test_parts_are_disjoint_complete_and_in_any_order(
    names: list[str], parts: list[float], salt: bytes, data: st.DataObject
) -> None:
    values = data.draw(st.none() | st.lists(classes, min_size=len(names), max_size=len(names)))
    found = masks(names, parts, salt, values)
    assert (sum(mask.astype(int) for mask in found) == 1).all()

    order = data.draw(st.permutations(range(len(names))))
    shuffled = [names[i] for i in order]
    moved = masks(shuffled, parts, salt, None if values is None else [values[i] for i in order])
    for mask, other in zip(found, moved, strict=True):
        assert (mask[list(order)] == other).all()


@given(keys, fractions, salts, st.data())
def test_stratified_parts_are_exact_within_one(
    names: list[str], parts: list[float], salt: bytes, data: st.DataObject
) -> None:
    values = data.draw(st.lists(classes, min_size=len(names), max_size=len(names)))
    whole = Counter(values)
    for fraction, mask in zip(parts, masks(names, parts, salt, values), strict=True):
        inside = Counter(value for value, chosen in zip(values, mask, strict=True) if chosen)
        for value, count in whole.items():
            assert abs(inside[value] - fraction * count) < 1


@given(st.integers(2, 7), st.lists(st.integers(1, 20), min_size=1, max_size=8), salts)
def test_stratified_folds_are_of_one_size_within_one(
    k: int, counts: list[int], salt: bytes
) -> None:
    values = [value for value, count in enumerate(counts) for _ in range(count)]
    names = [f"k{i}" for i in range(len(values))]
    sizes = [int(mask.sum()) for mask in masks(names, [1 / k] * k, salt, values)]
    assert max(sizes) - min(sizes) <= 1


@given(keys, st.text(min_size=1), fractions, salts)
def test_without_strata_a_new_sample_moves_no_other(
    names: list[str], new: str, parts: list[float], salt: bytes
) -> None:
    rest = [name for name in names if name != new]
    for before, after in zip(
        masks(rest, parts, salt), masks([*rest, new], parts, salt), strict=True
    ):
        assert (after[:-1] == before).all()


def test_without_strata_sizes_are_what_chance_makes_of_the_fractions() -> None:
    names = [f"k{i}" for i in range(10_000)]
    sizes = [int(mask.sum()) for mask in masks(names, [0.7, 0.2, 0.1], bytes(16))]
    assert sum(sizes) == 10_000
    for size, expected in zip(sizes, (7000, 2000, 1000), strict=True):
        assert abs(size - expected) < 200  # four standard deviations


@pytest.mark.parametrize("counts", [[3, 1, 9], [1], [5, 5]])
def test_class_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    weights = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat(np.arange(len(counts)) * 2, counts)
    expected = weights.compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    found = class_weights(np.concatenate([[-1, -1], labels]))
    assert list(found) == np.unique(labels).tolist()
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=1e-15)


def test_no_labels_have_no_weights() -> None:
    assert class_weights(np.array([-1], "int64")) == {}


@pytest.mark.parametrize(
    "parts",
    [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": "1"}, {"a": True}, {"a": float("nan")}, [1.0]],
)
def test_fractions_that_are_none_are_refused(parts: Any) -> None:
    with pytest.raises(ValueError, match="`parts` must be fractions .*Received"):
        shares(parts)

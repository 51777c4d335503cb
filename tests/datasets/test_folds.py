"""Draws, folds, splits and class weights, as functions of keys and labels."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.folds import class_weights, drawn, lots, part, shares

keys = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=60)
seeds = st.integers(-(2**63), 2**63 - 1)
fractions = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(
    lambda parts: [p / sum(parts) for p in parts]
)
classes = st.sampled_from([None, 0, 1, 2, "a"])


def masks(names: list[str], parts: list[float], seed: int, values: Any = None) -> list[np.ndarray]:
    return [part(names, parts, i, seed, values) for i in range(len(parts))]


def test_a_lot_is_the_keyed_hash_of_the_key() -> None:
    """The construction is a promise: another one would move samples from train to test."""
    salt = (7).to_bytes(16, "little", signed=True)
    digest = blake2b("ä".encode(), digest_size=8, key=b"keras_tl", salt=salt).digest()
    assert lots(["x", "ä"], 7)[1] == int.from_bytes(digest, "little")
    assert lots(["a"], 0) != lots(["a"], 1)
    assert lots(["a"], -1) != lots(["a"], 1)


@given(keys, st.integers(0, 70), seeds)
def test_a_draw_has_the_smallest_lots(names: list[str], count: int, seed: int) -> None:
    mask = drawn(names, count, seed)
    chosen = {name for name, inside in zip(names, mask, strict=True) if inside}
    ranked = sorted(names, key=lambda name: (int(lots([name], seed)[0]), name))
    assert chosen == set(ranked[:count])


@given(keys, st.text(min_size=1), st.integers(0, 70), seeds)
def test_one_more_sample_takes_the_place_of_one_at_most(
    names: list[str], new: str, count: int, seed: int
) -> None:
    rest = [name for name in names if name != new]
    before = {n for n, inside in zip(rest, drawn(rest, count, seed), strict=True) if inside}
    more = [*rest, new]
    after = {n for n, inside in zip(more, drawn(more, count, seed), strict=True) if inside}
    assert len(before - after) <= 1 and after - before <= {new}


@given(keys, fractions, seeds, st.data())
def test_parts_are_disjoint_complete_and_in_any_order(
    names: list[str], parts: list[float], seed: int, data: st.DataObject
) -> None:
    values = data.draw(st.none() | st.lists(classes, min_size=len(names), max_size=len(names)))
    found = masks(names, parts, seed, values)
    assert (sum(mask.astype(int) for mask in found) == 1).all()

    order = data.draw(st.permutations(range(len(names))))
    shuffled = [names[i] for i in order]
    moved = masks(shuffled, parts, seed, None if values is None else [values[i] for i in order])
    for mask, other in zip(found, moved, strict=True):
        assert (mask[list(order)] == other).all()


@given(keys, fractions, seeds, st.data())
def test_stratified_parts_are_exact_within_one(
    names: list[str], parts: list[float], seed: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(classes, min_size=len(names), max_size=len(names)))
    whole = Counter(values)
    for fraction, mask in zip(parts, masks(names, parts, seed, values), strict=True):
        inside = Counter(value for value, chosen in zip(values, mask, strict=True) if chosen)
        for value, count in whole.items():
            assert abs(inside[value] - fraction * count) < 1


@given(st.integers(2, 7), st.lists(st.integers(1, 20), min_size=1, max_size=8), seeds)
def test_stratified_folds_are_of_one_size_within_one(k: int, counts: list[int], seed: int) -> None:
    values = [value for value, count in enumerate(counts) for _ in range(count)]
    names = [f"k{i}" for i in range(len(values))]
    sizes = [int(mask.sum()) for mask in masks(names, [1 / k] * k, seed, values)]
    assert max(sizes) - min(sizes) <= 1


@given(keys, st.text(min_size=1), fractions, seeds)
def test_without_strata_a_new_sample_moves_no_other(
    names: list[str], new: str, parts: list[float], seed: int
) -> None:
    rest = [name for name in names if name != new]
    for before, after in zip(
        masks(rest, parts, seed), masks([*rest, new], parts, seed), strict=True
    ):
        assert (after[:-1] == before).all()


def test_without_strata_sizes_are_what_chance_makes_of_the_fractions() -> None:
    names = [f"k{i}" for i in range(10_000)]
    sizes = [int(mask.sum()) for mask in masks(names, [0.7, 0.2, 0.1], seed=3)]
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

"""Selectors, policies, names of aliases and differences: what needs no server."""

from __future__ import annotations

import math
from typing import Any

import pytest

from keras_tl.models import Keep, best
from keras_tl.models.aliases import AliasMoved, check
from keras_tl.models.differences import MISSING, _pair, changes
from keras_tl.models.lineage import ranges


@pytest.mark.parametrize("alias", ["prod", "a b", "50%", "v1", "für-später", "1a"])
def test_names_of_aliases(alias: str) -> None:
    check(alias)


@pytest.mark.parametrize(
    "alias", ["", "latest", "best", "a.b", "$a", "a\0", "3", "-3", 3, None, "\ud800"]
)
def test_what_is_no_name_of_an_alias(alias: Any) -> None:
    with pytest.raises(ValueError, match="`alias` must"):
        check(alias)


def test_alias_moved_says_where_to() -> None:
    error = AliasMoved("prod", 1, 7)
    assert error.found == 7 and "points to version 7" in str(error)
    assert "does not exist" in str(AliasMoved("prod", 1, None))


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        *[("loss", "min"), ("val_loss", "min"), ("val_mean_absolute_error", "min")],
        *[("accuracy", "max"), ("val_sparse_categorical_accuracy", "max"), ("val_auc", "max")],
        *[("accuracy_loss", "min"), ("f1_score", "max"), ("MSE", "min")],
    ],
)
def test_direction_by_name(monitor: str, mode: str) -> None:
    assert best(monitor).direction() == mode
    judged = {"monitor": monitor, "mode": "max" if mode == "min" else "min"}
    assert best(monitor).direction(judged) == judged["mode"]
    assert best(monitor).direction({**judged, "monitor": "other"}) == mode
    assert best(monitor, mode="max").direction(judged) == "max"


def test_best_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="`mode` must be"):
        best("score").direction()
    with pytest.raises(ValueError, match="`mode` must be"):
        best("loss", mode="least")
    with pytest.raises(ValueError, match="`monitor` must be"):
        best("")


def version(number: int, **metrics: float) -> dict[str, Any]:
    return {"version": number, "metrics": metrics}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(last=2), {6, 5}),
        (Keep(best=2), {3, 1}),
        (Keep(best=2, mode="max"), {4, 1}),
        (Keep(every=3), {3, 6}),
        (Keep(last=1, best=1, every=5), {6, 3, 5}),
        (Keep(last=99), {1, 2, 3, 4, 5, 6}),
        (Keep(best=99), {1, 3, 4}),
        (Keep(best=1, monitor="val_acc"), {2}),
    ],
)
def test_what_a_policy_keeps(keep: Keep, kept: set[int]) -> None:
    found = [
        version(1, val_loss=0.5),
        version(2, val_loss=math.nan, val_acc=0.5),
        version(3, val_loss=0.1),
        version(4, val_loss=0.9),
        version(5),
        version(6, val_loss=-math.inf),
    ]
    assert keep.chosen(found) == kept
    assert Keep(**keep.to_dict()) == keep


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "`Keep` needs"),
        ({"aliased": True}, "`Keep` needs"),
        ({"last": 0}, "`last`"),
        ({"last": True}, "`last`"),
        ({"best": -1}, "`best`"),
        ({"every": 1.5}, "`every`"),
        ({"best": 1, "mode": "least"}, "`mode`"),
        ({"best": 1, "monitor": "score"}, "`mode`"),
        ({"last": 1, "aliased": 0}, "`aliased`"),
    ],
)
def test_policies_that_make_no_sense(options: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Keep(**options)


def test_changes() -> None:
    old = {"a": 1, "b": [1, {"c": None}], "same": math.nan, "shared_object_id": 1, "gone": 0}
    new = {"a": 1.0, "b": [1, {"c": 2}, 3], "same": math.nan, "shared_object_id": 2}
    assert changes(old, new) == {
        "a": (1, 1.0),
        "b[1].c": (None, 2),
        "b[2]": (MISSING, 3),
        "gone": (0, MISSING),
    }
    assert changes(None, None) == {}
    assert changes(old, None) == changes(old, {})


def entry(path: str, shape: list[int], role: str = "trainable") -> dict[str, Any]:
    return {"path": path, "shape": shape, "role": role}


def test_variables_are_paired_by_path_then_in_order() -> None:
    old = [entry("d/kernel", [4, 6]), entry("d/bias", [6]), entry("d/bias", [2], "non_trainable")]
    new = [entry("d_1/kernel", [4, 6]), entry("d_1/bias", [6]), old[2]]
    assert _pair(old, new) == list(zip(old, new, strict=True))
    # Other shapes are other variables.
    wider = [entry("e/kernel", [4, 8]), entry("e/bias", [8])]
    pairs = _pair(old[:2], wider)
    assert [(a, b) for a, b in pairs if a is not None] == [(old[0], None), (old[1], None)]
    assert [b for a, b in pairs if a is None] == wider
    # Two of one path stay two.
    twice = [entry("s", [1]), entry("s", [1])]
    assert len(_pair(twice, twice)) == 2


def cursor(*parts: tuple[int, int, int], topic: str = "t", identity: str = "i") -> dict[str, Any]:
    names = ("partition", "offset", "row")
    return {
        "topic": topic,
        "partitions": [{**dict(zip(names, p, strict=True)), "topic_id": identity} for p in parts],
    }


def test_ranges_between_cursors() -> None:
    old, new = cursor((0, 10, 3), (1, 5, 0)), cursor((0, 12, 1), (1, 5, 0), (2, 4, 0))
    first, second = ranges(old, new)
    assert (first.partition, first.begin, first.end, first.records) == (0, (10, 3), (12, 1), 3)
    assert (second.partition, second.begin, second.records) == (2, None, None)
    assert ranges(old, None) == []
    assert ranges(new, new) == []
    for other in (cursor((0, 10, 3), topic="u"), cursor((0, 10, 3), identity="j"), None):
        assert [part.begin for part in ranges(other, new)] == [None] * 3
    assert "t[0] 10+3 to 12+1, 3 records" in str(first)

"""Plans as data, and what conditions become: nothing that is stored or typed is an operator."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from bson import ObjectId, decode, encode
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets import Array, Label, Schema
from keras_tl.datasets.views.conditions import both, compiled, either, path, without
from keras_tl.datasets.views.plan import (
    Combine,
    Draw,
    Limit,
    Part,
    Plan,
    Sort,
    Where,
    describe,
    from_document,
    to_document,
)
from keras_tl.datasets.views.shapes import Shape, shapes_of

SCHEMA = Schema(
    {
        "x": Array((2,)),
        "y": Label(3),
        "c": Label(names=["cat", "dog"]),
        "r": Label(dtype="float32"),
    },
    {"split": str, "q": int, "w": float, "ok": bool, "at_": datetime},
)
WHEN = datetime(2026, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.just(WHEN)
    | st.just(ObjectId(b"twelve bytes"))
)
joins = st.none() | st.tuples(st.text(min_size=1), st.integers(0, 9))
wheres = st.builds(
    Where,
    st.lists(st.tuples(st.text(), scalars | st.lists(scalars).map(tuple)), min_size=1).map(tuple),
    joins,
)
steps = (
    wheres
    | st.builds(Sort, st.text(), st.booleans(), joins)
    | st.builds(Limit, st.integers(0, 2**40))
    | st.builds(Draw, st.integers(0, 9), st.integers(-(2**63), 2**63 - 1))
    | st.builds(
        Part,
        st.lists(st.floats(0.01, 1), min_size=1).map(tuple),
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 9),
        st.none() | st.text(),
    )
)
plans: st.SearchStrategy[Plan] = st.recursive(
    st.lists(steps, max_size=3).map(tuple),
    lambda inner: st.lists(
        steps | st.builds(Combine, st.sampled_from(["and", "or", "sub"]), inner), max_size=3
    ).map(tuple),
    max_leaves=6,
)


@given(plans)
def test_a_plan_survives_json_and_bson(plan: Plan) -> None:
    document = to_document(plan)
    assert from_document(json.loads(json.dumps(document))) == plan
    assert from_document(decode(encode({"plan": document}))["plan"]) == plan
    assert isinstance(describe(plan), str)


@pytest.mark.parametrize(
    "document",
    [
        [{"step": "where", "conditions": [["a", {"$gt": 1}]]}],
        [{"step": "where", "conditions": [["a", {"time": "x"}]]}],
        [{"step": "where"}],
        [{"step": "function"}],
        [{"step": "limit", "count": "x"}],
        [{"step": "limit", "pipeline": 1}],
        [{"step": "combine", "operation": "xor", "other": []}],
        [1],
        7,
    ],
)
def test_what_is_no_plan_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="`plan` must be the steps of a view"):
        from_document(document)


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("split", "train", {"tags.split": {"$eq": "train"}}),
        ("y__in", [0, None], {"labels.y": {"$in": [0, None]}}),
        ("c", "dog", {"labels.c": {"$eq": 1}}),
        ("c__in", ["dog", 0], {"labels.c": {"$in": [1, 0]}}),
        ("r__lt", 2, {"labels.r": {"$lt": 2}}),
        ("w", 1, {"tags.w": {"$eq": 1}}),
        ("q__exists", True, {"tags.q": {"$ne": None}}),
        ("q__exists", False, {"tags.q": {"$eq": None}}),
        ("key__in", ("a",), {"_id": {"$in": ["a"]}}),
        ("ok__ne", True, {"tags.ok": {"$ne": True}}),
        ("added__after", WHEN, {"added": {"$gt": WHEN.replace(microsecond=123000)}}),
        ("split", "$where", {"tags.split": {"$eq": "$where"}}),
    ],
)
def test_a_condition_becomes_a_filter(condition: str, value: Any, expected: Any) -> None:
    assert compiled(SCHEMA, ((condition, value),)) == expected


@pytest.mark.parametrize(
    ("condition", "value", "message"),
    [
        ("nope", 1, r"one of `key`, `added`, the labels `y`, `c`, `r`, the tags `split`, `q`"),
        ("x", 1, "must name one of"),
        ("_id", "a", "must name one of"),
        ("labels.y", 1, "must name one of"),
        ("tags", {"split": "a"}, "must name one of"),
        ("$where", "1", "must name one of"),
        ("split.$gt", "", "must name one of"),
        ("split\0", "", "must name one of"),
        ("prediction.y", 1, "behind `join_predictions`"),
        ("split", {"$gt": ""}, "must be None, a bool"),
        ("split__in", {"$gt": ""}, "must be a list of values"),
        ("split__in", [{"$gt": ""}], "must be None, a bool"),
        ("split__ne", ["a"], "must be None, a bool"),
        ("split__regex", "a", "one of the operators"),
        ("split", "a\0", "without NUL"),
        ("split", 3, "`split` must be a text, as `split` is. Received: 3"),
        ("q", "3", "must be a number"),
        ("q", True, "must be a number"),
        ("ok", 1, "must be True or False"),
        ("y", "cat", "must be a number"),
        ("c", "cow", "one of the classes"),
        ("at_", 3, "must be an aware datetime"),
        ("at_", datetime(2026, 5, 1), "aware"),
        ("key", 1, "must be a text"),
        ("w", float("nan"), "NaN"),
        ("q__exists", 1, "True or False"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(
    condition: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(SCHEMA, ((condition, value),))


@pytest.mark.parametrize(
    "name", ["prediction.", "prediction.$x", "prediction.a.b", "prediction.a\0"]
)
def test_predicted_names_are_checked_too(name: str) -> None:
    with pytest.raises(ValueError, match="names"):
        path(SCHEMA, name, joined=True, what="names")
    assert path(SCHEMA, "prediction.p", joined=True) == "values.p"


def test_filters_are_combined() -> None:
    a, b = {"a": {"$eq": 1}}, {"b": {"$gt": 2}}
    assert both(a, b) == {"a": {"$eq": 1}, "b": {"$gt": 2}}
    assert both({"b": {"$lt": 9}}, b) == {"b": {"$lt": 9, "$gt": 2}}
    assert both(a, {"a": {"$eq": 2}}) == {"$and": [a, {"a": {"$eq": 2}}]}
    assert both({}, a) == both(a, {}) == a
    assert either(a, b) == {"$or": [a, b]}
    assert either(a, {}) == either({}, a) == {}
    assert without(a, b) == {"$and": [a, {"$nor": [b]}]}
    assert both(without(a, b), b) == {"$and": [a, {"$nor": [b]}, b]}


@pytest.mark.parametrize(
    ("query", "sort", "expected"),
    [
        ({}, [], []),
        ({"_id": {"$eq": "a"}, "tags.q": {"$eq": 1}}, [], []),
        ({"tags.q": {"$ne": 1}}, [], []),
        ({"$or": [{"q": {"$eq": 1}}, {"q": {"$eq": 2}}]}, [], [Shape(("q",), None)]),
        (
            {"$or": [{"$or": [{"a": {"$eq": 1}}, {"b": {"$gt": 2}}]}, {"_id": {"$in": ["x"]}}]},
            [],
            [Shape(("a",), None), Shape((), "b")],
        ),
        ({"$or": [{"a": {"$eq": 1}}, {"b": {"$ne": 2}}]}, [], []),
        ({"$or": [{"a": {"$eq": 1}}, {"b": {"$ne": 2}}]}, [("c", 1)], [Shape((), "c")]),
        (
            {"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 1}}]},
            [("c", 1)],
            [Shape(("a",), "c"), Shape(("b",), "c")],
        ),
        (
            {"$and": [{"c": {"$eq": 1}}, {"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 1}}]}]},
            [],
            [Shape(("c",), None)],
        ),
        (
            {"$and": [{"c": {"$ne": 1}}, {"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 1}}]}]},
            [],
            [Shape(("a",), None), Shape(("b",), None)],
        ),
        ({"$and": [{"b": {"$eq": 1}}, {"$nor": [{"c": {"$eq": 1}}]}]}, [], [Shape(("b",), None)]),
        ({"b": {"$eq": 1}, "a": {"$in": [2]}, "c": {"$gt": 1}}, [], [Shape(("a", "b"), "c")]),
        ({"b": {"$eq": 1}, "c": {"$gt": 1}}, [("d", -1), ("at", -1)], [Shape(("b",), "d")]),
        ({}, [("d", 1), ("at", 1)], [Shape((), "d")]),
        ({"d": {"$eq": 1}}, [("d", 1), ("at", 1)], [Shape(("d",), None)]),
    ],
)
def test_the_shape_of_a_query(query: Any, sort: Any, expected: Any) -> None:
    assert shapes_of(query, sort) == expected


@pytest.mark.parametrize(
    ("fields", "served"),
    [
        (["a", "b", "c"], True),
        (["b", "a", "c", "d"], True),
        (["a", "b"], False),
        (["a", "c", "b"], False),
        (["a", "b", "d", "c"], False),
    ],
)
def test_an_index_serves_what_it_begins_with(fields: list[str], served: bool) -> None:
    assert Shape(("a", "b"), "c").served_by(fields) is served
    assert Shape(("a",), None).served_by(["a", "z"])


def test_a_time_is_what_a_document_holds_of_it() -> None:
    elsewhere = WHEN.astimezone(timezone(timedelta(hours=2)))
    query = compiled(SCHEMA, (("at_", elsewhere),))
    assert decode(encode({"v": query["tags.at_"]["$eq"]}))["v"].replace(tzinfo=UTC) == (
        WHEN.replace(microsecond=123000)
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.1, -2, 1e300, float("inf")])
def test_a_number_is_what_a_label_holds_of_it(dtype: str, value: float) -> None:
    schema = Schema({"x": Array((2,)), "z": Label(dtype=dtype)}, {"z_": float})
    held = float(np.asarray([value], "float64").astype(dtype)[0]) if abs(value) < 1e9 else value
    for operator in ("", "__lte", "__ne"):
        ((_, clause),) = compiled(schema, ((f"z{operator}", value),)).items()
        assert list(clause.values()) == [held]
    assert compiled(schema, (("z__in", [value]),)) == {"labels.z": {"$in": [held]}}
    assert compiled(schema, (("z_", value),)) == {"tags.z_": {"$eq": value}}

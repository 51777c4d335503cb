from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.storage.query import compile_query

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_operators() -> None:
    identity = ObjectId()
    assert compile_query(
        {
            "split": "train",
            "site__ne": None,
            "quality__gte": 3,
            "quality__lt": 4.5,
            "label__in": (1, 2),
            "label__nin": {3},
            "tags.site__exists": True,
            "added__after": NOON,
            "ended__before": NOON,
            "_id__gt": "a",
            "_id__lte": "b",
            "run__eq": identity,
            "my__field__eq": b"x",
        }
    ) == {
        "split": {"$eq": "train"},
        "site": {"$ne": None},
        "quality": {"$gte": 3, "$lt": 4.5},
        "label": {"$in": [1, 2], "$nin": [3]},
        "tags.site": {"$exists": True},
        "added": {"$gt": NOON},
        "ended": {"$lt": NOON},
        "_id": {"$gt": "a", "$lte": "b"},
        "run": {"$eq": identity},
        "my__field": {"$eq": b"x"},
    }
    assert compile_query({}) == {}


def test_an_operator_that_stands_twice_holds_twice() -> None:
    assert compile_query({"a__gt": NOON, "a__after": NOON, "a": 1, "a__eq": 2}) == {
        "a": {"$gt": NOON, "$eq": 1},
        "$and": [{"a": {"$gt": NOON}}, {"a": {"$eq": 2}}],
    }


def test_numpy_values_become_bson_values() -> None:
    query = compile_query({"a__gte": np.float32(0.5), "b__in": np.arange(2), "c": np.bool_(True)})
    assert query == {"a": {"$gte": 0.5}, "b": {"$in": [0, 1]}, "c": {"$eq": True}}
    assert [type(v) for v in (query["a"]["$gte"], query["b"]["$in"][1], query["c"]["$eq"])] == [
        float,
        int,
        bool,
    ]


def test_fields_are_the_only_names() -> None:
    fields = {"label": "y", "tags": "tags", "param": "params.lr"}
    query = compile_query({"label": 3, "tags.site__in": ["a"], "param__gt": 1}, fields)
    assert query == {"y": {"$eq": 3}, "tags.site": {"$in": ["a"]}, "params.lr": {"$gt": 1}}
    for name in ("y", "labels", "_id"):
        with pytest.raises(ValueError, match=f"fields label, param, tags. Received: '{name}'"):
            compile_query({name: 1}, fields)


@pytest.mark.parametrize(
    "name",
    ["$where", "a.$gt", "$or", "", ".", "a.", ".a", "a..b", "a\0b", "\0", "__gt", "$a__in"],
)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name a field.*Received"):
        compile_query({name: [1] if name.endswith("in") else 1})


@pytest.mark.parametrize("name", ["a__regex", "a__where", "a__", "a__$gt", "a__GT", "my__field"])
def test_unknown_operators_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must end in one of the operators eq, ne, gt"):
        compile_query({name: 1})


@pytest.mark.parametrize("name", [1, None, b"a", ("a",)])
def test_names_must_be_text(name: Any) -> None:
    with pytest.raises(ValueError, match="must be text"):
        compile_query({name: 1})


HOSTILE = [
    {"$gt": ""},
    {},
    [1],
    [{"$ne": 1}],
    (),
    {1},
    re.compile("a"),
    date(2026, 5, 1),
    datetime(2026, 5, 1),
    float("nan"),
    2**63,
    -(2**63) - 1,
    "a\0",
    "\ud800",
    object(),
    1j,
    np.zeros(2),
    np.float64("nan"),
    lambda: 1,
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_values_are_refused_with_every_operator(value: Any) -> None:
    for operator in ("eq", "ne", "gt", "gte", "lt", "lte", "after", "before", "exists"):
        with pytest.raises(ValueError, match=f"`a__{operator}` must be .*Received"):
            compile_query({f"a__{operator}": value})
    for operator in ("in", "nin"):
        with pytest.raises(ValueError, match=f"`a__{operator}` must be .*Received"):
            compile_query({f"a__{operator}": [1, value]})


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("a__in", "train"),
        ("a__in", b"train"),
        ("a__in", 3),
        ("a__in", None),
        ("a__nin", {"$gt": 1}),
        ("a__exists", 1),
        ("a__exists", None),
        ("a__after", 5),
        ("a__before", "2026-05-01"),
        ("a__gt", None),
        ("a__lt", True),
        ("a__lt", b"x"),
        ("a__gte", ObjectId()),
    ],
)
def test_values_that_an_operator_does_not_take_are_refused(condition: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{condition}` must be"):
        compile_query({condition: value})


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
documents = st.dictionaries(st.sampled_from(["$gt", "$where", "$expr", "a"]), scalars, max_size=2)
values = scalars | documents | st.lists(scalars | documents, max_size=3)
names = st.text("ab$._\0", max_size=4) | st.sampled_from(["a__in", "b__in", "a__ne", "a"])


@given(st.dictionaries(names, values, max_size=3))
def test_no_input_smuggles_an_operator(conditions: dict[str, Any]) -> None:
    try:
        compiled = compile_query(conditions)
    except ValueError:
        return
    clauses = [compiled, *compiled.pop("$and", [])]
    for clause in clauses:
        for path, operators in clause.items():
            assert not any(part.startswith("$") for part in path.split("."))
            for operator, value in operators.items():
                assert operator in {"$eq", "$ne", "$in"}
                for item in value if operator == "$in" else [value]:
                    assert item is None or isinstance(item, (bool, int, float, str))

"""A compiled query selects on a real mongod what the same words mean in Python."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tl.storage.connection import Connection
from keras_tl.storage.query import compile_query


@pytest.fixture(scope="module")
def collection(mongodb: str) -> Iterator[Any]:
    made = Connection(mongodb, project="test_query")
    yield made.db["samples.query"]
    made.client.drop_database("test_query")
    made.close()


numbers = st.sampled_from([-1, 0, 1, 2, 0.5, 1.0, -0.0, 2**53, 2**53 + 1, 2.0**53, float("inf")])
texts = st.sampled_from(["", "a", "b", "ab", "ä", "Z", "$a", "{}", "\U0001f600", "\uffff"])
times = st.integers(-2, 2).map(lambda h: datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=h))
ordered = numbers | texts | times
scalars = st.none() | st.booleans() | st.sampled_from([b"", b"a"]) | ordered
stored = scalars | st.just(float("nan")) | st.lists(scalars, max_size=3)
documents = st.fixed_dictionaries(
    {}, optional={"a": stored, "b": stored, "tags": scalars | st.dictionaries(st.just("x"), stored)}
)

names = st.sampled_from(["a", "b", "tags.x"])
BY_OPERATOR = {
    **dict.fromkeys(["", "__eq", "__ne"], scalars),
    **dict.fromkeys(["__gt", "__gte", "__lt", "__lte"], ordered),
    **dict.fromkeys(["__in", "__nin"], st.lists(scalars, max_size=3)),
    **dict.fromkeys(["__after", "__before"], times),
    "__exists": st.booleans(),
}
conditions = st.lists(
    st.sampled_from(sorted(BY_OPERATOR)).flatmap(
        lambda suffix: st.tuples(names.map(lambda name: name + suffix), BY_OPERATOR[suffix])
    ),
    min_size=1,
    max_size=3,
).map(dict)

ORDER = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "after": operator.gt,
    "before": operator.lt,
}


def kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def candidates(document: Any, path: str) -> list[Any] | None:
    """The values that the path has; `None` where it is missing."""
    for part in path.split("."):
        if not isinstance(document, dict) or part not in document:
            return None
        document = document[part]
    return [*document, document] if isinstance(document, list) else [document]


def holds(document: dict[str, Any], condition: str, wanted: Any) -> bool:
    path, _, name = condition.partition("__")
    found = candidates(document, path)

    def equal(value: Any) -> bool:
        if found is None:
            return value is None
        return any(kind(v) is kind(value) and v == value for v in found)

    if name == "exists":
        return (found is not None) is wanted
    if name in ("in", "nin"):
        return any(map(equal, wanted)) is (name == "in")
    if name in ("", "eq", "ne"):
        return equal(wanted) is (name != "ne")
    return any(kind(v) is kind(wanted) and ORDER[name](v, wanted) for v in found or [])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(documents, min_size=1, max_size=12), st.lists(conditions, min_size=1, max_size=12))
def test_a_query_selects_what_it_says(
    collection: Any, samples: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> None:
    collection.delete_many({})
    collection.insert_many([{**sample, "_id": n} for n, sample in enumerate(samples)])
    for query in queries:
        selected = [d["_id"] for d in collection.find(compile_query(query)).sort("_id")]
        expected = [
            n
            for n, sample in enumerate(samples)
            if all(holds(sample, condition, value) for condition, value in query.items())
        ]
        assert selected == expected, query


def test_public_names_select_by_their_paths(collection: Any) -> None:
    collection.delete_many({})
    collection.insert_many([{"_id": n, "y": n, "tags": {"site": n % 2}} for n in range(6)])
    query = compile_query({"label__gte": 2, "tags.site": 1}, fields={"label": "y", "tags": "tags"})
    assert sorted(d["_id"] for d in collection.find(query)) == [3, 5]

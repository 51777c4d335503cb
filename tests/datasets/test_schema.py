"""Schemas: names that can be no path and no operator, tags of one type, packs of a size."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets import Array, Bytes, Image, Label, Schema
from keras_tl.datasets.schema.names import (
    RESERVED,
    check_key,
    check_keys,
    check_name,
    fresh_keys,
    slug,
)

HOSTILE = [
    *("", " ", "a ", "$where", "a$", "a.b", ".", "a__in", "__proto__", "a\0b", "-a", "a\nb"),
    *("\ud800", "x" * 101, *RESERVED),
]


@pytest.mark.parametrize("name", [*HOSTILE, None, 3, b"a", ("a",)], ids=repr)
def test_hostile_names_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="`fields` must be"):
        Schema({name: Array((1,))})
    with pytest.raises(ValueError, match="`tags` must be"):
        Schema({"x": Array((1,))}, {name: str})


@given(name=st.text(max_size=120))
def test_a_name_that_is_taken_is_a_path_of_one_part(name: str) -> None:
    try:
        check_name(name, "fields")
    except ValueError:
        return
    assert name and "$" not in name and "." not in name and "\0" not in name
    assert name.encode().decode() == name and name.rpartition("__")[0] == ""


@pytest.mark.parametrize("key", ["", "a\0", "\udc00", "x" * 1025, None, 3, 1.5, float("nan")])
def test_hostile_keys_are_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="`key` must be text"):
        check_key(key)
    with pytest.raises(ValueError, match="`keys` must be text"):
        check_keys(["a", key])


def test_keys() -> None:
    assert check_keys(np.array(["a", "ü", "$b.c"])) == ["a", "ü", "$b.c"]
    with pytest.raises(ValueError, match="once. Received: 'a' twice"):
        check_keys(["a", "b", "a"])
    with pytest.raises(ValueError, match="list of keys"):
        check_keys("abc")


def test_fresh_keys_ascend_and_differ() -> None:
    keys = fresh_keys(1000)
    assert sorted(set(keys)) == keys and check_keys(keys) == keys
    assert not set(keys) & set(fresh_keys(1000))


@given(key=st.text(min_size=1, max_size=50))
def test_slugs_are_names_of_collections(key: str) -> None:
    assert re.fullmatch(r"([a-z0-9_]{1,40}-)?00ff", slug(key, "00ff"))


def test_config_round_trip() -> None:
    schema = Schema({"x": Image(4, 4), "y": Label(3)}, {"split": str, "at_home": "bool"})
    assert Schema.from_config(schema.config()) == schema
    assert schema.tags == {"split": "str", "at_home": "bool"}
    assert (list(schema.tensors), list(schema.labels)) == (["x"], ["y"])
    assert schema != Schema({"y": Label(3), "x": Image(4, 4)}, schema.tags)


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"x": Image(32, 32)}, 256),
        ({"x": Image(64, 64)}, 256),
        ({"x": Image(128, 128)}, 64),
        ({"x": Image(224, 224)}, 16),
        ({"x": Image(224, 224), "m": Array((224, 224), "uint8")}, 16),
        ({"x": Array((1 << 18,), "float32")}, 4),
        ({"x": Array((1 << 19,), "float32")}, 256),  # blobs: a pack has their names
        ({"x": Bytes()}, 256),
        ({"y": Label()}, 256),
    ],
)
def test_rows_of_a_pack(fields: dict[str, Any], rows: int) -> None:
    assert Schema(fields).rows == rows


@pytest.mark.parametrize(
    ("fields", "tags", "rule"),
    [
        ({}, {}, "`fields` must name one"),
        ({"x": "Image"}, {}, "`x` must be a kind of field"),
        ({"x": Array((1,))}, {"x": str}, "names of their own"),
        ({"x": Array((1,))}, Array((1,)), "`tags` must be a mapping"),
        ({"x": Array((1,))}, {"t": list}, r"`tags\['t'\]` must be one of the types"),
        ({"x": Array((1,))}, {"t": "list"}, "one of the types"),
        ({"x": Array((1,))}, {"t": type("str", (), {})}, "one of the types"),
    ],
)
def test_schemas_that_there_are_not(fields: Any, tags: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Schema(fields, tags)


NOW = datetime(2024, 5, 1, tzinfo=UTC)
EAST = datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=9)))
TAGGED = Schema({"x": Array((1,))}, {"s": str, "i": int, "f": float, "b": bool, "d": datetime})


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("s", "$a.b", "$a.b"),
        ("s", np.str_("a"), "a"),
        ("i", np.int8(3), 3),
        ("f", 3, 3.0),
        ("f", np.float32(0.5), 0.5),
        ("f", float("nan"), None),
        ("i", float("nan"), None),
        ("b", np.True_, True),
        ("d", NOW, NOW),
        ("d", NOW.replace(microsecond=1999), NOW.replace(microsecond=1000)),
        ("d", EAST.replace(microsecond=7), EAST.astimezone(UTC)),
        ("s", None, None),
    ],
)
def test_tags_are_kept(name: str, value: Any, kept: Any) -> None:
    for found in (
        TAGGED.check_tag(name, value, lambda: "sample 'a'"),
        TAGGED.check_tag_column(name, [value], 1, lambda row: f"sample {row}")[0],
        TAGGED.check_tag_column(name, value, 2, lambda row: f"sample {row}")[1],
    ):
        assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("s", v)
            for v in (3, b"a", "a\0", "\ud800", "x" * 10_001, {"$gt": ""}, ["a"], float("nan"))
        ),
        *(("i", v) for v in (1.0, True, "1", 2**63, {"$gt": 0})),
        *(("f", v) for v in ("1", True, 10**400, 1j)),
        *(("b", v) for v in (1, "True")),
        *(("d", v) for v in (NOW.replace(tzinfo=None), EAST.replace(1, 1), "2024-05-01", 0)),
        ("z", 1),
    ],
)
def test_tags_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="sample 'a'"):
        TAGGED.check_tag(name, value, lambda: "sample 'a'")
    with pytest.raises(ValueError, match="sample [01]"):
        TAGGED.check_tag_column(name, [None, value], 2, lambda row: f"sample {row}")


def test_columns_of_tags_have_a_length() -> None:
    with pytest.raises(ValueError, match=r"`tags\['i'\]` must have a value a sample: 3"):
        TAGGED.check_tag_column("i", [1, 2], 3, str)


def test_declared_tags_keep_their_type() -> None:
    schema = Schema.from_config(TAGGED.config())
    schema.declare({"loss": float, "i": int})
    assert schema.tags["loss"] == "float"
    with pytest.raises(ValueError, match="which is int already"):
        schema.declare({"i": float})

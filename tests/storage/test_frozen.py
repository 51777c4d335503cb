"""Rows of snapshots: there and back, and what changed between two of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.storage import tensors
from keras_tl.storage.frozen import FrozenRows, compare

T0 = datetime(1969, 12, 31, 23, 59, 59, 1000, tzinfo=UTC)
KINDS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "a/str": ("str", st.text(max_size=3)),
    "a": ("int", st.integers(-(2**63), 2**63 - 1)),
    "there": ("float", st.floats(allow_nan=False)),
    "a/str/there": ("bool", st.booleans()),
    "t": ("datetime", st.integers(-5, 5).map(lambda s: T0 + timedelta(milliseconds=s))),
}
TYPES = {name: kind for name, (kind, _) in KINDS.items()}
sample = st.fixed_dictionaries(
    {
        "digest": st.integers(0, 2),
        "y": st.none() | st.integers(0, 2),
        **{name: st.none() | values for name, (_, values) in KINDS.items()},
    }
)
samples = st.dictionaries(st.sampled_from("abcdefg"), sample)


def rows(found: dict[str, dict[str, Any]]) -> FrozenRows:
    return FrozenRows(
        list(found),
        np.arange(len(found), dtype="int64") + 5,
        np.array([[s["digest"]] * 32 for s in found.values()], np.uint8).reshape(-1, 32),
        {"y": np.array([-1 if s["y"] is None else s["y"] for s in found.values()], "int32")},
        {name: [s[name] for s in found.values()] for name in KINDS},
        [T0] * len(found),
    )


@given(samples)
def test_rows_come_back_as_they_were(found: dict[str, dict[str, Any]]) -> None:
    before = rows(found)
    data = b"".join(before.dumps(TYPES))
    after = FrozenRows.loads(data)
    assert list(after.keys) == list(before.keys) and after.added == before.added
    assert (after.at == before.at).all() and (after.digests == before.digests).all()
    assert after.labels["y"].dtype == "int32" and (after.labels["y"] == before.labels["y"]).all()
    assert {n: list(v) for n, v in after.tags.items()} == dict(before.tags)
    assert b"".join(after.dumps(TYPES)) == data


@given(samples, samples)
def test_what_changed_is_told_by_key(
    old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> None:
    found = compare(rows(old), rows(new))
    both = sorted(old.keys() & new.keys())
    assert found.added == sorted(new.keys() - old.keys())
    assert found.removed == sorted(old.keys() - new.keys())
    assert found.changed == [k for k in both if old[k]["digest"] != new[k]["digest"]]
    assert found.relabelled == [k for k in both if old[k]["y"] != new[k]["y"]]
    assert found.retagged == [k for k in both if any(old[k][n] != new[k][n] for n in KINDS)]


def test_a_label_or_tag_that_only_one_has_counts_where_it_has_values() -> None:
    one = {"digest": 0, "y": 1, **dict.fromkeys(KINDS)}
    old = rows({"a": one, "b": {**one, "y": None, "a": 3}})
    bare = FrozenRows(old.keys, old.at, old.digests, {}, {}, old.added)
    assert compare(bare, old).relabelled == ["a"] and compare(bare, old).retagged == ["b"]
    assert str(compare(old, old)) == "the same samples"
    assert str(compare(bare, old)) == "1 relabelled, 1 retagged"


def test_another_bundle_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of a snapshot"):
        FrozenRows.loads(tensors.dumps({"x": np.zeros(3)}))

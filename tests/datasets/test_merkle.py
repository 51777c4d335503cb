"""The identity of a set of samples: what changes it, and what does not."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.snapshots.merkle import merge, root
from keras_tl.storage.frozen import FrozenRows

T0 = datetime(2026, 5, 1, tzinfo=UTC)
TAGS = {"split": "str", "n": "int", "f": "float", "b": "bool", "t": "datetime"}
values: dict[str, st.SearchStrategy[Any]] = {
    "split": st.text(max_size=3),
    "n": st.integers(-(2**63), 2**63 - 1),
    "f": st.floats(allow_nan=False),
    "b": st.booleans(),
    "t": st.integers(-5, 5).map(lambda s: T0 + timedelta(seconds=s)),
}
sample = st.fixed_dictionaries(
    {
        "digest": st.binary(min_size=32, max_size=32),
        "y": st.none() | st.integers(0, 5),
        "z": st.none() | st.floats(allow_nan=False, width=32),
        "tags": st.fixed_dictionaries({name: st.none() | kind for name, kind in values.items()}),
    }
)
samples = st.dictionaries(st.text(min_size=1, max_size=4), sample, max_size=9)


def rows(found: dict[str, dict[str, Any]], order: list[str] | None = None) -> FrozenRows:
    """The samples, stored in this order."""
    keys = list(found) if order is None else order
    chosen = [found[key] for key in keys]
    return FrozenRows(
        keys,
        np.arange(len(keys)) * 3,
        np.frombuffer(b"".join(s["digest"] for s in chosen), np.uint8).reshape(-1, 32),
        {
            "y": np.array([-1 if s["y"] is None else s["y"] for s in chosen], "int64"),
            "z": np.array([np.nan if s["z"] is None else s["z"] for s in chosen], "float32"),
        },
        {name: [s["tags"][name] for s in chosen] for name in TAGS},
        [T0] * len(keys),
    )


def expected(found: dict[str, dict[str, Any]]) -> str:
    """The construction, once more, as its documentation says it."""

    def part(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    def value(one: Any) -> bytes:
        if isinstance(one, bool):
            return b"b" + bytes([one])
        if isinstance(one, datetime):
            return b"t" + struct.pack("<q", round((one.timestamp()) * 1000))
        if isinstance(one, str):
            return b"s" + part(one.encode())
        return (
            b"i" + struct.pack("<q", one) if isinstance(one, int) else b"f" + struct.pack("<d", one)
        )

    leaves = []
    for key in sorted(found, key=str.encode):
        one = found[key]
        leaf = b"\x00" + part(key.encode()) + one["digest"]
        for name in ("y", "z"):
            if one[name] is not None:
                leaf += b"L" + part(name.encode()) + value(one[name])
        for name in sorted(TAGS):
            if one["tags"][name] is not None:
                leaf += b"T" + part(name.encode()) + value(one["tags"][name])
        leaves.append(hashlib.sha256(leaf).digest())

    def tree(nodes: list[bytes]) -> bytes:  # RFC 6962: the left subtree is a full one
        if len(nodes) == 1:
            return nodes[0]
        k = 1 << ((len(nodes) - 1).bit_length() - 1)
        return hashlib.sha256(b"\x01" + tree(nodes[:k]) + tree(nodes[k:])).digest()

    return (tree(leaves) if leaves else hashlib.sha256(b"").digest()).hex()


@given(samples)
def test_the_root_is_the_documented_one(found: dict[str, dict[str, Any]]) -> None:
    assert root(rows(found)) == expected(found)


@given(samples, st.data())
def test_neither_order_nor_packing_matter(
    found: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sorted(found)))
    assert root(rows(found, list(order))) == root(rows(found))


@given(samples.filter(bool), st.data())
def test_whatever_changes_changes_the_root(
    found: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(found)))
    one = found[key]
    what = data.draw(st.sampled_from(["digest", "y", "z", "tag", "gone", "key"]))
    changed = dict(found)
    if what == "digest":
        at = data.draw(st.integers(0, 31))
        bits = one["digest"][at] ^ data.draw(st.integers(1, 255))
        changed[key] = {
            **one,
            "digest": one["digest"][:at] + bytes([bits]) + one["digest"][at + 1 :],
        }
    elif what == "tag":
        name = data.draw(st.sampled_from(sorted(TAGS)))
        other = data.draw(
            (st.none() | values[name]).filter(lambda v: repr(v) != repr(one["tags"][name]))
        )
        changed[key] = {**one, "tags": {**one["tags"], name: other}}
    elif what in ("y", "z"):
        kind = st.integers(0, 5) if what == "y" else st.sampled_from([0.0, 0.5, -1.0])
        other = data.draw((st.none() | kind).filter(lambda v: repr(v) != repr(one[what])))
        changed[key] = {**one, what: other}
    else:
        del changed[key]
        if what == "key":
            changed[key + "x"] = one
            changed = changed if key + "x" not in found else {}
    assert root(rows(changed)) != root(rows(found))


def test_a_value_does_not_pass_for_another() -> None:
    """Values of one tag or another, and of labels and tags, cannot be taken for each other."""
    digest = {"digest": bytes(32), "y": None, "z": None}
    none = dict.fromkeys(TAGS)
    variants: list[dict[str, Any]] = [
        {**digest, "tags": none},
        {**digest, "tags": {**none, "n": 1}},
        {**digest, "tags": {**none, "f": 1.0}},
        {**digest, "tags": {**none, "b": True}},
        {**digest, "y": 1, "tags": none},
        {**digest, "z": 1.0, "tags": none},
        {**digest, "tags": {**none, "split": ""}},
        {**digest, "tags": {**none, "split": "1"}},
    ]
    assert len({root(rows({"a": one})) for one in variants}) == len(variants)


def test_one_node_is_not_its_own_parent() -> None:
    leaf = hashlib.sha256(b"leaf").digest()
    assert merge([leaf]) == leaf != merge([leaf, leaf])

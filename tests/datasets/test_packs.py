"""Packs: every value comes back, whatever its kind, and a changed byte does not go unnoticed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_tl.datasets import Array, Bytes, Image, Label, Schema, Text
from keras_tl.datasets.schema.fields import BLOB_BYTES
from keras_tl.datasets.storing import packs
from keras_tl.datasets.storing.block import Block, of_columns, of_records
from keras_tl.storage.files import FileContent


class Store(dict[str, bytes]):
    """Blobs in memory."""

    def put(self, contents: Iterable[Any]) -> list[str]:
        names = []
        for content in contents:
            if isinstance(content, FileContent):
                content = content.piece(0, len(content))
            names.append(hashlib.sha256(content).hexdigest())
            self[names[-1]] = bytes(content)
        return names

    def store(self, content: Any) -> packs.Blob:
        return packs.Blob(self.put([content])[0], packs.length(content))

    def fetch(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: self[name] for name in names}


def blocks(schema: Schema, columns: dict[str, Any], store: Store | None = None) -> list[Block]:
    used = Store() if store is None else store
    return list(of_columns(schema, columns, None, {}, used.store))


SCHEMA = Schema(
    {
        "x": Image(2, 3),
        "ragged": Array((None, 2), "int16"),
        "text": Text(),
        "raw": Bytes(),
        "scalar": Array((), "float64", compress=None),
        "y": Label(5, dtype="int8"),
    }
)
ROW = st.fixed_dictionaries(
    {
        "x": hnp.arrays(np.uint8, (2, 3, 3)),
        "ragged": hnp.arrays(np.int16, st.tuples(st.integers(0, 3), st.just(2))),
        "text": st.text(max_size=5),
        "raw": st.binary(max_size=5),
        "scalar": st.floats(allow_nan=False),
        "y": st.none() | st.integers(0, 4),
    }
)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return bool(found == expected)


@given(rows=st.lists(ROW, min_size=1, max_size=5))
def test_every_value_comes_back(rows: list[dict[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in SCHEMA.fields}
    (by_column,) = blocks(SCHEMA, columns)
    (by_record,) = of_records(SCHEMA, rows, {}, Store().store)
    pack, head = packs.encode(SCHEMA, by_column.columns, Store().put)
    assert (pack, head) == packs.encode(SCHEMA, by_record.columns, Store().put)
    packs.verify(pack)
    found = packs.decode(pack)
    assert list(found) == list(SCHEMA.tensors)
    for name in SCHEMA.tensors:
        assert all(same(*pair) for pair in zip(found[name], columns[name], strict=True)), name
    assert found["x"].shape == (len(rows), 2, 3, 3)
    labels = np.frombuffer(head["labels"]["y"], "i1")
    assert SCHEMA.labels["y"].plain(labels) == columns["y"]
    assert (head["n"], head["live"]) == (len(rows), len(rows))
    values = (found[name][i] for name in SCHEMA.tensors for i in range(len(rows)))
    assert head["bytes"] == sum(
        v.nbytes if hasattr(v, "nbytes") else len(v.encode() if isinstance(v, str) else v)
        for v in values
    )


@given(rows=st.lists(ROW, min_size=2, max_size=2), split=st.booleans())
def test_digests_tell_rows_apart(rows: list[dict[str, Any]], split: bool) -> None:
    """Whichever block a row is in, its digest is of its tensors, and of nothing else."""
    parts = [[row] for row in rows] if split else [rows]
    found = b""
    for part in parts:
        columns = {name: [row[name] for row in part] for name in SCHEMA.fields}
        (block,) = blocks(SCHEMA, columns)
        found += packs.digests(SCHEMA, block.columns, len(part))
    equal = all(same(rows[0][name], rows[1][name]) for name in SCHEMA.tensors)
    assert (found[:32] == found[32:]) == equal


def test_the_digest_of_one_tensor_is_its_sha256() -> None:
    schema = Schema({"x": Image(2, 2), "y": Label()})
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    expected = b"".join(hashlib.sha256(row.tobytes()).digest() for row in x)
    for given_as in (x, list(x), np.asfortranarray(x)):
        assert packs.digests(schema, blocks(schema, {"x": given_as})[0].columns, 3) == expected


def test_shapes_and_borders_count_in_digests() -> None:
    texts = Schema({"a": Text(), "b": Text()})
    (block,) = blocks(texts, {"a": ["x", "xy"], "b": ["yz", "z"]})
    digests = packs.digests(texts, block.columns, 2)
    assert digests[:32] != digests[32:]
    ragged = Schema({"a": Array((None, None))})
    (block,) = blocks(ragged, {"a": [np.zeros((2, 3)), np.zeros((3, 2))]})
    digests = packs.digests(ragged, block.columns, 2)
    assert digests[:32] != digests[32:]


def damaged(pack: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The pack with one thing changed, in turn."""
    for name, about in pack["fields"].items():
        for part, value in about.items():
            other = copy.deepcopy(pack)
            if isinstance(value, bytes) and value:
                other["fields"][name][part] = value[:-1] + bytes([value[-1] ^ 1])
            elif part == "shape" and value:
                other["fields"][name][part] = value[::-1] + [1]
            elif isinstance(value, str):
                other["fields"][name][part] = value[:-1] + ("a" if value[-1] != "a" else "b")
            else:
                continue
            yield other
    yield {**pack, "n": pack["n"] + 1}
    yield {**pack, "fields": dict(list(pack["fields"].items())[1:])}


def test_damage_is_found() -> None:
    row = {"x": np.zeros((2, 3, 3)).astype("u1"), "ragged": [[1, 2]], "text": "a", "raw": b"b"}
    (block,) = of_records(SCHEMA, [{**row, "scalar": 1.0}] * 3, {}, Store().store)
    pack, _ = packs.encode(SCHEMA, block.columns, Store().put)
    packs.verify(pack)
    packs.verify({**pack, "fields": {**pack["fields"], "x": {"hash": pack["fields"]["x"]["hash"]}}})
    others = list(damaged(pack))
    assert len(others) > 15
    for other in others:
        with pytest.raises(ValueError, match="Pack None must have the hash"):
            packs.verify(other)


LARGE = Schema({"v": Bytes(), "a": Array((None,), "uint8", compress=None), "k": Array((), "int8")})


def test_large_values_become_blobs(tmp_path: Path) -> None:
    store = Store()
    big = np.random.default_rng(0).bytes(BLOB_BYTES + 1)
    path = tmp_path / "big"
    path.write_bytes(big)
    array = np.frombuffer(big, np.uint8)
    rows = [{"v": path, "a": array, "k": 0}, {"v": b"small", "a": array[:2], "k": 1}]
    (block,) = of_records(LARGE, rows, {}, store.store)
    assert block.columns["v"][0] == packs.Blob(hashlib.sha256(big).hexdigest(), len(big))
    pack, head = packs.encode(LARGE, block.columns, store.put)
    assert sorted(store) == head["blobs"] and len(store) == 3
    assert pack["fields"]["v"]["codec"] == "blob" and len(pack["fields"]["v"]["data"]) == 128
    assert head["bytes"] == 2 * len(big) + 9
    packs.verify(pack)
    lazy = packs.decode(pack)
    assert lazy["v"][1] == packs.Blob(hashlib.sha256(b"small").hexdigest(), 5)
    found = packs.decode(pack, ["v", "a"], store.fetch)
    assert found["v"] == [big, b"small"]
    assert [row.tolist() for row in found["a"]] == [list(big), list(big[:2])]

    # The same content has the same digest, wherever it lies.
    inline = {"v": [big, b"small"], "a": [array, array[:2]], "k": np.array([0, 1], "i1")}
    assert packs.digests(LARGE, inline, 2) == head["digests"]
    by_column = blocks(LARGE, {"v": [path, b"small"], "a": inline["a"], "k": [0, 1]}, store)
    assert packs.encode(LARGE, by_column[0].columns, store.put) == (pack, head)


def test_rows_over_a_megabyte_of_one_shape() -> None:
    store, schema = Store(), Schema({"x": Array((BLOB_BYTES + 1,), "uint8")})
    x = np.random.default_rng(0).integers(0, 256, (3, BLOB_BYTES + 1), dtype=np.uint8)
    (block,) = blocks(schema, {"x": x}, store)
    pack, head = packs.encode(schema, block.columns, store.put)
    assert head["blobs"] == sorted(store)
    assert (packs.decode(pack, fetch=store.fetch)["x"] == x).all()
    assert packs.digests(schema, {"x": x}, 3) == head["digests"]


def test_many_values_that_are_not_large_alone() -> None:
    """What a document cannot hold goes out of it, the largest fields first."""
    store = Store()
    fields = {f"f{i}": Array((BLOB_BYTES - 8 * i,), "uint8", compress=None) for i in range(20)}
    schema = Schema(fields)
    assert schema.rows == 1
    row = {name: np.full(field.shape, i, "u1") for i, (name, field) in enumerate(fields.items())}
    (block,) = of_records(schema, [row], {}, store.store)
    pack, head = packs.encode(schema, block.columns, store.put)
    outside = [name for name, about in pack["fields"].items() if about["codec"] == "blob"]
    assert outside == list(fields)[: len(outside)] and len(head["blobs"]) == len(outside)
    assert 8 << 20 < sum(len(about["data"]) for about in pack["fields"].values()) <= 12 << 20
    found = packs.decode(pack, fetch=store.fetch)
    assert all((found[name][0] == row[name]).all() for name in fields)


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=30))
def test_blocks_stay_small(sizes: list[int]) -> None:
    """A pack has some MB at most, though its rows may be of any size."""
    schema, content = Schema({"v": Bytes()}), bytes(1 << 20)
    values = [content[:size] for size in sizes]
    by_column = blocks(schema, {"v": values})
    by_record = list(of_records(schema, ({"v": v} for v in values), {}, Store().store))
    for made in (by_column, by_record):
        assert [value for block in made for value in block.columns["v"]] == values
        assert all(sum(block.sizes(schema)) <= 4 << 20 for block in made)
        assert all(
            sum(sum(block.sizes(schema)) for block in pair) > 4 << 20
            for pair in zip(made, made[1:], strict=False)
        )


def test_records_are_taken_as_they_come() -> None:
    taken = []

    def rows() -> Iterable[dict[str, Any]]:
        for i in range(1000):
            taken.append(i)
            yield {"x": [i % 100]}

    schema = Schema({"x": Array((1,), "uint8")})
    found = of_records(schema, rows(), {}, Store().store)
    assert len(next(found)) == 256 and len(taken) == 256


def test_a_key_that_comes_again_is_in_a_later_block() -> None:
    keys = ["a", "b", "a", "a", None, None]
    rows = [{"x": [i], "key": key} for i, key in enumerate(keys)]
    made = list(of_records(Schema({"x": Array((1,), "uint8")}), rows, {}, Store().store))
    assert [[int(row[0]) for row in block.columns["x"]] for block in made] == [
        [0, 1],
        [2],
        [3, 4, 5],
    ]


def test_tags_that_others_declared() -> None:
    first = Schema({"x": Array((1,), "uint8")}, {"a": int})
    both = Schema(first.fields, {"a": int, "b": int})
    asked = []

    def refreshed() -> Schema:
        asked.append(1)
        return both

    rows = [{"x": [i], "tags": {"b" if i else "a": i}} for i in range(4)]
    (block,) = of_records(first, rows, {}, Store().store, refreshed)
    assert block.tags == {"a": [0, None, None, None], "b": [None, 1, 2, 3]} and asked == [1]


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([{"x": [1]}, {"x": [300]}], "`x` of sample 1 must be"),
        ([{"x": [1], "key": "a"}, {"x": [1, 2], "key": "b"}], "`x` of sample 'b' must be"),
        ([{"x": [1]}, {}], "Sample 1 must have the fields x"),
        ([{"x": [1], "z": 1, "key": "b"}], "Sample 'b' must have the fields .* Received: 'z'"),
        ([{"x": [1], "$where": 1}], r"Received: '\$where'"),
        ([{"x": [1], "tags": {"split": 3}}], "sample 0: tag `split` must be text"),
        ([{"x": [1], "tags": {"a.b": 3}}], "sample 0 must have tags that the dataset has"),
        ([{"x": [1], "key": 3}], "`key` must be text"),
        ([{"x": [1], "key": "a", "tags": ["split"]}], "`tags` of sample 'a' must be a mapping"),
        (["x"], "Sample 0 must be a mapping"),
        ([{"x": [1], "y": 9}], "`y` of sample 0 must be a class"),
    ],
)
def test_records_that_do_not_fit(rows: list[Any], rule: str) -> None:
    schema = Schema({"x": Array((1,), "uint8"), "y": Label(3)}, {"split": str})
    with pytest.raises(ValueError, match=rule):
        list(of_records(schema, rows, {}, Store().store))


@pytest.mark.parametrize(
    ("columns", "keys", "tags", "rule"),
    [
        ({"x": [[1]], "y": [1, 2]}, None, {}, r"same length. Received: {'x': 1, 'y': 2}"),
        ({"y": [1]}, None, {}, "The samples must have the fields x"),
        ({"x": [[1]], "z": [1]}, None, {}, "Received: 'z'"),
        ({"x": [[1]]}, ["a", "b"], {}, "`keys` must have a key a sample: 1"),
        ({"x": [[1], [2]]}, ["a", "a"], {}, "'a' twice"),
        ({"x": [[1], [2]]}, ["a", float("nan")], {}, "`keys` must be text"),
        ({"x": [[1], [-1]]}, ["a", "b"], {}, "`x` of sample 'b' must be"),
        ({"x": [[1], [2]], "y": [0, 3]}, None, {}, "`y` of sample 1 must be"),
        ({"x": [[1]]}, None, {"split": 1}, "tag `split` must be text"),
        ({"x": [[1]] * 2}, ["a", "b"], {"split": ["", 1]}, "`tags` of sample 'b': tag `split`"),
        ({"x": [[1]]}, None, {"$x": 1}, "must have tags that the dataset has"),
        ({"x": [[1], [2]]}, None, {"split": ["a"]}, "must have a value a sample: 2"),
        ({"x": "abc"}, None, {}, "`x` must be an array or a list"),
        ({"x": np.float32(1)}, None, {}, "`x` must"),
        ({"x": iter([])}, None, {}, "`x` must be an array or a list"),
    ],
)
def test_columns_that_do_not_fit(columns: Any, keys: Any, tags: Any, rule: str) -> None:
    schema = Schema({"x": Array((1,), "uint8"), "y": Label(3)}, {"split": str})
    with pytest.raises(ValueError, match=rule):
        of_columns(schema, columns, keys, tags, Store().store)  # before the first block


def test_no_samples() -> None:
    schema = Schema({"x": Array((1,)), "t": Text()})
    assert blocks(schema, {"x": np.empty((0, 1)), "t": []}) == []
    assert list(of_records(schema, [], {}, Store().store)) == []


def test_rows_of_a_block() -> None:
    schema = Schema({"x": Array((1,), "uint8"), "t": Text()}, {"i": int})
    columns = {"x": [[1], [2], [3]], "t": ["a", "b", "c"]}
    (block,) = of_columns(schema, columns, ["k1", "k2", "k3"], {"i": [7, None, 9]}, Store().store)
    block.digests = packs.digests(schema, block.columns, 3)
    part = block.take([2, 0])
    assert part.keys == ["k3", "k1"] and part.tags == {"i": [9, 7]}
    assert part.columns["x"].tolist() == [[3], [1]] and part.columns["t"] == [b"c", b"a"]
    assert part.digests == packs.digests(schema, part.columns, 2)

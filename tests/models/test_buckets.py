"""Rows of events: packed in the journal, packed again in a document, and out of it unchanged."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.models import buckets
from keras_tl.storage.journal import Kind

HOSTILE = ["a.b", "$x", "", "%", "%2E", "a%", "$", ".", "\0", "loss", "ä.ö", "val_loss", "%%", "0"]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"])))
INT32 = st.integers(-(2**31), 2**31 - 1)


def about(number: int, names: list[str] | None, kind: str = "batch") -> dict[str, Any]:
    return {"id": number, "run": "r", "attempt": "a", "rank": 0, "kind": kind, "names": names}


def row(column: int, step: int, epoch: int, batch: int, *values: float, time: float = 1.5) -> bytes:
    return buckets.row_struct(len(values)).pack(column, step, epoch, batch, time, *values)


@given(names=st.lists(TEXT, unique=True))
def test_names_are_keys_that_no_database_reads_as_syntax(names: list[str]) -> None:
    keys = [buckets.key(name) for name in names]
    assert [buckets.name(key) for key in keys] == names
    assert len(set(keys)) == len(names)
    assert not any(char in key for key in keys for char in ".$\0")
    assert all(keys)


@given(
    names=st.lists(TEXT, unique=True, min_size=1, max_size=4),
    rows=st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), INT32, INT32, st.floats(0, 2**32)),
        min_size=1,
        max_size=20,
    ),
    data=st.data(),
)
def test_round_trip(
    names: list[str], rows: list[tuple[int, int, int, float]], data: st.DataObject
) -> None:
    values = [
        data.draw(st.lists(st.floats(), min_size=len(names), max_size=len(names))) for _ in rows
    ]
    records = [
        (10 + i, Kind.ROW, buckets.row_struct(len(names)).pack(3, *r, *v))
        for i, (r, v) in enumerate(zip(rows, values, strict=True))
    ]
    (document,) = buckets.buckets(records, {3: about(3, names)})
    assert document["_id"] == "r/a/0/10"
    assert document["n"] == len(rows)
    found = buckets.unpack(document)
    assert set(found) == {"step", "epoch", "batch", "time", *(f"value:{n}" for n in names)}
    order = sorted(range(len(rows)), key=lambda i: rows[i][:3])  # stable, as rows were logged
    for i, name in enumerate(["step", "epoch", "batch", "time"]):
        exact = [rows[j][i] for j in order]
        np.testing.assert_allclose(found[name], exact, rtol=0, atol=1e-6 if i == 3 else 0)
    for i, name in enumerate(names):
        expected = np.array([values[j][i] for j in order], "float64")
        np.testing.assert_array_equal(found[f"value:{name}"], expected)  # NaN and Inf, too
    assert (document["first_step"], document["last_step"]) == (
        rows[order[0]][0],
        rows[order[-1]][0],
    )


def test_rows_out_of_order_are_sorted() -> None:
    """As Keras' threads hand them over."""
    steps = [3, 1, 2, 5, 4]
    records = [(i, Kind.ROW, row(0, s, 0, s - 1, 0.5 * s)) for i, s in enumerate(steps)]
    (document,) = buckets.buckets(records, {0: about(0, ["loss"])})
    found = buckets.unpack(document)
    assert found["step"].tolist() == [1, 2, 3, 4, 5]
    assert found["value:loss"].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_one_document_for_each_layout() -> None:
    columns = {0: about(0, ["loss"]), 1: about(1, ["loss", "val_loss"], "epoch")}
    records = [
        (7, Kind.ROW, row(0, 1, 0, 0, 1.0)),
        (8, Kind.DOC, b"{}"),
        (9, Kind.ROW, row(1, 1, 0, 0, 1.0, 2.0)),
        (10, Kind.ROW, row(0, 2, 1, 0, 3.0)),
    ]
    first, second = buckets.buckets(records, columns)
    assert (first["_id"], first["kind"], first["n"]) == ("r/a/0/7", "batch", 2)
    assert (second["_id"], second["kind"], second["n"]) == ("r/a/0/9", "epoch", 1)


def test_the_same_rows_give_the_same_document() -> None:
    """A chunk that is sent again must be recognised by its checksum."""
    records = [(i, Kind.ROW, row(0, i, 0, i, math.nan, -0.0)) for i in range(5)]
    columns = {0: about(0, ["a", "b"])}
    assert buckets.buckets(records, columns) == buckets.buckets(list(records), columns)
    for other in (
        [*records[:4], (4, Kind.ROW, row(0, 4, 0, 4, math.nan, 1.0))],
        [*records[:4], (4, Kind.ROW, row(0, 5, 0, 4, math.nan, -0.0))],
        [*records[:4], (4, Kind.ROW, row(0, 4, 0, 4, math.nan, -0.0, time=2.0))],
        records[:4],
    ):
        assert (
            buckets.buckets(other, columns)[0]["checksum"]
            != buckets.buckets(records, columns)[0]["checksum"]
        )


def event(number: int, step: int, **values: Any) -> tuple[int, int, bytes]:
    fields = {"columns": 0, "step": step, "epoch": 0, "batch": -1, "time": 1.0, "values": values}
    return number, Kind.EVENT, json.dumps(fields).encode()


def test_events_of_a_users_own() -> None:
    records = [
        event(1, 2, **{"a.b": 1, "$x": "text"}),
        event(2, 1, **{"a.b": None, "list": [1, {"k": True}]}),
    ]
    (document,) = buckets.buckets(records, {0: about(0, None, "drift")})
    assert document["kind"] == "drift"
    found = buckets.unpack(document)
    assert found["step"].tolist() == [1, 2]
    assert found["value:a.b"].tolist() == [None, 1]
    assert found["value:$x"].tolist() == [None, "text"]
    assert found["value:list"].tolist() == [[1, {"k": True}], None]
    changed = [records[0], event(2, 1, **{"a.b": None, "list": [1, {"k": False}]})]
    (other,) = buckets.buckets(changed, {0: about(0, None, "drift")})
    assert other["checksum"] != document["checksum"]


def test_no_document_reaches_what_mongodb_refuses() -> None:
    """An outage of hours, a hundred metrics, or events of a megabyte: documents end at 16 MB."""
    from bson import encode

    names = [f"metric_{i}" for i in range(200)]
    pack = buckets.row_struct(200).pack
    rows = [(i, Kind.ROW, pack(0, i, 0, i, 0.0, *[float(i)] * 200)) for i in range(20_000)]
    documents = buckets.buckets(rows, {0: about(0, names)})
    assert max(len(encode(d)) for d in documents) < 16 << 20
    assert len({d["_id"] for d in documents}) == len(documents) > 1
    steps = np.concatenate([buckets.unpack(d)["step"] for d in documents])
    np.testing.assert_array_equal(np.sort(steps), np.arange(20_000))

    numbers = [0] * 90_000  # the worst there is: 3 bytes of JSON, 12 of BSON each
    events = [event(i, i, numbers=numbers) for i in range(30)]
    documents = buckets.buckets(events, {0: about(0, None, "drift")})
    assert max(len(encode(d)) for d in documents) < 16 << 20
    assert sum(d["n"] for d in documents) == 30


@given(
    columns=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    cuts=st.sets(st.integers(1, 39)),
)
def test_documents_do_not_depend_on_how_rows_were_taken_together(
    columns: list[int], cuts: set[int]
) -> None:
    """Read again, the journal may fall into other pieces; a chunk must stay the same."""
    known = {i: about(i, ["a", "b"]) | {"run": f"r{i}"} for i in range(3)}
    rows = [row(c, i // 2, 0, i, 0.5 * i, -1.0) for i, c in enumerate(columns)]
    single = [(5 + i, Kind.ROW, payload) for i, payload in enumerate(rows)]
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    blocks: list[buckets.Packed] = [
        (5 + i, Kind.ROW, np.frombuffer(b"".join(rows[i:j]), np.uint8).reshape(j - i, -1))
        for i, j in zip(bounds, bounds[1:], strict=False)
    ]
    found = buckets.buckets(blocks, known)
    assert found == buckets.buckets(single, known)
    assert {d["_id"] for d in found} == {f"r{c}/a/0/{5 + columns.index(c)}" for c in set(columns)}


def test_an_index_takes_few_bytes() -> None:
    """What steps one at a time takes a byte a row, wherever it starts."""
    start, n = 2**40, 5000
    rows = [
        (i, Kind.ROW, row(0, start + i, 7, i % 500, 0.0, time=1.7e9 + i / 3000)) for i in range(n)
    ]
    (document,) = buckets.buckets(rows, {0: about(0, ["loss"])})
    sizes = {name: len(packed["delta"]) for name, packed in document["index"].items()}
    assert sizes == {
        **{"step": n - 1, "epoch": n - 1},  # bytes
        **{"batch": 2 * (n - 1), "time": 2 * (n - 1)},
    }
    assert buckets.unpack(document)["step"].tolist() == list(range(start, start + n))

"""Rows of events as they travel: struct-packed in the journal, packed columns in MongoDB.

A bucket's `_id` and bounds come from the journal, so sending it again writes nothing new.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np

from keras_tl.storage import tensors
from keras_tl.storage.journal import Kind

#: columns id, step, epoch, batch, time (s since 1970, UTC); the values follow as float64.
_ROW = struct.Struct("<Hqiid")
_LIMIT = 1 << 20  # bytes of records in a bucket; as BSON it is up to five times that
_INDEX = {"step": "<i8", "epoch": "<i4", "batch": "<i4", "time": "<i8"}  # time in us
_WIDTHS = {int(t[-1]): t for t in ("<i1", "<i2", "<i4", "<i8")}
#: Subtypes of an array's binary: a safetensors bundle of one, as it is or compressed by zlib.
TENSOR, COMPRESSED = 128, 129

#: Number, kind and payload of a record, or of rows of one length: uint8 of shape `(n, bytes)`.
Packed = tuple[int, int, bytes | np.ndarray]


def text(value: str) -> str:
    """The string as UTF-8 can hold it: names of files may have lone surrogates."""
    return value.encode("utf-8", "replace").decode()


def key(name: str) -> str:
    """A metric's name as a document key: MongoDB reads `.` and `$` in keys as syntax."""
    name = text(name)
    for char in "%.$\0":
        name = name.replace(char, f"%{ord(char):02X}")
    return name or "%"


def name(key: str) -> str:
    """The name that `key` encoded."""
    return "" if key == "%" else unquote(key)


def row_struct(width: int) -> struct.Struct:
    """The layout of a row of `width` values."""
    return struct.Struct(f"{_ROW.format}{width}d")


def buckets(
    records: Iterable[Packed], columns: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The event documents of one chunk of journal records.

    Args:
        records: of the chunk, in order; the documents are the same however rows were taken
            together.
        columns: what the journal says of the columns of each id.
    """
    rows: dict[tuple[int, int], list[np.ndarray]] = {}
    numbers: dict[tuple[int, int], list[np.ndarray]] = {}
    events: dict[int, list[tuple[int, int, dict[str, Any]]]] = {}
    for number, kind, payload in records:
        if kind == Kind.ROW:
            block = np.atleast_2d(_bytes(payload))
            own = np.ascontiguousarray(block[:, :2]).view("<u2")[:, 0]
            for column in np.unique(own).tolist():
                where = np.flatnonzero(own == column)
                group = (column, block.shape[1])
                rows.setdefault(group, []).append(block[where])
                numbers.setdefault(group, []).append(number + where)
        elif kind == Kind.EVENT:
            event = json.loads(bytes(payload))
            events.setdefault(event["columns"], []).append((number, len(payload), event))
    found: list[tuple[int, dict[str, Any]]] = []
    for (column, length), blocks in rows.items():
        packed, numbered = np.concatenate(blocks), np.concatenate(numbers[column, length])
        most = max(1, _LIMIT // length)
        for at in range(0, len(packed), most):
            number = int(numbered[at])
            found.append((number, _rows(columns[column], number, packed[at : at + most])))
    for column, logged in events.items():
        for part in _parts(logged):
            number = part[0][0]
            found.append((number, _events(columns[column], number, [e for _, _, e in part])))
    return [document for _, document in sorted(found, key=lambda pair: pair[0])]


def _bytes(payload: bytes | np.ndarray) -> np.ndarray:
    return np.frombuffer(payload, np.uint8) if isinstance(payload, bytes) else payload


def _parts(events: list[tuple[int, int, dict[str, Any]]]) -> Iterable[list[Any]]:
    part: list[Any] = []
    size = 0
    for event in events:
        size += event[1]
        if part and size > _LIMIT:
            yield part
            part, size = [], event[1]
        part.append(event)
    yield part


def _rows(about: Mapping[str, Any], number: int, packed: np.ndarray) -> dict[str, Any]:
    width = (packed.shape[1] - _ROW.size) // 8
    layout = [("column", "<u2"), ("step", "<i8"), ("epoch", "<i4"), ("batch", "<i4")]
    rows = packed.view([*layout, ("time", "<f8"), ("values", "<f8", (width,))])[:, 0]
    # Keras calls a thread-safe callback from several threads: rows arrive out of order.
    if not (rows["step"][1:] > rows["step"][:-1]).all():
        rows = rows[np.lexsort((rows["batch"], rows["epoch"], rows["step"]))]
    names = [key(name) for name in about["names"]]
    values = {name: rows["values"][:, i].tobytes() for i, name in enumerate(names)}
    index = {name: rows[name] for name in ("step", "epoch", "batch", "time")}
    return _document(about, number, index, {"columns": values})


def _events(about: Mapping[str, Any], number: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    from bson.binary import Binary

    events.sort(key=lambda event: (event["step"], event["epoch"], event["batch"]))
    values = [{key(k): v for k, v in event["values"].items()} for event in events]
    for row, event in zip(values, events, strict=True):
        for name, (subtype, packed) in event.get("arrays", {}).items():
            row[key(name)] = Binary(base64.b64decode(packed), subtype)
    index = {name: np.array([event[name] for event in events]) for name in _INDEX}
    return _document(about, number, index, {"values": values})


def _document(
    about: Mapping[str, Any], number: int, index: dict[str, np.ndarray], values: dict[str, Any]
) -> dict[str, Any]:
    from bson import encode

    document: dict[str, Any] = {
        **{name: about[name] for name in ("run", "attempt", "rank", "kind")},
        "first_step": int(index["step"][0]),
        "last_step": int(index["step"][-1]),
        "n": len(index["step"]),
        "index": {name: _deltas(name, column) for name, column in index.items()},
        **values,
    }
    document["checksum"] = hashlib.sha256(encode(document)).hexdigest()
    return {"_id": f"{about['run']}/{about['attempt']}/{about['rank']}/{number}", **document}


def _deltas(name: str, column: np.ndarray) -> dict[str, Any]:
    """A column as its first number and the steps from each to the next, as narrow as they fit."""
    if name == "time":
        column = np.rint(1e6 * column.astype("float64"))
    column = column.astype("int64")
    deltas = np.diff(column)  # of 64 bits: what overflows comes back by the same way
    low, high = deltas.min(initial=0), deltas.max(initial=0)
    width = next(
        w for w, t in _WIDTHS.items() if np.iinfo(t).min <= low and high <= np.iinfo(t).max
    )
    return {"first": int(column[0]), "delta": deltas.astype(_WIDTHS[width]).tobytes()}


def _column(name: str, packed: Mapping[str, Any], n: int) -> np.ndarray:
    column = np.full(n, packed["first"], "int64")
    if n > 1:
        width = len(packed["delta"]) // (n - 1)
        np.cumsum(np.frombuffer(packed["delta"], _WIDTHS[width]), dtype="int64", out=column[1:])
        column[1:] += packed["first"]
    return column / 1e6 if name == "time" else column.astype(_INDEX[name], copy=False)


def pack_array(array: np.ndarray) -> tuple[int, bytes]:
    """An array as the subtype and the bytes of a BSON binary; compressed where that pays."""
    packed = tensors.dumps({"array": array})
    small = zlib.compress(packed, 1)
    return (COMPRESSED, small) if len(small) < 0.9 * len(packed) else (TENSOR, packed)


def unpack(document: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A bucket's columns: `step`, `epoch`, `batch`, `time` and, as `value:NAME`, its values.

    Returns:
        Arrays of `n` rows: int64, int32, int32, float64 (s since 1970, UTC, to the microsecond);
        values of numbers are float64, others are objects, `None` where a row has none. An array
        that was logged (an image, a histogram's counts, a field of kind `"array"`) is a
        read-only NumPy array there, of the dtype and shape with which it was logged.
    """
    columns = {name: _column(name, document["index"][name], document["n"]) for name in _INDEX}
    for encoded, packed in document.get("columns", {}).items():
        columns[f"value:{name(encoded)}"] = np.frombuffer(packed, "<f8")
    rows = document.get("values")
    if rows is not None:
        for encoded in sorted({encoded for row in rows for encoded in row}):
            column = np.empty(len(rows), object)
            for i, row in enumerate(rows):  # not at once: arrays of one shape would be stacked
                column[i] = _value(row.get(encoded))
            columns[f"value:{name(encoded)}"] = column
    return columns


def _value(value: Any) -> Any:
    subtype = getattr(value, "subtype", None)
    if subtype == COMPRESSED:
        value = zlib.decompress(value)
    return tensors.loads(value)["array"] if subtype in (TENSOR, COMPRESSED) else value

"""Rows of events as they travel: struct-packed in the journal, packed columns in MongoDB.

A bucket's `_id` and bounds come from the journal, so sending it again writes nothing new.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np

from keras_tl.storage.journal import Kind

#: columns id, step, epoch, batch, time (s since 1970, UTC); the values follow as float64.
_ROW = struct.Struct("<Hqiid")
_LIMIT = 2 << 20  # bytes in a bucket; as BSON it is up to five times that, of 16 MB allowed
_INDEX = {"step": "<i8", "epoch": "<i4", "batch": "<i4", "time": "<f8"}


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
    records: Iterable[tuple[int, int, bytes]], columns: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The event documents of one chunk of journal records `(number, kind, payload)`."""
    grouped: dict[int, list[tuple[int, list[tuple[Any, ...]]]]] = {}
    sizes: dict[int, int] = {}
    for number, kind, payload in records:
        if kind == Kind.ROW:
            width = (len(payload) - _ROW.size) // 8
            column, *row = row_struct(width).unpack(payload)
        elif kind == Kind.EVENT:
            event = json.loads(payload)
            column = event["columns"]
            row = [event["step"], event["epoch"], event["batch"], event["time"], event["values"]]
        else:
            continue
        parts = grouped.setdefault(column, [])
        sizes[column] = sizes.get(column, 0) + len(payload)
        if not parts or sizes[column] > _LIMIT:
            parts.append((number, []))
            sizes[column] = len(payload)
        parts[-1][1].append(tuple(row))
    return [_bucket(columns[c], n, rows) for c, parts in grouped.items() for n, rows in parts]


def _bucket(about: Mapping[str, Any], number: int, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    # Keras calls a thread-safe callback from several threads: rows arrive out of order.
    rows.sort(key=lambda row: row[:3])
    index = list(zip(*(row[:4] for row in rows), strict=True))
    document: dict[str, Any] = {
        "run": about["run"],
        "attempt": about["attempt"],
        "rank": about["rank"],
        "kind": about["kind"],
        "first_step": rows[0][0],
        "last_step": rows[-1][0],
        "n": len(rows),
        "index": {
            name: np.asarray(column, dtype).tobytes()
            for (name, dtype), column in zip(_INDEX.items(), index, strict=True)
        },
    }
    if about["names"] is None:
        document["values"] = [{key(k): v for k, v in row[4].items()} for row in rows]
    else:
        values = np.asarray([row[4:] for row in rows], "<f8").reshape(len(rows), -1)
        document["columns"] = {
            key(name): values[:, i].tobytes() for i, name in enumerate(about["names"])
        }
    digest = hashlib.sha256(json.dumps(document.get("values"), sort_keys=True).encode())
    for packed in (*document["index"].values(), *document.get("columns", {}).values()):
        digest.update(packed)
    document["checksum"] = digest.hexdigest()
    return {"_id": f"{about['run']}/{about['attempt']}/{about['rank']}/{number}", **document}


def unpack(document: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A bucket's columns: `step`, `epoch`, `batch`, `time` and, as `value:NAME`, its values."""
    columns = {n: np.frombuffer(document["index"][n], dtype) for n, dtype in _INDEX.items()}
    for encoded, packed in document.get("columns", {}).items():
        columns[f"value:{name(encoded)}"] = np.frombuffer(packed, "<f8")
    rows = document.get("values")
    if rows is not None:
        for encoded in sorted({encoded for row in rows for encoded in row}):
            column = np.empty(len(rows), object)
            column[:] = [row.get(encoded) for row in rows]
            columns[f"value:{name(encoded)}"] = column
    return columns

"""Packs: immutable blocks of samples, a payload a field; pure functions on documents.

A pack's document has `n`, `hash` and `fields`; a field has a `hash` of its own, so that it can be
verified without the others, and the pack's is made of these. Its companion, the head, has what is
small or may change: `n`, `live` (rows that are not dead), `bytes`, `digests`, `labels`, `blobs`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_tl.datasets.schema.casting import dtype_of
from keras_tl.datasets.schema.fields import BLOB_BYTES, Column, Field, Text
from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.storing import codecs
from keras_tl.storage.files import FileContent

#: Stores contents and returns their names: `Blobs.put_many`.
Put = Callable[[Sequence[Any]], list[str]]
#: Reads contents by name: `Blobs.get_many`.
Fetch = Callable[[Iterable[str]], Mapping[str, Any]]


_MOST_BYTES = 12 << 20  # in a pack: a document ends at 16 MB


class Blob(NamedTuple):
    """A value that is not in its pack but in GridFS, by the name `name`."""

    name: str
    length: int
    shape: tuple[int, ...] | None = None


def encode(
    schema: Schema, columns: Mapping[str, Column], blobs: Put, digested: bytes | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The documents of a pack and of its head, without `_id`.

    Args:
        schema: of the dataset.
        columns: by field, as `Field.check_column` made them, `schema.rows` rows at most; a value
            may be a `Blob` that is stored already.
        blobs: stores the values that are too large for a pack.
        digested: what `digests` made of the columns, if that is known.
    """
    n = len(next(iter(columns.values())))
    fields: dict[str, Any] = {}
    names: set[str] = set()
    size = 0
    lengths = {name: _lengths(field, columns[name]) for name, field in schema.tensors.items()}
    outside = _outside(lengths)
    for name, field in schema.tensors.items():
        put = blobs if name in outside else None
        fields[name] = _payload(field, columns[name], lengths[name], put)
        size += sum(lengths[name])
        fields[name]["hash"] = _field_hash(n, name, fields[name])
        if fields[name]["codec"] == "blob":
            names |= set(_names(fields[name]))
    pack = {"n": n, "hash": _hash(n, fields), "fields": fields}
    head: dict[str, Any] = {
        **{"n": n, "live": n, "bytes": size},
        "digests": digests(schema, columns, n) if digested is None else digested,
        "labels": {name: np.asarray(columns[name]).tobytes() for name in schema.labels},
    }
    if names:
        head["blobs"] = sorted(names)
    return pack, head


def decode(
    document: Mapping[str, Any], fields: Iterable[str] | None = None, fetch: Fetch | None = None
) -> dict[str, Any]:
    """The columns of a pack.

    Args:
        document: the pack's document.
        fields: the fields that are wanted; default: all that it has.
        fetch: reads blobs. Without it, values that are blobs come as `Blob`.

    Returns:
        By field: where rows have one shape an array `(n, ...)`, read-only; else a list of arrays,
        of bytes, or of text.

    Raises:
        KeyError: if the pack has no such field.
        ValueError: if it is damaged.
    """
    chosen = document["fields"] if fields is None else fields
    return {name: _column(document["n"], document["fields"][name], fetch) for name in chosen}


def verify(document: Mapping[str, Any]) -> None:
    """Checks a pack against its hash, also one that was read without the payloads of some fields.

    Args:
        document: the pack's document; of the fields that are not wanted, `hash` will do.

    Raises:
        ValueError: if it does not fit.
    """
    fields = document["fields"]
    n = document["n"]
    found = {name: _field_hash(n, name, f) for name, f in fields.items() if "data" in f}
    whole = _hash(n, fields)
    if whole != document["hash"] or any(h != fields[name]["hash"] for name, h in found.items()):
        raise ValueError(
            f"Pack {document.get('_id')} must have the hash {document['hash']}: it is damaged. "
            f"Received: {whole}, and of its fields {found}"
        )


def raw_hash(name: str, field: Field, rows: Any, n: int) -> str:
    """The hash of a field whose payload is its rows as they are, for a field of fixed size.

    Args:
        name: of the field.
        field: its kind.
        rows: their bytes.
        n: how many rows.
    """
    assert field.dtype is not None and field.shape is not None
    about = {"codec": "raw", "dtype": field.dtype.name, "shape": list(field.shape), "data": rows}
    return _field_hash(n, name, about)


def digests(schema: Schema, columns: Mapping[str, Column], n: int) -> bytes:
    """The SHA-256 of each row, 32 bytes each, over its tensors in the schema's order.

    A value whose size varies is preceded by its shape or length; of one over a megabyte it is the
    SHA-256 that counts.
    """
    sha256 = hashlib.sha256
    views: list[list[Any]] = []
    for name, field in schema.tensors.items():
        column, size = columns[name], field.row_bytes
        if isinstance(column, np.ndarray) and size is not None and 0 < size <= BLOB_BYTES:
            flat = np.ascontiguousarray(column).reshape(-1).view(np.uint8).data
            views.append([flat[at : at + size] for at in range(0, n * size, size)])
        else:
            views.append([_digested(field, value) for value in column])
    if len(views) == 1:
        return b"".join([sha256(view).digest() for view in views[0]])
    found = []
    for row in zip(*views, strict=True) if views else [()] * n:
        digest = sha256()
        for part in row:
            digest.update(part)
        found.append(digest.digest())
    return b"".join(found)


def _digested(field: Field, value: Any) -> bytes:
    size, shape = length(value), getattr(value, "shape", None)
    head = struct.pack("<q", size) if shape is None else struct.pack(f"<{len(shape)}q", *shape)
    if field.row_bytes is not None:
        head = b""
    if isinstance(value, (Blob, FileContent)):
        return head + bytes.fromhex(value.name)
    data = value.tobytes() if isinstance(value, np.ndarray) else value
    return head + (data if size <= BLOB_BYTES else hashlib.sha256(data).digest())


def _lengths(field: Field, column: Column) -> list[int]:
    size = field.row_bytes
    return [size] * len(column) if size is not None else [length(value) for value in column]


def _outside(lengths: Mapping[str, list[int]]) -> set[str]:
    """The fields whose values are blobs: those with a large one, and more if there are too many."""
    found = {name for name, sizes in lengths.items() if max(sizes, default=0) > BLOB_BYTES}
    rest = {name: sum(sizes) for name, sizes in lengths.items() if name not in found}
    while sum(rest.values()) > _MOST_BYTES:
        largest = max(rest, key=rest.__getitem__)
        found.add(largest)
        del rest[largest]
    return found


def _payload(field: Field, column: Column, lengths: list[int], blobs: Put | None) -> dict[str, Any]:
    """A field of a pack's document; its values are blobs if there is a place for them."""
    about: dict[str, Any] = {
        "dtype": field.dtype.name if field.dtype is not None else _plain_kind(field),
        "shape": None,
    }
    if field.row_bytes is not None and field.shape is not None:
        about["shape"] = list(field.shape)
    elif field.shape is not None:
        shapes = [value.shape for value in column]
        about["shapes"] = np.array(shapes, "<i4").reshape(len(column), len(field.shape)).tobytes()
    if blobs is not None:
        return {**about, **_as_blobs(column, lengths, blobs)}
    if isinstance(column, np.ndarray):
        codec, data = codecs.encode(column, field.compress)
    else:
        joined = b"".join(v.tobytes() if isinstance(v, np.ndarray) else v for v in column)
        codec, data = codecs.encode(joined, field.compress)
        about["offsets"] = np.cumsum([0, *lengths], dtype="<i8").tobytes()
    return {"codec": codec, **about, "data": data}


def _plain_kind(field: Field) -> str:
    return "text" if isinstance(field, Text) else "bytes"


def length(value: Any) -> int:
    """Bytes of a value, or of the values of a column."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(length, value))
    return value.length if isinstance(value, Blob) else len(value)


def _as_blobs(column: Column, lengths: list[int], put: Put) -> dict[str, Any]:
    there = [value.name if isinstance(value, Blob) else None for value in column]
    rest = [value for value, name in zip(column, there, strict=True) if name is None]
    stored = iter(put([v.tobytes() if isinstance(v, np.ndarray) else v for v in rest]))
    names = "".join(name or next(stored) for name in there)
    return {
        "codec": "blob",
        "data": names.encode(),
        "lengths": np.array(lengths, "<i8").tobytes(),
    }


def _names(about: Mapping[str, Any]) -> list[str]:
    names = about["data"].decode("ascii")
    return [names[at : at + 64] for at in range(0, len(names), 64)]


def _hash(n: int, fields: Mapping[str, Any]) -> str:
    parts = [n, *([name, about["hash"]] for name, about in fields.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _field_hash(n: int, name: str, about: Mapping[str, Any]) -> str:
    """Over a field's payloads, and what is needed to read them."""
    head = [name, about["codec"], about["dtype"], about["shape"], n]
    payloads = [about[part] for part in ("data", "offsets", "shapes", "lengths") if part in about]
    digest = hashlib.sha256(json.dumps([*head, *map(len, payloads)]).encode())
    for payload in payloads:
        digest.update(payload)
    return digest.hexdigest()


def _column(n: int, about: Mapping[str, Any], fetch: Fetch | None) -> Any:
    kind = about["dtype"]
    dtype = None if kind in ("text", "bytes") else dtype_of(kind)
    shape = about["shape"]
    if about["codec"] == "blob":
        names = _names(about)
        lengths = np.frombuffer(about["lengths"], "<i8").tolist()
        if fetch is None:
            shapes: list[Any] = _shapes(n, about) or [None] * n
            return [Blob(*one) for one in zip(names, lengths, shapes, strict=True)]
        found = fetch(names)
        rows = [found[name] for name in names]
    elif dtype is not None and shape is not None:
        whole = (n, *shape)
        size = int(np.prod(whole)) * dtype.itemsize
        data = codecs.decode(about["codec"], about["data"], whole, size)
        if isinstance(data, np.ndarray):
            return data
        return np.frombuffer(data, dtype).reshape(whole)
    else:
        offsets = np.frombuffer(about["offsets"], "<i8").tolist()
        data = codecs.decode(about["codec"], about["data"], None, offsets[-1])
        rows = [data[begin:end] for begin, end in zip(offsets, offsets[1:], strict=False)]
    if kind == "text":
        return [str(row, "utf-8") for row in rows]
    if dtype is None:
        return [bytes(row) for row in rows]
    if shape is not None:
        return np.stack([np.frombuffer(row, dtype).reshape(shape) for row in rows])
    sizes = _shapes(n, about)
    return [np.frombuffer(row, dtype).reshape(s) for row, s in zip(rows, sizes, strict=True)]


def _shapes(n: int, about: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The shapes of the rows, if they vary."""
    if "shapes" not in about:
        return []
    return [tuple(s) for s in np.frombuffer(about["shapes"], "<i4").reshape(n, -1).tolist()]

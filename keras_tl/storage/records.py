"""Kafka records: a block of samples as one bundle, with headers that tell its count and schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from keras_tl.storage import tensors

VERSION = b"1"


def encode(block: tensors.Bundle) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Packs a block of samples into the value and the headers of one record.

    Args:
        block: Columns by field name; axis 0 of each is the sample, equally many (at least one) in
            all. See `tensors.dumps` for the dtypes.

    Returns:
        The value, and the headers `v` (format version), `n` (samples, decimal) and `s`
        (`fingerprint`): who routes or counts records need not open them.

    Raises:
        ValueError: Columns of unequal length, a scalar, no sample, or a dtype that no bundle holds.

    Example:

    >>> import numpy as np
    >>> value, headers = encode({"x": np.zeros((64, 784), "float32"), "y": np.zeros(64, "int64")})
    >>> dict(headers)["n"]
    b'64'
    >>> decode(value, headers)["x"].shape
    (64, 784)
    """
    columns = {name: np.asarray(column) for name, column in block.items()}
    count = _count(columns, "block")
    value = tensors.dumps(columns)
    headers = [("v", VERSION), ("n", str(count).encode()), ("s", fingerprint(columns).encode())]
    return value, headers


def decode(
    value: bytes | memoryview, headers: Sequence[tuple[str, bytes]]
) -> dict[str, np.ndarray]:
    """Unpacks a record of `encode`; the columns are read-only views of `value`.

    Args:
        value: The record's value.
        headers: The record's headers, as kafka-python gives them; other names are ignored.

    Returns:
        Columns by field name, axis 0 being the sample.

    Raises:
        ValueError: The value is no bundle, or count, schema or shapes contradict the headers.
    """
    if value is None:
        raise ValueError("`value` must be a block of samples. Received: None (a tombstone)")
    table = dict(headers)
    for name in ("v", "n", "s"):
        if table.get(name) is None:
            raise ValueError(
                f"`headers` must hold {name!r} (was this record sent by keras_tl?). "
                f"Received: {sorted(table)}"
            )
    if table["v"] != VERSION:
        raise ValueError(f"Header 'v' must be {VERSION!r}. Received: {table['v']!r}")
    columns = tensors.loads(value)
    count = str(_count(columns, "value")).encode()
    if table["n"] != count:
        raise ValueError(
            f"Header 'n' must be the number of samples, {count!r}. Received: {table['n']!r}"
        )
    schema = fingerprint(columns).encode()
    if table["s"] != schema:
        raise ValueError(
            f"Header 's' must be the fingerprint of the columns, {schema!r}, "
            f"{describe(columns)}. Received: {table['s']!r}"
        )
    return columns


def fingerprint(block: tensors.Bundle) -> str:
    """The schema of a block as 16 hexadecimal digits: its fields, dtypes and sample shapes.

    Args:
        block: Columns by field name, axis 0 being the sample.

    Example:

    >>> import numpy as np
    >>> fingerprint({"x": np.zeros((2, 3))}) == fingerprint({"x": np.ones((7, 3), ">f8")})
    True
    """
    return _fingerprint(tuple((name, a.dtype.name, a.shape[1:]) for name, a in block.items()))


@lru_cache(maxsize=1024)
def _fingerprint(schema: tuple[tuple[str, str, tuple[int, ...]], ...]) -> str:
    return hashlib.sha256(json.dumps(sorted(schema)).encode()).hexdigest()[:16]


def describe(block: tensors.Bundle) -> str:
    """The schema of a block for a reader: `{x: float32[784], y: int64[]}`."""
    fields = (
        f"{name}: {a.dtype.name}[{', '.join(map(str, a.shape[1:]))}]"
        for name, a in sorted(block.items())
    )
    return "{" + ", ".join(fields) + "}"


def _count(columns: tensors.Bundle, argument: str) -> int:
    for name, column in columns.items():
        if column.ndim == 0:
            raise ValueError(
                f"Field {name!r} of `{argument}` must have the samples along axis 0. "
                "Received: a scalar"
            )
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"The fields of `{argument}` must have equally many samples. Received: {counts}"
        )
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise ValueError(f"`{argument}` must hold at least one sample. Received: {counts}")
    return count

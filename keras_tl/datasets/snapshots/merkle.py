"""The identity of a set of samples: the root of a Merkle tree.

The leaves are the samples in the order of their keys (as UTF-8), so that neither the order in which
they were inserted nor the packs that they are in matter. With `part(b)` for the length of the bytes
`b` as 8 bytes (unsigned, little-endian) and `b` itself:

    leaf  = SHA-256(00 part(key) digest entry...)
    entry = "L" part(name) value, of each label, or "T" part(name) value, of each tag, that the
            sample has: the labels before the tags, each in the order of their names (as UTF-8)
    value = "i" int64 | "f" float64 | "b" one byte | "s" part(text) | "t" int64, ms since 1970
    node  = SHA-256(01 left right)

`digest` is the SHA-256 of the row's tensors (`packs.digests`). Nodes are paired from the left; one
that is left over goes up as it is (as in RFC 6962). The root of no leaves is SHA-256(""). Text is
UTF-8, numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from keras_tl.storage.frozen import FrozenRows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_KNOWN = 10_000  # values of a column whose bytes are kept


def root(rows: FrozenRows) -> str:
    """The root of the samples' tree, as 64 hexadecimal digits."""
    leaves = [leaf for _, leaf in sorted(_leaves(rows))]
    return merge(leaves).hex()


def merge(nodes: Sequence[bytes]) -> bytes:
    """The root of a tree of leaves.

    Example:

    >>> merge([]).hex()[:8], merge([b"a"]), merge([b"a", b"b"]) == sha256(b"\\x01ab").digest()
    ('e3b0c442', b'a', True)
    """
    if not nodes:
        return sha256(b"").digest()
    while len(nodes) > 1:
        pairs = zip(nodes[::2], nodes[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        nodes = above + list(nodes[len(above) * 2 :])
    return nodes[0]


def _leaves(rows: FrozenRows) -> Iterator[tuple[bytes, bytes]]:
    columns = [
        (kind + _part(name.encode()), values)
        for kind, names, get in (
            (b"L", rows.labels, rows.label),
            (b"T", rows.tags, rows.tag),
        )
        for name, values in sorted(_named(names, get), key=lambda pair: pair[0].encode())
    ]
    entries: list[list[bytes]] = [[] for _ in rows.keys]
    for head, values in columns:
        known: dict[Any, bytes] = {}  # of one type, but for floats, of which 0.0 and -0.0 are equal
        for entry, value in zip(entries, values, strict=True):
            if value is None:
                continue
            data = None if isinstance(value, float) else known.get(value)
            if data is None:
                data = head + _value(value)
                if len(known) < _KNOWN:
                    known[value] = data
            entry.append(data)
    digests = rows.digests.tobytes()
    for place, key in enumerate(rows.keys):
        name = key.encode()
        digest = digests[32 * place : 32 * place + 32]
        leaf = b"".join([b"\x00", _part(name), digest, *entries[place]])
        yield name, sha256(leaf).digest()


def _named(names: Any, get: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    return ((name, get(name)) for name in names)


def _part(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"b\x01" if value else b"b\x00"
    if isinstance(value, int):
        return struct.pack("<cq", b"i", value)
    if isinstance(value, float):
        return struct.pack("<cd", b"f", value)
    if isinstance(value, str):
        return b"s" + _part(value.encode())
    return struct.pack("<cq", b"t", (value - _EPOCH) // _MS)

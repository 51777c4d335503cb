"""Which rows of which packs a snapshot holds, in a form that fits its document."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

#: Packs that one entry of the index over snapshots stands for.
BUCKET = 4096
#: Numbers of packs in one query.
_TOGETHER = 100_000


def packed(at: np.ndarray, rows: int) -> dict[str, Any]:
    """What the document of a snapshot has of its rows.

    Args:
        at: the rows' addresses.
        rows: rows of a pack.

    Returns:
        `packs`: deflated, how many packs there are, the distances of their numbers (both int64),
        and a bitmap of `rows` bits for each, little-endian; a byte or two for a whole pack.
        `buckets`: the numbers of the packs divided by `BUCKET`, by which it is found.

    Example:

    >>> found = packed(np.array([0, 2, 9, 9 * BUCKET]), rows=8)
    >>> found["buckets"], numbers(found["packs"]).tolist()
    ([0, 1], [0, 1, 4608])
    >>> [has(found["packs"], at, rows=8) for at in (0, 1, 2, 9, 10, 16)]
    [True, False, True, True, False, False]
    """
    packs, place = np.unique(at // rows, return_inverse=True)
    bits = np.zeros((len(packs), rows), bool)
    bits[place, at % rows] = True
    maps = np.packbits(bits, axis=1, bitorder="little")
    head = np.concatenate([[len(packs)], np.diff(packs, prepend=0)]).astype("<i8")
    data = zlib.compress(head.tobytes() + maps.tobytes())
    return {"packs": data, "buckets": buckets(packs.tolist())}


def numbers(data: bytes) -> np.ndarray:
    """The numbers of the packs, int64, ascending."""
    return _opened(data)[0]


def has(data: bytes, at: int, rows: int) -> bool:
    """Whether the row with an address is there."""
    packs, maps = _opened(data)
    pack, row = divmod(at, rows)
    place = int(np.searchsorted(packs, pack))
    if place == len(packs) or packs[place] != pack:
        return False
    return bool(maps.reshape(len(packs), -1)[place, row // 8] >> (row % 8) & 1)


def _opened(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    raw = zlib.decompress(data)
    count = int(np.frombuffer(raw, "<i8", 1)[0])
    packs = np.cumsum(np.frombuffer(raw, "<i8", count, 8))
    return packs, np.frombuffer(raw, np.uint8, offset=8 + 8 * count)


def buckets(packs: Iterable[int]) -> list[int]:
    return sorted({pack // BUCKET for pack in packs})


def groups(packs: np.ndarray) -> Iterator[list[int]]:
    """The numbers, as many at a time as a query takes."""
    for begin in range(0, len(packs), _TOGETHER):
        yield packs[begin : begin + _TOGETHER].tolist()


class Held:
    """The packs that the snapshots of a dataset hold; each snapshot is read once.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        # A snapshot that was deleted and frozen again may have other packs.
        self._known: dict[tuple[str, datetime], np.ndarray] = {}

    def among(self, packs: list[int], session: ClientSession | None = None) -> set[int]:
        """Those of the packs of which a snapshot has a row."""
        snapshots = self._dataset.connection.db["snapshots"]
        query = {"uid": self._dataset.uid, "buckets": {"$in": buckets(packs)}}
        found: set[int] = set()
        for about in snapshots.find(query, {"created": 1}, session=session).to_list():
            one = about["_id"], about["created"]
            if one not in self._known:
                same: Mapping[str, Any] = {"_id": one[0]}
                document = snapshots.find_one(same, {"packs": 1}, session=session)
                if document is None:  # deleted meanwhile
                    continue
                self._known[one] = numbers(document["packs"])
            mine = np.array(packs, np.int64)
            found.update(mine[np.isin(mine, self._known[one])].tolist())
        return found

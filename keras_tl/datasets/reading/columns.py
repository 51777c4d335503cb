"""Rows of fixed size by address: what batches are gathered from, once a pack is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_tl.datasets.reading.locks import ForkLock


class Columns:
    """The rows of some fields, each at its address `pack * rows + row`; here in memory.

    Packs are put by any number of threads; a pack that was put is not changed. Memory is taken for
    packs that are there only.

    Args:
        rows: rows of a pack.
        sizes: bytes of a row by field.
    """

    def __init__(self, rows: int, sizes: Mapping[str, int]) -> None:
        self.rows = rows
        self.sizes = dict(sizes)
        self._there = np.zeros(0, np.bool_)
        self._data: dict[str, np.ndarray] = {}
        self._lock = ForkLock()

    def reserve(self, packs: int) -> None:
        """Makes room for packs of numbers up to `packs - 1`; called before they are put."""
        with self._lock:
            if packs <= len(self._there):
                return
            there = np.flatnonzero(self._there)
            for name, size in self.sizes.items():
                # Pages that nothing is written to take no memory.
                data = np.empty((packs, self.rows, size), np.uint8)
                for pack in there.tolist():
                    data[pack] = self._data[name][pack]
                self._data[name] = data
            more = np.zeros(packs - len(self._there), np.bool_)
            self._there = np.concatenate([self._there, more])

    def sure(self, packs: np.ndarray) -> np.ndarray:
        """Which of the packs are there and known to be whole: a mask."""
        mask: np.ndarray = self._there[packs]
        return mask

    def missing(self, packs: np.ndarray) -> np.ndarray:
        """Those of the packs that are not there, after a look at what is not sure."""
        return packs[~self.sure(packs)]

    def put(
        self, pack: int, columns: Mapping[str, np.ndarray], hashes: Mapping[str, str] | None = None
    ) -> bool:
        """Keeps the rows of a pack; whether it did.

        Args:
            pack: its number.
            columns: its rows by field.
            hashes: their `packs.raw_hash` by field, where that is known.
        """
        with self._lock:
            for name, data in self._data.items():
                rows = as_bytes(columns[name])
                np.copyto(data[pack, : len(rows)], rows)
            self._there[pack] = True
        return True

    def take(self, name: str, at: np.ndarray, out: np.ndarray) -> bool:
        """Copies rows of a field into `out`, which is `(len(at), ...)`.

        Returns:
            Whether they are whole: packs that are there may be taken away meanwhile.
        """
        gather(self._data[name].reshape(-1, self.sizes[name]), at, out)
        return True


def as_bytes(column: np.ndarray) -> np.ndarray:
    """A column as uint8 `(n, bytes of a row)`."""
    flat = np.ascontiguousarray(column).reshape(len(column), -1)
    return flat.view(np.uint8) if flat.size else np.empty((len(column), 0), np.uint8)


def gather(rows: np.ndarray, at: np.ndarray, out: np.ndarray) -> None:
    """Copies rows, uint8 `(n, bytes)`, into an array of any dtype; without the interpreter's lock.

    "clip" only spares NumPy a copy of `out`: the addresses are in range.
    """
    if len(at) and rows.shape[1]:
        flat: Any = out.reshape(len(at), -1).view(np.uint8)
        np.take(rows, at, axis=0, out=flat, mode="clip")

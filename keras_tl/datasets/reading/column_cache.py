"""Rows of fixed size on this machine's disk: mapped into memory, shared by processes, verified.

In the folder `columns/<uid>` of the cache a field has two files, named by its place in the schema:

- `N.rows`: sparse; the row of address `at` is at `at * bytes of a row`.
- `N.index`: a record for each pack: `mark`, odd while the pack is there, else even, and one more
  each time that this changes; `used`, when it was last verified; `n`, its rows; and their hash
  (`packs.raw_hash`).

All is written by `pwrite` under a lock on `write`: data, record, mark, in this order, so that a
process that dies leaves packs that are there as a whole, or not. A mark that is as it was says that
what was read meanwhile was not taken away. Files are extended, never cut: a mapping stays valid.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_tl.datasets.reading import cache_room
from keras_tl.datasets.reading.columns import Columns, as_bytes, gather
from keras_tl.datasets.reading.locks import ForkLock
from keras_tl.datasets.schema.fields import Field
from keras_tl.datasets.storing import packs

log = logging.getLogger("keras_tl")

_RECORD = np.dtype([("mark", "<u4"), ("used", "<u4"), ("n", "<u4"), ("_", "<u4"), ("sha", "V32")])
_MARKS = 1 << 32
_NEVER = -1  # no mark
_MINUTES = 60.0
_OLD = 60  # minutes after which a pack that nobody used may give way to others of its dataset


class ColumnCache(Columns):
    """The rows of some fields of a dataset, in files. Any number of processes may share them.

    A pack is verified against its hash once in each process; one that is damaged counts as not
    there, with one warning a cache. Datasets that were not used for longest give way, those that a
    process uses do not: beyond the limit nothing is kept. A disk that takes nothing turns into no
    cache, with one warning; nothing here raises `OSError`. But if another program cuts a file that
    is mapped, or its disk goes away, the system kills the process (SIGBUS): what cleans the folder
    up may delete files, and must not truncate them.

    Args:
        folder: of the cache.
        limit: bytes of all datasets in it, besides the blobs, which have the same limit again;
            exceeded by what is written between two looks at it (a twentieth in each process).
        uid: of the dataset.
        rows: rows of a pack.
        fields: by name, of fixed size.
        places: the fields' places in the schema.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        uid: str,
        rows: int,
        fields: Mapping[str, Field],
        places: Mapping[str, int],
    ) -> None:
        super().__init__(rows, {name: field.row_bytes or 0 for name, field in fields.items()})
        self._limit = limit
        self._unseen = limit  # bytes that may have been written since the last look: at first, all
        self._closed: str | None = None  # why nothing is kept any more
        self._columns: dict[str, _Column] = {}
        self._home = folder
        try:
            self._folder = _opened(folder / "columns" / uid)
            for name, field in fields.items():
                self._columns[name] = self._folder.column(places[name], rows, name, field)
        except OSError as error:
            self._columns = {}
            self._close(f"cannot be written ({error})")

    def reserve(self, packs: int) -> None:
        if self._closed == _FULL:
            self._closed = None  # others may have gone
        try:
            with self._folder.lock() if self._columns else _nothing():
                for column in self._columns.values():
                    column.reserve(packs)
        except OSError as error:
            self._columns = {}
            self._close(f"cannot be written ({error})")

    def sure(self, packs: np.ndarray) -> np.ndarray:
        mask = np.full(len(packs), bool(self._columns))
        for column in self._columns.values():
            mask &= column.sure(packs)
        return mask

    def missing(self, packs: np.ndarray) -> np.ndarray:
        for column in self._columns.values():
            for pack in packs[~column.sure(packs)].tolist():
                if column.verify(pack) is False:
                    self._warn(
                        f"damaged: {self._folder.path}",
                        "Packs in the cache %s are damaged, and fetched again. The first is %d.",
                        *(self._folder.path, pack),
                    )
                    with self._folder.lock():
                        column.drop(pack)
        return packs[~self.sure(packs)]

    def put(
        self, pack: int, columns: Mapping[str, np.ndarray], hashes: Mapping[str, str] | None = None
    ) -> bool:
        if self._closed is not None or not self._columns:
            return False
        rows = {name: as_bytes(columns[name]) for name in self._columns}
        size = sum(data.nbytes for data in rows.values())
        known = dict(hashes or {})
        for name, column in self._columns.items():
            if name not in known:
                known[name] = column.hash(rows[name])
        try:
            if not self._fits(size):
                self._close(_FULL)
                return False
            with self._folder.lock():
                for name, column in self._columns.items():
                    column.write(pack, rows[name], known[name])
        except OSError as error:
            self._close(f"cannot be written ({error})")
            return False
        return True

    def take(self, name: str, at: np.ndarray, out: np.ndarray) -> bool:
        return self._columns[name].take(at, out)

    def _fits(self, size: int) -> bool:
        self._unseen += size
        if self._unseen <= self._limit // 20:
            return True
        left = self._limit - size
        excess = cache_room.excess(self._home / "columns", left, self._folder.path)
        if excess > 0:
            with self._folder.lock():
                excess -= sum(c.evict(excess) for c in self._columns.values())
        self._unseen = 0
        return excess <= 0

    def _close(self, why: str) -> None:
        if self._closed is None:
            self._warn(
                why,
                "The cache %s %s: other samples are read from MongoDB in each epoch. See "
                "KERAS_TL_CACHE and KERAS_TL_CACHE_LIMIT.",
                *(self._home, why),
            )
        self._closed = why

    def _warn(self, about: str, message: str, *values: Any) -> None:
        if about not in _warned:
            _warned.add(about)
            log.warning(message, *values)


_FULL = "is full of what is in use"
_warned: set[str] = set()


class _Folder:
    """A dataset's folder, marked as in use for as long as this lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = cache_room.use(path)
        self._mutex = ForkLock()
        self._columns: weakref.WeakValueDictionary[int, _Column] = weakref.WeakValueDictionary()
        weakref.finalize(self, os.close, self._fd)

    def column(self, place: int, rows: int, name: str, field: Field) -> _Column:
        with self._mutex:
            found = self._columns.get(place)
            if found is None:
                found = self._columns[place] = _Column(self.path / str(place), rows, name, field)
            return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """For writing, against threads and processes."""
        # Opened each time: a file that a fork shares would let both processes in.
        with self._mutex, open(self.path / "write", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # A process that was forked meanwhile has the file open, too: closing is not enough.
                fcntl.flock(file, fcntl.LOCK_UN)


class _Column:
    """The two files of a field."""

    def __init__(self, path: Path, rows: int, name: str, field: Field) -> None:
        self._rows, self._size = rows, field.row_bytes or 0
        self._name, self._field = name, field
        self._data_fd, self._index_fd = (
            os.open(f"{path}.{kind}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for kind in ("rows", "index")
        )
        weakref.finalize(self, os.close, self._data_fd)
        weakref.finalize(self, os.close, self._index_fd)
        self._data = np.empty((0, self._size), np.uint8)
        self._index = np.empty(0, _RECORD)
        self._verified = np.empty(0, np.int64)  # the mark that each pack had then

    def reserve(self, packs: int) -> None:
        if packs <= len(self._index):
            return
        packs = max(packs, 2 * len(self._index))
        index = _mapped(self._index_fd, packs * _RECORD.itemsize).view(_RECORD)
        data = _mapped(self._data_fd, packs * self._rows * self._size)
        verified = np.full(packs, _NEVER, np.int64)
        verified[: len(self._verified)] = self._verified
        self._data, self._verified = data.reshape(-1, self._size), verified
        self._index = index

    def sure(self, packs: np.ndarray) -> np.ndarray:
        mask: np.ndarray = self._index["mark"][packs] == self._verified[packs]
        return mask

    def verify(self, pack: int) -> bool | None:
        """Whether the pack is whole; `None` if it is not there."""
        mark, n, sha = (self._index[name][pack] for name in ("mark", "n", "sha"))
        if not mark & 1:
            return None
        begin = pack * self._rows
        data = self._data[begin : begin + min(int(n), self._rows)]
        found = self.hash(data)
        if self._index["mark"][pack] != mark:
            return None
        if found != sha.tobytes().hex():
            return False
        self._verified[pack] = mark
        self._note(pack, "used", int(time.time() / _MINUTES))
        return True

    def hash(self, rows: np.ndarray) -> str:
        return packs.raw_hash(self._name, self._field, rows.reshape(-1).data, len(rows))

    def write(self, pack: int, rows: np.ndarray, sha: str) -> None:
        mark = int(self._index["mark"][pack])
        if mark & 1:  # another process was faster
            return
        _write(self._data_fd, rows.reshape(-1).data, pack * self._rows * self._size)
        used = int(time.time() / _MINUTES)
        record = np.array((mark, used, len(rows), 0, bytes.fromhex(sha)), _RECORD)
        _write(self._index_fd, record.tobytes(), pack * _RECORD.itemsize)
        self._note(pack, "mark", mark + 1)
        self._verified[pack] = mark + 1

    def drop(self, pack: int) -> None:
        mark = int(self._index["mark"][pack])
        if mark & 1:
            self._note(pack, "mark", (mark + 1) % _MARKS)

    def take(self, at: np.ndarray, out: np.ndarray) -> bool:
        packs = at // self._rows
        verified = self._verified[packs]
        gather(self._data, at, out)
        return bool((self._index["mark"][packs] == verified).all())

    def evict(self, excess: int) -> int:
        """Frees so many bytes, if it can, of packs that nobody has used for an hour."""
        old = self._index["used"].astype(np.int64) < time.time() / _MINUTES - _OLD
        mine = self._index["mark"] == self._verified
        packs = np.flatnonzero((self._index["mark"] & 1).astype(np.bool_) & old & ~mine)
        each, freed = self._rows * self._size, 0
        for pack in packs[np.argsort(self._index["used"][packs], kind="stable")].tolist():
            if freed >= excess:
                break
            self.drop(pack)  # first: who reads it meanwhile sees that
            freed += cache_room.punch(self._data_fd, pack * each, each)
        return freed

    def _note(self, pack: int, name: str, value: int) -> None:
        assert _RECORD.fields is not None
        begin = pack * _RECORD.itemsize + _RECORD.fields[name][1]
        _write(self._index_fd, value.to_bytes(4, "little"), begin)


def _mapped(fd: int, size: int) -> np.ndarray:
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)
    if not size:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(fd, size, prot=mmap.PROT_READ), np.uint8)


def _write(fd: int, data: bytes | memoryview, begin: int) -> None:
    view = memoryview(data)
    while len(view):
        done = os.pwrite(fd, view, begin)
        view, begin = view[done:], begin + done


@contextmanager
def _nothing() -> Iterator[None]:
    yield


_folders: weakref.WeakValueDictionary[Path, _Folder] = weakref.WeakValueDictionary()
_folders_lock = ForkLock()


def _opened(path: Path) -> _Folder:
    """The folder, one for the process, so that each pack is verified once."""
    with _folders_lock:
        found = _folders.get(path)
        if found is None:
            found = _folders[path] = _Folder(path)
        return found

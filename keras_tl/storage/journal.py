"""The local journal: what a process logs is here first, and survives `kill -9`.

A file of framed records, appended by one `os.write` each: what the kernel has taken is kept when
the process dies (not when the machine loses power). The file is locked while its process lives;
whoever gets the lock may replay it.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FRAME = struct.Struct("<IIB")  # payload length, CRC-32 of kind and payload, kind
_MAX_RECORD = 64 << 20
_PIECE = 1 << 20


class Kind:
    """Kinds of records. Data records are numbered; the others say something about them."""

    HEADER = 0  # {"base": number of the first data record, ...}: always the first record
    ROW = 1  # data: a row of numbers, packed
    DOC = 2  # data: a document to upsert
    EVENT = 3  # data: a row with other values than numbers
    COLUMNS = 10  # names of the columns of rows
    CHUNK = 11  # [first, last]: these data records are about to be sent as one chunk
    SENT = 12  # last: everything up to here is acknowledged by a majority
    VERSION = 13  # a model version waits in a file beside the journal
    VERSION_SENT = 14  # its id: committed, or given up
    SESSION = 15  # hex of the session whose transaction comes next


DATA = frozenset({Kind.ROW, Kind.DOC, Kind.EVENT})


class Record(NamedTuple):
    """One record: where it ends in the file, its kind and its payload."""

    end: int
    kind: int
    payload: bytes

    def json(self) -> Any:
        """The payload of a record that is JSON."""
        return json.loads(self.payload)


class Block(NamedTuple):
    """Neighbouring records of one kind and length: `n` of them, the last ending at `end`."""

    end: int
    kind: int
    n: int
    stride: int  # bytes of a record with its frame
    data: bytes
    position: int  # of the first one in `data`

    def payloads(self) -> Iterator[bytes]:
        """Their payloads, one by one."""
        for at in range(self.position, self.position + self.n * self.stride, self.stride):
            yield self.data[at + _FRAME.size : at + self.stride]

    def rows(self) -> np.ndarray:
        """Their payloads as uint8 of shape `(n, bytes of a payload)`, not copied."""
        framed = _records(self.data, self.position, self.stride, self.n)
        return framed[:, _FRAME.size :]

    def first(self, n: int) -> Block:
        """The first `n` of them."""
        return self._replace(end=self.end - (self.n - n) * self.stride, n=n)


class Journal:
    """One process's append-only file of records.

    Args:
        path: the file; made if missing.
        header: facts about the journal as a whole, kept as its first record.
        limit: size in bytes from which droppable records are refused.

    Raises:
        BlockingIOError: if another process holds the journal.

    Example:

    >>> import tempfile, pathlib
    >>> journal = Journal(pathlib.Path(tempfile.mkdtemp()) / "a.journal", {"project": "demo"})
    >>> journal.append(Kind.EVENT, b"{}")
    True
    >>> [record.kind for record in journal.read()]
    [0, 3]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: dict[str, Any] | None = None,
        limit: int = 256 << 20,
        *,
        create: bool = True,
    ) -> None:
        self.path = Path(path)
        self.limit = limit
        self.dropped = 0
        self._lock = threading.RLock()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = _open_locked(self.path, os.O_CREAT if create else 0)
        self._size = os.fstat(self._fd).st_size
        first, end = None, 0
        for record in self.read():
            first, end = first or record, record.end
        # A torn tail is what the process was writing when it died: nobody was told it was kept.
        if end != self._size:
            os.ftruncate(self._fd, end)
            self._size = end
        if first is None:
            self.append(Kind.HEADER, json.dumps({"base": 0, **(header or {})}).encode())
            first = next(self.read())
        self.header: dict[str, Any] = first.json()
        _live.add(self)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def append(self, kind: int, payload: bytes, *, droppable: bool = False) -> bool:
        """Append a record; `False` if it was dropped because the journal is at its limit.

        Raises:
            OSError: if the disk refuses it; the journal is left as it was.
            ValueError: if the record is too large to be read again.
        """
        if len(payload) > _MAX_RECORD:
            raise ValueError(
                f"`payload` must be at most {_MAX_RECORD} bytes. Received: {len(payload)} bytes"
            )
        record = _FRAME.pack(len(payload), zlib.crc32(payload, kind), kind) + payload
        with self._lock:
            if droppable and self._size >= self.limit:
                self.dropped += 1
                return False
            try:
                written = os.write(self._fd, record)
                if written != len(record):
                    raise OSError(f"only {written} of {len(record)} bytes were written")
            except OSError:
                os.ftruncate(self._fd, self._size)  # or what follows could never be read
                raise
            self._size += written
        return True

    def read(self, start: int = 0) -> Iterator[Record]:
        """The whole records from byte `start` on; stops at the first one that is not whole."""
        for block in self.blocks(start):
            first = block.end - block.n * block.stride
            for i, payload in enumerate(block.payloads()):
                yield Record(first + (i + 1) * block.stride, block.kind, payload)

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """As `read`, with neighbours that are rows of the same length taken together."""
        data, position = b"", 0
        while True:
            if len(data) - position < _FRAME.size:
                start, data, position = start + position, self._piece(start + position), 0
                if len(data) < _FRAME.size:
                    return
            length, _, kind = _FRAME.unpack_from(data, position)
            stride = _FRAME.size + length
            if length > _MAX_RECORD:
                return
            if position + stride > len(data):
                start, data = start + position, self._piece(start + position, stride)
                position = 0
                if stride > len(data):
                    return
            alike = _alike(data, position, stride) if kind == Kind.ROW else 1
            block = Block(start + position + alike * stride, kind, alike, stride, data, position)
            good = _whole(block)
            if good:
                yield block.first(good)
            if good < alike:
                return
            position += alike * stride

    def _piece(self, start: int, least: int = 0) -> bytes:
        with self._lock:  # the size and the file belong together
            return os.pread(self._fd, min(max(_PIECE, least), self._size - start), start)

    def rewrite(self, header: dict[str, Any], keep: list[tuple[int, bytes]], after: int) -> int:
        """Replace everything before byte `after` by a header and `keep`; returns its new place.

        The new file takes the old one's name in one step, so a kill leaves one or the other.
        """
        temporary = self.path.with_suffix(".rewrite")
        with self._lock:
            temporary.unlink(missing_ok=True)
            fd = _open_locked(temporary, os.O_CREAT)
            header = {**self.header, **header}
            records = [(Kind.HEADER, json.dumps(header).encode()), *keep]
            head = b"".join(
                _FRAME.pack(len(payload), zlib.crc32(payload, kind), kind) + payload
                for kind, payload in records
            )
            tail = os.pread(self._fd, self._size - after, after)
            try:
                _write_all(fd, head + tail)
                os.replace(temporary, self.path)
            except OSError:
                os.close(fd)
                temporary.unlink(missing_ok=True)
                raise
            os.close(self._fd)
            self._fd, self._size = fd, len(head) + len(tail)
            self.header = header
        return len(head)

    def close(self, *, delete: bool = False) -> None:
        """Give the journal up; `delete` it and what lies beside it, but for what was refused."""
        with self._lock:
            if self._fd >= 0:
                if delete:
                    for beside in self.path.parent.glob(f"{self.path.stem}.*"):
                        if beside.suffix != ".refused":
                            beside.unlink(missing_ok=True)
                os.close(self._fd)
                self._fd = -1


def orphans(folder: str | os.PathLike[str]) -> Iterator[Journal]:
    """The journals under `folder` whose process is gone, locked for the caller."""
    for path in sorted(Path(folder).glob("*.journal")):
        try:
            if path.stat().st_size:  # else its process may be about to lock it
                yield Journal(path, create=False)
        except (BlockingIOError, FileNotFoundError):
            continue  # its process lives, or another one replays it


def _records(data: bytes, position: int, stride: int, n: int) -> np.ndarray:
    return np.frombuffer(data, np.uint8, n * stride, position).reshape(n, stride)


def _alike(data: bytes, position: int, stride: int) -> int:
    """How many rows from `position` on have the length of the first one."""
    most, found, step = (len(data) - position) // stride, 1, 16
    # In growing steps, so that rows of two lengths in turn are not compared with all that follows.
    while found < most:
        at = position + found * stride
        if data[at : at + 4] != data[position : position + 4] or data[at + 8] != Kind.ROW:
            break
        framed = _records(data, at, stride, min(step, most - found))
        same = (_words(framed[:, :4]) == stride - _FRAME.size) & (framed[:, 8] == Kind.ROW)
        if not same.all():
            return found + int(same.argmin())
        found, step = found + len(same), 4 * step
    return found


def _whole(block: Block) -> int:
    """How many records from the first one on have the payload that was written."""
    stop = block.position + block.n * block.stride
    if block.n == 1:
        written = _FRAME.unpack_from(block.data, block.position)[1]
        payload = block.data[block.position + _FRAME.size : stop]
        return int(zlib.crc32(payload, block.kind) == written)
    view, crc32 = memoryview(block.data), zlib.crc32
    starts = range(block.position + _FRAME.size, stop + 1, block.stride)
    length, kind = block.stride - _FRAME.size, block.kind
    found = np.array([crc32(view[at : at + length], kind) for at in starts], np.uint32)
    framed = _records(block.data, block.position, block.stride, block.n)
    same = _words(framed[:, 4:8]) == found
    return block.n if same.all() else int(same.argmin())


def _words(columns: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(columns).view("<u4")[:, 0]


def _open_locked(path: Path, flags: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino != os.stat(path).st_ino:
            raise BlockingIOError(f"{path.name} was just replaced by its owner")
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# A forked child shares the lock and the file's end with its parent: it must not write there.
_live: weakref.WeakSet[Journal] = weakref.WeakSet()


def _forget_in_child() -> None:
    for journal in list(_live):
        journal._lock = threading.RLock()  # a thread of the parent may have held it
        if journal._fd >= 0:
            os.close(journal._fd)
            journal._fd = -1


os.register_at_fork(after_in_child=_forget_in_child)

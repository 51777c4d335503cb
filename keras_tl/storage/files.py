"""Files as contents of blobs, and blobs as files: read a piece at a time, whatever their size."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 1 << 20


class FileContent:
    """A file on this machine as the content of a blob, read when it is hashed and when it is sent.

    Args:
        file: a path, or an open binary file with a file number; it is read from its beginning,
            and stays where it is. It must stay open until it is stored.

    Attributes:
        name: the SHA-256 of the content, as hexadecimal digits.

    Raises:
        ValueError: if it is not a regular file.
    """

    def __init__(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        self._own: IO[bytes] | None = None
        if isinstance(file, (str, os.PathLike)):
            _check_regular(os.stat(file), file)  # to open a pipe would wait for a writer
            self._own = file = open(file, "rb")  # noqa: SIM115  # closed with this object
        try:
            self._fd = file.fileno()
        except (AttributeError, OSError) as error:
            raise ValueError(
                f"`file` must be a path or an open file of the system. Received: {file!r}"
            ) from error
        about = os.fstat(self._fd)
        _check_regular(about, file)
        self._size = about.st_size
        if not self._size and os.pread(self._fd, 1, 0):  # as those of `/proc`
            raise ValueError(f"`file` must be one that tells its size. Received: {file!r}")
        digest = hashlib.sha256()
        # Of each piece, so that a file that is written to meanwhile is not stored under a name
        # that is not its content's.
        self._sums: list[int] = []
        for begin in range(0, self._size, _PIECE):
            piece = os.pread(self._fd, _PIECE, begin)
            digest.update(piece)
            self._sums.append(zlib.crc32(piece))
        self.name = digest.hexdigest()

    def __len__(self) -> int:
        return self._size

    def piece(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` to `end`.

        Raises:
            ValueError: if the file was changed since it was hashed.
        """
        first = begin // _PIECE
        last = -(-min(end, self._size) // _PIECE)
        pieces = []
        for number in range(first, last):
            piece = os.pread(self._fd, min(_PIECE, self._size - number * _PIECE), number * _PIECE)
            if zlib.crc32(piece) != self._sums[number]:
                raise ValueError(
                    "A file must stay as it is while it is stored. Received: one that was changed"
                )
            pieces.append(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        offset = first * _PIECE
        return (
            data
            if (begin, end - begin) == (offset, len(data))
            else data[begin - offset : end - offset]
        )

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._own is not None:
            self._own.close()

    def __del__(self) -> None:
        if getattr(self, "_own", None) is not None:
            self.close()


class BlobReader(io.RawIOBase):
    """A blob as a binary file that is read a few chunks at a time (see `Blobs.open`).

    Args:
        name: the blob's name.
        length: its bytes.
        chunk_size: bytes a chunk.
        fetch: reads the chunks from a number on, so many, in order.
    """

    def __init__(
        self,
        name: str,
        length: int,
        chunk_size: int,
        fetch: Callable[[int, int], list[bytes]],
    ) -> None:
        super().__init__()
        self.name = name
        self._length, self._chunk_size, self._fetch = length, max(1, chunk_size), fetch
        self._at = 0
        self._buffer, self._begin = memoryview(b""), 0
        self._digest, self._hashed = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def __len__(self) -> int:
        return self._length

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"`offset` must lead into the file. Received: offset={offset}")
        self._at = base + offset
        return self._at

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        if self._at >= self._length or not len(view):
            return 0
        if not self._begin <= self._at < self._begin + len(self._buffer):
            self._load(self._at // self._chunk_size)
        offset = self._at - self._begin
        count = min(len(view), len(self._buffer) - offset)
        view[:count] = self._buffer[offset : offset + count]
        self._at += count
        return count

    def _load(self, first: int) -> None:
        self._begin = first * self._chunk_size
        count = max(1, _READ_BYTES // self._chunk_size)
        expected = min(count * self._chunk_size, self._length - self._begin)
        data = b"".join(self._fetch(first, -(-expected // self._chunk_size)))
        if not data:
            raise ValueError(
                f"Blob {self.name!r} must be stored until it is read. Received: none: `gc` took it"
            )
        if len(data) != expected:
            raise self._corrupt()
        self._buffer = memoryview(data)
        end = self._begin + len(data)
        if self._begin <= self._hashed < end:
            self._digest.update(self._buffer[self._hashed - self._begin :])
            self._hashed = end
            if end == self._length and self._digest.hexdigest() != self.name:
                raise self._corrupt()

    def _corrupt(self) -> ValueError:
        return ValueError(
            f"Blob {self.name!r} must have the SHA-256 that is its name. Received: another content"
        )


def _check_regular(about: os.stat_result, file: object) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"`file` must be a regular file. Received: {file!r}")


_READ_BYTES = 4 << 20

"""How blobs travel to MongoDB: chunks on several connections, files published behind them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from keras_tl.storage import hooks
from keras_tl.storage.files import FileContent
from keras_tl.storage.tensors import Pieces

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo.collection import Collection

#: Seconds after which an upload gives up; `gc` must be given a longer grace where savers run.
UPLOAD_LIMIT = 3600.0
_INSERT_BYTES = 4 << 20
_PUBLISH_FILES, _PUBLISH_BYTES = 1000, 64 << 20  # a majority's answer takes as long for one file
_WRITERS = 3

#: A content: bytes, its parts one after the other, or a file.
Content = bytes | memoryview | Pieces | FileContent


class Upload:
    """Sends chunks on several connections, and publishes each file behind all of its chunks.

    Used as a context: at its end all is published, or nothing more is sent if it ends in an error.

    Args:
        collection: Where the chunks go.
        chunk_size: Bytes a chunk.
        publish: Makes the files documents that it is given visible.
        clock: Tells the server's time.
    """

    def __init__(
        self,
        collection: Collection[dict[str, Any]],
        chunk_size: int,
        publish: Callable[[list[dict[str, Any]]], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._collection = collection
        self._chunk_size = chunk_size
        self._publish = publish
        self._clock = clock
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._start: datetime | None = None
        self._started = 0.0
        self._chunks: list[tuple[Any, int, Content, int]] = []
        self._files: list[dict[str, Any]] = []
        self._size = 0
        self._sent: deque[tuple[Future[None], list[dict[str, Any]]]] = deque()
        self._stored: list[dict[str, Any]] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._send()
                while self._sent:
                    self._settle()
                self._publish_stored()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, data: Content) -> None:
        """Takes a blob that is not stored; returns while the last bytes are on their way.

        Raises:
            TimeoutError: The upload took longer than `UPLOAD_LIMIT`.
        """
        if self._start is None:
            self._start, self._started = self._clock(), time.monotonic()
        identity = _object_id(self._start)
        total, size = length(data), self._chunk_size
        for n, at in enumerate(range(0, total, size)):
            self._chunks.append((identity, n, data, at))
            self._size += min(size, total - at)
            if self._size >= _INSERT_BYTES:
                self._send()
        file = {"_id": identity, "filename": name, "length": total, "chunkSize": size}
        self._files.append(file)
        if len(self._files) >= 1000:
            self._send()

    def _send(self) -> None:
        """Begins to send; the files that end here may be published when all before is stored."""
        if self._chunks or self._files:
            if len(self._sent) >= _WRITERS:
                self._settle()
            future = self._pool.submit(self._insert, self._chunks)
            self._sent.append((future, self._files))
        self._chunks, self._files, self._size = [], [], 0

    def _insert(self, chunks: list[tuple[Any, int, Content, int]]) -> None:
        size = self._chunk_size
        documents = [
            {"files_id": identity, "n": n, "data": _slice(data, at, at + size)}
            for identity, n, data, at in chunks
        ]
        if documents:
            self._collection.insert_many(documents, ordered=False)

    def _settle(self) -> None:
        future, files = self._sent.popleft()
        future.result()
        hooks.phase("blob-chunks")
        self._stored += files
        size = sum(file["length"] for file in self._stored)
        if len(self._stored) >= _PUBLISH_FILES or size >= _PUBLISH_BYTES:
            self._publish_stored()

    def _publish_stored(self) -> None:
        if self._start is None:
            return
        elapsed = time.monotonic() - self._started
        if elapsed > UPLOAD_LIMIT:  # from here on `gc` may take its first chunks
            raise TimeoutError(
                f"An upload of blobs must end within {UPLOAD_LIMIT:.0f} s. "
                f"Received: {elapsed:.0f} s"
            )
        files, self._stored = self._stored, []
        if files:
            now = self._start + timedelta(seconds=elapsed)
            for file in files:
                file["uploadDate"] = file["ref_at"] = now
            hooks.phase("blob-files")
            self._publish(files)


def length(data: Content) -> int:
    """Bytes of a content."""
    if isinstance(data, (bytes, bytearray, memoryview, FileContent)):
        return len(data)
    return sum(map(len, data))


def _slice(data: Content, begin: int, end: int) -> bytes:
    """The bytes from `begin` to `end`, whatever pieces they lie in."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data[begin:end])
    if isinstance(data, FileContent):
        return data.piece(begin, end)
    found = []
    for piece in data:
        if begin < len(piece) and end > 0:
            found.append(piece[max(0, begin) : end])
        begin, end = begin - len(piece), end - len(piece)
    return b"".join(found)


def _object_id(at: datetime) -> ObjectId:
    """A unique id whose age is told by the server's clock, whatever the client's says."""
    from bson import ObjectId

    return ObjectId(int(at.timestamp()).to_bytes(4, "big") + ObjectId().binary[4:])

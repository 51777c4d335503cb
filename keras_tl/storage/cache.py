"""Blobs on this machine's disk: what was read once is read from here, also without a server."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from keras_tl.storage.blobs import Blobs
from keras_tl.storage.home import cache_settings
from keras_tl.storage.tensors import checksum

log = logging.getLogger("keras_tl")

# Smaller files are read: a process has some 65,000 mappings, and a model may have more tensors.
_MAP_BYTES = 1 << 20
_THREADS = 4
_QUIET = 0.2  # s
_WAITING_BYTES = 256 << 20
_TOUCH = 60.0  # s after which a file that is used is marked as used again
_STALE = 3600.0  # s after which an unfinished file is a dead process's


class BlobCache:
    """A folder of blobs by content: size-bounded, verified, for any number of processes at once.

    A file appears whole or not at all, is never changed, and is verified against its name each
    time that it is read: one that is damaged is deleted and fetched again. The least recently used
    files give way. A disk that takes nothing turns into no cache, with one warning.

    Args:
        folder: Where the files are; made when it is needed.
        limit: Bytes in the folder, exceeded by what is written between two looks at it (a
            twentieth in each process); 0 for no cache.

    Example:

    ```python
    contents = BlobCache(folder).get_many(Blobs(connection.db), names)
    ```
    """

    def __init__(self, folder: Path, limit: int = 10 << 30) -> None:
        self.folder = folder
        self.limit = limit
        self._unseen = limit  # bytes that may have been written since the last look: at first, all
        self._refused = False
        self._waiting: dict[str, memoryview] = {}
        self._used = 0.0
        self._hurry = False
        self._filling: threading.Thread | None = None
        self._changed = threading.Condition()

    def get_many(self, blobs: Blobs, names: Iterable[str]) -> dict[str, memoryview]:
        """Reads blobs, from the disk what is there and else from MongoDB.

        Args:
            blobs: Where the rest comes from; not asked if nothing is missing.
            names: The blobs.

        Returns:
            The contents by name, read-only; large ones are mapped into memory.

        Raises:
            KeyError: A blob is not stored.
            ValueError: A blob is corrupt in MongoDB.
            pymongo.errors.PyMongoError: The server is away, and not all is cached.
        """
        from pymongo.errors import ConnectionFailure

        wanted = set(names)
        found = self.held(wanted)
        absent = wanted - found.keys()
        if absent:
            try:
                fetched = blobs.get_many(absent)
            except ConnectionFailure as error:
                error.add_note(
                    f"{len(absent)} of {len(wanted)} tensors are not in the cache {self.folder}."
                )
                raise
            self.put_many(fetched)
            found |= fetched
        return found

    def held(self, names: Collection[str]) -> dict[str, memoryview]:
        """Those of the blobs that are cached."""
        with self._changed:
            self._used = time.monotonic()
            found = {name: self._waiting[name] for name in names if name in self._waiting}
        wanted = [name for name in names if name not in found]
        if self.limit <= 0 or not wanted or not self.folder.is_dir():
            return found
        with ThreadPoolExecutor(_THREADS) as pool:
            for batch in pool.map(self._read, _shares(wanted)):
                found |= batch
        return found

    def put_many(self, contents: Mapping[str, memoryview]) -> None:
        """Keeps blobs, as far as the disk takes them: in the background, and it never raises.

        The disk is written to when nothing was read for a moment, so that a load does not wait
        for it. If much waits already, this call does.
        """
        if self.limit <= 0 or self._refused:
            return
        with self._changed:
            full = sum(map(len, self._waiting.values())) > _WAITING_BYTES
        if full:
            self.flush()
        with self._changed:
            self._used = time.monotonic()
            self._waiting.update((n, d) for n, d in contents.items() if len(d) <= self.limit)
            if self._filling is None and self._waiting:
                self._filling = threading.Thread(target=self._fill, name="keras_tl-cache")
                try:
                    self._filling.start()
                except RuntimeError:  # the interpreter ends
                    self._filling = None
                    self._waiting.clear()

    def flush(self) -> None:
        """Waits until what was given to `put_many` is on the disk."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._filling is None)
            self._hurry = False

    def _fill(self) -> None:
        main = threading.main_thread()
        while True:
            with self._changed:
                while not self._hurry and main.is_alive():
                    left = self._used + _QUIET - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if not self._waiting:
                    self._filling = None
                    self._changed.notify_all()
                    return
                name, data = next(iter(self._waiting.items()))
            self._keep(name, data)
            with self._changed:
                self._waiting.pop(name, None)

    def _keep(self, name: str, data: memoryview) -> None:
        if self._refused:
            return
        try:
            self._write(name, data)
            self._unseen += len(data)
            if self._unseen > self.limit // 20:
                self._evict()
        except FileNotFoundError:  # the folder was deleted meanwhile
            log.debug("A tensor was not cached", exc_info=True)
        except OSError as error:
            self._refused = True
            log.warning(
                "The cache %s cannot be written (%s): what is loaded is not kept on this machine. "
                "Set KERAS_TL_CACHE to another folder, or KERAS_TL_CACHE_LIMIT=0.",
                self.folder,
                error,
            )

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _read(self, names: list[str]) -> dict[str, memoryview]:
        found = {}
        for name in names:
            try:
                with open(self._path(name), "rb", buffering=0) as file:
                    about = os.fstat(file.fileno())
                    if about.st_size >= _MAP_BYTES:
                        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                    else:
                        data = memoryview(file.readall())
            except OSError:  # it is not there, or was evicted in this moment
                continue
            if checksum(data) != name:
                log.warning("A cached tensor was damaged and is fetched again: %s", name)
                with contextlib.suppress(OSError):
                    self._path(name).unlink()
                continue
            if time.time() - about.st_mtime > _TOUCH:
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))
            found[name] = data
        return found

    def _write(self, name: str, data: memoryview) -> None:
        path = self._path(name)
        temporary = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            try:
                file = open(temporary, "wb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = open(temporary, "wb", buffering=0)  # noqa: SIM115
            with file:
                while len(data):
                    data = data[file.write(data) :]
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _evict(self) -> None:
        """Deletes the least recently used files beyond the limit; one process at a time does."""
        with open(self.folder / "lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            files = sorted(self._files(), key=lambda file: file[1])
            excess = sum(size for _, _, size in files) - self.limit
            for path, _, size in files if excess > 0 else ():
                if excess <= -self.limit // 10:  # some room, so that this is rare
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                excess -= size
        self._unseen = 0

    def _files(self) -> Iterator[tuple[str, float, int]]:
        """Path, time of the last use and size of each blob; what was left unfinished goes."""
        for folder in os.scandir(self.folder):
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for file in os.scandir(folder.path):
                try:
                    about = file.stat()
                    if not file.name.endswith(".part"):
                        yield file.path, about.st_mtime, about.st_size
                    elif time.time() - about.st_mtime > _STALE:
                        os.unlink(file.path)
                except FileNotFoundError:
                    continue


def _shares(names: list[str]) -> list[list[str]]:
    """For each thread some, large and small mixed: names are as good as random."""
    names.sort()
    return [share for i in range(_THREADS) if (share := names[i::_THREADS])]


@cache
def _made(folder: Path, limit: int) -> BlobCache:
    return BlobCache(folder, limit)


def shared() -> BlobCache:
    """The process's cache, as `KERAS_TL_CACHE` and `KERAS_TL_CACHE_LIMIT` say."""
    return _made(*cache_settings())

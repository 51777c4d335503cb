"""Bytes in MongoDB, named by their SHA-256 and stored once: plain GridFS for any GridFS tool.

A files document appears only behind all of its chunks, under a unique file name; an upload has a
fresh `_id`, so that one that was killed can be repeated (with the hash as `_id` it never could).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keras_tl.storage import hooks
from keras_tl.storage.files import BlobReader, FileContent
from keras_tl.storage.tensors import checksum
from keras_tl.storage.uploads import Content, Upload, length

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

_GROUP_BYTES = 16 << 20  # hashed and looked up at a time
_READ_BYTES = 4 << 20
_READERS = 4
_DUPLICATE = 11000
_T = TypeVar("_T")


class Blobs:
    """A store of immutable bytes by content, in the collections `blobs.files` and `blobs.chunks`.

    Threads may share it. The indexes are those of `schema.ensure(db)`.

    Args:
        db: The database.
        chunk_size: Bytes a chunk, at most 15 MiB (a document's limit is 16); 1 MiB writes fastest.

    Raises:
        ValueError: `chunk_size` is out of range.

    Example:

    ```python
    blobs = Blobs(connection.db)
    name = blobs.put(b"weights")
    assert blobs.get(name) == b"weights"
    ```
    """

    def __init__(self, db: Database[dict[str, Any]], chunk_size: int = 1 << 20) -> None:
        from pymongo import ReadPreference, WriteConcern

        if not 1 <= chunk_size <= 15 << 20:
            raise ValueError(f"`chunk_size` must be 1 to {15 << 20} bytes. Received: {chunk_size}")
        options: Any = {
            "write_concern": WriteConcern("majority"),
            "read_preference": ReadPreference.PRIMARY,
        }
        self._db = db
        self._files = db.get_collection("blobs.files", **options)
        self._chunks = db.get_collection("blobs.chunks", **options)
        self._chunk_size = chunk_size

    def put(self, data: bytes) -> str:
        """Stores `data`, unless it is stored already, and returns its name (see `put_many`)."""
        return self.put_many([data])[0]

    def put_many(self, blobs: Mapping[str, Content] | Iterable[Content]) -> list[str]:
        """Stores what is not stored already; small blobs share round trips.

        May be killed at any point and repeated. What it returns is protected from `gc` for the
        grace period only: whoever refers to it calls `touch` in the referring transaction. Beside
        the contents it needs memory for 16 MB only.

        Args:
            blobs: The contents, each as bytes, in pieces or as a `FileContent`, or the contents by
                name where the caller has the names (`tensors.checksum`) already; a false name is
                found by `get`.

        Returns:
            The names, in order.

        Raises:
            TimeoutError: The upload took longer than `UPLOAD_LIMIT`.
        """
        if isinstance(blobs, Mapping):
            named: Iterable[tuple[str, Content]] = blobs.items()
        else:
            named = ((_name(data), data) for data in blobs)
        names: list[str] = []
        send = Upload(self._chunks, self._chunk_size, self._publish, self._server_time)
        with send as upload:
            for group in _groups(named):
                known, contents = set(names), dict(group)
                names += [name for name, _ in group]
                contents = {n: data for n, data in contents.items() if n not in known}
                absent = self.missing(contents)
                for name, data in contents.items():
                    if name in absent:
                        upload.add(name, data)
        return names

    def _publish(self, files: list[dict[str, Any]]) -> None:
        from pymongo.errors import BulkWriteError

        try:
            self._files.insert_many(files, ordered=False)
        except BulkWriteError as error:
            failures = error.details["writeErrors"]
            others = any(failure["code"] != _DUPLICATE for failure in failures)
            if others or error.details["writeConcernErrors"]:
                raise
            # Others stored the same bytes meanwhile: theirs are used. In no other case may chunks
            # be deleted here, since a failed write may have been applied; `gc` takes them later.
            lost = [files[failure["index"]]["_id"] for failure in failures]
            self._delete_chunks(lost)

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that are not stored."""
        wanted = set(names)
        found: set[str] = set()
        for batch in _batches(wanted, 10_000):
            query = {"filename": {"$in": batch}}
            found.update(f["filename"] for f in self._files.find(query, {"filename": 1, "_id": 0}))
        return wanted - found

    def get(self, name: str) -> bytes:
        """The content of one blob (see `get_many`)."""
        return bytes(self.get_many([name])[name])

    def get_many(self, names: Iterable[str]) -> dict[str, memoryview]:
        """Reads blobs, several chunks at a time, and verifies each against its name.

        Returns:
            The contents by name.

        Raises:
            KeyError: A blob is not stored.
            ValueError: A blob is corrupt.
        """
        wanted = set(names)
        contents: dict[str, memoryview] = {}
        failed: dict[str, Any] = {}
        while wanted:
            files = {
                file["filename"]: file
                for batch in _batches(wanted, 10_000)
                for file in self._files.find({"filename": {"$in": batch}})
            }
            for name in sorted(wanted):
                if name not in files:
                    raise KeyError(name)
                # What does not fit its name is read again if `gc` and another upload replaced it.
                if files[name]["_id"] == failed.get(name):
                    raise ValueError(
                        f"Blob {name!r} must have the SHA-256 that is its name: it is corrupt. "
                        f"Received: files document {files[name]['_id']}"
                    )
            for name, digest, data in self._read(list(files.values())):
                if digest == name:
                    contents[name] = data
                    wanted.discard(name)
                else:
                    failed[name] = files[name]["_id"]
        return contents

    def open(self, name: str) -> BufferedReader:
        """A blob as a binary file, of which a few MB are in memory at a time.

        What is read without a gap from beginning to end is checked against the name, and the end
        of a corrupt blob is not returned; of what is sought elsewhere the length is checked.

        Raises:
            KeyError: The blob is not stored.
            ValueError: By `read`, the blob is corrupt.

        Example:

        ```python
        with blobs.open(name) as file:
            head = file.read(16)
        ```
        """
        file = self._files.find_one({"filename": name})
        if file is None:
            raise KeyError(name)

        def fetch(first: int, count: int) -> list[bytes]:
            query = {"files_id": file["_id"], "n": {"$gte": first, "$lt": first + count}}
            return [chunk["data"] for chunk in self._find_chunks(query)]

        return BufferedReader(BlobReader(name, file["length"], file["chunkSize"], fetch), 1 << 16)

    def _read(self, files: list[dict[str, Any]]) -> Iterator[tuple[str, str, memoryview]]:
        """The name, the SHA-256 and the content of each file, hashed while more is on its way."""
        queries: list[dict[str, Any]] = []
        group: list[Any] = []
        size = 0
        for file in files:
            if file["length"] > _READ_BYTES:
                chunk_size = max(1, file["chunkSize"])
                step = max(1, _READ_BYTES // chunk_size)
                count = -(-file["length"] // chunk_size)
                queries += (
                    {"files_id": file["_id"], "n": {"$gte": n, "$lt": n + step}}
                    for n in range(0, count, step)
                )
                continue
            group.append(file["_id"])
            size += file["length"]
            if size >= _READ_BYTES:
                queries.append({"files_id": {"$in": group}})
                group, size = [], 0
        if group:
            queries.append({"files_id": {"$in": group}})

        buffers = {file["_id"]: np.empty(file["length"], np.uint8) for file in files}
        sizes = {file["_id"]: max(1, file["chunkSize"]) for file in files}
        digests = {file["_id"]: hashlib.sha256() for file in files}
        damaged: set[Any] = set()

        def fetch(query: dict[str, Any]) -> list[tuple[Any, int, int]]:
            """Puts the chunks into their places; which parts of which file they are."""
            found = []
            for chunk in self._find_chunks(query):
                identity, data = chunk["files_id"], np.frombuffer(chunk["data"], np.uint8)
                begin = chunk["n"] * sizes[identity]
                place = buffers[identity][begin : begin + sizes[identity]]
                if len(place) == len(data) > 0:
                    np.copyto(place, data)  # without the interpreter's lock
                    found.append((identity, begin, begin + len(data)))
                else:
                    damaged.add(identity)
            return found

        with ThreadPoolExecutor(min(_READERS, max(1, len(queries)))) as pool:
            for found in pool.map(fetch, queries):
                for identity, begin, end in found:
                    digests[identity].update(buffers[identity][begin:end].data)
        for file in files:
            identity = file["_id"]
            digest = "" if identity in damaged else digests[identity].hexdigest()
            yield file["filename"], digest, buffers.pop(identity).data

    def _find_chunks(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self._chunks.find(query, {"_id": 0}).sort([("files_id", 1), ("n", 1)]))

    def touch(self, names: Iterable[str], session: ClientSession) -> bool:
        """Marks blobs as referred to, inside the transaction that writes the reference.

        That write is what makes a `gc` at the same moment spare the blob, or this transaction fail
        where `gc` came first.

        Args:
            names: The blobs.
            session: A session with a transaction in progress.

        Returns:
            Whether all are stored. Where not: abort, upload what is `missing`, try again.

        Raises:
            ValueError: `session` has no transaction.
        """
        if not session.in_transaction:
            raise ValueError("`session` must be in a transaction. Received: one that is not")
        wanted = set(names)
        # Always a new value, so that "as seen" below can be told from it.
        later = {"$max": ["$$NOW", {"$add": ["$ref_at", 1]}]}
        matched = 0
        for batch in _batches(wanted, 10_000):
            query = {"filename": {"$in": batch}}
            update = [{"$set": {"ref_at": later}}]
            matched += self._files.update_many(query, update, session=session).matched_count
        return matched == len(wanted)

    def gc(
        self, live: Callable[[set[str]], set[str]], grace: float, dry_run: bool = False
    ) -> dict[str, int]:
        """Deletes what nothing refers to, and what killed uploads left. Safe beside savers.

        Args:
            live: Given names, returns those that something refers to, as of now.
            grace: Seconds that anything young is spared; over `UPLOAD_LIMIT` where savers run.
            dry_run: Count and delete nothing.

        Returns:
            `deleted` blobs, their `bytes`, and `orphans`: uploads without a files document.

        Raises:
            ValueError: `grace` is negative.
        """
        from bson import ObjectId

        if not grace >= 0:
            raise ValueError(f"`grace` must be 0 s or more. Received: {grace}")
        horizon = self._server_time() - timedelta(seconds=grace)
        done = {"deleted": 0, "bytes": 0, "orphans": 0}
        # The reference time is read before `live` is asked: a reference that is made in between
        # changes it, and the deletion below then finds nothing.
        old = self._files.find(
            {"ref_at": {"$lt": horizon}}, {"filename": 1, "ref_at": 1, "length": 1}
        )
        for files in _batches(old, 50_000):  # `live` may look at everything, each time
            used = live({file["filename"] for file in files})
            for dead in _batches((f for f in files if f["filename"] not in used), 1000):
                for file in dead if dry_run else self._delete_files(dead):
                    done["deleted"] += 1
                    done["bytes"] += file["length"]

        # An upload's id holds the server's time of its start.
        before = ObjectId.from_datetime(horizon)
        orphans = self._chunks.aggregate(
            [
                {"$match": {"files_id": {"$lt": before}}},
                {"$group": {"_id": "$files_id"}},
                {
                    "$lookup": {
                        "from": self._files.name,
                        "localField": "_id",
                        "foreignField": "_id",
                        "as": "files",
                    }
                },
                {"$match": {"files": []}},
            ],
            allowDiskUse=True,
        )
        for batch in _batches((orphan["_id"] for orphan in orphans), 1000):
            if not dry_run:
                self._delete_chunks(batch)
            done["orphans"] += len(batch)
        return done

    def _delete_files(self, files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        from pymongo import DeleteOne

        if not files:
            return []
        as_seen = [DeleteOne({"_id": file["_id"], "ref_at": file["ref_at"]}) for file in files]
        self._files.bulk_write(as_seen, ordered=False)
        hooks.phase("blob-gc")
        identities = [file["_id"] for file in files]
        kept = {file["_id"] for file in self._files.find({"_id": {"$in": identities}}, {"_id": 1})}
        gone = [file for file in files if file["_id"] not in kept]
        self._delete_chunks([file["_id"] for file in gone])
        return gone

    def _delete_chunks(self, identities: list[Any]) -> None:
        for batch in _batches(identities, 20):  # each within the client's time limit
            self._chunks.delete_many({"files_id": {"$in": batch}})

    def _server_time(self) -> datetime:
        now: datetime = self._db.command("hello")["localTime"]
        return now.replace(tzinfo=UTC)


def _name(data: Content) -> str:
    return data.name if isinstance(data, FileContent) else checksum(data)


def _groups(named: Iterable[tuple[str, Content]]) -> Iterator[list[tuple[str, Content]]]:
    """Blobs for which one question after what is stored pays."""
    group: list[tuple[str, Content]] = []
    size = 0
    for name, data in named:
        group.append((name, data))
        size += length(data)
        if size >= _GROUP_BYTES or len(group) >= 1000:
            yield group
            group, size = [], 0
    if group:
        yield group


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch

"""Blobs on a real mongod: stored once, whole or not at all, and never collected under a save."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gridfs
import numpy as np
import pymongo
import pytest
from bson import Binary
from pymongo.errors import OperationFailure

from keras_tl.storage import blobs as module
from keras_tl.storage import files, hooks, uploads
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.connection import Connection
from keras_tl.storage.files import FileContent
from keras_tl.storage.tensors import checksum

CHUNK = 100


@pytest.fixture
def db(mongodb: str, project: str) -> Iterator[Any]:
    made = Connection(mongodb, project=project)
    yield made.db
    made.close()


@pytest.fixture
def blobs(db: Any, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """Every limit so small that a few hundred bytes take every path."""
    monkeypatch.setattr(uploads, "_INSERT_BYTES", 3 * CHUNK)
    monkeypatch.setattr(module, "_GROUP_BYTES", 4 * CHUNK)
    monkeypatch.setattr(module, "_READ_BYTES", 2 * CHUNK)
    return Blobs(db, chunk_size=CHUNK)


def content(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng([size, seed]).bytes(size)


def everything(names: set[str]) -> set[str]:
    return names


def nothing(names: set[str]) -> set[str]:
    return set()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (result := condition()):
        assert time.monotonic() < deadline, "the server never came to the expected state"
        time.sleep(0.01)
    return result


def chunks_without_file(db: Any) -> int:
    known = db["blobs.files"].distinct("_id")
    return int(db["blobs.chunks"].count_documents({"files_id": {"$nin": known}}))


def counts(db: Any) -> tuple[int, int]:
    return db["blobs.files"].count_documents({}), db["blobs.chunks"].count_documents({})


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 7 * CHUNK, 20 * CHUNK + 3]


def test_round_trip_of_every_size(blobs: Blobs, db: Any) -> None:
    data = [content(size) for size in SIZES]
    names = blobs.put_many(data)
    assert names == [checksum(d) for d in data]
    assert blobs.get_many(names) == dict(zip(names, data, strict=True))
    assert [blobs.get(name) for name in names] == data
    assert blobs.get_many([]) == {} and blobs.put_many([]) == []
    assert chunks_without_file(db) == 0


def test_any_gridfs_tool_reads_them(blobs: Blobs, db: Any) -> None:
    bucket = gridfs.GridFSBucket(db, "blobs")
    for size in SIZES:
        name = blobs.put(content(size))
        with bucket.open_download_stream_by_name(name) as stream:
            assert stream.read() == content(size)
            assert (stream.length, stream.chunk_size) == (size, CHUNK)
            assert stream.upload_date is not None


def test_equal_blobs_are_stored_once(blobs: Blobs, db: Any) -> None:
    one, two = content(250), content(50)
    assert blobs.put_many([one, two, one]) == [checksum(one), checksum(two), checksum(one)]
    before = list(db["blobs.files"].find())
    blobs.put(one)
    blobs.put_many({checksum(one): one, checksum(two): two})
    assert list(db["blobs.files"].find()) == before
    assert counts(db) == (2, 4)
    assert blobs.missing([checksum(one), "absent"]) == {"absent"}
    assert blobs.missing([]) == set()


def test_the_loser_of_a_race_deletes_its_own_chunks(
    blobs: Blobs, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, mine = content(1000), content(150)

    def other_is_faster(phase: str) -> None:
        if phase == "blob-files":
            monkeypatch.setattr(hooks, "hook", None)
            Blobs(db, CHUNK).put(shared)

    monkeypatch.setattr(hooks, "hook", other_is_faster)
    names = blobs.put_many([content(10), shared, mine])
    assert hooks.hook is None
    assert counts(db) == (3, 1 + 10 + 2)
    assert chunks_without_file(db) == 0
    assert blobs.get_many(names)[checksum(shared)] == shared


def test_many_threads_put_the_same(blobs: Blobs, db: Any) -> None:
    data = [content(size) for size in SIZES]
    barrier = threading.Barrier(4)

    def put() -> None:
        barrier.wait()
        blobs.put_many(data)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(db)[0] == len(SIZES)
    assert chunks_without_file(db) == 0
    assert list(blobs.get_many(map(checksum, data)).values()) != []
    assert all(blobs.get(checksum(d)) == d for d in data)


CHILD = """
import os, signal, sys
import numpy as np
from keras_tl.storage import blobs, hooks, uploads
from keras_tl.storage.connection import Connection
from keras_tl.storage.files import FileContent
uri, project, phase, nth = sys.argv[1:]
uploads._INSERT_BYTES, uploads._PUBLISH_FILES = 300, 1
left = int(nth)
def kill(name):
    global left
    if name == phase:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
hooks.hook = kill
store = blobs.Blobs(Connection(uri, project=project).db, 100)
if phase == "blob-gc":
    store.gc(lambda names: set(), 0)
store.put_many(np.random.default_rng([size, 0]).bytes(size) for size in (50, 1000, 250))
"""


def killed_at(mongodb: str, project: str, phase: str, nth: int = 1) -> None:
    command = [sys.executable, "-c", CHILD, mongodb, project, phase, str(nth)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL


# 50 + 250 bytes fill the first insert; 300 each the second to fourth; the rest the fifth.
@pytest.mark.parametrize(
    ("phase", "nth", "whole"),
    [("blob-chunks", 1, 0), ("blob-chunks", 3, 1), ("blob-files", 1, 0), ("blob-files", 2, 1)],
)
def test_a_killed_upload_can_be_repeated_and_leaves_nothing(
    blobs: Blobs, db: Any, mongodb: str, project: str, phase: str, nth: int, whole: int
) -> None:
    data = [content(size) for size in (50, 1000, 250)]
    names = [checksum(d) for d in data]
    killed_at(mongodb, project, phase, nth)
    assert len(names) - len(blobs.missing(names)) == whole
    assert chunks_without_file(db) > 0
    for name in set(names) - blobs.missing(names):  # what has a files document is whole
        assert checksum(blobs.get(name)) == name

    assert blobs.put_many(data) == names
    assert [blobs.get(name) for name in names] == data
    assert blobs.gc(everything, 3600)["orphans"] == 0  # a running upload looks the same: spared
    until(lambda: blobs.gc(everything, 0) and chunks_without_file(db) == 0)
    assert counts(db) == (3, 1 + 10 + 3)
    assert [blobs.get(name) for name in names] == data


def test_a_killed_gc_is_finished_by_the_next(
    blobs: Blobs, db: Any, mongodb: str, project: str
) -> None:
    dead, kept = blobs.put_many([content(500), content(300)])
    killed_at(mongodb, project, "blob-gc")
    assert chunks_without_file(db) == 8
    blobs.put(content(300))
    until(lambda: blobs.gc(everything, 0) and chunks_without_file(db) == 0)
    assert counts(db) == (1, 3)
    assert blobs.get(kept) == content(300)
    assert blobs.missing([dead]) == {dead}


def test_gc_takes_what_is_old_and_unused(blobs: Blobs, db: Any) -> None:
    used, unused, empty = blobs.put_many([content(250), content(550), b""])
    db["blobs.files"].insert_one({"filename": "not ours", "length": 0, "chunkSize": 1})
    asked: list[set[str]] = []

    def live(names: set[str]) -> set[str]:
        asked.append(names)
        return {used}

    assert blobs.gc(live, 3600) == {"deleted": 0, "bytes": 0, "orphans": 0}
    assert asked == []
    assert until(lambda: blobs.gc(live, 0)["bytes"]) == 550
    assert asked[-1] <= {used, unused, empty} and used in asked[-1]
    assert blobs.missing([used, unused, empty]) == {unused, empty}
    assert db["blobs.files"].count_documents({"filename": "not ours"}) == 1
    assert chunks_without_file(db) == 0
    with pytest.raises(ValueError, match="`grace`"):
        blobs.gc(live, -1)


def touched(blobs: Blobs, db: Any, *names: str) -> bool:
    with db.client.start_session() as session:
        return bool(session.with_transaction(lambda s: blobs.touch(names, s)))


def test_touch(blobs: Blobs, db: Any) -> None:
    names = blobs.put_many([content(10), content(20)])
    before = {f["filename"]: f["ref_at"] for f in db["blobs.files"].find()}
    future = {"ref_at": before[names[0]].replace(year=2100)}
    db["blobs.files"].update_one({"filename": names[0]}, {"$set": future})
    assert touched(blobs, db, *names, names[0])
    after = {f["filename"]: f["ref_at"] for f in db["blobs.files"].find()}
    assert after[names[0]] > future["ref_at"]  # also where the server's clock went back
    assert after[names[1]] > before[names[1]]
    assert not touched(blobs, db, names[0], "absent")
    with db.client.start_session() as session, pytest.raises(ValueError, match="transaction"):
        blobs.touch(names, session)


def test_gc_spares_what_a_save_reuses_while_it_asks(blobs: Blobs, db: Any) -> None:
    reused, dead = blobs.put_many([content(250), content(550)])
    saved: list[bool] = []

    def live(names: set[str]) -> set[str]:
        if reused in names and not saved:  # the save commits just behind this look at the versions
            saved.append(touched(blobs, db, reused))
        return set()

    deleted = until(lambda: blobs.gc(live, 0)["deleted"])
    assert (deleted, saved) == (1, [True])
    assert blobs.missing([reused, dead]) == {dead}
    assert blobs.get(reused) == content(250)


@pytest.mark.parametrize("commits", [True, False])
def test_gc_waits_for_a_save_in_progress(blobs: Blobs, db: Any, commits: bool) -> None:
    name = blobs.put(content(250))
    until(lambda: blobs._server_time() > db["blobs.files"].find_one()["ref_at"])
    done: list[dict[str, int]] = []
    collector = threading.Thread(target=lambda: done.append(blobs.gc(nothing, 0)))

    def waiting() -> bool:
        wanted = {"ns": f"{db.name}.blobs.files", "op": "remove", "writeConflicts": {"$gt": 0}}
        return bool(db.client.admin.command({"currentOp": 1, **wanted})["inprog"])

    with db.client.start_session() as session:
        session.start_transaction()
        assert blobs.touch([name], session)
        collector.start()
        until(waiting)
        if commits:
            session.commit_transaction()
        else:
            session.abort_transaction()
    collector.join()
    assert done[0]["deleted"] == (0 if commits else 1)
    assert blobs.missing([name]) == (set() if commits else {name})
    assert chunks_without_file(db) == 0


def test_a_save_behind_gc_uploads_again(blobs: Blobs, db: Any) -> None:
    name = blobs.put(content(250))
    with db.client.start_session() as session:
        with pytest.raises(OperationFailure) as failure, session.start_transaction():
            db["blobs.files"].find_one({"filename": name}, session=session)  # takes the snapshot
            until(lambda: blobs.gc(nothing, 0)["deleted"])
            blobs.touch([name], session)
        assert failure.value.has_error_label("TransientTransactionError")
    assert not touched(blobs, db, name)
    blobs.put(content(250))
    assert touched(blobs, db, name)
    assert blobs.get(name) == content(250)


def _shift(chunks: Any, where: dict[str, Any]) -> None:
    """The last byte of one chunk becomes the first of the next: joined they are as before."""
    one = chunks.find_one({**where, "n": 0})["data"]
    two = chunks.find_one(where)["data"]
    chunks.update_one({**where, "n": 0}, {"$set": {"data": one[:-1]}})
    chunks.update_one(where, {"$set": {"data": one[-1:] + two}})


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunks, where: chunks.update_one(where, {"$set": {"data": Binary(b"x" * CHUNK)}}),
        lambda chunks, where: chunks.update_one(where, {"$set": {"data": Binary(b"")}}),
        lambda chunks, where: chunks.delete_one(where),
        lambda chunks, where: chunks.insert_one({**where, "n": 50, "data": b"more"}),
        _shift,
    ],
    ids=["changed", "emptied", "missing", "additional", "shifted"],
)
@pytest.mark.parametrize("size", [150, 1150])
def test_a_corrupt_blob_is_named(blobs: Blobs, db: Any, damage: Any, size: int) -> None:
    good, bad = content(170), content(size)
    blobs.put_many([good, bad])
    file = db["blobs.files"].find_one({"filename": checksum(bad)})
    damage(db["blobs.chunks"], {"files_id": file["_id"], "n": 1})
    if size > 2 * CHUNK and db["blobs.chunks"].count_documents({"n": 50}):
        assert blobs.get(checksum(bad)) == bad  # behind the length, so no part of the file
        return
    with pytest.raises(ValueError, match=f"'{checksum(bad)}' must have .* corrupt"):
        blobs.get_many([checksum(good), checksum(bad)])
    assert blobs.get(checksum(good)) == good


def test_a_false_name_is_found_on_reading(blobs: Blobs) -> None:
    blobs.put_many({checksum(b"a"): b"b"})
    with pytest.raises(ValueError, match="corrupt"):
        blobs.get(checksum(b"a"))


def test_an_absent_blob_is_a_key_error(blobs: Blobs) -> None:
    with pytest.raises(KeyError, match="absent"):
        blobs.get_many([blobs.put(b"present"), "absent"])


def test_a_blob_that_was_collected_and_put_again_in_between_is_read(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(500)
    name = blobs.put(data)
    find = blobs._find_chunks

    def swapped(query: dict[str, Any]) -> list[dict[str, Any]]:
        monkeypatch.setattr(blobs, "_find_chunks", find)
        until(lambda: blobs.gc(nothing, 0)["deleted"])
        blobs.put(data)
        return find(query)

    monkeypatch.setattr(module, "_READERS", 1)
    monkeypatch.setattr(blobs, "_find_chunks", swapped)
    assert blobs.get(name) == data


def test_an_upload_beyond_the_limit_stores_nothing(
    blobs: Blobs, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "UPLOAD_LIMIT", -1.0)
    with pytest.raises(TimeoutError, match="upload"):
        blobs.put(content(50))
    assert db["blobs.files"].count_documents({}) == 0


def test_an_upload_id_has_the_age_of_the_server(blobs: Blobs, db: Any) -> None:
    blobs.put(content(50))
    file = db["blobs.files"].find_one()
    assert 0 <= (file["uploadDate"] - file["_id"].generation_time).total_seconds() < 60
    assert abs((blobs._server_time() - file["ref_at"]).total_seconds()) < 60


@pytest.mark.parametrize("size", [0, -1, (15 << 20) + 1])
def test_chunk_size_is_checked(db: Any, size: int) -> None:
    with pytest.raises(ValueError, match="`chunk_size`"):
        Blobs(db, chunk_size=size)


def test_writes_are_acknowledged_by_the_majority(db: Any) -> None:
    weak = pymongo.database.Database(db.client, db.name, write_concern=pymongo.WriteConcern(w=0))
    store = Blobs(weak)
    for collection in (store._files, store._chunks):
        assert collection.write_concern.document == {"w": "majority"}


# as files


def test_a_blob_is_read_as_a_file(db: Any, blobs: Blobs) -> None:
    data = content(25 * CHUNK + 7)
    name = blobs.put(data)
    with blobs.open(name) as file:
        assert file.readable() and file.seekable() and not file.writable()
        assert file.read(10) == data[:10] and file.tell() == 10
        assert file.seek(-20, 2) == len(data) - 20 and file.read() == data[-20:]
        assert file.read() == b"" and file.seek(len(data) + 5) and file.read() == b""
        file.seek(3 * CHUNK - 1)
        assert file.read(2) == data[3 * CHUNK - 1 : 3 * CHUNK + 1]
        with pytest.raises(ValueError, match="`offset` must lead into the file"):
            file.seek(-1)
        file.seek(0)
        assert b"".join(iter(lambda: file.read(33), b"")) == data
    with blobs.open(blobs.put(b"")) as file:
        assert file.read() == b""
    with pytest.raises(KeyError, match="abc"):
        blobs.open("abc")


@pytest.mark.parametrize("damage", ["changed", "missing", "longer", "shorter"])
def test_a_corrupt_blob_is_not_read_to_its_end(
    db: Any, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 2 * CHUNK)
    data = content(9 * CHUNK)
    name = blobs.put(data)
    chunk = db["blobs.chunks"].find_one({"n": 4})
    found = {
        "changed": Binary(bytes([chunk["data"][0] ^ 1]) + chunk["data"][1:]),
        "longer": Binary(chunk["data"] + b"x"),
        "shorter": Binary(chunk["data"][:-1]),
    }
    if damage == "missing":
        db["blobs.chunks"].delete_one({"_id": chunk["_id"]})
    else:
        db["blobs.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": found[damage]}})
    read = b""
    with blobs.open(name) as file, pytest.raises(ValueError, match=f"Blob {name!r} must have"):
        while piece := file.read(CHUNK // 2):
            read += piece
    assert len(read) < len(data)


def test_a_file_is_stored_a_piece_at_a_time(db: Any, blobs: Blobs, tmp_path: Any) -> None:
    data = content(3_000_001)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        made = FileContent(file)
        assert (made.name, len(made)) == (checksum(data), len(data))
        for begin, end in ((0, 5), (1 << 20, 2 << 20), ((1 << 20) - 3, (2 << 20) + 3)):
            assert made.piece(begin, end) == data[begin:end]
        assert made.piece(2_900_000, 10**9) == data[2_900_000:]
    stored = Blobs(db)
    assert stored.put_many([FileContent(path), data]) == [made.name] * 2
    assert stored.get(made.name) == data
    empty = tmp_path / "empty"
    empty.touch()
    assert stored.get(stored.put_many([FileContent(empty)])[0]) == b""
    for wrong in (object(), io.BytesIO(b"a")):
        with pytest.raises(ValueError, match="`file` must be a path or an open file"):
            FileContent(wrong)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        FileContent(tmp_path / "absent")


def test_a_file_that_was_changed_is_not_stored(db: Any, blobs: Blobs, tmp_path: Any) -> None:
    path = tmp_path / "file"
    for other in (b"b" * 1000, b"a" * 999, b"", b"a" * 1001):
        path.write_bytes(b"a" * 1000)
        made = FileContent(path)
        path.write_bytes(other)
        if other.startswith(b"a" * 1000):  # what was appended is not a part of it
            assert blobs.get(blobs.put_many([made])[0]) == b"a" * 1000
        else:
            with pytest.raises(ValueError, match="must stay as it is while it is stored"):
                blobs.put_many([made])
            assert db["blobs.files"].count_documents({}) == 0

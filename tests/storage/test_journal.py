"""The journal: what was appended is read back, whatever the disk or a kill did to its end."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.storage.journal import Journal, Kind, Record, orphans

RECORDS = st.lists(
    st.tuples(st.sampled_from([Kind.ROW, Kind.DOC, Kind.EVENT, Kind.CHUNK]), st.binary()),
    max_size=20,
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Paths of journals that do not exist; hypothesis wants one for each example."""
    folder, numbers = tmp_path_factory.mktemp("journals"), itertools.count()

    def make() -> Path:
        own = folder / str(next(numbers))
        own.mkdir()
        return own / "a.journal"

    return make


def contents(journal: Journal) -> list[tuple[int, bytes]]:
    """Its records without the header."""
    return [(r.kind, r.payload) for r in journal.read()][1:]


def fork(function: Callable[[], Any]) -> int:
    """Run the function in a forked process; an alarm ends one that hangs."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(30)
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def reopened(path: Path) -> list[tuple[int, bytes]]:
    journal = Journal(path, create=False)
    try:
        return contents(journal)
    finally:
        journal.close()


@given(records=RECORDS)
def test_round_trip(fresh: Callable[[], Path], records: list[tuple[int, bytes]]) -> None:
    path = fresh()
    journal = Journal(path, {"project": "p"})
    assert all(journal.append(*record) for record in records)
    assert contents(journal) == records
    ends = [record.end for record in journal.read()]
    assert ends == sorted(ends) and ends[-1] == journal.size == path.stat().st_size
    journal.close()
    again = Journal(path, {"project": "other"})
    assert contents(again) == records
    assert again.header == {"base": 0, "project": "p"}  # the first header stays
    again.close()


@given(records=RECORDS.filter(bool), data=st.data())
def test_reads_on_from_any_record(
    fresh: Callable[[], Path], records: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    journal = Journal(fresh())
    for record in records:
        journal.append(*record)
    every = list(journal.read())
    start = data.draw(st.integers(0, len(every) - 1))
    assert list(journal.read(every[start].end)) == every[start + 1 :]
    journal.close()


def rows(n: int) -> list[bytes]:
    """Rows of two lengths, in runs that are short, long, and longer than what is read at once."""
    lengths = [58] * 3 + [42, 58] * 20 + [42, 42, 58] * 10 + [58] * n + [42] * 70 + [58]
    return [i.to_bytes(4, "little") * (length // 2) for i, length in enumerate(lengths)]


def test_rows_of_one_length_come_together(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    payloads = rows(30_000)  # 4 MB
    for i, payload in enumerate(payloads):
        journal.append(Kind.ROW, payload)
        if i % 9000 == 0:
            journal.append(Kind.EVENT, payload)
    blocks = [block for block in journal.blocks() if block.kind == Kind.ROW]
    assert [payload for block in blocks for payload in block.payloads()] == payloads
    assert [row.tobytes() for block in blocks for row in block.rows()] == payloads
    assert len(blocks) < 100
    assert len(list(journal.read())) == 1 + len(payloads) + 4
    ends = {record.end for record in journal.read()}
    some = max(blocks, key=lambda block: block.n)
    assert {some.end, some.first(1).end, some.first(17).end} < ends
    assert list(some.first(17).payloads()) == list(some.payloads())[:17]
    journal.close()


@pytest.mark.parametrize("at", [0, 1, 500, 999])
@pytest.mark.parametrize("byte", [0, 5, 8, 9, 60])  # of length, checksum, kind and payload
def test_a_damaged_row_among_others_ends_the_journal(tmp_path: Path, at: int, byte: int) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    first = journal.size
    payloads = [i.to_bytes(4, "little") * 14 for i in range(1000)]
    for payload in payloads:
        journal.append(Kind.ROW, payload)
    journal.close()
    data = bytearray(path.read_bytes())
    data[first + at * 65 + byte] ^= 4
    path.write_bytes(data)
    assert reopened(path) == [(Kind.ROW, payload) for payload in payloads[:at]]


@given(records=RECORDS.filter(bool), cut=st.integers(1, 100))
def test_torn_tail(fresh: Callable[[], Path], records: list[tuple[int, bytes]], cut: int) -> None:
    path = fresh()
    journal = Journal(path)
    ends = [journal.size]
    for record in records:
        journal.append(*record)
        ends.append(journal.size)
    journal.close()
    size = max(path.stat().st_size - cut, ends[0])
    os.truncate(path, size)
    whole = sum(end <= size for end in ends[1:])
    assert reopened(path) == records[:whole]
    # What follows a torn tail is readable: the tail was cut off.
    again = Journal(path)
    again.append(Kind.ROW, b"after")
    again.close()
    assert reopened(path) == [*records[:whole], (Kind.ROW, b"after")]


@given(records=RECORDS.filter(bool), data=st.data())
def test_flipped_bits_are_never_data(
    fresh: Callable[[], Path], records: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    path = fresh()
    journal = Journal(path)
    start = journal.size
    for record in records:
        journal.append(*record)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(start, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    journal.close()
    path.write_bytes(raw)
    found = reopened(path)
    assert found == records[: len(found)]
    assert len(found) < len(records)


@given(records=RECORDS, keep=RECORDS, data=st.data())
def test_rewrite(
    fresh: Callable[[], Path],
    records: list[tuple[int, bytes]],
    keep: list[tuple[int, bytes]],
    data: st.DataObject,
) -> None:
    path = fresh()
    journal = Journal(path, {"project": "p"})
    ends = [journal.size]
    for record in records:
        journal.append(*record)
        ends.append(journal.size)
    after = data.draw(st.integers(0, len(records)))
    place = journal.rewrite({"base": 7}, keep, ends[after])
    assert contents(journal) == [*keep, *records[after:]]
    assert [(r.kind, r.payload) for r in journal.read(place)] == records[after:]
    journal.append(Kind.ROW, b"after")
    assert journal.header == {"base": 7, "project": "p"}
    with pytest.raises(BlockingIOError):  # the new file is locked as the old one was
        Journal(path)
    journal.close()
    assert reopened(path) == [*keep, *records[after:], (Kind.ROW, b"after")]
    assert list(path.parent.iterdir()) == [path]


def test_long_records_across_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    records = [(Kind.EVENT, bytes([i]) * size) for i, size in enumerate([3, 1 << 20, 5, 3 << 20])]
    for record in records:
        journal.append(*record)
    assert contents(journal) == records
    journal.close()


def test_the_limit_drops_what_may_be_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal", limit=200)
    while journal.append(Kind.ROW, b"batch", droppable=True):
        pass
    size = journal.size
    assert size >= 200
    assert not journal.append(Kind.ROW, b"batch", droppable=True)
    assert (journal.size, journal.dropped) == (size, 2)
    assert journal.append(Kind.ROW, b"epoch")
    assert contents(journal)[-1] == (Kind.ROW, b"epoch")
    assert journal.dropped == 2
    # When what was sent is taken out, rows are taken again.
    journal.rewrite({}, [], size)
    assert journal.append(Kind.ROW, b"batch", droppable=True)
    journal.close()


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_living_process_keeps_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    reader, writer = os.pipe()

    def hold() -> None:
        journal = Journal(path, {"project": "p"})
        journal.append(Kind.ROW, b"row")
        os.write(writer, b"held")
        signal.pause()

    pid = fork(hold)
    assert os.read(reader, 4) == b"held"
    with pytest.raises(BlockingIOError):
        Journal(path)
    assert list(orphans(tmp_path)) == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (orphan,) = orphans(tmp_path)
    assert orphan.header["project"] == "p"
    assert contents(orphan) == [(Kind.ROW, b"row")]
    assert list(orphans(tmp_path)) == []  # it is ours now
    orphan.close(delete=True)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_without_a_record_is_being_made(tmp_path: Path) -> None:
    """Taking it for an orphan would lock its process out of its own journal."""
    path = tmp_path / "a.journal"
    path.touch()
    assert list(orphans(tmp_path)) == []
    assert path.stat().st_size == 0
    Journal(path).close()
    assert len(list(orphans(tmp_path))) == 1


def test_deletes_what_lies_beside(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    other = tmp_path / "ab.journal"
    for name in ("a.1-2.safetensors", "a.1-2.part"):
        (tmp_path / name).touch()
    other.touch()
    journal.close(delete=True)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_neither_writes_nor_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    journal.append(Kind.ROW, b"parent")
    reader, writer = os.pipe()

    def write() -> None:
        try:
            journal.append(Kind.ROW, b"child")
        except OSError:
            os.write(writer, b"refused")
        else:
            os.write(writer, b"written")
        signal.pause()  # lives longer than the parent has the journal

    pid = fork(write)
    try:
        assert os.read(reader, 7) == b"refused"
        journal.append(Kind.ROW, b"parent")
        journal.close()
        taken = Journal(path)
        assert contents(taken) == [(Kind.ROW, b"parent")] * 2
        taken.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_while_a_thread_writes(tmp_path: Path) -> None:
    """The thread that holds the lock is not in the child to release it."""
    journal = Journal(tmp_path / "a.journal")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with journal._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def write() -> None:
        with contextlib.suppress(OSError):
            journal.append(Kind.ROW, b"child")

    try:
        assert os.waitpid(fork(write), 0)[1] == 0  # else the alarm ended it
    finally:
        release.set()
        thread.join()
        journal.close()


@pytest.mark.parametrize("kind", ["nothing", "half"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.append(Kind.ROW, b"before")
    size, write = journal.size, os.write

    def fails(fd: int, data: bytes) -> int:
        if kind == "nothing":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        for _ in range(2):
            with pytest.raises(OSError):
                journal.append(Kind.ROW, b"lost")
    assert journal.size == journal.path.stat().st_size == size
    journal.append(Kind.ROW, b"after")
    expected = [(Kind.ROW, b"before"), (Kind.ROW, b"after")]
    assert contents(journal) == expected
    journal.close()
    assert reopened(journal.path) == expected


@pytest.mark.parametrize("failing", ["write", "replace"])
def test_a_rewrite_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    journal = Journal(tmp_path / "a.journal")
    for i in range(3):
        journal.append(Kind.ROW, b"%d" % i)
    before = contents(journal)

    def fails(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fails)
        with pytest.raises(OSError):
            journal.rewrite({"base": 2}, [], journal.size)
    assert journal.header["base"] == 0
    assert list(tmp_path.iterdir()) == [journal.path]
    journal.append(Kind.ROW, b"3")
    assert contents(journal) == [*before, (Kind.ROW, b"3")]
    journal.close()
    assert reopened(journal.path) == [*before, (Kind.ROW, b"3")]


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("at", ["write", "replace", "close"])
def test_killed_in_a_rewrite(tmp_path: Path, at: str) -> None:
    """One file or the other: the old one up to the moment it is replaced."""
    path = tmp_path / "a.journal"
    rows = [(Kind.ROW, b"%d" % i) for i in range(5)]

    def rewrite() -> None:
        journal = Journal(path)
        for row in rows:
            journal.append(*row)
        place = list(journal.read())[3].end
        real = getattr(os, at)

        def dies(*args: Any) -> None:
            if at == "write":
                real(args[0], bytes(args[1])[:20])
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, at, dies)
        journal.rewrite({"base": 3}, [], place)

    assert os.waitpid(fork(rewrite), 0)[1] == signal.SIGKILL
    (journal,) = orphans(tmp_path)
    if at == "close":
        assert (journal.header["base"], contents(journal)) == (3, rows[3:])
    else:
        assert (journal.header["base"], contents(journal)) == (0, rows)
    journal.close(delete=True)
    assert list(tmp_path.iterdir()) == []


def test_record() -> None:
    assert Record(10, Kind.CHUNK, b"[1,2]").json() == [1, 2]

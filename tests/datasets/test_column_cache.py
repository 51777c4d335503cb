"""The cache of columns: whole or not there, verified, shared, bounded, and never in the way."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tl.datasets import Array
from keras_tl.datasets.reading import cache_room, column_cache
from keras_tl.datasets.reading.column_cache import ColumnCache
from keras_tl.datasets.reading.columns import Columns

# Backends have threads by now; the children here touch files alone.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

ROWS = 4
FIELDS = {"x": Array((64, 64), "uint8"), "w": Array((), "float64")}
SIZES = {"x": 4096, "w": 8}


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_cache, "_warned", set())


def rows(pack: int, n: int = ROWS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(pack)
    x = random.integers(0, 256, (n, 64, 64), np.uint8)
    return {"x": x, "w": random.random(n)}


def opened(folder: Path, uid: str = "a", limit: int = 1 << 30, packs: int = 8) -> ColumnCache:
    cache = ColumnCache(folder, limit, uid, ROWS, FIELDS, {"x": 0, "w": 2})
    cache.reserve(packs)
    return cache


def fresh(folder: Path, **options: Any) -> ColumnCache:
    """As another process sees it: nothing is verified."""
    column_cache._folders.clear()
    return opened(folder, **options)


def read(cache: Columns, at: Any) -> dict[str, np.ndarray] | None:
    at = np.asarray(at)
    x, w = np.empty((len(at), 64, 64), np.uint8), np.empty(len(at))
    whole = cache.take("x", at, x) and cache.take("w", at, w)
    return {"x": x, "w": w} if whole else None


def check(cache: Columns, packs: list[int]) -> None:
    assert cache.missing(np.array(packs, np.int64)).tolist() == []
    every = np.array([p * ROWS + r for p in packs for r in range(ROWS)], np.int64)
    at = np.random.default_rng(0).permutation(every)
    found = read(cache, at)
    assert found is not None
    for i, address in enumerate(at):
        for name, column in rows(address // ROWS).items():
            np.testing.assert_array_equal(found[name][i], column[address % ROWS])


def forked(run: Callable[[], bool]) -> bool:
    """Whether it holds in a process of its own, which ends at once."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if run() else 1)
        except BaseException:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("made", [opened, lambda _: Columns(ROWS, SIZES)])
def test_rows_come_back(made: Callable[[Path], Columns], tmp_path: Path) -> None:
    cache = made(tmp_path)
    cache.reserve(8)
    assert cache.missing(np.arange(8)).tolist() == list(range(8))
    for pack in (5, 0, 7):
        assert cache.put(pack, rows(pack))
    assert cache.missing(np.arange(8)).tolist() == [1, 2, 3, 4, 6]
    check(cache, [0, 5, 7])
    cache.reserve(40)  # the dataset has grown
    check(cache, [0, 5, 7])
    assert cache.put(39, rows(39))
    check(cache, [39, 5])


def test_a_short_pack_is_whole(tmp_path: Path) -> None:
    opened(tmp_path).put(3, rows(3, 2))
    cache = fresh(tmp_path)
    assert cache.missing(np.array([3])).tolist() == []
    found = read(cache, [12, 13])
    assert found is not None
    np.testing.assert_array_equal(found["x"], rows(3, 2)["x"])


def test_another_process_verifies_what_it_finds(tmp_path: Path) -> None:
    mine = opened(tmp_path)
    assert forked(lambda: all(fresh(tmp_path).put(pack, rows(pack)) for pack in (1, 2)))
    assert mine.sure(np.array([1, 2])).tolist() == [False, False]
    check(mine, [1, 2])
    assert mine.sure(np.array([1, 2])).tolist() == [True, True]


def test_fields_that_come_later_are_added(tmp_path: Path) -> None:
    only = ColumnCache(tmp_path, 1 << 30, "a", ROWS, {"x": FIELDS["x"]}, {"x": 0})
    only.reserve(8)
    only.put(1, rows(1))
    both = opened(tmp_path)
    assert both.missing(np.array([1])).tolist() == [1]
    both.put(1, rows(1))
    check(both, [1])


@pytest.mark.parametrize("name", ["0.rows", "2.rows", "0.index"])
def test_damage_is_found_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path)
    for pack in (1, 2):
        cache.put(pack, rows(pack))
    del cache
    size = {"0.rows": ROWS * 4096, "2.rows": ROWS * 8, "0.index": 48}[name]
    with open(tmp_path / "columns" / "a" / name, "r+b") as file:
        file.seek(size + 20)  # of pack 1: a row, or its hash
        byte = file.read(1)
        file.seek(size + 20)
        file.write(bytes([byte[0] ^ 1]))
    cache = fresh(tmp_path)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        assert cache.missing(np.arange(3)).tolist() == [0, 1]
        assert cache.missing(np.arange(3)).tolist() == [0, 1]
    assert [r.getMessage() for r in caplog.records] == [
        f"Packs in the cache {tmp_path}/columns/a are damaged, and fetched again. The first is 1."
    ]
    cache.put(1, rows(1))
    check(fresh(tmp_path), [1, 2])


def test_a_cache_that_is_damaged_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path)
    for pack in range(8):
        cache.put(pack, rows(pack))
    del cache
    os.truncate(tmp_path / "columns" / "a" / "0.rows", 1000)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        for _ in range(2):
            assert fresh(tmp_path).missing(np.arange(8)).tolist() == list(range(8))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("mark", [0xFFFFFFFF, 0xFFFFFFFE, 1])
def test_no_record_counts_as_verified_by_itself(mark: int, tmp_path: Path) -> None:
    opened(tmp_path).put(3, rows(3))
    with open(tmp_path / "columns" / "a" / "0.index", "r+b") as file:
        file.seek(48 * 3)
        file.write(mark.to_bytes(4, "little") + b"\xff" * 44)
    cache = fresh(tmp_path)
    assert not cache.sure(np.array([3])).any() and read(cache, [12]) is None
    for _ in range(2):
        assert cache.missing(np.array([3])).tolist() == [3]
        assert cache.put(3, rows(3))
        check(cache, [3])
        cache._columns["x"].drop(3)


def test_a_process_that_dies_leaves_whole_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed behind each write of a pack: then the pack is not there, and can be put."""
    opened(tmp_path).put(0, rows(0))
    real = column_cache._write
    for steps in range(1, 7):  # data, record and mark, of two fields
        left = [steps]

        def write(*given: Any, left: list[int] = left) -> None:
            real(*given)
            left[0] -= 1
            if not left[0]:
                os._exit(0)

        with monkeypatch.context() as patch:
            patch.setattr(column_cache, "_write", write)
            assert forked(lambda pack=steps: fresh(tmp_path).put(pack, rows(pack)) and False)
        cache = fresh(tmp_path)
        assert cache.missing(np.array([0, steps])).tolist() == ([steps] if steps < 6 else [])
        cache.put(steps, rows(steps))
        check(cache, [0, steps])


def test_a_pack_that_is_taken_away_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(1, rows(1))
    check(cache, [1])
    cache._columns["x"].drop(1)
    assert read(cache, [4, 5]) is None
    cache.put(1, rows(1))
    check(cache, [1])


def test_processes_and_threads_fill_one_cache(tmp_path: Path) -> None:
    packs = list(range(30))

    def fill(seed: int) -> bool:
        cache = fresh(tmp_path, packs=30)
        for pack in np.random.default_rng(seed).permutation(packs).tolist():
            if len(cache.missing(np.array([pack]))):
                cache.put(pack, rows(pack))
        check(cache, packs)
        return True

    pids = []
    for seed in range(3):
        pid = os.fork()
        if not pid:
            try:
                os._exit(0 if fill(seed) else 1)
            except BaseException:
                os._exit(2)
        pids.append(pid)
    cache = opened(tmp_path, packs=30)
    threads = [
        threading.Thread(target=lambda: [cache.put(pack, rows(pack)) for pack in packs])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    check(cache, packs)
    check(fresh(tmp_path, packs=30), packs)


def test_a_fork_while_a_pack_is_written_keeps_no_lock(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    reading, writing = os.pipe()
    with cache._folder.lock():
        pid = os.fork()
        if not pid:
            os.close(writing)
            os.read(reading, 1)  # lives until the parent is done
            os._exit(0)
    cache.put(1, rows(1))
    check(cache, [1])
    assert forked(lambda: fresh(tmp_path).put(2, rows(2)))
    os.close(writing)
    os.close(reading)
    os.waitpid(pid, 0)
    check(cache, [1, 2])


PACK = ROWS * 4096  # bytes of a pack on the disk, nearly


def test_datasets_that_nobody_uses_give_way(tmp_path: Path) -> None:
    for i, uid in enumerate("abc"):
        cache = fresh(tmp_path, uid=uid)
        for pack in range(4):
            cache.put(pack, rows(pack))
        os.utime(tmp_path / "columns" / uid / "use", (1000 + i, 1000 + i))
    del cache
    limit = 13 * PACK  # 12 are there, and some pages more
    cache = fresh(tmp_path, uid="d", limit=limit)
    assert cache.put(0, rows(0))
    assert sorted(os.listdir(tmp_path / "columns")) == ["b", "c", "d"]
    held = cache  # in use, so that only others can go
    for pack in range(1, 8):
        assert held.put(pack, rows(pack))
    assert sorted(os.listdir(tmp_path / "columns")) == ["d"]
    check(held, list(range(8)))


def test_what_is_in_use_stays_and_the_rest_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = fresh(tmp_path, limit=6 * PACK)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        kept = [pack for pack in range(8) if cache.put(pack, rows(pack))]
    assert 3 <= len(kept) < 6 and kept == list(range(len(kept)))
    check(cache, kept)
    assert len(caplog.records) == 1 and "is full" in caplog.records[0].getMessage()
    size = sum(p.stat().st_blocks * 512 for p in (tmp_path / "columns" / "a").iterdir())
    assert size <= 6 * PACK


def test_packs_that_nobody_uses_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cache_room._fallocate() is None:
        pytest.skip("fallocate: holes are made on Linux")
    cache = fresh(tmp_path, limit=6 * PACK)
    kept = [pack for pack in range(8) if cache.put(pack, rows(pack))]
    del cache
    now = column_cache.time.time() + 3 * 3600
    monkeypatch.setattr(column_cache.time, "time", lambda: now)
    cache = fresh(tmp_path, limit=6 * PACK)
    assert cache.missing(np.array(kept[-1:])).tolist() == []  # used once more
    assert cache.put(7, rows(7))
    check(cache, [7, kept[-1]])
    assert 0 in cache.missing(np.array(kept))  # the one that was put first


def test_a_disk_that_is_full_turns_into_no_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path)
    cache.put(0, rows(0))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING, "keras_tl"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_cache.os, "pwrite", full)
        assert not cache.put(1, rows(1))
        assert not cache.put(2, rows(2))
    assert len(caplog.records) == 1 and "No space left" in caplog.records[0].getMessage()
    check(cache, [0])  # what is there is still read
    assert cache.missing(np.arange(3)).tolist() == [1, 2]


def test_a_folder_that_cannot_be_made_turns_into_no_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "columns").write_text("no folder")
    with caplog.at_level(logging.WARNING, "keras_tl"):
        for _ in range(2):
            cache = opened(tmp_path)
            assert cache.missing(np.arange(3)).tolist() == [0, 1, 2]
            assert not cache.put(1, rows(1))
    assert len(caplog.records) == 1 and "cannot be written" in caplog.records[0].getMessage()


@settings(max_examples=40)
@given(steps=st.lists(st.tuples(st.sampled_from(["put", "open", "drop"]), st.integers(0, 7))))
def test_any_history(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache, there = opened(folder), set()
    for step, pack in steps:
        if step == "put":
            cache.put(pack, rows(pack))
            there.add(pack)
        elif step == "drop":
            for column in cache._columns.values():
                column.drop(pack)
            there.discard(pack)
        else:
            cache = fresh(folder)
        assert set(range(8)) - set(cache.missing(np.arange(8)).tolist()) == there
    check(cache, sorted(there))


def test_nothing_is_left_open(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(3):
        cache = opened(tmp_path, uid=str(i))
        cache.put(1, rows(1))
    del cache
    gc.collect()
    if before:
        assert len(os.listdir("/proc/self/fd")) == before

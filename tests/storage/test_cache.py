"""The cache of blobs on disk: right whatever happens to its files, its disk and its neighbours."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_tl.storage import cache as module
from keras_tl.storage.cache import BlobCache
from keras_tl.storage.home import cache_settings
from keras_tl.storage.tensors import checksum


class Store:
    """Stands for `Blobs`: holds contents by name, and counts what it is asked for."""

    def __init__(self, contents: Iterable[bytes]) -> None:
        self.contents = {checksum(data): data for data in contents}
        self.asked: list[set[str]] = []

    def get_many(self, names: Iterable[str]) -> dict[str, memoryview]:
        self.asked.append(set(names))
        return {name: memoryview(self.contents[name]) for name in self.asked[-1]}


def contents(count: int, size: int = 1000) -> list[bytes]:
    return [np.random.default_rng(i).bytes(size) for i in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*") if path.is_file())


def read(cache: BlobCache, store: Any) -> None:
    found = cache.get_many(store, store.contents)
    assert {name: bytes(data) for name, data in found.items()} == store.contents
    cache.flush()


@pytest.mark.parametrize("size", [0, 10, (1 << 20) + 5])  # the last is mapped
def test_what_was_read_once_is_read_from_the_disk(tmp_path: Path, size: int) -> None:
    store = Store(contents(3, size))
    read(BlobCache(tmp_path), store)
    assert [f.name for f in files(tmp_path)] == sorted(store.contents)
    read(BlobCache(tmp_path), store)  # as another process would
    assert store.asked == [set(store.contents)]
    assert all(view.readonly for view in BlobCache(tmp_path).held(store.contents).values())


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "longer"])
def test_a_damaged_file_is_fetched_again(
    tmp_path: Path, damage: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(contents(3, size))
    read(BlobCache(tmp_path), store)
    path = files(tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(
        {
            "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
            "cut": whole[:-1],
            "emptied": b"",
            "longer": whole + b"\0",
        }[damage]
    )
    with caplog.at_level(logging.WARNING, "keras_tl"):
        read(BlobCache(tmp_path), store)
    assert store.asked[1:] == [{path.name}] and path.name in caplog.text
    assert path.read_bytes() == whole


def test_the_least_recently_used_give_way(tmp_path: Path) -> None:
    store = Store(contents(20))
    names = list(store.contents)
    cache = BlobCache(tmp_path, limit=10_000)
    for age, name in enumerate(names[:10]):
        cache.put_many({name: memoryview(store.contents[name])})
        cache.flush()
        os.utime(cache._path(name), (age, age))
    cache.held([names[0]])  # the oldest is used again
    cache.put_many({name: memoryview(store.contents[name]) for name in names[10:12]})
    cache.flush()
    left = {path.name for path in files(tmp_path)}
    assert left == {names[0], *names[3:12]}  # with the eleventh room was made for a tenth more
    cache.put_many({"f" * 64: memoryview(bytes(10_001))})  # larger than all there is room for
    cache.flush()
    assert {path.name for path in files(tmp_path)} == left


def test_an_unfinished_file_of_a_dead_process_goes(tmp_path: Path) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    old, new = folder / "old.part", folder / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    read(BlobCache(tmp_path), Store(contents(1)))
    assert not old.exists() and new.exists()


def fill(folder: str, seed: int, rounds: int) -> None:
    """Reads all in its own order, through a cache that holds a third of it."""
    module._TOUCH = 0.0
    store = Store(contents(30))
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        cache = BlobCache(Path(folder), limit=10_000)
        for name in random.permutation(list(store.contents)):
            found = cache.get_many(store, [name])  # type: ignore[arg-type]
            assert bytes(found[name]) == store.contents[name]
        cache.flush()


def test_processes_fill_and_evict_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(str(tmp_path), n, 5)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    cache = BlobCache(tmp_path, limit=10_000)
    cache.put_many({})
    store = Store(contents(1))
    read(cache, store)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
    assert all(checksum(path.read_bytes()) == path.name for path in files(tmp_path))


FULL = """
import logging, resource, sys
from pathlib import Path
from keras_tl.storage.cache import BlobCache
from keras_tl.storage.tensors import checksum
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # as a full disk, at a byte of a file
class Store:
    def get_many(self, names):
        return {name: memoryview(data) for name, data in made.items() if name in names}
made = {checksum(data): data for data in (bytes([i]) * 5000 for i in range(4))}
cache = BlobCache(Path(sys.argv[1]))
for _ in range(3):
    assert cache.get_many(Store(), made) == made
    cache.flush()
"""


def test_a_full_disk_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("cannot be written") == 1 and "KERAS_TL_CACHE" in said
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_no_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(contents(2))
    cache = BlobCache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING, "keras_tl"):
        read(cache, store)
        read(cache, store)
    assert len(store.asked) == 2
    assert [r.getMessage().count("cannot be written") for r in caplog.records] == [1]


def test_no_cache(tmp_path: Path) -> None:
    store = Store(contents(2))
    cache = BlobCache(tmp_path / "cache", limit=0)
    read(cache, store)
    read(cache, store)
    assert len(store.asked) == 2 and not (tmp_path / "cache").exists()


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_settings() == (Path(os.environ["KERAS_TL_HOME"]) / "cache", 10 << 30)
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", "5000")
    assert cache_settings() == (tmp_path, 5000)
    assert (module.shared().folder, module.shared().limit) == (tmp_path, 5000)
    assert module.shared() is module.shared()
    for wrong in ("-1", "1e9", "10 GB", "²"):
        monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", wrong)
        with pytest.raises(ValueError, match="`KERAS_TL_CACHE_LIMIT` must be .* Received"):
            cache_settings()

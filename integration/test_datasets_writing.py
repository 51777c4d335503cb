"""Samples get into a dataset once, whole and in bounded memory, whoever writes beside."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_oracles import rows, told

import keras_tl as ktl
from keras_tl.datasets import Array, Bytes, Dataset, Image, Label, Text
from keras_tl.datasets.storing import writing
from keras_tl.storage import hooks, uploads
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.tensors import checksum

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (700, 4, 4, 3), dtype=np.uint8)
KEYS = [f"k{i}" for i in range(700)]
TAGS = {"split": str, "quality": int, "taken": datetime}


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture
def ds(hub: ktl.Hub) -> Dataset:
    return hub.datasets.create("d", x=Image(4, 4), y=Label(10, dtype="int16"), tags=TAGS)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_GROUP_ROWS", 256)


@pytest.fixture
def at_phase() -> Iterator[Callable[..., None]]:
    """`at_phase("dataset-packs", act)` does something once, between two writes."""

    def set_hook(phase: str, act: Callable[[], Any]) -> None:
        def hook(name: str) -> None:
            if name == phase:
                hooks.hook = None
                act()

        hooks.hook = hook

    yield set_hook
    hooks.hook = None


# the catalog


def test_a_dataset_is_made_once(hub: ktl.Hub, ds: Dataset) -> None:
    again = hub.datasets.create("d", x=Image(4, 4), y=Label(10, dtype="int16"), tags=TAGS)
    assert (again.uid, again.schema) == (ds.uid, ds.schema)
    assert "d" in hub.datasets and "e" not in hub.datasets and list(hub.datasets) == ["d"]
    for other in (Image(4, 5), Image(4, 4, compress=None)):
        with pytest.raises(ValueError, match="must be those that the dataset 'd' has"):
            hub.datasets.create("d", x=other, y=Label(10, dtype="int16"), tags=TAGS)
    with pytest.raises(KeyError, match="e"):
        hub.datasets["e"]


def test_hostile_keys_of_datasets(hub: ktl.Hub) -> None:
    for key in ("", "a\0", "a\nb", 3, None):
        with pytest.raises(ValueError, match="`key` must be"):
            hub.datasets.create(key, x=Array((1,)))  # type: ignore[arg-type]


def test_any_printable_key_will_do(hub: ktl.Hub) -> None:
    for key in ("$a.b/c d", "system.users", "ä" * 500, "A", "a"):
        made = hub.datasets.create(key, x=Array((1,), "uint8"))
        made.insert({"x": [1]}, key=key)
        assert made.keys() == [key]
    assert len(list(hub.datasets)) == 5


def test_a_killed_creation_is_finished(hub: ktl.Hub, at_phase: Callable[..., None]) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    at_phase("dataset-created", die)
    with pytest.raises(Killed):
        hub.datasets.create("k", x=Image(4, 4))
    found = hub.datasets["k"]
    assert "at_1" in found.samples.index_information()
    assert hub.datasets["k"].document["ready"]
    assert hub.datasets.gc(0)["collections"] == 0


def test_deleted_datasets_leave_nothing(
    hub: ktl.Hub, ds: Dataset, at_phase: Callable[..., None]
) -> None:
    ds.insert_many({"x": X[:10]})
    ds.freeze("v1")
    hub.datasets.delete("d")
    assert list(hub.datasets) == []
    again = hub.datasets.create("d", x=Image(4, 4))
    again.insert({"x": X[0]}, key="a")
    assert again.uid != ds.uid and again.count == 1
    with pytest.raises(KeyError, match="d"):
        ds.insert({"x": X[0]})
    with pytest.raises(KeyError, match="d"):
        ds.refresh()
    with pytest.raises(KeyError):
        hub.datasets.delete("e")

    # Killed in between, it is gone; what is left is garbage.
    again.freeze("v1")

    def die() -> None:
        raise KeyboardInterrupt

    at_phase("dataset-deleted", die)
    with pytest.raises(KeyboardInterrupt):
        hub.datasets.delete("d")
    assert "d" not in hub.datasets
    assert hub.datasets.gc(dry_run=True)["collections"] == 4
    assert hub.datasets.gc()["collections"] == 4
    names = hub.connection.db.list_collection_names()
    assert not [name for name in names if ".d-" in name]
    assert hub.connection.db["snapshots"].count_documents({}) == 0


def test_a_dataset_deleted_under_a_writer(
    hub: ktl.Hub, ds: Dataset, at_phase: Callable[..., None]
) -> None:
    at_phase("dataset-packs", lambda: hub.datasets.delete("d"))
    with pytest.raises(KeyError, match="d"):
        ds.insert_many({"x": X[:10]})


# insertion


@pytest.mark.parametrize("way", ["columns", "records"])
def test_what_is_inserted_is_there_once(ds: Dataset, small_groups: None, way: str) -> None:
    y = np.arange(700) % 10
    split = ["train" if i % 3 else "test" for i in range(700)]
    taken = datetime(2024, 5, 1, tzinfo=UTC)

    def insert() -> int:
        if way == "columns":
            tags = {"split": split, "taken": taken}
            return ds.insert_many({"x": X, "y": y}, keys=KEYS, tags=tags)
        each = ({"split": one} for one in split)
        values = zip(X, y, KEYS, each, strict=True)
        names = ("x", "y", "key", "tags")
        records = (dict(zip(names, row, strict=True)) for row in values)
        return ds.insert_many(records, tags={"taken": taken})

    assert insert() == 700
    found = rows(ds)
    assert list(found) == KEYS  # in the order in which they came
    for i, key in enumerate(KEYS):
        assert (found[key]["x"] == X[i]).all()
        assert found[key]["labels"] == {"y": i % 10}
        assert found[key]["tags"] == {"split": split[i], "taken": taken}
    packs = ds.packs.count_documents({})
    assert insert() == 0
    assert ds.packs.count_documents({}) == packs == 3
    assert rows(ds).keys() == found.keys()
    assert told(ds) == {"inserted": 700}
    assert [e["n"] for e in ds.connection.db["outbox"].find().sort("packs", 1)] == [256, 256, 188]


def test_without_keys_samples_get_their_own(ds: Dataset) -> None:
    assert ds.insert_many({"x": X[:300]}) == ds.insert_many({"x": X[:300]}) == 300
    key = ds.insert({"x": X[0], "y": None})
    found = rows(ds)
    assert len(found) == 601 and found[key]["labels"] == {"y": None}
    assert ds.insert_many([]) == ds.insert_many({"x": X[:0]}) == 0


@pytest.mark.parametrize("way", ["columns", "records"])
def test_nothing_is_written_of_columns_that_do_not_fit(
    ds: Dataset, small_groups: None, way: str
) -> None:
    y = [3] * 699 + [10]
    with pytest.raises(ValueError, match="`y` of sample 'k699' must be a class from 0 to 9"):
        if way == "columns":
            ds.insert_many({"x": X, "y": y}, keys=KEYS)
        else:
            values = zip(X, y, KEYS, strict=True)
            ds.insert_many({"x": x, "y": one, "key": key} for x, one, key in values)
    found = rows(ds)  # of an iterable what came before may be there, but no half block
    assert not found if way == "columns" else len(found) in (0, 256, 512)
    assert told(ds)["inserted"] == len(found)


def test_a_key_that_exists(ds: Dataset) -> None:
    assert ds.insert({"x": X[0], "y": 3}, key="a", tags={"split": "train"}) == "a"
    ds.insert({"x": X[0], "y": 3}, key="a", tags={"split": "train"})
    ds.insert({"x": X[0]}, key="a")  # says nothing of its label and tags
    others: list[tuple[Any, Any, str]] = [
        (X[1], {}, "another x"),
        (X[0], {"y": 4}, "another y"),
        (X[0], {"tags": {"split": "test"}}, "another split"),
        (X[1], {"y": 4, "tags": {"quality": 1}}, "another x or y or quality"),
    ]
    for x, about, rule in others:
        with pytest.raises(ValueError, match=f"Received: 'a' with {rule}$"):
            ds.insert_many([{"x": x, "key": "a", **about}])
    assert told(ds) == {"inserted": 1} and len(rows(ds)) == 1


def test_replacement(ds: Dataset) -> None:
    ds.insert_many({"x": X, "y": np.arange(700) % 10}, keys=KEYS, tags={"split": "train"})
    added = ds.samples.find_one({"_id": "k7"})["added"]
    x = X.copy()
    x[5:8] += 1
    y = [None if i != 300 else 5 for i in range(700)]
    quality = [i if i == 7 or i == 9 else None for i in range(700)]
    columns = {"x": x, "y": y}
    assert ds.insert_many(columns, keys=KEYS, tags={"quality": quality}, replace=True) == 5
    found = rows(ds)
    assert all((found[key]["x"] == row).all() for key, row in zip(KEYS, x, strict=True))
    assert [found[k]["labels"]["y"] for k in ("k6", "k300", "k301")] == [6, 5, 1]
    assert found["k7"]["tags"] == {"split": "train", "quality": 7}
    assert found["k9"]["tags"] == {"split": "train", "quality": 9}
    assert ds.samples.find_one({"_id": "k7"})["added"] == added
    assert told(ds) == {"inserted": 700, "updated": 5}
    assert ds.insert_many(columns, keys=KEYS, tags={"quality": quality}, replace=True) == 0
    assert ds.heads.find_one({"_id": 0})["live"] == 253


def test_two_writers_of_the_same_samples(mongodb: str, project: str, ds: Dataset) -> None:
    """One of them writes each sample, also where both have looked before either wrote."""
    hubs = [ktl.Hub(mongodb, project=project) for _ in range(2)]
    barrier = threading.Barrier(2, timeout=30)
    met = threading.local()

    def hook(phase: str) -> None:
        if phase == "dataset-packs" and not hasattr(met, "yes"):
            met.yes = True
            barrier.wait()

    hooks.hook = hook
    try:
        with ThreadPoolExecutor(2) as pool:
            parts = [(hubs[0], slice(0, 200)), (hubs[1], slice(100, 250))]
            counts = [
                pool.submit(h.datasets["d"].insert_many, {"x": X[p]}, KEYS[p]) for h, p in parts
            ]
            written = [count.result() for count in counts]
    finally:
        hooks.hook = None
        for hub in hubs:
            hub.close()
    assert sum(written) == 250 and sorted(written) in ([50, 200], [100, 150])
    assert sorted(rows(ds)) == sorted(KEYS[:250])
    assert told(ds) == {"inserted": 250}
    assert ds.gc(0)["orphans"] == 0  # the loser took its packs away


def test_one_key_in_several_blocks(ds: Dataset) -> None:
    """It is as if each came by a call of its own."""
    records = [{"x": X[i % 300], "key": f"k{i % 300}"} for i in range(600)]
    assert ds.insert_many(records) == 300
    assert len(rows(ds)) == 300
    other = {"x": X[1], "key": "k0"}
    with pytest.raises(ValueError, match="Received: 'k0' with another x"):
        ds.insert_many([records[0], other])
    ds.insert_many([records[0], other, records[0], other], replace=True)
    assert (rows(ds)["k0"]["x"] == X[1]).all()


@pytest.mark.parametrize("phase", ["dataset-reserved", "dataset-packs"])
def test_garbage_is_collected_beside_a_writer(
    hub: ktl.Hub, ds: Dataset, at_phase: Callable[..., None], phase: str
) -> None:
    found = {}
    at_phase(phase, lambda: found.update(hub.datasets.gc(0)))
    assert ds.insert_many({"x": X}, keys=KEYS) == 700
    assert found["orphans"] == (3 if phase == "dataset-packs" else 0)
    assert sorted(rows(ds)) == sorted(KEYS)


def test_garbage_is_collected_inside_a_writers_transaction(
    hub: ktl.Hub, ds: Dataset, at_phase: Callable[..., None]
) -> None:
    """Whoever comes first: the writer's packs stay, or it writes them again."""

    found: list[Any] = []
    pool = ThreadPoolExecutor(1)
    at_phase("dataset-transaction", lambda: found.append(pool.submit(hub.datasets.gc, 0)))
    assert ds.insert_many({"x": X}, keys=KEYS) == 700
    found[0].result(30)
    pool.shutdown()
    assert sorted(rows(ds)) == sorted(KEYS)


# blobs


@pytest.fixture
def videos(hub: ktl.Hub) -> Dataset:
    return hub.datasets.create("videos", v=Bytes("video/mp4"), t=Text(), y=Label())


def test_a_large_file_passes_through(videos: Dataset, tmp_path: Path, hub: ktl.Hub) -> None:
    path, size = tmp_path / "v", 40 << 20
    with path.open("wb") as file:
        for seed in range(size >> 20):
            file.write(np.random.default_rng(seed).bytes(1 << 20))
    tracemalloc.start()
    try:
        videos.insert({"v": path, "t": "a"}, key="path")
        with path.open("rb") as file:
            videos.insert({"v": file, "t": "b"}, key="file")
        (head, _) = videos.heads.find().sort("_id", 1)
        (name,) = head["blobs"]
        with Blobs(hub.connection.db).open(name) as stored, path.open("rb") as file:
            while piece := stored.read(1 << 20):
                assert piece == file.read(1 << 20)
            assert not file.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size * 0.75, f"{peak / 2**20:.0f} MB"
    assert hub.connection.db["blobs.files"].count_documents({}) == 1
    assert head["bytes"] == size + 1


def test_blobs_live_as_long_as_their_samples(hub: ktl.Hub, videos: Dataset) -> None:
    big = [RANDOM.bytes((1 << 20) + i) for i in range(1, 4)]
    columns = {"v": [*big, b"small"], "t": ["x"] * 4}
    videos.insert_many(columns, keys=["a", "b", "c", "d"])
    files = hub.connection.db["blobs.files"]
    assert files.count_documents({}) == 4
    assert hub.models.gc(0)["deleted"] == 0
    videos.freeze("v1")
    videos.delete(["a", "b", "c", "d"])
    assert hub.datasets.gc(0)["packs"] == 0  # the snapshot has them
    assert hub.models.gc(0)["deleted"] == 0
    videos.snapshots.delete("v1")
    assert hub.datasets.gc(0)["packs"] == 1
    assert hub.models.gc(0)["deleted"] == 5  # and the snapshot's own
    assert files.count_documents({}) == 0


def test_blobs_are_collected_beside_a_writer(
    hub: ktl.Hub, videos: Dataset, at_phase: Callable[..., None]
) -> None:
    """What can be stored again is, and of a stream's value that is gone its owner is told."""
    columns = {"v": [b"a" * (2 << 20), b"small"], "t": ["x", "y"]}
    large, small = (checksum(value) for value in columns["v"])
    blobs = Blobs(hub.connection.db)
    for name, lost in ((small, False), (large, True)):
        at_phase("dataset-packs", lambda name=name: blobs.gc(lambda names: names - {name}, 0))
        if lost:
            with pytest.raises(TimeoutError, match="`v` of sample 'a' must be referred to"):
                videos.insert_many(columns, keys=["a", "b"])
            assert not rows(videos)
        else:
            assert videos.insert_many(columns, keys=["a", "b"]) == 2
            assert rows(videos).keys() == {"a", "b"} and not blobs.missing([large, small])
            videos.delete(["a", "b"])
    assert hub.datasets.gc(0)["orphans"] == 0


def test_a_file_that_changes_while_it_is_stored(
    videos: Dataset,
    tmp_path: Path,
    at_phase: Callable[..., None],
    hub: ktl.Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "_INSERT_BYTES", 1 << 20)
    path = tmp_path / "v"
    path.write_bytes(bytes(9 << 20))
    at_phase("blob-chunks", lambda: path.write_bytes(b"b" * (9 << 20)))
    with pytest.raises(ValueError, match="A file must stay as it is while it is stored"):
        videos.insert({"v": path, "t": "a"}, key="a")
    assert not rows(videos) and hub.connection.db["blobs.files"].count_documents({}) == 0


# changes


def test_updates(ds: Dataset) -> None:
    ds.insert_many({"x": X, "y": np.arange(700) % 10}, keys=KEYS, tags={"split": "train"})
    assert ds.update("k1", y=None, split=None, quality=3) == 1
    assert ds.update(KEYS[300:], y=np.arange(400) % 5, quality=list(range(400))) == 400
    assert ds.update(ds.where(quality__lt=3).sort("quality"), quality=[30, 20, 10]) == 3
    assert ds.update([], y=1) == 0
    found = rows(ds)
    assert found["k1"]["labels"] == {"y": None} and found["k1"]["tags"] == {"quality": 3}
    assert [found[f"k{i}"]["tags"]["quality"] for i in (300, 301, 302, 303)] == [30, 20, 10, 3]
    assert [found[key]["labels"]["y"] for key in KEYS[300:]] == [i % 5 for i in range(400)]
    assert found["k2"]["labels"] == {"y": 2} and found["k2"]["tags"] == {"split": "train"}
    assert told(ds) == {"inserted": 700, "labelled": 401, "updated": 3}


UPDATES: list[tuple[dict[str, Any], str]] = [
    ({"x": X[0]}, "`update` changes the labels and tags"),
    ({"$set": 1}, "`update` changes the labels and tags"),
    ({"y": 10}, "`y` of sample 'k0' must be a class"),
    ({"y": [1, 1.5]}, "must be of dtype int16"),
    ({"y": [1, 2, 3]}, "`y` must have a value a sample: 2"),
    ({"quality": [1, "2"]}, "`quality` of sample 'k1': tag `quality` must be an integer"),
    ({"quality": {"$gt": 1}}, "must be an integer"),
]


def test_updates_that_are_refused(ds: Dataset) -> None:
    ds.insert_many({"x": X[:2]}, keys=KEYS[:2])
    for values, rule in UPDATES:
        with pytest.raises(ValueError, match=rule):
            ds.update(KEYS[:2], **values)
    for missing in (["k0", "k9"], ["k0", "k1", "zzz"]):
        with pytest.raises(KeyError, match=missing[-1]):
            ds.update(missing, y=1, quality=1)
    for samples in (3, None, {"k0": 1}, ["k0", "k0"]):
        with pytest.raises(ValueError, match="`samples` must"):
            ds.update(samples, y=1)  # type: ignore[arg-type]
    assert rows(ds)["k0"]["labels"] == {"y": None} and rows(ds)["k0"]["tags"] == {}


def test_updates_at_once(mongodb: str, project: str, ds: Dataset) -> None:
    """Two processes that change labels of one pack: neither change is lost."""
    ds.insert_many({"x": X[:200]}, keys=KEYS[:200])
    with ktl.Hub(mongodb, project=project) as other, ThreadPoolExecutor(4) as pool:
        both = [other.datasets["d"], ds]
        for i in range(4):
            part = KEYS[i:200:4]
            pool.submit(lambda d, part, i: [d.update(k, y=i) for k in part], both[i % 2], part, i)
    assert [row["labels"]["y"] for row in rows(ds).values()] == [i % 4 for i in range(200)]


def test_declared_tags(mongodb: str, project: str, ds: Dataset) -> None:
    ds.insert({"x": X[0]}, key="a")
    with ktl.Hub(mongodb, project=project) as hub:
        other = hub.datasets["d"]
        ds.declare(loss=float, quality=int)
        other.update("a", loss=2)  # it looks again
        other.insert({"x": X[1]}, key="b", tags={"loss": 1.5})
        with pytest.raises(ValueError, match="which is float already"):
            other.declare(loss=int)
    for name in ("$set", "a.b", "x", "key"):
        with pytest.raises(ValueError, match="`tags` must"):
            ds.declare(**{name: int})
    assert rows(ds)["a"]["tags"] == {"loss": 2.0}
    assert hub.datasets is not None


def test_predictions(ds: Dataset) -> None:
    ds.insert_many({"x": X}, keys=KEYS)
    p = RANDOM.random((700, 3))
    label = p.argmax(1)
    assert ds.add_predictions(KEYS, model="a/b", version=3, label=label, p=p, by="me") == 700
    ds.add_predictions(["k5"], model="a/b", version=3, label=7)
    ds.add_predictions("k5", model="a", version=3, label=float("nan"))
    found = {d["sample"]: d for d in ds.predictions.find({"model": "a/b"})}
    assert len(found) == 700
    assert found["k4"]["values"] == {"label": label[4], "p": p[4].tolist(), "by": "me"}
    assert found["k5"]["values"] == {"label": 7, "p": p[5].tolist(), "by": "me"}
    assert ds.predictions.count_documents({}) == 701
    event = ds.connection.db["outbox"].find_one({"kind": "predicted", "model": "a"})
    assert (event["version"], event["keys"]) == (3, ["k5"])
    assert told(ds) == {"inserted": 700, "predicted": 702}


PREDICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"version": 1.0, "y": 1}, "`version` must be the number"),
    ({"version": True, "y": 1}, "`version` must be the number"),
    ({"version": -1, "y": 1}, "`version` must be the number"),
    ({"model": "", "y": 1}, "`model` must be"),
    ({}, "`values` must name one"),
    ({"$y": 1}, "`values` must be without"),
    ({"a.b": 1}, "`values` must be without"),
    ({"y": [1]}, "`y` must have a value a sample: 2"),
    ({"y": [1, {"$gt": 1}]}, "`y` of sample 'k1' must be a number"),
    ({"y": [[1], ["a"]]}, "`y` of sample 'k1' must be a number"),
    ({"y": ["a", "b\0"]}, "`y` of sample 'k1' must be a number"),
    ({"y": [1, 2**63]}, "`y` of sample 'k1' must be a number"),
]


def test_predictions_that_are_refused(ds: Dataset) -> None:
    ds.insert_many({"x": X[:2]}, keys=KEYS[:2])
    for about, rule in PREDICTIONS:
        with pytest.raises(ValueError, match=rule):
            ds.add_predictions(KEYS[:2], **{"model": "m", "version": 1, **about})
    with pytest.raises(KeyError, match="zzz"):
        ds.add_predictions(["k0", "zzz"], model="m", version=1, y=1)
    assert ds.predictions.count_documents({}) == 0


def test_deletion_and_garbage(hub: ktl.Hub, ds: Dataset) -> None:
    ds.insert_many({"x": X, "y": np.arange(700) % 10}, keys=KEYS)
    ds.add_predictions(KEYS, model="m", version=1, y=1)
    snapshot = ds.where(y=3).freeze("threes")
    assert ds.delete(KEYS[:256]) == 256 and ds.delete([*KEYS[:256], "k256"]) == 1
    assert ds.delete(ds.where(y=9)) == 45
    assert sorted(rows(ds)) == sorted(k for i, k in enumerate(KEYS) if i > 256 and i % 10 != 9)
    assert ds.predictions.count_documents({}) == len(rows(ds))
    assert told(ds) == {"inserted": 700, "predicted": 700, "deleted": 302}
    assert ds.gc(0)["packs"] == 0  # the snapshot has rows of it
    assert snapshot.count == 70
    ds.snapshots.delete("threes")
    assert ds.gc()["packs"] == 0  # within the grace
    assert ds.gc(0, dry_run=True) == ds.gc(0) == {"packs": 1, "bytes": 256 * 48, "orphans": 0}
    assert ds.gc(0)["packs"] == 0 and ds.packs.count_documents({}) == 2
    assert len(rows(ds)) == 398
    ds.insert_many({"x": X}, keys=KEYS)
    assert len(rows(ds)) == 700
    with pytest.raises(ValueError, match="`grace` must be"):
        ds.gc(-1)


def test_description(hub: ktl.Hub, ds: Dataset) -> None:
    tags = {"split": ["train", "test"] * 100, "quality": list(range(150)) + [None] * 50}
    ds.insert_many({"x": X[:200], "y": [0, 0, 3, None] * 50}, KEYS[:200], tags)
    ds.delete(KEYS[:4])
    found = ds.describe()
    assert json.loads(json.dumps(found)) == found
    assert (found["key"], found["count"], found["packs"]) == ("d", 196, 1)
    assert found["bytes"] == 200 * 48 and found["stored"] > 0
    assert found["labels"] == {"y": {"values": {"0": 98, "3": 49}, "distinct": 2, "missing": 49}}
    assert found["tags"]["split"] == {
        **{"type": "str", "values": {"test": 98, "train": 98}},
        **{"distinct": 2, "missing": 0},
    }
    quality = found["tags"]["quality"]
    assert (len(quality["values"]), quality["distinct"], quality["missing"]) == (20, 146, 50)
    assert found["fields"] == ds.schema.config()["fields"]
    assert found["tags"]["taken"] == {
        "type": "datetime",
        "values": {},
        "distinct": 0,
        "missing": 196,
    }
    empty = hub.datasets.create("e", t=Text()).describe()
    assert (empty["count"], empty["bytes"], empty["labels"], empty["tags"]) == (0, 0, {}, {})

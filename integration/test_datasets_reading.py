"""Reading a real dataset: while it changes, while the server is away, and after a kill."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from runner import Witness, digest

import keras_tl as ktl
from keras_tl import datasets as d
from keras_tl.callbacks import MongoBackupAndRestore
from keras_tl.datasets.batches import following
from keras_tl.datasets.batches.order import epoch_order, window_packs
from keras_tl.datasets.reading import fetching, spans
from keras_tl.datasets.reading.source import Source
from keras_tl.storage.cache import shared

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

COUNT, ROW = 3000, 256  # 12 packs


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def numbers(begin: int, end: int) -> dict[str, Any]:
    """Samples whose values tell which they are."""
    own = np.arange(begin, end)
    return {"x": np.repeat(own[:, None], 4, 1).astype("float32"), "y": own % 3}


def filled(hub: ktl.Hub, count: int = COUNT) -> d.Dataset:
    tags = {"split": str, "weight": float}
    ds = hub.datasets.create("numbers", x=d.Array((4,)), y=d.Label(3), tags=tags)
    split = ["train" if i % 5 else "test" for i in range(count)]
    keys = [f"k{i:05d}" for i in range(count)]
    weights = (np.arange(count) % 7).tolist()
    ds.insert_many(numbers(0, count), keys, {"split": split, "weight": weights})
    return ds


def ids(batches: Any) -> list[int]:
    found: list[int] = []
    for x, y, *_ in batches:
        np.testing.assert_array_equal(x[:, 0] % 3, y)
        np.testing.assert_array_equal(x[:, 0], x[:, 3])
        found += x[:, 0].astype(int).tolist()
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The packs that are read from MongoDB."""
    found: list[int] = []
    real = fetching.patiently

    def noted(call: Callable[[], Any], stopped: Any = lambda: False) -> Any:
        documents = real(call, stopped)
        if isinstance(documents, list):  # not blobs
            found.extend(document["_id"] for document in documents)
        return documents

    monkeypatch.setattr(fetching, "patiently", noted)
    return found


@pytest.mark.parametrize("cache", ["auto", "memory", None])
def test_an_epoch_is_its_order_wherever_it_is_read_from(
    hub: ktl.Hub, cache: str | None, read: list[int]
) -> None:
    ds = filled(hub)
    assert ds.rows == ROW
    batches = ds.batches(100, shuffle=True, seed=2, cache=cache)
    at = ds.resolve().at
    for epoch in range(3):
        order = epoch_order(at, ROW, 2, epoch, window_packs(16, ROW))
        assert ids(batches) == order.tolist()
        assert sorted(read) == (list(range(12)) if cache is None or not epoch else [])
        read.clear()
    assert ids(ds.sort("-weight").batches(100, cache=cache)) == sorted(
        range(COUNT), key=lambda i: (-(i % 7), -i)
    )


def test_shards_train_what_one_reader_does(hub: ktl.Hub) -> None:
    view = filled(hub).where(split="train")
    whole = ids(view.batches(120, shuffle=True))
    for count in (2, 4):
        shards = [view.batches(120 // count, shuffle=True, shard=(i, count)) for i in range(count)]
        steps = zip(*shards, strict=True)
        together = [int(i) for step in steps for x, _ in step for i in x[:, 0]]
        assert together == whole[: len(together)] and len(whole) - len(together) < count


def test_a_view_is_followed_and_only_the_difference_is_read(hub: ktl.Hub, read: list[int]) -> None:
    ds = filled(hub)
    batches = ds.where(split="train").batches(100, shuffle=True)
    expected = {i for i in range(COUNT) if i % 5}
    assert set(ids(batches)) == expected
    ds.insert_many(numbers(COUNT, COUNT + 300), tags={"split": "train"})
    ds.update(["k00000", "k00005"], split="train")
    ds.delete(["k00001", "k00002"])
    expected |= {0, 5, *range(COUNT, COUNT + 300)}
    expected -= {1, 2}
    read.clear()
    found = ids(batches)
    assert set(found) == expected and len(found) == len(expected)
    assert sorted(read) == [12, 13]  # the packs that came
    again = ds.where(split="train").batches(100)
    read.clear()
    assert set(ids(again)) == expected and not read


def test_an_epoch_sees_each_sample_once_while_others_write(hub: ktl.Hub) -> None:
    ds = filled(hub, 1000)
    keys = [f"k{i:05d}" for i in range(1000)]
    done = threading.Event()

    def write() -> None:
        begin = 1000
        while not done.is_set():
            ds.insert_many(numbers(begin, begin + 50))
            ds.insert_many(numbers(0, 5), keys[:5], replace=True)
            ds.insert_many(
                {"x": np.full((1, 4), begin, "float32"), "y": [begin % 3]}, keys[9:10], replace=True
            )
            begin += 50

    thread = threading.Thread(target=write)
    thread.start()
    try:
        batches = ds.batches(64, shuffle=True, cache=None)
        for _ in range(8):
            before = ds.count
            found = ids(batches)
            assert len(found) >= before
            # The tenth one changes: its new value is that of a sample, which may be there, too.
            rest = [i for i in found if i != 9 and i % 50]
            assert len(set(rest)) == len(rest)
            assert {i for i in range(1000) if i != 9} <= set(found)
    finally:
        done.set()
        thread.join()


def test_a_snapshot_is_read_though_its_samples_are_gone(hub: ktl.Hub) -> None:
    ds = filled(hub, 500)
    frozen = ds.where(split="train").freeze("v1")
    batches = frozen.batches(64, shuffle=True, cache=None)
    first = ids(batches)
    ds.delete([f"k{i:05d}" for i in range(400)])
    ds.update([f"k{i:05d}" for i in range(400, 500)], y=0)
    ds.gc(0.0)
    again = ds.snapshots["v1"].batches(64, shuffle=True, cache=None)
    assert ids(again) == first and sorted(first) == [i for i in range(500) if i % 5]


def test_predictions_and_tags_are_columns(hub: ktl.Hub) -> None:
    ds = filled(hub, 300)
    keys = [f"k{i:05d}" for i in range(300)]
    ds.add_predictions(keys, model="m", version=1, p=(np.arange(300) / 300).tolist())
    view = ds.join_predictions(model="m", version=1)
    batches = view.batches(64, x=["x", "prediction.p"], sample_weight="weight")
    place = 0
    for x, y, w in batches:
        own = np.arange(place, place + len(y))
        np.testing.assert_array_equal(x["x"][:, 0], own)
        np.testing.assert_allclose(x["prediction.p"], own / 300)
        np.testing.assert_array_equal(w, own % 7)
        place += len(y)
    assert place == 300


@pytest.mark.parametrize("cache", ["auto", None])
def test_values_of_any_kind_and_size(hub: ktl.Hub, cache: str | None, read: list[int]) -> None:
    big = (17 << 20) // 4
    ds = hub.datasets.create(
        "any",
        image=d.Image(None, 8, 3),
        big=d.Array((big,), "float32"),
        photo=d.Image(16, 16, 3, compress="photo"),
        text=d.Text(),
        boxes=d.Boxes(),
        video=d.Bytes("video/mp4"),
        y=d.Label(3),
    )
    random = np.random.default_rng(0)
    samples = [
        {
            "image": random.integers(0, 256, (4 + i, 8, 3), np.uint8),
            "big": np.full(big, i, "float32"),
            "photo": random.integers(0, 256, (16, 16, 3), np.uint8),
            "text": f"text {i}" * i,
            "boxes": random.random((i, 4)).astype("float32"),
            "video": bytes([i]) * ((3 << 20) if i == 2 else 10),
            "y": i % 3,
        }
        for i in range(4)
    ]
    ds.insert_many(samples)
    for _ in range(2):
        read.clear()
        place = 0
        for x, y in ds.batches(3, cache=cache):
            for row in range(len(y)):
                for name, value in samples[place].items():
                    if name != "y":
                        np.testing.assert_array_equal(x[name][row], value)
                assert y[row] == place % 3
                place += 1
        assert place == 4
        shared().flush()
    assert set(read) == (set() if cache else {0})


@pytest.mark.parametrize("deleted", [True, False])
@pytest.mark.parametrize("cache", ["memory", None])
def test_what_is_gone_beneath_an_epoch_is_told(
    hub: ktl.Hub, cache: str | None, deleted: bool
) -> None:
    ds = hub.datasets.create("gone", x=d.Bytes(), y=d.Label(3))
    ds.insert_many({"x": [bytes([i]) * (2 << 20) for i in range(2)], "y": [0] * 2})
    source, at = Source(ds, ["x"], cache), ds.resolve().at
    source.take(at[:1])  # of the other one the name of its blob is kept
    if deleted:
        hub.datasets.delete("gone")
    else:
        ds.delete(ds)
        ds.gc(0)
    hub.models.gc(0)
    what = "Packs .0." if cache is None else "Large values"
    failure, says = RuntimeError, f"{what} of the dataset 'gone' are gone. Their samples"
    if deleted:
        failure, says = KeyError, "'gone', which was deleted"
    with pytest.raises(failure, match=says):
        source.take(at[1:])


def test_no_epoch_begins_of_a_dataset_that_was_deleted(hub: ktl.Hub) -> None:
    batches = filled(hub, 300).batches(64, cache="memory")
    assert ids(batches) == list(range(300))
    hub.datasets.delete("numbers")
    with pytest.raises(KeyError, match="'numbers', which was deleted"):
        list(batches)
    with pytest.raises(KeyError, match="'numbers', which was deleted"):
        network().fit(batches, verbose=0)


# The server.


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_server_that_is_restarted_holds_an_epoch_up(
    prefetch: int,
    stack_factory: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spans, "_AHEAD_BYTES", 0)  # or all would be there before the kill
    stack = stack_factory(services=("mongodb",))
    missed = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "samples are waited for" in record.getMessage():
                missed.set()

    def restart() -> None:
        missed.wait()  # a read has failed: the driver's own patience is over
        stack.restart("mongodb")

    with ktl.Hub(stack.mongodb, timeoutMS=1000) as hub:
        batches = filled(hub).batches(50, cache=None, prefetch=prefetch)
        seen = []
        thread = threading.Thread(target=restart)
        thread.start()
        logging.getLogger("keras_tl").addHandler(handler := Heard())
        try:
            for step, batch in enumerate(batches):
                seen += ids([batch])
                if step == 3:  # of the first pack
                    stack.kill("mongodb")
            assert missed.is_set()
        finally:
            logging.getLogger("keras_tl").removeHandler(handler)
            missed.set()
            thread.join()
        assert seen == list(range(COUNT))


def test_a_server_that_is_away_is_waited_for_once(
    stack_factory: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from pymongo.errors import PyMongoError

    stack = stack_factory(services=("mongodb",))
    with ktl.Hub(stack.mongodb, timeoutMS=2000, serverSelectionTimeoutMS=300) as hub:
        ds = filled(hub)
        cached, uncached = ds.batches(100), ds.batches(100, cache=None)
        model = network()
        model.fit(cached, epochs=1, verbose=0)
        stack.kill("mongodb")
        monkeypatch.setattr(fetching, "PATIENCE", 0.0)
        monkeypatch.setattr(following, "PATIENCE", 0.5)
        with caplog.at_level(logging.WARNING, "keras_tl"):
            model.fit(cached, epochs=2, verbose=0)  # all is in the cache
        said = [r for r in caplog.records if "samples of the one before" in r.getMessage()]
        assert len(said) == 1
        with pytest.raises(PyMongoError) as caught:
            model.fit(uncached, epochs=1, verbose=0)
        assert "nobody waits longer" in "".join(caught.value.__notes__)


# Resuming.


def network() -> keras.Model:
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss)
    return model


class Crash(keras.callbacks.Callback):
    """Ends the `fit` after a batch, or the process."""

    def __init__(self, epoch: int, batch: int, kill: bool = False) -> None:
        super().__init__()
        self.at, self.epoch, self.kill = (epoch, batch), 0, kill

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("crash")


def script(hub: ktl.Hub, *callbacks: Any, **options: Any) -> tuple[keras.Model, Witness]:
    """What a user runs, and runs again after a crash."""
    view = hub.datasets["numbers"].where(split="train")
    model, witness = network(), Witness()
    given = {"epochs": 3, "verbose": 0, **options}
    model.fit(view.batches(80, shuffle=True), callbacks=[*callbacks, witness], **given)
    return model, witness


@pytest.mark.parametrize("steps", [None, 10])
def test_a_broken_fit_ends_as_an_unbroken_one(hub: ktl.Hub, steps: int | None) -> None:
    """30 batches an epoch; with `steps_per_epoch` a pass lasts three."""
    filled(hub)
    options = {} if steps is None else {"steps_per_epoch": steps, "epochs": 8}
    whole, expected = script(hub, **options)
    for save, epoch, batch in ((4, 1, 6), ("epoch", 2, 1)):
        with pytest.raises(RuntimeError, match="crash"):
            backup = MongoBackupAndRestore(hub, "net", save)
            script(hub, backup, Crash(epoch, batch), **options)
        model, witness = script(hub, MongoBackupAndRestore(hub, "net", save), **options)
        left = len(witness.rows["batch"])
        assert 0 < left < len(expected.rows["batch"])
        assert witness.rows["batch"] == expected.rows["batch"][-left:]
        assert digest(model) == digest(whole)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import keras_tl as ktl
import test_datasets_reading as t
hub = ktl.Hub(sys.argv[2], project=sys.argv[3])
t.script(hub, t.MongoBackupAndRestore(hub, "net", 4), t.Crash(1, 20, kill=True))
"""


def test_a_killed_process_goes_on_in_the_middle_of_an_epoch(hub: ktl.Hub) -> None:
    filled(hub)
    here = Path(__file__)
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED]
        + [str(here.parent), hub.connection._uri or "", hub.project],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    model, witness = script(hub, MongoBackupAndRestore(hub, "net", 4))
    assert 39 < 90 - len(witness.rows["batch"]) <= 51  # it went on from the middle of an epoch
    whole, expected = script(hub)
    assert witness.rows["batch"] == expected.rows["batch"][-len(witness.rows["batch"]) :]
    assert digest(model) == digest(whole)


def test_what_was_trained_already_is_not_read_again(hub: ktl.Hub, read: list[int]) -> None:
    """In the order of the view a batch is a pack: those before the position stay unread."""
    ds = filled(hub)
    batches = ds.batches(ROW, cache=None)
    batches.skip(9)
    assert len(list(batches)) == 12
    assert sorted(set(read)) == [8, 9, 10, 11]  # the last one that is dropped shows the shapes
    assert ids(batches) == list(range(COUNT))


def test_samples_that_came_since_are_told(hub: ktl.Hub) -> None:
    ds = filled(hub)
    with pytest.raises(RuntimeError, match="crash"):
        script(hub, MongoBackupAndRestore(hub, "net", 4), Crash(1, 6))
    ds.update(["k00000"], split="train")  # 2401 samples: a batch more, and another order
    with pytest.raises(ValueError, match="`x` must give the batches that it gave"):
        script(hub, MongoBackupAndRestore(hub, "net", 4))
    ds.update(["k00001"], split="test")
    with pytest.warns(UserWarning, match="The view has other samples"):
        script(hub, MongoBackupAndRestore(hub, "net", 4))


def test_processes_share_what_was_read(hub: ktl.Hub, read: list[int]) -> None:
    filled(hub)
    here = Path(__file__)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import keras_tl as ktl
import test_datasets_reading as t
ds = ktl.Hub(sys.argv[2], project=sys.argv[3]).datasets["numbers"]
assert t.ids(ds.batches(100)) == list(range(t.COUNT))
"""
    given = [str(here.parent), hub.connection._uri or "", hub.project]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *given],
        check=True,
        timeout=200,
    )
    assert ids(hub.datasets["numbers"].batches(100)) == list(range(COUNT))
    assert read == []

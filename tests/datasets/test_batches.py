"""Batches: the samples of a view, each once an epoch, in one order wherever they come from."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.epoch_iterator import EpochIterator
from made import Made, Seen, numbered

from keras_tl.datasets import Array, Image, Label, Text
from keras_tl.datasets.batches.batches import Batches
from keras_tl.datasets.batches.layout import nbytes
from keras_tl.datasets.batches.order import epoch_order, shard, window_packs
from keras_tl.datasets.batches.shelf import Shelf

TENSORFLOW = keras.backend.backend() == "tensorflow"
PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """What reads ahead ends when nobody takes its batches any more."""
    yield
    own = [thread for thread in threading.enumerate() if thread.name.startswith("keras_tl-")]
    for thread in own:
        thread.join(0.5)
        if thread.is_alive():
            gc.collect()
            thread.join(20)
        assert not thread.is_alive(), thread


def ids(batches: Any) -> list[list[int]]:
    """The numbers of the samples in each batch; checks that all of a sample belongs together."""
    found = []
    for x, y in batches:
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_array_equal(x, np.repeat(x[:, :1], 4, 1))
        np.testing.assert_array_equal(x[:, 0] % 3, y)
        found.append(x[:, 0].astype(int).tolist())
    return found


def expected(dataset: Made, size: int, epoch: int, seed: int = 0) -> list[list[int]]:
    window = window_packs(16, dataset.rows)
    order = epoch_order(dataset.at, dataset.rows, seed, epoch, window)
    return [order[i : i + size].tolist() for i in range(0, len(order), size)]


def network(inputs: int = 4) -> keras.Model:
    """Whose weights tell which batches it was trained on, in which order."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), loss)
    return model


def trained(numbers: list[list[int]], **options: Any) -> list[np.ndarray]:
    """The weights after these batches, one by one."""
    model = network()
    for batch in numbers:
        x = np.repeat(np.array(batch, "float32")[:, None], 4, 1)
        model.train_on_batch(x, np.array(batch) % 3, **options)
    return model.get_weights()


def same(weights: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(
        np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(weights, others, strict=True)
    )


# The order.


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("cache", ["auto", "memory", None])
def test_an_epoch_is_its_order_whatever_it_is_read_from(cache: str | None, prefetch: int) -> None:
    dataset = numbered(150)
    batches = Seen(dataset).batches(16, shuffle=True, seed=5, cache=cache, prefetch=prefetch)
    assert len(batches) == 10
    for epoch in range(3):
        assert ids(batches) == expected(dataset, 16, epoch, seed=5)


def test_without_shuffle_the_order_is_the_view_s() -> None:
    positions = np.random.default_rng(0).permutation(150)[:70]
    batches = Seen(numbered(150), positions).batches(16)
    for _ in range(2):
        assert sum(ids(batches), []) == positions.tolist()


@settings(max_examples=15)
@given(
    count=st.integers(1, 80),
    size=st.integers(1, 20),
    shards=st.sampled_from([1, 2, 4]),
    drop=st.booleans(),
    start=st.integers(0, 3),
)
def test_shards_and_resumed_epochs_have_the_same_order(
    count: int, size: int, shards: int, drop: bool, start: int
) -> None:
    dataset = numbered(count)
    order = epoch_order(dataset.at, 8, 1, 0, window_packs(16, 8))
    for index in range(shards):
        mine = shard(order, size, index, shards, drop)
        options: Any = {"shuffle": True, "seed": 1, "cache": None, "drop_remainder": drop}
        if not len(mine):
            with pytest.raises(ValueError, match="`view` must have samples for one batch"):
                Seen(dataset).batches(size, shard=(index, shards), **options)
            continue
        batches = Seen(dataset).batches(size, shard=(index, shards), **options)
        found = ids(batches)
        assert sum(found, []) == mine.tolist() and len(found) == len(batches)
        batches.set_state({**batches.get_state(), "epoch": 0})
        start = min(start, len(batches) - 1)
        assert ids(batches[i] for i in range(start, len(batches))) == found[start:]


@pytest.fixture
def used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of small arrays is used again, and batches are handed over a few at a time."""
    monkeypatch.setattr("keras_tl.datasets.reading.memory._SMALL", 0)
    monkeypatch.setattr("keras_tl.datasets.reading.source._PIECE_BYTES", 700)
    monkeypatch.setattr("keras_tl.datasets.reading.spans._TARGET_BYTES", 1000)


@pytest.mark.usefixtures("used_again")
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("cache", ["auto", "memory", None])
def test_what_somebody_holds_does_not_change(cache: str | None, prefetch: int) -> None:
    batches = Seen(numbered(300)).batches(16, shuffle=True, cache=cache, prefetch=prefetch)
    hold: list[Any] = [np.asarray, keras.ops.convert_to_tensor, lambda x: x[5:, ::2], memoryview]
    held, places, used = [], set(), 0
    for _ in range(4):
        for i, (first, second) in enumerate(zip(batches, batches, strict=True)):
            for x in (first[0], second[0], batches[i][0]):
                place = x.__array_interface__["data"][0]
                used, places = used + (place in places), places | {place}
                kept = hold[len(places) % 4](x)
                held.append((kept, np.array(keras.ops.convert_to_numpy(kept))))
                del held[i % 7 :: 9], x
    assert used > 20  # some memory was used again
    for kept, copy in held:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(kept), copy)


@pytest.mark.usefixtures("used_again")
@pytest.mark.parametrize("cache", ["auto", None])
def test_fit_trains_on_what_is_in_memory_that_is_used_again(cache: str | None) -> None:
    dataset = numbered(200)
    model = network()
    model.fit(Seen(dataset).batches(8, shuffle=True, cache=cache), epochs=3, verbose=0)
    assert same(model.get_weights(), trained(sum([expected(dataset, 8, e) for e in range(3)], [])))


def test_an_index_is_a_batch() -> None:
    dataset = numbered(150)
    batches = Seen(dataset).batches(16, shuffle=True)
    order = expected(dataset, 16, 0)
    for index in (3, 0, 9, 4, 5, 6, 7, 8, 9, -1, -10):
        assert ids([batches[index]]) == [order[index]]
    for index in (10, -11):
        with pytest.raises(IndexError, match="`index` must be below 10"):
            batches[index]


def test_what_comes_in_a_row_is_read_ahead() -> None:
    dataset = numbered(400)
    batches = Seen(dataset).batches(4, cache=None)
    assert sum(ids(batches[i] for i in range(100)), []) == list(range(400))
    assert len([n for asked in dataset.packs.asked for n in asked]) <= 53  # not one a batch


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_index_that_failed_can_be_asked_for_again(prefetch: int) -> None:
    dataset = numbered(400)
    batches = Seen(dataset).batches(8, cache=None, prefetch=prefetch)
    found, pack = [], dataset.packs.documents.pop(40)
    with pytest.raises(RuntimeError, match="are gone"):
        while True:
            found += ids([batches[len(found)]])
    dataset.packs.documents[40] = pack
    found += ids(batches[i] for i in range(len(found), 50))
    assert found == [list(range(i, i + 8)) for i in range(0, 400, 8)]


# In `fit`.


def test_keras_has_what_is_private() -> None:
    """Fails if Keras renames it: then `fit` shuffles, and a view that grows is cut off."""
    batches = Seen(numbered()).batches(8)
    iterator = EpochIterator(batches, shuffle=True)
    for name in ("_num_batches", "_current_iterator", "_steps_seen", "_enumerate_iterator"):
        assert hasattr(iterator, name)
    for name in ("_get_iterator", "_standardize_batch", "enqueuer", "py_dataset"):
        assert hasattr(PyDatasetAdapter(batches), name)
    assert "_get_iterator" in vars(iterator.data_adapter)


def test_fit_keeps_the_order_though_it_shuffles() -> None:
    dataset = numbered(50)
    model = network()
    model.fit(Seen(dataset).batches(8, shuffle=True), epochs=3, verbose=0)  # shuffle=True
    epochs = [expected(dataset, 8, epoch) for epoch in range(3)]
    assert same(model.get_weights(), trained(sum(epochs, [])))
    assert not same(model.get_weights(), trained(sum(epochs[::-1], [])))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_change_nothing(workers: int) -> None:
    dataset = numbered(50)
    batches = Seen(dataset).batches(8, shuffle=True)
    batches.workers = workers
    model = network()
    model.fit(batches, epochs=2, verbose=0)
    assert same(model.get_weights(), trained(sum([expected(dataset, 8, e) for e in (0, 1)], [])))


def test_a_model_that_is_built_by_a_batch_sees_the_first_epoch_whole() -> None:
    dataset = numbered(50)
    batches = Seen(dataset).batches(8, shuffle=True)
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(batches, verbose=0)
    assert batches.get_state()["epoch"] == 1


def test_a_pass_may_last_several_epochs() -> None:
    dataset = numbered(48)
    model = network()
    model.fit(Seen(dataset).batches(8, shuffle=True), epochs=5, steps_per_epoch=2, verbose=0)
    steps = expected(dataset, 8, 0) + expected(dataset, 8, 1)
    assert same(model.get_weights(), trained(steps[:10]))


def test_an_epoch_cannot_last_longer_than_a_pass() -> None:
    dataset = numbered(40)
    model = network()
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(Seen(dataset).batches(8, shuffle=True), epochs=2, steps_per_epoch=7, verbose=0)
    assert same(model.get_weights(), trained(expected(dataset, 8, 0) + expected(dataset, 8, 1)))


class Stop(keras.callbacks.Callback):
    def __init__(self, batch: int, failure: Exception | None = None) -> None:
        super().__init__()
        self.batch, self.failure = batch, failure

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            if self.failure is not None:
                raise self.failure
            self.model.stop_training = True


@pytest.mark.parametrize("failure", [None, KeyError("interrupted")])
def test_an_epoch_that_was_broken_off_is_over(failure: Exception | None) -> None:
    dataset = numbered(48)
    batches = Seen(dataset).batches(8, shuffle=True)
    model = network()
    with pytest.raises(KeyError) if failure is not None else warnings.catch_warnings():
        model.fit(batches, epochs=3, verbose=0, callbacks=[Stop(2, failure)])
    model.fit(batches, epochs=1, verbose=0)
    steps = expected(dataset, 8, 0)[:3] + expected(dataset, 8, 1)
    assert same(model.get_weights(), trained(steps))
    assert batches.get_state()["epoch"] == 2


def test_evaluate_and_predict_are_those_of_arrays() -> None:
    dataset = numbered(50)
    batches = Seen(dataset).batches(8)
    x, y = np.array(dataset.columns["x"], "float32"), np.array(dataset.columns["y"])
    model = network()
    for _ in range(2):
        assert model.evaluate(batches, verbose=0) == pytest.approx(
            model.evaluate(x, y, batch_size=8, verbose=0), rel=1e-5
        )
        np.testing.assert_allclose(
            model.predict(batches, verbose=0), model.predict(x, verbose=0), rtol=1e-5
        )
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, validation_data=batches).history
    assert len(history["val_loss"]) == 2


def test_class_weights_count() -> None:
    dataset = numbered(48)
    weights = {0: 0.5, 1: 2.0, 2: 1.0}
    model = network()
    model.fit(Seen(dataset).batches(8), verbose=0, class_weight=weights)
    numbers = [list(range(i, i + 8)) for i in range(0, 48, 8)]
    assert same(model.get_weights(), trained(numbers, class_weight=weights))
    assert not same(model.get_weights(), trained(numbers))


def test_sample_weights_count() -> None:
    dataset = numbered(48)
    weights = np.linspace(0, 2, 48).astype("float32")
    seen = Seen(dataset, tags={"weight": weights})
    seen.dataset.schema.tags["weight"] = "float"
    model, other = network(), network()
    model.fit(seen.batches(8, sample_weight="weight"), verbose=0)
    x, y = np.array(dataset.columns["x"], "float32"), np.array(dataset.columns["y"])
    other.fit(x, y, batch_size=8, shuffle=False, sample_weight=weights, verbose=0)
    assert same(model.get_weights(), other.get_weights())


def test_a_wrapper_by_index_is_a_dataset_too() -> None:
    dataset = numbered(48)

    class Doubled(keras.utils.PyDataset):
        def __init__(self, inner: Batches) -> None:
            super().__init__()
            self.inner = inner

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, index: int) -> Any:
            x, y = self.inner[index]
            return x * 2, y

        def on_epoch_begin(self) -> None:
            self.inner.on_epoch_begin()

        def on_epoch_end(self) -> None:
            self.inner.on_epoch_end()

    batches = Seen(dataset).batches(8, shuffle=True)
    network().fit(Doubled(batches), epochs=2, shuffle=False, verbose=0)
    assert batches.get_state()["epoch"] == 2


# What changes and what fails.


def test_samples_that_come_are_in_the_next_epoch() -> None:
    dataset = numbered(40)
    batches = Seen(dataset).batches(8, shuffle=True)

    class Grow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.steps = 0
            if epoch == 1:
                numbers = np.arange(40, 64)
                x = np.repeat(numbers[:, None], 4, 1)
                dataset.insert({"x": x, "y": numbers % 3})
                dataset.packs.asked.clear()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1

    grow = Grow()
    model = network()
    model.fit(batches, epochs=2, verbose=0, callbacks=[grow])
    assert grow.steps == 8
    asked = sorted(n for numbers in dataset.packs.asked for n in numbers)
    assert asked == [5, 6, 7]  # the others are in the cache
    second = expected(dataset, 8, 1)
    assert len(sum(second, [])) == 64
    before = epoch_order(dataset.at[:40], 8, 0, 0, window_packs(16, 8))
    first = [before[i : i + 8].tolist() for i in range(0, 40, 8)]
    assert same(model.get_weights(), trained(first + second))


def test_a_snapshot_is_resolved_once() -> None:
    seen = Seen(numbered(40))
    seen.base = seen  # type: ignore[assignment]
    batches = seen.batches(8)
    for _ in range(3):
        ids(batches)
    assert seen.resolved == 1


def test_a_view_is_resolved_again_only_if_something_happened() -> None:
    seen = Seen(numbered(40))
    batches = seen.batches(8)
    for _ in range(3):
        ids(batches)
    assert seen.resolved == 1
    seen.dataset.insert({"x": np.full((1, 4), 40), "y": [1]})
    assert len(sum(ids(batches), [])) == 41 and seen.resolved == 2


def test_an_epoch_begins_without_the_server(caplog: pytest.LogCaptureFixture) -> None:
    from pymongo.errors import ServerSelectionTimeoutError

    dataset = numbered(40)
    seen = Seen(dataset)
    batches = seen.batches(8, shuffle=True)
    ids(batches)

    def away(*_: Any, **__: Any) -> Any:
        raise ServerSelectionTimeoutError("a:1: refused, Timeout")

    dataset.connection.db["outbox"].find = away
    assert ids(batches) == expected(dataset, 8, 1)
    assert "the epoch has the samples of the one before" in caplog.text


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_fails_in_a_thread_fails_in_fit(prefetch: int) -> None:
    dataset = numbered(240)
    batches = Seen(dataset).batches(8, shuffle=True, cache=None, prefetch=prefetch)
    pack = expected(dataset, 8, 0)[-1][0] // 8  # of the last window
    document = dataset.packs.documents[pack]
    data = document["fields"]["x"]["data"]
    document["fields"]["x"]["data"] = b"?" + data[1:]
    model = network()
    with warnings.catch_warnings():
        if TENSORFLOW:  # the failure comes behind it
            warnings.filterwarnings("ignore", "Your input ran out of data")
        with pytest.raises(ValueError, match=f"Pack {pack} must have the hash .* damaged"):
            model.fit(batches, epochs=2, verbose=0)
    document["fields"]["x"]["data"] = data
    model = network()
    model.fit(batches, verbose=0)
    assert same(model.get_weights(), trained(expected(dataset, 8, 1)))


@pytest.mark.parametrize("width", [1 << 18, 1])  # a piece is a batch, or all of them
def test_no_more_is_made_ahead_than_was_asked_for(width: int) -> None:
    dataset = Made({"x": Array((width,)), "y": Label(2)})
    dataset.insert({"x": np.zeros((40, width), "float32"), "y": [0] * 40})
    made = []

    def noted(columns: dict[str, Any]) -> dict[str, Any]:
        made.append(len(columns["y"]))
        return columns

    iterator = iter(Seen(dataset).batches(4, map=noted, prefetch=3, cache=None))
    next(iterator)
    shelf = next(thing for thing in gc.get_objects() if isinstance(thing, Shelf) and thing._waiting)
    with shelf._changed:
        assert shelf._changed.wait_for(lambda: len(shelf._waiting) >= 3, 60)
    deadline = time.monotonic() + 60
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)  # the one that waits for room
    assert len(made) == 5
    iterator.close()  # type: ignore[attr-defined]


def test_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras_tl.datasets.batches.shelf._MOST_BYTES", 1000)
    shelf = Shelf(100)
    assert shelf.put((600, [(1,), (2,)]))
    assert shelf._has_room(400) and not shelf._has_room(401)
    thread = threading.Thread(target=shelf.put, args=((600, [(3,)]),))
    thread.start()
    assert [shelf.take() for _ in range(3)] == [(1,), (2,), (3,)]
    thread.join(60)
    shelf.put((600, [(1,)]))
    thread = threading.Thread(target=shelf.put, args=((600, [(3,)]),))
    thread.start()
    monkeypatch.setattr("keras_tl.datasets.batches.shelf.os", None)  # as at the interpreter's end
    shelf.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_objects_count_what_they_have() -> None:
    column = np.array(["abc", b"ab", None, np.zeros((2, 3), "int32"), {}], object)
    assert (
        nbytes({"a": column, "b": np.zeros(5, "uint8"), "c": [1]}) == 3 + 2 + 1024 + 24 + 1024 + 5
    )


def test_batches_that_are_forgotten_end_their_thread() -> None:
    for _ in range(3):
        iterator = iter(Seen(numbered(400)).batches(8))
        next(iterator)
        del iterator  # and `no_threads_left`


def test_batches_are_forgotten_behind_a_fit() -> None:
    """Of a Keras `PyDataset`, TensorFlow keeps each one for ever."""
    batches = Seen(numbered(80)).batches(8, shuffle=True)
    model = network()
    model.fit(batches, verbose=0, epochs=2, callbacks=[Stop(3)])
    model.predict(batches, verbose=0)
    forgotten = weakref.ref(batches)
    del batches, model
    gc.collect()
    assert forgotten() is None


def test_a_fork_goes_on_by_itself() -> None:
    dataset = numbered(400)
    batches = Seen(dataset).batches(8, shuffle=True)
    iterator = iter(batches)
    first = ids([next(iterator)])
    pid = os.fork()
    if not pid:
        try:
            rest = ids(iterator) == expected(dataset, 8, 0)[1:]
            os._exit(0 if rest and ids(batches) == expected(dataset, 8, 1) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert first + ids(iterator) == expected(dataset, 8, 0)


def test_a_fork_does_not_wait_for_a_thread_that_it_has_not() -> None:
    iterator = iter(Seen(numbered(400)).batches(8))
    next(iterator)
    shelf = next(thing for thing in gc.get_objects() if isinstance(thing, Shelf))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with shelf._changed:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        next(iterator)
        iterator.close()  # type: ignore[attr-defined]
        del iterator
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    iterator.close()  # type: ignore[attr-defined]


# States.


def test_a_state_brings_an_epoch_back() -> None:
    dataset = numbered(50)
    batches = Seen(dataset).batches(8, shuffle=True, seed=4)
    ids(batches)
    state = json.loads(json.dumps(batches.get_state()))
    assert state["epoch"] == 1 and state["seed"] == 4
    second, third = ids(batches), ids(batches)
    batches.set_state(state)
    assert ids(batches) == second
    other = Seen(dataset).batches(8, shuffle=True, seed=4)
    other.set_state(state)
    assert [ids(other), ids(other)] == [second, third]


def test_a_state_of_other_samples_is_told() -> None:
    dataset = numbered(50)
    state = Seen(dataset).batches(8, shuffle=True).get_state()
    with pytest.warns(UserWarning, match="other samples than when its state was kept"):
        Seen(dataset, np.arange(40)).batches(8, shuffle=True).set_state(state)
    with pytest.warns(UserWarning, match="batched in another way"):
        Seen(dataset).batches(9, shuffle=True).set_state(state)
    with pytest.raises(ValueError, match="`seed` must be what it was: 0. Received: seed=1"):
        Seen(dataset).batches(8, shuffle=True, seed=1).set_state(state)


# What a batch has.


def test_several_fields_make_a_dict() -> None:
    dataset = Made({"a": Array((2,)), "b": Array(()), "y": Label(3), "z": Label(dtype="float32")})
    columns = {"a": np.ones((9, 2)), "b": np.arange(9), "y": [1] * 9, "z": np.arange(9) / 2}
    dataset.insert(columns)
    seen = Seen(dataset, tags={"t": np.arange(9)})
    dataset.schema.tags["t"] = "int"
    x, y = seen.batches(4)[0]
    assert list(x) == ["a", "b"] and list(y) == ["y", "z"]
    assert x["a"].shape == (4, 2) and y["z"].tolist() == [0, 0.5, 1, 1.5]
    assert y["z"].dtype == np.float32
    x, y, w = seen.batches(4, x="b", y=["z"], sample_weight="t")[1]
    assert x.tolist() == [4, 5, 6, 7] and list(y) == ["z"] and w.tolist() == [4, 5, 6, 7]
    (x,) = seen.batches(4, x=["t", "a"], y=())[0]
    assert list(x) == ["t", "a"]
    seen.chosen = ("b", "y")
    x, y = seen.batches(4)[0]
    assert x.shape == y.shape == (4,)
    (x,) = seen.batches(4, x="t", y=())[0]
    assert x.tolist() == [0, 1, 2, 3] and dataset.packs.asked


def test_a_field_that_is_trained_for_is_no_input() -> None:
    fields = {"x": Array((2,)), "y": Array((3,)), "w": Label(dtype="float32")}
    dataset = Made({**fields, "mask": Array((4,))})
    columns = {name: np.ones((9, n), "float32") for name, n in {"x": 2, "y": 3, "mask": 4}.items()}
    dataset.insert({**columns, "w": [1.0] * 9})
    x, y, w = Seen(dataset).batches(4, sample_weight="w")[0]
    assert sorted(x) == ["mask", "x"] and y.shape == (4, 3) and w.shape == (4,)
    x, y = Seen(dataset).batches(4, y="mask")[0]
    assert x.shape == (4, 2) and y.shape == (4, 4)
    x, y = Seen(dataset).batches(4)[0]
    assert sorted(y) == ["w", "y"]
    (x,) = Seen(dataset).batches(4, x="y", y=())[0]
    assert x.shape == (4, 3)


def test_a_last_batch_may_be_left_out() -> None:
    batches = Seen(numbered(50)).batches(8, drop_remainder=True)
    assert [len(x) for x, _ in batches] == [8] * 6 and len(batches) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` must be an integer from 1 up"),
        ({"size": 8, "shard": (2, 2)}, r"`shard` must be \(index, count\)"),
        ({"size": 8, "shard": 3}, r"`shard` must be \(index, count\)"),
        ({"size": 8, "seed": 0.5}, "`seed` must be an integer"),
        ({"size": 8, "prefetch": -1}, "`prefetch` must be an integer from 0 up"),
        ({"size": 8, "cache": "disk"}, "`cache` must be"),
        ({"size": 8, "x": ()}, "`x` must name one field at least"),
        ({"size": 8, "y": (), "sample_weight": "y"}, "`sample_weight` needs a `y`"),
        ({"size": 8, "x": ["x", "x"]}, "`x` must be a name, or several, none twice"),
        ({"size": 8, "map": 3}, "`map` must be a function of a dict, a Keras layer or"),
        ({"size": 99, "drop_remainder": True}, "`view` must have samples for one batch at least"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seen(numbered(50)).batches(**options)


def test_adapters_of_one_dataset_do_not_meet() -> None:
    """Each `fit` has an adapter of its own, and is not held by the batches."""
    dataset = numbered(50)
    batches = Seen(dataset).batches(8, shuffle=True)
    adapters = [get_data_adapter(batches, shuffle=True) for _ in range(2)]
    passes = [adapter.num_batches and adapter.get_numpy_iterator() for adapter in adapters]
    found = [ids(iterator) for iterator in passes]
    assert found == [expected(dataset, 8, 0), expected(dataset, 8, 1)]


# What models cannot be trained on.


def partly() -> Seen:
    """Samples 3 and 7 of 10 have no label `y`, 5 has no float label and no tag."""
    dataset = Made({"x": Array((4,)), "y": Label(3), "z": Label(dtype="float32")})
    z = [None if n == 5 else n / 2 for n in range(10)]
    y = [None if n in (3, 7) else n % 3 for n in range(10)]
    dataset.insert({"x": np.ones((10, 4)), "y": y, "z": z})
    dataset.columns["y"] = [-1 if value is None else value for value in y]
    dataset.schema.tags.update(w="float", name="str")
    names = np.array([None if n == 5 else "a" for n in range(10)], object)
    return Seen(dataset, tags={"w": np.array(z, "float64"), "name": names})


NO_Y = r"`y` must be there .*where\(y__exists=True\).*Received: 2 of 10 samples without `y`"


def test_samples_without_labels_are_not_trained_on() -> None:
    seen = partly()
    model = network()
    before = model.get_weights()
    batches = seen.batches(4, x="x", y="y")
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=NO_Y):
            use(batches, verbose=0)
    assert same(before, model.get_weights())
    with pytest.raises(ValueError, match=NO_Y):
        model.fit(np.ones((4, 4)), np.ones(4), validation_data=batches, verbose=0)
    for use in (lambda: next(iter(batches)), lambda: batches[0], lambda: batches.every(0, 1, 0)):
        with pytest.raises(ValueError, match=NO_Y):
            use()
    some = Seen(seen.dataset, np.array([4, 5, 6, 8]), seen.tags)
    for name in ("z", "w"):
        with pytest.raises(ValueError, match=f"`sample_weight` must .* 1 of 4 .* `{name}`"):
            network().fit(some.batches(4, x="x", y="y", sample_weight=name), verbose=0)
        with pytest.raises(ValueError, match=f"`y` must .* 1 of 10 .* `{name}`"):
            seen.batches(4, x="x", y=["y", name][1:])[0]
    with pytest.raises(ValueError, match="`y` must .* 1 of 10 samples without `name`"):
        seen.batches(4, x="x", y="name")[0]


def test_predict_needs_no_labels() -> None:
    batches = partly().batches(4, x="x", y="y")
    assert network().predict(batches, verbose=0).shape == (10, 3)
    assert network().predict(batches, verbose=0).shape == (10, 3)
    with pytest.raises(ValueError, match=NO_Y):
        network().evaluate(batches, verbose=0)


def test_labels_that_come_are_seen() -> None:
    seen = partly()
    batches = seen.batches(4, x="x", y="y")
    for use in (lambda: batches[0], lambda: network().fit(batches, verbose=0)):
        with pytest.raises(ValueError, match=NO_Y):
            use()
    seen.dataset.columns["y"] = [1] * 10
    seen.dataset.tell()
    seen.dataset.tell()
    network().fit(batches, verbose=0)
    seen.dataset.columns["y"] = [-1] * 10
    seen.dataset.tell()
    seen.dataset.tell()
    assert len(batches) == 3
    with pytest.raises(ValueError, match="10 of 10"):
        list(batches)
    seen.dataset.columns["y"] = [2] * 10
    seen.dataset.tell()
    seen.dataset.tell()
    assert batches[0][1].tolist() == [2] * 4


def test_what_a_map_makes_of_missing_labels_is_trained_on() -> None:
    def filled(columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "target": np.maximum(columns["y"], 0)}

    batches = partly().batches(10, x="x", y="target", map=filled)
    network().fit(batches, verbose=0)
    assert batches[0][1].min() == 0
    (x,) = partly().batches(10, y=())[0]
    assert x.shape == (10, 4)


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_no_array_is_named_in_fit(mapped: bool) -> None:
    fields = {"x": Array((4,)), "text": Text(), "r": Array((None,)), "y": Label(3)}
    dataset = Made({**fields, "photo": Image(4, 4, 3, encoded="any")})
    columns = {"r": [np.ones(n + 1, "float32") for n in range(9)], "photo": [PNG] * 9}
    dataset.insert({"x": np.ones((9, 4)), "text": ["a"] * 9, "y": [1] * 9, **columns})
    same_map: Any = (lambda columns: columns) if mapped else None
    for x, kind in (("text", "str"), (["x", "r"], "ndarray"), ("photo", "bytes")):
        name = x if isinstance(x, str) else x[-1]
        batches = Seen(dataset).batches(4, x=x, map=same_map)
        message = f"`{name}` must be numbers in one array .*map=.* a column of {kind}"
        for use in (network().fit, network().predict):
            with pytest.raises(ValueError, match=message):
                use(batches, verbose=0)
        assert len(batches[0][1]) == 4


def test_a_view_that_is_empty_by_now_is_told() -> None:
    seen = Seen(numbered(40))
    batches = seen.batches(8)
    ids(batches)

    class Empty(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.positions = np.empty(0, int)
            seen.dataset.tell()
            seen.dataset.tell()

    with warnings.catch_warnings():
        if TENSORFLOW:  # the failure comes behind it
            warnings.filterwarnings("ignore", "Your input ran out of data")
        with pytest.raises(ValueError, match="`view` must have samples .* with 0 samples"):
            network().fit(batches, epochs=2, verbose=0, callbacks=[Empty()])
    with pytest.raises(ValueError, match="`view` must have samples .* with 0 samples"):
        list(batches)

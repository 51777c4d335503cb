"""Where a `fit` is in its data, without a server; and what callbacks remember."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import offline
import pytest

from keras_tl.callbacks import MongoBackupAndRestore, MongoBroadcast, MongoCheckpoint, states
from keras_tl.callbacks.position import Position, epoch_iterator
from keras_tl.models import environment
from keras_tl.models.uploader import Uploader
from keras_tl.storage.connection import Connection

BACKEND = keras.backend.backend()

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

X = np.arange(24, dtype="float32")[:, None]


@pytest.fixture
def connection() -> Iterator[Connection]:
    with offline.connected() as made:
        yield made


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


class Finder(keras.callbacks.Callback):
    """Looks for the data from within each hook."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def look(self, *_: Any, **__: Any) -> None:
        self.found.append(epoch_iterator(self.model))

    on_train_begin = on_epoch_begin = on_train_batch_begin = on_epoch_end = look


class Own(keras.Model):
    """A model whose `fit` and step are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def fit(self, *arguments: Any, **options: Any) -> Any:
        return super().fit(*arguments, **options)


@pytest.mark.parametrize("made", [network, Own])
def test_the_epoch_iterator_is_the_one_of_the_training_data(made: Any) -> None:
    """Fails if Keras names it otherwise: then a backup would begin each epoch anew."""
    model, finder = made(), Finder()
    model.compile("sgd", "mse")
    validation = (X[:6], X[:6])
    model.fit(X, X, batch_size=8, verbose=0, validation_data=validation, callbacks=[finder])
    assert len(finder.found) == 6  # begins, a batch each, the end
    assert len(set(map(id, finder.found))) == 1
    assert finder.found[0].data_adapter.num_batches == 3
    for name in ("_get_iterator", "_enumerate_iterator", "_current_iterator", "_steps_seen"):
        assert hasattr(finder.found[0], name)
    assert epoch_iterator(model) is None  # outside of a `fit`


class Noter(keras.callbacks.Callback):
    """Notes the position after two batches of the second epoch, or goes there."""

    def __init__(self, noted: Any = None) -> None:
        super().__init__()
        self.noted, self.goes = noted, noted is not None

    def on_train_begin(self, logs: Any = None) -> None:
        iterator = epoch_iterator(self.model)
        assert iterator is not None
        self.position, self.epochs = Position(iterator), 0
        if self.goes:
            self.model._initial_epoch = 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model._initial_epoch = None
        self.epochs += 1
        if self.goes and self.epochs == 1:
            self.position.restore(self.noted, epoch, 2)
        else:
            self.position.begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.goes and self.epochs == 1 and batch == 2:
            self.position.arrive()
        if not self.goes and (self.epochs, batch) == (2, 2):
            self.noted = self.position.note(batch)


class Sums(keras.callbacks.Callback):
    """Which samples each step saw, by their loss; and numbers that a callback draws itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, float, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rows.append((batch, float(logs["loss"]), float(np.random.random())))


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
def test_batches_and_random_numbers_come_again(shuffle: Any) -> None:
    def fit(noter: Noter) -> Sums:
        model, sums = network(), Sums()
        model.compile(keras.optimizers.SGD(0.0), "mse")  # a loss tells the samples alone
        options = {"batch_size": 4, "epochs": 3, "shuffle": shuffle, "verbose": 0}
        model.fit(X, X, **options, callbacks=[noter, sums])
        return sums

    first = Noter()
    whole = fit(first).rows
    rest = fit(Noter(first.noted)).rows
    assert [row[0] for row in rest] == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    # The mean of an epoch begins with its batches that were not done again.
    assert [row[1] for row in rest[4:]] == [row[1] for row in whole[12:]]
    if BACKEND != "tensorflow":  # whose threads draw ahead
        assert [row[2] for row in rest] == [row[2] for row in whole[8:]]


def test_no_callback_of_ours_waits_for_a_step(connection: Connection) -> None:
    """Keras dispatches steps asynchronously only if no callback wants their results."""
    ours = [
        MongoCheckpoint(connection, "net", save_freq=2),
        MongoBackupAndRestore(connection, "net", 2),
        MongoBroadcast(connection, "net"),
    ]
    listed = keras.callbacks.CallbackList(ours)
    assert listed._async_train is (BACKEND != "tensorflow")
    assert not keras.callbacks.CallbackList([*ours, Sums()])._async_train


def test_only_the_first_process_saves(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Uploader, "put", lambda self, about, *_: saved.append(about["step"]))
    for rank, expected in ((1, []), (0, [3])):
        monkeypatch.setattr(environment, "rank", lambda rank=rank: rank)
        checkpoint = MongoCheckpoint(connection, "net", flush_timeout=0.0)
        network().fit(X, X, batch_size=8, verbose=0, callbacks=[checkpoint])
        assert saved == expected


def test_two_checkpoints_of_one_model_are_refused(connection: Connection) -> None:
    pair = [MongoCheckpoint(connection, "net", flush_timeout=0.0) for _ in range(2)]
    with pytest.raises(ValueError, match="`model` must be another one .*Received: model='net' twi"):
        network().fit(X, X, verbose=0, callbacks=pair)


class Stateful(keras.callbacks.Callback):
    """Remembers what it is told to."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state


@pytest.mark.parametrize("state", [{"n": 2**63}, {"n": -(2**70)}, {"a\0b": 1}, object()])
def test_a_state_that_no_document_can_hold_is_left_out(state: Any) -> None:
    with pytest.warns(UserWarning, match="The state of Stateful is not kept"):
        assert states.collect([Stateful(state)]) == []


def test_states_come_back_as_a_document_holds_them() -> None:
    (kept,) = states.collect([Stateful({1: (2**62, None, [1.5, "x"])})])
    assert kept["state"] == {"1": [2**62, None, [1.5, "x"]]}


def test_best_weights_are_kept_beside_the_states() -> None:
    model = network()
    first = [keras.callbacks.EarlyStopping("loss", restore_best_weights=True) for _ in range(2)]
    for callback in first:
        callback.set_model(model)
        callback.on_train_begin()
    first[1].on_epoch_end(0, {"loss": 1.0})
    kept = states.arrays([Stateful(1), *first])
    assert [path for path, _ in kept] == [f"EarlyStopping/1/best_weights/{i}" for i in range(2)]
    second = [keras.callbacks.EarlyStopping("loss", restore_best_weights=True) for _ in range(2)]
    for callback in second:
        callback.on_train_begin()
    tensors = [({"path": path}, array) for path, array in kept]
    states.restore(states.collect(first), second, tensors)
    assert second[0].best_weights is None
    for got, wanted in zip(second[1].best_weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_without_mongodb_a_backup_says_what_to_do(connection: Connection) -> None:
    from pymongo.errors import PyMongoError

    backup = MongoBackupAndRestore(connection, "net", flush_timeout=0.0)
    with pytest.raises(PyMongoError) as raised:
        network().fit(X, X, verbose=0, callbacks=[backup])
    assert "leave `MongoBackupAndRestore` out" in raised.value.__notes__[0]

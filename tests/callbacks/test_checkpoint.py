"""When `MongoCheckpoint` saves, beside Keras' own `ModelCheckpoint` in the same `fit`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import offline
import pytest

from keras_tl.callbacks import MongoCheckpoint, states
from keras_tl.models import resuming
from keras_tl.models.uploader import Uploader
from keras_tl.storage.connection import Connection

BACKEND = keras.backend.backend()
BATCH, STEPS, EPOCHS = 4, 9, 3

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Can save best model only:UserWarning"),
]

RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=(STEPS * BATCH, 3)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")


@pytest.fixture
def connection() -> Iterator[Connection]:
    with offline.connected() as made:
        yield made


def network(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    # A rate so high that losses go up and down.
    model.compile(keras.optimizers.SGD(4.0), "mse", metrics=["accuracy"], **options)
    return model


class Keras(keras.callbacks.ModelCheckpoint):
    """Notes when it would write a file, and the best value then."""

    def __init__(self, **options: Any) -> None:
        super().__init__("nowhere.keras", **options)
        self.saved: list[tuple[int, Any]] = []

    def _save_model(self, epoch: int, batch: int | None, logs: Any) -> None:
        if self.monitor_op is None:
            self._set_monitor_op()  # Keras fails here when it is to judge a batch
        if self._should_save_model(epoch, batch, logs, ""):
            step = epoch * STEPS + (STEPS if batch is None else batch + 1)
            self.saved.append((step, self.best))


CASES: list[dict[str, Any]] = [
    {},
    {"save_freq": 1},
    {"save_freq": 4},
    {"save_freq": STEPS},
    {"save_freq": 10},
    {"save_freq": 100},
    {"save_best_only": True},
    {"save_best_only": True, "monitor": "loss"},
    {"save_best_only": True, "monitor": "accuracy"},
    {"save_best_only": True, "monitor": "loss", "mode": "max"},
    {"save_best_only": True, "monitor": "val_accuracy", "mode": "min"},
    {"save_best_only": True, "monitor": "loss", "save_freq": 1},
    {"save_best_only": True, "monitor": "loss", "save_freq": 2},
    {"save_best_only": True, "monitor": "accuracy", "save_freq": 5, "mode": "max"},
    {"save_best_only": True, "monitor": "loss", "initial_value_threshold": 0.0},
    {"save_best_only": True, "monitor": "loss", "initial_value_threshold": 100.0},
    {"save_best_only": True, "monitor": "accuracy", "initial_value_threshold": 0.5},
    {"save_best_only": True, "monitor": "nothing", "mode": "min"},
]


@pytest.mark.parametrize("per_execution", [1] if BACKEND == "torch" else [1, 3])
def test_saves_when_keras_does(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, per_execution: int
) -> None:
    saved: dict[str, list[tuple[int, Any]]] = {str(i): [] for i in range(len(CASES))}

    def put(self: Uploader, about: dict[str, Any], *_: Any) -> None:
        saved[about["model"]].append((about["step"], ours[int(about["model"])].best))

    monkeypatch.setattr(Uploader, "put", put)
    theirs = [Keras(**case) for case in CASES]
    ours = [
        MongoCheckpoint(connection, str(i), flush_timeout=0.0, **c) for i, c in enumerate(CASES)
    ]
    network(steps_per_execution=per_execution).fit(
        *(X, Y),
        batch_size=BATCH,
        epochs=EPOCHS,
        validation_data=(X[::2], Y[::2]),
        verbose=0,
        callbacks=[*theirs, *ours],
    )
    for i, (case, peer) in enumerate(zip(CASES, theirs, strict=True)):
        found = saved[str(i)]
        assert [step for step, _ in found] == [step for step, _ in peer.saved], case
        if case.get("monitor", "nothing") != "nothing":
            np.testing.assert_allclose(
                [best for _, best in found], [float(best) for _, best in peer.saved], rtol=1e-6
            )
    counts = [len(peer.saved) for peer in theirs]
    assert 0 in counts and len(set(counts)) > 4  # the cases differ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "best"}, "`mode` must be .* Received: mode='best'"),
        ({"save_freq": 0}, "`save_freq` must be .* Received: 0"),
        ({"save_freq": "batch"}, "`save_freq` must be .* Received: 'batch'"),
        ({"tags": {"a": object()}}, "`tags` must be .* Received: 'a' of type object"),
    ],
)
def test_wrong_arguments(connection: Connection, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MongoCheckpoint(connection, "net", **arguments)


def test_the_best_is_never_nan_or_infinite(connection: Connection) -> None:
    checkpoint = MongoCheckpoint(connection, "net", monitor="x", mode="max")
    assert [checkpoint._improves(v) for v in (float("nan"), float("inf"), -float("inf"), 1.0)] == [
        False,
        False,
        False,
        True,
    ]


class Counter(keras.callbacks.Callback):
    """Batches of each epoch; stops as it is told."""

    def __init__(self, stop: str | None = None) -> None:
        super().__init__()
        self.counts: list[int] = []
        self.stop = stop

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.counts.append(0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.stop == "batch_begin" and self.counts == [2]:
            self.model.stop_training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.counts[-1] += 1
        if self.stop == "batch_end" and self.counts == [3]:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.stop == "epoch_end" and len(self.counts) == 1:
            self.model.stop_training = True


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("stop", "counts"),
    [
        (None, [3, 7, 7]),
        ("epoch_end", [3]),
        ("batch_end", [3]),
        ("batch_begin", [3]),
    ],
)
def test_a_resumed_epoch_is_finished_first(
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    stop: str | None,
    counts: list[int],
    before: bool,
) -> None:
    version = {
        **{"version": 3, "run": "r", "number": 0, "step": 11, "epoch": 1, "batch": 4, "cursor": {}},
        **{"callbacks": [], "model": "net"},
    }
    monkeypatch.setattr(resuming, "claim", lambda *_: (version, None))
    monkeypatch.setattr(resuming, "restore", lambda *_: None)
    monkeypatch.setattr(resuming, "restore_metrics", lambda *_: None)
    monkeypatch.setattr(resuming, "callback_tensors", lambda *_: [])
    saved: list[dict[str, Any]] = []
    monkeypatch.setattr(Uploader, "put", lambda self, about, *_: saved.append(about))
    checkpoint = MongoCheckpoint(connection, "net", flush_timeout=0.0)
    counter = Counter(stop)
    model = network()

    def endless() -> Iterator[Any]:
        while True:
            yield X[:BATCH], Y[:BATCH]

    model.fit(
        endless(),
        steps_per_epoch=7,
        shuffle=False,
        epochs=4,
        verbose=0,
        callbacks=[counter, checkpoint] if before else [checkpoint, counter],
    )
    assert counter.counts == counts
    assert [about["step"] for about in saved] == [14, 21, 28][: len(counts)]
    assert [about["epoch"] for about in saved] == [2, 3, 4][: len(counts)]


LOSSES = [5.0, 4.0, 4.5, 4.6, 3.9, 3.95, 4.0, 4.1, 4.2, 4.3, 4.4, 4.5]


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau"])
@pytest.mark.parametrize("cut", [1, 3, 6])
def test_callbacks_go_on_where_they_were(kind: str, cut: int) -> None:
    """What they decide after a resume is what they would have decided without one."""

    def make(model: keras.Model) -> Any:
        options = {"patience": 3} if kind == "EarlyStopping" else {"patience": 2, "cooldown": 1}
        callback = getattr(keras.callbacks, kind)("loss", **options)
        callback.set_model(model)
        callback.on_train_begin()
        return callback

    def decisions(callback: Any, model: keras.Model, epochs: range) -> list[Any]:
        found = []
        for epoch in epochs:
            model.stop_training = False
            callback.on_epoch_end(epoch, {"loss": LOSSES[epoch]})
            rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
            found.append((model.stop_training, round(rate, 6)))
        return found

    whole = network()
    expected = decisions(make(whole), whole, range(len(LOSSES)))
    model = network()
    first = make(model)
    assert decisions(first, model, range(cut)) == expected[:cut]
    stored = json.loads(json.dumps(states.collect([first])))
    second = make(model)  # its `on_train_begin` has reset it
    states.restore(stored, [second])
    assert decisions(second, model, range(cut, len(LOSSES))) == expected[cut:]
    assert len(set(expected)) > 1


def test_states_find_their_callbacks() -> None:
    class Own(keras.callbacks.Callback):
        state: Any = 0

        def get_state(self) -> Any:
            return self.state

        def set_state(self, state: Any) -> None:
            self.state = state

    one, two, bad = Own(), Own(), Own()
    one.state, two.state = {"n": 1}, [2]
    collected = states.collect([one, keras.callbacks.History(), two])
    found = [Own(), Own(), Own()]
    states.restore(collected, found)
    assert [c.state for c in found] == [{"n": 1}, [2], 0]
    bad.state = np.zeros(3)
    with pytest.warns(UserWarning, match="The state of Own is not kept.*JSON"):
        assert states.collect([one, bad]) == [{"class": "Own", "state": {"n": 1}}]


def test_siblings_outside_of_a_fit() -> None:
    assert states.siblings(Counter()) == []


def test_steps_are_not_updates_of_the_optimizer(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Uploader, "put", lambda self, about, *_: saved.append(about["step"]))
    model = network()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    checkpoint = MongoCheckpoint(connection, "net", flush_timeout=0.0)
    model.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[checkpoint])
    assert saved == [STEPS, 2 * STEPS]


@pytest.mark.parametrize(
    ("calls", "known", "expected"),
    [(10, True, 10), (9, True, 9), (8, True, 12), (8, False, 8), (0, True, 12), (24, True, 12)],
)
def test_the_optimizer_is_believed_about_the_last_execution_alone(
    calls: int, known: bool, expected: int
) -> None:
    model, callback = network(), keras.callbacks.Callback()
    model.steps_per_execution = 4
    callback.set_model(model)
    callback.set_params({"steps": 10 if known else None})
    before = states.updates(model)
    model.optimizer.build(model.trainable_variables)
    model.optimizer._iterations.assign(calls)
    assert states.steps(callback, before, 12) == expected

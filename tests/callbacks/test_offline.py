"""`fit` with a MongoDB that is not there, on the backend of this run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import offline
import pytest

from keras_tl.callbacks import MongoCheckpoint, MongoLogger, states
from keras_tl.models import outbox
from keras_tl.storage import journal
from keras_tl.storage.connection import Connection

BACKEND = keras.backend.backend()
BATCH, STEPS, EPOCHS = 8, 6, 2

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def network(rate: float = 0.01, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"], **options)
    return model


class Witness(keras.callbacks.Callback):
    """Sees what Keras gives to callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, int, dict[str, float]]] = []
        self.epochs: list[dict[str, float]] = []
        self.siblings: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.siblings = states.siblings(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append((self.epoch, batch, dict(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


class Stored(keras.callbacks.Callback):
    """Epochs here are shorter than a write to disk, and what waits in memory gives way."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        (checkpoint,) = (c for c in states.siblings(self) if isinstance(c, MongoCheckpoint))
        uploader = outbox.outbox(checkpoint.connection).uploader
        with uploader._changed:
            assert uploader._changed.wait_for(lambda: len(uploader._waiting) == epoch + 1, 60)


class Messages(logging.Handler):
    """What `keras_tl` logs; `wait` until it has said something."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.texts.append(record.getMessage())
            self.changed.notify_all()

    def wait(self, text: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(text in t for t in self.texts), 60)


@pytest.fixture
def connection() -> Iterator[Connection]:
    with offline.connected() as made:
        yield made


class Offline:
    """One `fit` that several tests look at."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages = Messages()
        logging.getLogger("keras_tl").addHandler(self.messages)
        self.witness = Witness()
        self.logger = MongoLogger(
            connection, run="r", params={"lr": 1, "api_key": "hunter2"}, flush_timeout=0.0
        )
        self.checkpoint = MongoCheckpoint(connection, "net", flush_timeout=0.0)
        self.stopping = keras.callbacks.EarlyStopping("loss", patience=7)
        self.model = network(rate=0.0)
        self.history = self.model.fit(
            X,
            Y,
            batch_size=BATCH,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[self.logger, self.stopping, self.checkpoint, self.witness, Stored()],
        )
        self.messages.wait("does not take")


@pytest.fixture(scope="module")
def fitted() -> Iterator[Offline]:
    with offline.connected() as made:
        found = Offline(made)
        yield found
        logging.getLogger("keras_tl").removeHandler(found.messages)


def test_fit_finishes_and_the_journal_holds_every_row(fitted: Offline) -> None:
    assert len(fitted.history.epoch) == EPOCHS
    found = offline.rows(fitted.connection)
    seen = fitted.witness.batches
    assert found["step"].tolist() == list(range(1, EPOCHS * STEPS + 1))
    assert found["epoch"].tolist() == [epoch for epoch, _, _ in seen]
    assert found["batch"].tolist() == [batch for _, batch, _ in seen]
    for name in ("loss", "mae"):
        np.testing.assert_array_equal(found[name], [logs[name] for _, _, logs in seen])
    epochs = offline.rows(fitted.connection, "epoch")
    assert epochs["step"].tolist() == [STEPS, 2 * STEPS]
    assert epochs["batch"].tolist() == [STEPS - 1] * 2
    np.testing.assert_array_equal(epochs["loss"], [logs["loss"] for logs in fitted.witness.epochs])


def test_the_outage_is_said_once_and_without_the_password(fitted: Offline) -> None:
    away = [text for text in fitted.messages.texts if "does not take" in text]
    assert len(away) == 1
    assert "***@127.0.0.1" in away[0]
    late = [text for text in fitted.messages.texts if "keras-tl sync" in text]
    assert len(late) == 1  # what to do, at the end of fit
    assert sorted(fitted.messages.texts) == sorted([*away, *late])


def test_no_secret_reaches_the_disk(fitted: Offline) -> None:
    path = outbox.outbox(fitted.connection).journal.path
    assert b"hunter2" not in path.read_bytes()
    documents = offline.documents(fitted.connection)
    (params,) = (
        d["update"]["set"]["params"] for d in documents if "params" in d["update"].get("set", {})
    )
    assert (params["api_key"], params["lr"]) == ("***", 1)
    assert documents[-1]["update"]["set"]["state"] == "finished"
    assert any("env" in d["update"].get("set", {}) for d in documents)


def test_values_of_batches_are_running_means(fitted: Offline) -> None:
    """The network does not learn here, so each batch's own loss is known."""
    error = (fitted.model.predict(X, verbose=0) - Y) ** 2
    losses = error.reshape(STEPS, BATCH).mean(axis=1)
    means = np.cumsum(losses) / np.arange(1, STEPS + 1)
    found = offline.rows(fitted.connection)["loss"]
    np.testing.assert_allclose(found[:STEPS], means, rtol=1e-5)
    assert not np.allclose(found[:STEPS], losses, rtol=1e-3)


def test_the_callbacks_of_a_fit_share_a_run_and_see_one_another(fitted: Offline) -> None:
    assert fitted.checkpoint._run is fitted.logger.run
    ours = [fitted.logger, fitted.stopping, fitted.checkpoint]
    assert [c for c in fitted.witness.siblings if c in ours] == ours
    assert fitted.witness not in fitted.witness.siblings
    assert fitted.stopping in fitted.checkpoint._others


def test_at_most_two_versions_wait_on_disk(fitted: Offline) -> None:
    box = outbox.outbox(fitted.connection)
    with box.uploader._changed:
        assert box.uploader._changed.wait_for(lambda: len(box.uploader._waiting) == EPOCHS, 60)
    files = list(box.journal.path.parent.glob(f"{box.journal.path.stem}.*.safetensors"))
    assert len(files) == EPOCHS == 2
    about = {"id": "third", "model": "net", "attempt": fitted.logger.run.attempt, "cursor": None}
    box.uploader.put(about, {"00000": np.zeros(3, "float32")})
    with box.uploader._changed:
        assert box.uploader._changed.wait_for(
            lambda: "third" in box.uploader._waiting and not box.uploader._captured, 60
        )
        assert len(box.uploader._waiting) == 2
        assert list(box.uploader._waiting)[1] == "third"  # the newest is kept
    assert box.uploader.dropped == 1


def test_a_version_not_yet_on_disk_is_put_there_at_the_end(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The uploader may be stuck in a socket for longer than the process wants to wait."""
    from keras_tl.models import versions

    stuck, release = threading.Event(), threading.Event()

    def commit(*_: Any, **__: Any) -> None:
        stuck.set()
        release.wait()
        raise ConnectionError

    class Database:
        @property
        def db(self) -> None:
            return None

    monkeypatch.setattr(versions, "commit", commit)
    box = outbox.outbox(connection)
    box.uploader.connection = Database()  # type: ignore[assignment]
    for name in ("one", "two"):
        about = {"id": name, "model": "net", "cursor": None}
        box.uploader.put(about, {"00000": np.zeros(3, "float32")})
        stuck.wait()
    path = box.journal.path
    outbox.close_outbox(connection, 0.0)
    release.set()
    left = journal.Journal(path, create=False)
    kept = [r.json()["id"] for r in left.read() if r.kind == journal.Kind.VERSION]
    assert kept == ["one", "two"]
    assert all(path.with_name(f"{path.stem}.{name}.safetensors").exists() for name in kept)
    left.close(delete=True)


# Threads.


def begin(logger: MongoLogger, steps: int) -> None:
    model = network()
    model.steps_per_execution = 1
    logger.set_model(model)
    logger.set_params({"steps": steps, "epochs": 1})
    logger.on_train_begin()
    logger.on_epoch_begin(0)


@pytest.mark.parametrize("async_safe", [True, False])
def test_no_row_is_lost_between_threads(connection: Connection, async_safe: bool) -> None:
    """Keras calls from several threads also where it was not asked to."""
    logger = MongoLogger(connection, async_safe=async_safe, flush_timeout=0.0)
    steps = 2000
    begin(logger, steps)
    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).permutation(steps).tolist()
        list(pool.map(lambda i: logger.on_train_batch_end(i, {"loss": float(i)}), order))
    found = offline.rows(connection)
    assert found["step"].tolist() == list(range(1, steps + 1))
    assert found["loss"].tolist() == list(range(steps))
    logger.on_train_end()


def test_a_batch_hook_touches_nothing_of_the_model(connection: Connection) -> None:
    class Donated(MongoLogger):
        donated = False

        @property
        def model(self) -> Any:
            assert not self.donated, "a batch hook read `self.model`"
            return self._model

    logger = Donated(connection, flush_timeout=0.0)
    begin(logger, 3)
    logger.donated = True
    for batch in range(3):
        logger.on_train_batch_begin(batch)
        logger.on_train_batch_end(batch, {"loss": 1.0})
    logger.donated = False
    logger.on_epoch_end(0, {"loss": 1.0})
    logger.on_train_end()
    assert len(offline.rows(connection)["step"]) == 3


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX dispatches asynchronously in Keras")
def test_keras_keeps_its_asynchronous_dispatch(connection: Connection) -> None:
    class Slow(MongoLogger):
        """The first call of an epoch ends after the second one."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_begin(epoch)
            self.second = threading.Event()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            threads.add(threading.get_ident())
            if batch == 0:
                assert self.second.wait(60)
            super().on_train_batch_end(batch, logs)
            if batch == 1:
                self.second.set()

    threads: set[int] = set()
    logger = Slow(connection, async_safe=True, flush_timeout=0.0)
    checkpoint = MongoCheckpoint(connection, "net", save_freq=4, flush_timeout=0.0)
    model = network()
    callbacks = keras.callbacks.CallbackList(
        [logger, checkpoint], add_history=True, add_progbar=False, model=model
    )
    assert callbacks._async_train
    model.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks)
    assert len(threads) > 1 and threading.get_ident() not in threads
    found = offline.rows(connection)
    assert found["step"].tolist() == list(range(1, 2 * STEPS + 1))
    assert found["batch"].tolist() == list(range(STEPS)) * 2
    times = found["time"]
    assert times[0] > times[1]  # logged in another order than it is read


def test_what_needs_weights_overrides_no_batch_end() -> None:
    """One callback that does makes all of them synchronous."""
    assert not issubclass(MongoCheckpoint, keras.callbacks.ModelCheckpoint)
    for name in ("on_batch_end", "on_train_batch_end", "on_test_batch_end"):
        hook = getattr(MongoCheckpoint, name)
        assert hook.__qualname__.startswith("Callback.")


def test_a_metric_that_is_no_number_is_left_out(connection: Connection) -> None:
    logger = MongoLogger(connection, flush_timeout=0.0)
    begin(logger, 3)
    confusion = np.zeros((2, 2))
    logger.on_train_batch_end(0, {"loss": 1.0, "confusion": confusion, "none": None})
    logger.on_train_batch_end(1, {"loss": np.float32(2.0), "confusion": confusion, "none": None})
    found = offline.rows(connection)
    assert found["loss"].tolist() == [1.0, 2.0]
    assert set(found) == {"step", "epoch", "batch", "time", "loss"}
    logger.on_train_end()


def test_params_of_any_kind_do_not_stop_fit(connection: Connection) -> None:
    params = {
        "weights": np.array([1.0, 2.0]),
        "flag": np.bool_(True),
        "big": 2**70,
        "a.b": {"$c": (1, None)},
        "max_tokens": 512,
        "url": "mongodb://ada:hunter2@db",
        "thing": object,
        "nested": {"password": "hunter2"},
    }
    logger = MongoLogger(connection, params=params, flush_timeout=0.0)
    begin(logger, 1)
    logger.on_train_end()
    text = json.dumps(offline.documents(connection))
    assert "hunter2" not in text
    sets = [document["update"].get("set", {}) for document in offline.documents(connection)]
    found = next(fields["params"] for fields in sets if "params" in fields)
    assert found["weights"] == [1.0, 2.0]
    assert (found["flag"], found["max_tokens"]) == (True, 512)
    assert found["big"] == str(2**70)
    assert found["a%2Eb"] == {"%24c": [1, None]}


@pytest.mark.parametrize(
    "values",
    [{"x": object()}, {"x": 2**70}, {"x": {"\0": 1}}, {"x": "a" * (2 << 20)}, {"x": "\ud800"}],
)
def test_events_that_no_document_can_hold_are_refused(
    connection: Connection, values: dict[str, Any]
) -> None:
    """Journalled, one would hold up all that comes after it, for ever."""
    logger = MongoLogger(connection, flush_timeout=0.0)
    begin(logger, 1)
    with pytest.raises(ValueError, match="`values` must be .*Received: "):
        logger.run.event("note", **values)
    assert offline.rows(connection, "note") == {}
    logger.run.event("note", **{"a.b": [1, {"c": None}], "text": "ok"})
    assert offline.rows(connection, "note")["a.b"].tolist() == [[1, {"c": None}]]
    with pytest.raises(ValueError, match="`kind` must not be .* Received: epoch"):
        logger.run.event("epoch", x=1)
    logger.on_train_end()


def test_before_the_first_fit_there_is_no_run(connection: Connection) -> None:
    with pytest.raises(ValueError, match="`run` exists from the start of `fit` on. Received"):
        _ = MongoLogger(connection).run


def test_a_fit_that_raised_is_a_run_of_its_own(connection: Connection) -> None:
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise RuntimeError("stop")

    logger = MongoLogger(connection, flush_timeout=0.0)
    model = network()
    with pytest.raises(RuntimeError, match="stop"):
        model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[logger, Fails()])
    first = logger.run
    model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[logger])
    assert logger.run.id != first.id
    ends = {
        d["id"]: d["update"]["set"]["state"]
        for d in offline.documents(connection)
        if "ended" in d["update"].get("set", {})
    }
    assert ends == {first.id: "failed", logger.run.id: "finished"}


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_ends_no_run_of_its_parent(connection: Connection) -> None:
    from keras_tl.models import runs

    logger = MongoLogger(connection, flush_timeout=0.0)
    begin(logger, 1)
    pid = os.fork()
    if pid == 0:
        runs._end_all()  # what the end of the process does
        os._exit(1 if runs.under_way else 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not any("ended" in d["update"].get("set", {}) for d in offline.documents(connection))
    logger.on_train_end()


def test_a_partial_execution_counts_the_batches_that_there_were(connection: Connection) -> None:
    if BACKEND == "torch":
        pytest.skip("Keras has no `steps_per_execution` on torch")
    logger = MongoLogger(connection, flush_timeout=0.0)
    model = network(steps_per_execution=4)
    checkpoint = MongoCheckpoint(connection, "net", flush_timeout=0.0)
    model.fit(
        *(X[: 6 * BATCH], Y[: 6 * BATCH]),
        batch_size=BATCH,
        epochs=2,
        verbose=0,
        callbacks=[logger, checkpoint],
    )
    assert offline.rows(connection, "epoch")["step"].tolist() == [6, 12]
    assert int(model.optimizer.iterations) == 12
    assert checkpoint._first_step + checkpoint._steps == 12


SCRIPT = """
import sys, keras, numpy as np, keras_tl as ktl
hub = ktl.Hub("mongodb://ada:hunter2@127.0.0.1:" + sys.argv[1])
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
callbacks = [ktl.callbacks.MongoLogger(hub, flush_timeout=0.2, system=None),
             ktl.callbacks.MongoCheckpoint(hub, "net", flush_timeout=0.2)]
model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=callbacks)
print("trained")
"""


def test_a_process_ends_and_says_what_to_do(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(taken.getsockname()[1])],
            env={
                **os.environ,
                "KERAS_TL_HOME": str(tmp_path),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "keras-tl sync" in done.stderr
    assert "hunter2" not in done.stderr
    (left,) = journal.orphans(tmp_path / "journal")
    kinds = [record.kind for record in left.read()]
    assert kinds.count(journal.Kind.ROW) == 2 and journal.Kind.VERSION in kinds
    assert len(list(left.path.parent.glob("*.safetensors"))) == 1
    left.close()


def test_of_what_is_captured_the_newest_and_the_best_stay(connection: Connection) -> None:
    uploader = outbox.outbox(connection).uploader
    array = {"00000": np.zeros(3, "float32")}
    with uploader._disk:  # a slow disk: nothing leaves memory
        for i, best in enumerate([None, {"value": 1.0}, None, {"value": 2.0}, None, None]):
            uploader.put({"id": str(i), "model": "net", "cursor": None, "best": best}, array)
        held = [about["id"] for about, _ in uploader._captured]
    assert held == ["3", "5"] and uploader.dropped == 4


def test_no_version_gives_way_to_another_models_or_another_fits(connection: Connection) -> None:
    """Whatever waits: the last version of each `fit` is what it was for."""
    uploader = outbox.outbox(connection).uploader
    array = {"00000": np.zeros(3, "float32")}
    names = [("net", "a"), ("net/backup", "a"), ("net", "b"), ("net/backup", "b")]
    made = [
        (f"{model.replace('/', '-')}-{attempt}-{i}", model, attempt)
        for model, attempt in names
        for i in (0, 1)
    ]
    last = [identity for identity, _, _ in made if identity.endswith("1")]

    def put(version: tuple[str, str, str]) -> None:
        about = dict(zip(("id", "model", "attempt"), version, strict=True))
        uploader.put({**about, "cursor": None}, array)

    with uploader._disk:
        for version in made:
            put(version)
        assert [about["id"] for about, _ in uploader._captured] == last
    with uploader._changed:
        assert uploader._changed.wait_for(lambda: list(uploader._waiting) == last, 60)
    put(("net-c-0", "net", "c"))
    put(("net-b-2", "net", "b"))  # on disk now, and there it is the same
    wanted = {*last, "net-c-0", "net-b-2"} - {"net-b-1"}
    with uploader._changed:
        assert uploader._changed.wait_for(lambda: set(uploader._waiting) == wanted, 60)


def test_a_version_that_cannot_be_written_replaces_none(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_tl.storage import tensors

    uploader = outbox.outbox(connection).uploader
    array = {"00000": np.zeros(3, "float32")}
    for name in ("one", "two"):
        uploader.put({"id": name, "model": "net", "cursor": None}, array)
        with uploader._changed:
            assert uploader._changed.wait_for(lambda name=name: name in uploader._waiting, 60)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "pieces", full)
    messages = Messages()
    logging.getLogger("keras_tl").addHandler(messages)
    uploader.put({"id": "three", "model": "net", "cursor": None}, array)
    messages.wait("could not be kept on disk")
    logging.getLogger("keras_tl").removeHandler(messages)
    assert list(uploader.waiting()) == ["one", "two"]
    assert all(uploader._path(name).exists() for name in ("one", "two"))


@pytest.mark.parametrize(("keep", "dropped"), [({"last": 1}, 0), ({"last": 1, "best": 3}, 2)])
def test_a_backup_that_gives_way_is_no_loss(
    connection: Connection, caplog: pytest.LogCaptureFixture, keep: dict[str, int], dropped: int
) -> None:
    uploader = outbox.outbox(connection).uploader
    array = {"00000": np.zeros(3, "float32")}
    with uploader._disk:
        for i in range(3):
            about = {"id": str(i), "model": "net", "cursor": None, "keep": keep}
            uploader.put(about, array)
        assert [about["id"] for about, _ in uploader._captured] == ["2"]
    assert uploader.dropped == dropped
    assert ("Versions are made faster" in caplog.text) == bool(dropped)


def test_a_logger_that_is_over_is_not_kept(connection: Connection) -> None:
    import gc
    import weakref

    logger = MongoLogger(connection, flush_timeout=0.0, system=None)
    begin(logger, 1)
    logger.on_train_end()
    reference = weakref.ref(logger)
    del logger
    gc.collect()
    assert reference() is None


def test_what_fails_since_the_hub_was_closed_is_not_said(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = outbox.outbox(connection).uploader
    uploader._closing = True
    uploader._complain(RuntimeError("Cannot use MongoClient after close"))
    assert caplog.text == ""
    uploader._closing = False
    uploader._complain(RuntimeError("another"))
    assert "A version waits" in caplog.text

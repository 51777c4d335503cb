"""`MongoBackupAndRestore`: what a broken `fit` ends with is what an unbroken one ends with."""

from __future__ import annotations

import importlib.util
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from runner import Witness, digest, network

import keras_tl as ktl
from keras_tl.callbacks import MongoBackupAndRestore, MongoLogger

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BACKEND = keras.backend.backend()
EPOCHS, BATCH, STEPS = 3, 8, 10
RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=(STEPS * BATCH, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Data(keras.utils.PyDataset):
    """Mixes its samples after each epoch, and adds noise to each batch."""

    def __init__(self, **options: Any) -> None:
        keras.utils.PyDataset.__init__(self, **options)
        self.order, self.own = np.arange(len(X)), np.random.default_rng(7)

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        return X[chosen] + np.random.normal(size=(BATCH, 1)).astype("float32"), Y[chosen]

    def on_epoch_end(self) -> None:
        self.order = self.own.permutation(self.order)

    def get_state(self) -> Any:  # with integers of 128 bits
        return [self.order.tolist(), self.own.bit_generator.state]

    def set_state(self, state: Any) -> None:
        self.order, self.own.bit_generator.state = np.array(state[0]), state[1]


def batches(seed: int | None = None) -> Iterator[Any]:
    own = np.random.default_rng(seed) if seed is not None else np.random
    while True:
        x = own.normal(size=(BATCH, 4)).astype("float32")
        yield x, x.sum(axis=1, keepdims=True)


def tf_data(**shuffle: Any) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(80, **shuffle).batch(BATCH)


def loader() -> Any:
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    own = torch.Generator().manual_seed(4)
    return torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=own)


#: What `fit` is given, made anew by each run of a script.
CASES: dict[str, Any] = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "in order": lambda: {"x": X, "y": Y, "batch_size": BATCH, "shuffle": False},
    "in batches": lambda: {"x": X, "y": Y, "batch_size": BATCH, "shuffle": "batch"},
    "validated": lambda: {
        **{"x": X, "y": Y, "batch_size": BATCH},
        **{"validation_data": (X[:20], Y[:20]), "validation_freq": 1},
    },
    "long": lambda: {"x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": 5, "epochs": 6},
    "executions": lambda: {"x": X, "y": Y, "batch_size": BATCH, "per_execution": 4},
    "dataset": lambda: {"x": Data(), "shuffle": True},
    "tf.data": lambda: {"x": tf_data(seed=3)},
    "tf.data, global seed": lambda: {"x": tf_data()},
    "endless tf.data": lambda: {"x": tf_data(seed=3).repeat(), "steps_per_epoch": STEPS},
    "loader": lambda: {"x": loader()},
    "generator": lambda: {"x": batches(3), "steps_per_epoch": STEPS},
    "generator, global seed": lambda: {"x": batches(), "steps_per_epoch": STEPS},
}


class Crash(keras.callbacks.Callback):
    """Ends the `fit` after a batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            raise RuntimeError("crash")


def script(case: str, *callbacks: Any) -> tuple[keras.Model, Witness]:
    """What a user runs, and runs again after a crash."""
    model, witness = network(), Witness()
    options = {"epochs": EPOCHS, "shuffle": False, "verbose": 0, **CASES[case]()}
    model.compile(
        *(keras.optimizers.Adam(0.01), "mse", None, None, ["mae"]),
        steps_per_execution=options.pop("per_execution", 1),
    )
    model.fit(**options, callbacks=[*callbacks, witness])
    return model, witness


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On JAX most of the time of a small `fit` is XLA's; here it compiles once."""
    if BACKEND != "jax":
        yield
        return
    import jax

    folder = tmp_path_factory.mktemp("xla")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(folder), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def needs(case: str) -> None:
    for part, package in (("tf.data", "tensorflow"), ("loader", "torch")):
        if part in case and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    if case == "executions" and BACKEND == "torch":
        pytest.skip("Keras has no `steps_per_execution` on torch")


def crash_and_go_on(hub: ktl.Hub, case: str, save_freq: Any, epoch: int, batch: int) -> Any:
    with pytest.raises(RuntimeError, match="crash"):
        script(case, MongoBackupAndRestore(hub, "net", save_freq), Crash(epoch, batch))
    return script(case, MongoBackupAndRestore(hub, "net", save_freq))


@pytest.mark.parametrize("case", CASES)
def test_a_broken_fit_ends_as_an_unbroken_one(hub: ktl.Hub, case: str) -> None:
    needs(case)
    whole, expected = script(case)
    crashes: list[tuple[Any, int, int]] = [(3, 1, 7)]
    if case in ("arrays", "tf.data", "dataset", "long"):
        crashes = [(2, 1, 3), ("epoch", 2, 0)]
    for crash in crashes:
        model, witness = crash_and_go_on(hub, case, *crash)
        left = len(witness.rows["batch"])
        assert 0 < left < len(expected.rows["batch"])  # it went on from a backup
        assert witness.rows["batch"] == expected.rows["batch"][-left:]
        assert witness.rows["epoch"] == expected.rows["epoch"][-len(witness.rows["epoch"]) :]
        assert int(model.optimizer.iterations) == int(whole.optimizer.iterations)
        assert digest(model) == digest(whole)
    assert "net/backup" not in hub.models  # a completed `fit` leaves none


def test_keras_own_makes_steps_twice(hub: ktl.Hub, tmp_path: Path) -> None:
    def keras_own() -> keras.callbacks.Callback:
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), save_freq=3)

    with pytest.raises(RuntimeError, match="crash"):
        script("arrays", keras_own(), Crash(1, 7))
    model, _ = script("arrays", keras_own())
    assert int(model.optimizer.iterations) == 38  # 18 in the backup, and epochs 1 and 2 again
    model, _ = crash_and_go_on(hub, "arrays", 3, 1, 7)
    assert int(model.optimizer.iterations) == EPOCHS * STEPS == 30


def test_a_killed_process_goes_on_in_the_same_run(hub: ktl.Hub) -> None:
    whole, expected = script("arrays")
    here = Path(__file__)
    given = [str(here.parent), hub.connection._uri or "", hub.project]
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, *given],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    before = len(hub.models["net/backup"])
    backup, logger = MongoBackupAndRestore(hub, "net", 3), MongoLogger(hub)
    model, witness = script("arrays", backup, logger)
    assert int(model.optimizer.iterations) == 30 and digest(model) == digest(whole)
    assert hub.models.flush(60)
    (run,) = hub.runs
    attempts = sorted(run.document["attempts"].values(), key=lambda a: a["number"])
    assert [a["number"] for a in attempts] == [0, 1] and run.state == "finished"
    start = attempts[1]["start_step"]
    # The backup that was only in the journal of the killed process counts.
    assert start == 30 - len(witness.rows["batch"]) > 3 * before
    rows = run.events("loss", kind="batch")
    assert rows["step"].tolist() == list(range(1, 31))
    got = zip(rows["epoch"].tolist(), rows["batch"].tolist(), rows["loss"].tolist(), strict=True)
    assert list(got) == expected.rows["batch"]
    assert run.events("loss")["step"].tolist() == [10, 20, 30]
    assert run.events("loss")["loss"].tolist() == [row[2] for row in expected.rows["epoch"]]
    done_twice = run.events("loss", kind="batch", superseded=True)["step"].tolist()
    assert sorted(set(done_twice)) == list(range(1, 31))
    assert all(done_twice.count(step) == 1 for step in range(1, start + 1))


KILLED = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
import keras
import test_backup
import keras_tl as ktl
from keras_tl.callbacks import MongoBackupAndRestore, MongoLogger
from keras_tl.storage import hooks
hub = ktl.Hub(sys.argv[2], project=sys.argv[3])
seen, stored = [], threading.Event()
def stop(phase):
    seen.append(phase)
    if seen.count("version-journalled") == 2:
        stored.set()
        threading.Event().wait()  # the second version gets no further
hooks.hook = stop
class Dies(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 8:  # the versions of the third and of the sixth batch were taken
            stored.wait(5)
        if stored.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
callbacks = [MongoBackupAndRestore(hub, "net", 3), MongoLogger(hub), Dies()]
test_backup.script("arrays", *callbacks)
"""


def test_the_backup_lasts_as_long_as_the_fit(hub: ktl.Hub) -> None:
    keep = MongoBackupAndRestore(hub, "net", delete_checkpoint=False)
    whole, _ = script("arrays", keep)
    assert hub.models["net/backup"].version().epoch == EPOCHS
    again, witness = script("arrays", MongoBackupAndRestore(hub, "net", delete_checkpoint=False))
    assert witness.rows["batch"] == [] and digest(again) == digest(whole)
    # One that removes its backup takes none that is left of a `fit` that was completed.
    anew, witness = script("arrays", MongoBackupAndRestore(hub, "net"))
    assert len(witness.rows["batch"]) == EPOCHS * STEPS and digest(anew) == digest(whole)
    assert "net/backup" not in hub.models
    assert hub.connection.db["models"].find_one({"_id": "net/backup"}) is None


def test_a_fit_that_has_nothing_left_to_train_ends_its_run(hub: ktl.Hub) -> None:
    """Killed after the last backup, and run again: nobody else says that the run is over."""
    backup = {"model": "net", "delete_checkpoint": False}
    logger = MongoLogger(hub, params={"a": 1})
    script("arrays", logger, MongoBackupAndRestore(hub, **backup))
    runs = hub.connection.db["runs"]
    runs.update_one({"_id": logger.run.id}, {"$set": {"state": "lost"}, "$unset": {"ended": 1}})
    again = MongoLogger(hub, params={"a": 1})
    _, witness = script("arrays", again, MongoBackupAndRestore(hub, **backup))
    assert witness.rows["batch"] == [] and again.run.id == logger.run.id
    found = hub.runs[logger.run.id]
    assert found.state == "finished" and len(found.document["attempts"]) == 2
    assert found.params["fit.epochs"] == EPOCHS


def test_early_stopping_goes_on_with_its_best_weights(hub: ktl.Hub) -> None:
    class Scores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = [3.0, 1.0, 2.0, 2.5, 2.4, 2.2][epoch]

    def stopping() -> list[Any]:
        early = keras.callbacks.EarlyStopping(
            "score", patience=3, mode="min", restore_best_weights=True
        )
        return [Scores(), early]

    CASES["stopped"] = lambda: {**CASES["arrays"](), "epochs": 6}
    whole, expected = script("stopped", *stopping())
    assert len(expected.rows["epoch"]) == 5
    with pytest.raises(RuntimeError, match="crash"):
        script("stopped", *stopping(), MongoBackupAndRestore(hub, "net"), Crash(3, 4))
    model, witness = script("stopped", *stopping(), MongoBackupAndRestore(hub, "net"))
    assert len(witness.rows["epoch"]) == 2
    assert digest(model) == digest(whole)
    del CASES["stopped"]


class Forgetful(keras.utils.PyDataset):
    """As `Data`, and cannot say how it is mixed."""

    __init__ = Data.__init__
    __len__, __getitem__, on_epoch_end = Data.__len__, Data.__getitem__, Data.on_epoch_end


INEXACT: dict[str, Any] = {
    "is it seeded": lambda: {"x": batches(next(COUNT)), "steps_per_epoch": STEPS},
    "must have `get_state`": lambda: {"x": Forgetful()},
    "with `workers`": lambda: {"x": Data(workers=2)},
}
COUNT = itertools.count()


@pytest.mark.parametrize("reason", INEXACT)
def test_where_the_order_is_lost_the_number_of_steps_is_not(hub: ktl.Hub, reason: str) -> None:
    CASES[reason] = INEXACT[reason]
    with pytest.warns(UserWarning, match=f"in another order than .*{reason}"):
        model, _ = crash_and_go_on(hub, reason, 3, 1, 7)
    assert int(model.optimizer.iterations) == EPOCHS * STEPS
    del CASES[reason]


@pytest.mark.filterwarnings("ignore:`fit` goes on after:UserWarning")
def test_what_does_not_fit_is_refused(hub: ktl.Hub) -> None:
    pair = [MongoBackupAndRestore(hub, "net"), MongoBackupAndRestore(hub, "net")]
    with pytest.raises(ValueError, match="`model` must be another one .*model='net' twice"):
        script("arrays", *pair)
    with pytest.raises(RuntimeError, match="crash"):
        script("arrays", MongoBackupAndRestore(hub, "net", 3), Crash(1, 7))
    CASES["shorter"] = lambda: {"x": X[:32], "y": Y[:32], "batch_size": BATCH}
    with pytest.raises(ValueError, match="`x` must give the batches .* Received: 4 batches"):
        script("shorter", MongoBackupAndRestore(hub, "net"))
    CASES["shorter"] = lambda: {"x": X, "y": Y, "batch_size": BATCH // 2}
    with pytest.raises(ValueError, match=r"10 an epoch, .*net/backup.* Received: 20 batches"):
        script("shorter", MongoBackupAndRestore(hub, "net"))
    CASES["shorter"] = lambda: {"steps_per_epoch": STEPS, "x": (b for b in [(X[:8], Y[:8])] * 3)}
    with pytest.raises(ValueError, match="`x` must have the batches .* Received: data that end"):
        script("shorter", MongoBackupAndRestore(hub, "net"))
    del CASES["shorter"]


def test_hooks_of_an_epoch_that_began_before_do_nothing_again(hub: ktl.Hub) -> None:
    def halve() -> Any:
        return keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.5)

    whole, _ = script("arrays", halve())
    with pytest.raises(RuntimeError, match="crash"):
        script("arrays", halve(), MongoBackupAndRestore(hub, "net", 3), Crash(1, 7))
    model, witness = script("arrays", MongoBackupAndRestore(hub, "net", 3), halve())
    assert len(witness.rows["batch"]) < 20 and digest(model) == digest(whole)


@pytest.mark.filterwarnings("ignore:`fit` goes on after:UserWarning")
def test_one_fit_at_a_time_has_the_backup(hub: ktl.Hub) -> None:
    refused: list[BaseException] = []

    class Second(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations == 8 and hub.models.flush(60):
                thread = threading.Thread(target=self.fit)
                thread.start()
                thread.join(60)

        def fit(self) -> None:
            try:
                script("arrays", MongoBackupAndRestore(hub, "net"))
            except ValueError as error:
                refused.append(error)

    script("arrays", MongoBackupAndRestore(hub, "net", 3), Second())
    (error,) = refused
    assert "`model` must be backed up by one `fit` at a time" in str(error)

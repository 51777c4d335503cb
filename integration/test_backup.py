"""`MongoBackupAndRestore`: what a broken `fit` ends with is what an unbroken one ends with."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import warnings
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

    order = np.arange(len(X))

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        return X[chosen] + np.random.normal(size=(BATCH, 1)).astype("float32"), Y[chosen]

    def on_epoch_end(self) -> None:
        self.order = np.random.permutation(self.order)

    def get_state(self) -> Any:
        return self.order.tolist()

    def set_state(self, state: Any) -> None:
        self.order = np.array(state)


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
    """Ends the `fit`, or the process, after a batch."""

    def __init__(self, epoch: int, batch: int, kill: bool = False) -> None:
        super().__init__()
        self.at, self.kill, self.epoch = (epoch, batch), kill, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            if self.kill:
                assert ktl.models.current.Run  # the process is one that has saved
                os.kill(os.getpid(), signal.SIGKILL)
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

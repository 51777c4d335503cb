"""Processes that the tests of the callbacks start, kill, and compare with one that lives.

`python runner.py '{"mongodb": ..., "project": ..., "act": ...}'`; lines of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import keras
import numpy as np

import keras_tl as ktl
from keras_tl.storage import hooks

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(48, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def network() -> keras.Model:
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=2),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


class Witness(keras.callbacks.Callback):
    """Sees what Keras gives to callbacks, and says it on stdout if asked to."""

    def __init__(self, say: bool = False) -> None:
        super().__init__()
        self.rows: dict[str, list[tuple[int, int, float]]] = {"batch": [], "epoch": []}
        self.say = say

    def _see(self, kind: str, batch: int, logs: Any) -> None:
        row = (self.epoch, batch, logs["loss"])
        self.rows[kind].append(row)
        if self.say:
            os.write(1, json.dumps([kind, *row]).encode() + b"\n")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._see("batch", batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._see("epoch", -1, logs)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(w)) for w in model.get_weights()]


def digest(model: keras.Model) -> list[str]:
    """Every variable that a version keeps, as text that compares bit for bit."""
    from keras_tl.models import state

    found = []
    for role, variable in state.variables(model):
        if role != "metric":
            value = np.asarray(keras.ops.convert_to_numpy(variable.value)).astype("float64")
            found.append(f"{role} {value.tobytes().hex()}")
    return found


def train(hub: ktl.Hub, about: dict[str, Any]) -> None:
    logger, checkpoint = hub.callbacks("net", save_freq=about.get("save_freq", "epoch"))
    left = about.get("nth", 1)

    def die(phase: str) -> None:
        nonlocal left
        if phase == about.get("phase"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    hooks.hook = die
    callbacks = [logger, checkpoint, Witness(say=True)]
    network().fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    hub.close(30)
    print(json.dumps(["done"]))


def load(hub: ktl.Hub, about: dict[str, Any]) -> None:
    print(json.dumps(digest(hub.models["net"].load())))
    hub.close()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    {"train": train, "load": load}[given["act"]](
        ktl.Hub(given["mongodb"], project=given["project"]), given
    )

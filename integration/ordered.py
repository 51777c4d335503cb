"""A process that trains and takes orders, for `test_orders.py`: `python ordered.py '{...}'`."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import keras
import numpy as np
from runner import X, Y, network

import keras_tl as ktl
from keras_tl.callbacks import MongoBackupAndRestore, MongoLogger
from keras_tl.models import orders, outbox
from keras_tl.storage import hooks

BATCH, STEPS = 8, 6


class Teller(keras.callbacks.Callback):
    """Writes to stdout with which rate each step is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        os.write(1, json.dumps([self.step, rate]).encode() + b"\n")


class Ordering(keras.callbacks.Callback):
    """Sends an order before step `at` and waits until it is there; comes before the logger."""

    def __init__(self, hub: ktl.Hub, logger: MongoLogger, at: int, die: int | None) -> None:
        super().__init__()
        self.hub, self.logger, self.at, self.die = hub, logger, at, die
        self.order: str | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = self.logger._first_step + batch + 1
        if step == self.at:
            assert self.logger.run.outbox.flush(60)  # the run and its backup are there
            self.order = orders.send(
                self.hub.connection, self.logger.run.id, "set", {"learning_rate": 0.25}
            )
            self.logger._inbox.wait()
        if step == self.die:
            assert self.logger.run.outbox.flush(60)
            os.kill(os.getpid(), signal.SIGKILL)


def train(hub: ktl.Hub, at: int | None, die: int | None = None, every: int = 4) -> Any:
    """Three epochs with a backup every few steps; an order before step `at`."""
    logger = MongoLogger(hub)
    backup = MongoBackupAndRestore(hub, "net", every)
    model = network()
    sender = [Ordering(hub, logger, at, die)] if at is not None else []
    model.fit(
        *(X, Y),
        batch_size=BATCH,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[*sender, logger, backup],
    )
    return model, logger.run.id


def obey(hub: ktl.Hub) -> None:
    """Trains until it is stopped."""
    outbox._HEARTBEAT = 0.1
    x, y = np.zeros((STEPS * BATCH, 4), "float32"), np.zeros((STEPS * BATCH, 1), "float32")
    network().fit(
        *(x, y), batch_size=BATCH, epochs=10**6, verbose=0, callbacks=[MongoLogger(hub), Teller()]
    )
    hub.close(30)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with ktl.Hub(given["mongodb"], project=given["project"]) as made:
        if given["act"] == "obey":
            obey(made)
        else:

            def die(phase: str) -> None:
                if phase == given.get("phase"):
                    os.kill(os.getpid(), signal.SIGKILL)

            hooks.hook = die
            train(made, given["at"], given.get("die"))

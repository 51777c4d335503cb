"""The process that the fault tests kill: trains a small network on a stream, as a user would.

Started as `python trainer.py '{"mongodb": ..., "kafka": ..., ...}'`. It writes a line to stdout
after each call that logged something has returned, so that the test knows what was acknowledged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from typing import Any

import keras

import keras_tl as ktl
from keras_tl.storage import hooks


def say(**line: Any) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def build() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=3),
            keras.layers.Dense(4),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


class Witness(keras.callbacks.Callback):
    """Comes after the logger: when it is called, the logger's call has returned."""

    def __init__(self, logger: Any, pause: float, patience: float) -> None:
        super().__init__()
        self.logger, self.pause, self.patience = logger, pause, patience

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        run = self.logger.run
        say(logged="batch", attempt=run.attempt, epoch=self.epoch, batch=batch, loss=logs["loss"])
        if self.pause:
            time.sleep(self.pause)  # steps of a real network take time, too
        # One version may be on its way while the next is trained, and none is dropped: a kill that
        # is aimed at the n-th commit then has to hit before the training is over.
        until = time.monotonic() + self.patience
        while run.outbox.uploader._captured and time.monotonic() < until:
            time.sleep(0.005)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        run = self.logger.run
        say(logged="epoch", attempt=run.attempt, epoch=epoch, batch=-1, loss=logs["loss"])


class Mutant:
    """Breaks the trainer on purpose: the tests must notice."""

    @staticmethod
    def cursor() -> None:
        """The cursor is one batch late."""
        from keras_tl.streams import Stream

        real = Stream.mark_trained
        Stream.mark_trained = lambda self, n: real(self, max(self.trained, n - 1))

    @staticmethod
    def optimizer() -> None:
        """The checkpoint has no optimizer."""
        from keras_tl.models import state

        real = state.variables
        state.variables = lambda model: (p for p in real(model) if p[0] != "optimizer")

    @staticmethod
    def ids() -> None:
        """Events get another id each time they are sent."""
        from keras_tl.models import courier

        real = courier.buckets
        courier.buckets = lambda *a: [d | {"_id": uuid.uuid4().hex} for d in real(*a)]

    @staticmethod
    def acknowledged() -> None:
        """Events are marked as sent before they are."""
        from keras_tl.models import courier
        from keras_tl.storage.journal import Kind

        real = courier.Courier._write

        def write(self: Any, db: Any, records: Any) -> None:
            self.journal.append(Kind.SENT, b"%d" % self._again[1])
            hooks.phase("chunk-acknowledged")
            real(self, db, records)

        courier.Courier._write = write


def main(options: dict[str, Any]) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    kill = options.get("kill")
    if kill:
        left = kill["nth"]

        def die(phase: str) -> None:
            nonlocal left
            if phase == kill["phase"]:
                left -= 1
                if left == 0:
                    say(killed=phase)
                    os.kill(os.getpid(), signal.SIGKILL)

        hooks.hook = die
    hub = ktl.Hub(options["mongodb"], options["kafka"], options["project"])
    if options.get("mutant"):
        getattr(Mutant, options["mutant"])()
    stream = hub.stream(
        options["topic"], options["batch_size"], resume="net", **options.get("stream", {})
    )
    logger, checkpoint = hub.callbacks("net", save_freq=options["save_freq"])
    model = build()
    say(ready=True)
    model.fit(
        stream,
        epochs=options["epochs"],
        steps_per_epoch=options["steps"],
        verbose=0,
        callbacks=[logger, checkpoint, Witness(logger, options["pause"], options["patience"])],
    )
    hub.close(timeout=60)
    say(done=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""What the trainers are trained on, and who sends it."""

from __future__ import annotations

import os
import threading

import numpy as np
from history import BATCH, BATCHES, BLOCK, PATIENCE, Trainer

import keras_tl as ktl

SEED = int(os.environ.get("KERAS_TL_TEST_SEED", "3"))
LEAD = 8  # blocks
BEST = "kafka" if os.environ.get("KAFKA_HOME") else "tansu"


def samples() -> dict[str, np.ndarray]:
    """What all trainers are trained on, and some more that are read ahead."""
    x = np.random.default_rng(0).normal(size=(BATCHES * BATCH + 120, 16))
    x = x.astype("float32")
    return {"x": x, "y": x[:, :4] * 2 + 1}


class Sender:
    """Sends samples in a thread, a little ahead of the training, as live data come.

    Args:
        hub: gives the producer.
        topic: made with two partitions.
        columns: the samples.
    """

    def __init__(self, hub: ktl.Hub, topic: str, columns: dict[str, np.ndarray]) -> None:
        self._producer = hub.producer(topic, block_size=BLOCK, partitions=2)
        self._columns = columns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._trainer: Trainer | None = None
        self._error: BaseException | None = None

    @property
    def sends(self) -> bool:
        """Whether it has more to send."""
        return self._thread.is_alive()

    def follow(self, trainer: Trainer) -> None:
        """Begin to send what this trainer needs."""
        self._trainer = trainer
        self._thread.start()

    def send_all(self) -> None:
        """Send everything now."""
        with self._producer:
            self._producer.send_many(**self._columns)

    def finish(self) -> None:
        """Wait until everything is stored."""
        self._thread.join(PATIENCE)
        assert self._error is None and not self.sends, self._error
        self._producer.flush()

    def close(self) -> None:
        """Stop sending."""
        self._stop.set()
        if self._trainer is not None:
            self._thread.join(PATIENCE)
        self._producer.close()

    def _send(self) -> None:
        assert self._trainer is not None
        try:
            for i in range(0, len(self._columns["x"]), BLOCK):
                while i > len(self._trainer.logged) * BATCH + LEAD * BLOCK:
                    if self._stop.wait(0.02):
                        return
                block = {name: column[i : i + BLOCK] for name, column in self._columns.items()}
                self._producer.send_many(**block)
        except BaseException as error:
            self._error = error

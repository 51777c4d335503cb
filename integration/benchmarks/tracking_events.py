"""Metrics of a run: how fast they are in MongoDB, what they take there, how fast they are read.

Three metrics a step, each a random walk of full precision (Keras' own are float32, and take less).
A step counts once MongoDB has it: the last flush is part of the time. Sacred logs the same numbers
to the same mongod, MLflow some of them to SQLite.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main

WRITE, BYTES, READ, POINTS = (
    *("metrics_write_steps_s", "metrics_bytes_step", "metrics_read_100k_ms"),
    "metrics_one_million",
)
GOALS = {
    WRITE: ">= 200 k steps/s",
    BYTES: "<= 30 B a step",
    READ: "<= 10 ms",
    POINTS: "1 M points work",
}
NAMES = ("accuracy", "loss", "val_loss")
STEPS = 100_000  # of the run that is read


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl

    if options.only_backend_rows:
        return
    rounds, steps = (2, STEPS) if options.quick else (5, 5 * STEPS)
    rng = np.random.default_rng(0)
    walks = rng.normal(size=(steps, len(NAMES))).cumsum(axis=0)
    project = f"bench_{uuid.uuid4().hex[:8]}"
    with keras_tl.Hub(mongodb, project=project) as hub:
        try:
            speed, size, read, points = ours(hub, walks, rounds)
        finally:
            hub.connection.client.drop_database(project)
    rows = {
        WRITE: (speed, "steps/s", lambda v: v >= 200_000),
        BYTES: (size, "bytes", lambda v: v <= 30),
        READ: (read, "ms", lambda v: v <= 10),
    }
    peer: dict[str, float] = {}
    why = missing("sacred")
    if why is None:
        peer = sacred(mongodb, walks[: STEPS // 5 if options.quick else STEPS])
    for what, (value, unit, reached) in rows.items():
        if why is None:
            report.add(what, value, unit, peer["what"], peer[what], GOALS[what], reached)
        else:
            report.missing(what, value, unit, f"Sacred: {why}", GOALS[what])
    why = missing("mlflow")
    if why is None:
        name, found = mlflow_steps(walks[: 100 if options.quick else 1000])
        report.add(WRITE, speed, "steps/s", name, found, GOALS[WRITE], rows[WRITE][2])
    else:
        report.missing(WRITE, speed, "steps/s", f"MLflow: {why}", GOALS[WRITE])
    nothing = "Sacred's document of a metric ends at 388 k (read, not measured here)"
    report.add(POINTS, points, "points", nothing, None, GOALS[POINTS], lambda v: v == 10**6)


def ours(hub: Any, walks: np.ndarray, rounds: int) -> tuple[float, float, float, float]:
    """Steps a second, bytes a step, milliseconds of a read, and points of one metric."""
    from keras_tl.models import Run
    from keras_tl.models.outbox import outbox

    db, box = hub.connection.db, outbox(hub.connection)

    def write(rows: list[dict[str, float]]) -> tuple[str, float]:
        run = Run(hub, "bench")
        run.start()
        assert box.flush(60)
        log, began = run.log, time.perf_counter()
        for step, logs in enumerate(rows):
            log(step, 0, step, logs)
        assert box.flush(120)
        took = time.perf_counter() - began
        run.end()
        return run.id, took

    rows = [dict(zip(NAMES, row, strict=True)) for row in walks.tolist()]
    took = [write(rows)[1] for _ in range(rounds)]
    assert box.flush(60)
    db.client.admin.command("fsync")  # a checkpoint: until then sizes are of the last one
    stats = db.command("collStats", "events")
    size = (stats["storageSize"] + stats["totalIndexSize"]) / (rounds * len(rows))

    run = write(rows[:STEPS])[0]
    reads = []
    for _ in range(9):
        record, began = hub.runs[run], time.perf_counter()
        found = record.events(kind="batch")
        reads.append(time.perf_counter() - began)
    assert (found["loss"] == walks[:STEPS, NAMES.index("loss")]).all()

    one = np.arange(10**6, dtype="float64")
    run = write([{"loss": value} for value in one.tolist()])[0]
    found = hub.runs[run].events("loss", kind="batch")
    points = int((found["loss"] == one).sum()) if len(found["loss"]) == len(one) else 0
    return len(rows) / statistics.median(took), size, 1e3 * statistics.median(reads), points


def sacred(mongodb: str, walks: np.ndarray) -> dict[str, Any]:
    """The same rows by `log_scalar` and Sacred's heartbeat, read as Sacred keeps them."""
    import pymongo
    from sacred import SETTINGS, Experiment
    from sacred.observers import MongoObserver

    SETTINGS.CAPTURE_MODE = "no"
    logging.getLogger("bench").setLevel(logging.ERROR)
    name = f"sacred_{uuid.uuid4().hex[:8]}"
    experiment = Experiment("bench", save_git_info=False)
    experiment.observers.append(MongoObserver(url=mongodb, db_name=name))
    began = [0.0]
    rows = walks.tolist()

    @experiment.main
    def train(_run: Any) -> None:
        began[0] = time.perf_counter()
        for step, row in enumerate(rows):
            for metric, value in zip(NAMES, row, strict=True):
                _run.log_scalar(metric, value, step)

    with pymongo.MongoClient(mongodb) as client:
        try:
            experiment.run()
            took = time.perf_counter() - began[0]
            client.admin.command("fsync")
            stats = client[name].command("collStats", "metrics")
            reads = []
            for _ in range(5):
                start = time.perf_counter()
                found = {
                    d["name"]: (np.array(d["steps"]), np.array(d["values"]))
                    for d in client[name]["metrics"].find()
                }
                reads.append(time.perf_counter() - start)
        finally:
            client.drop_database(name)
    assert len(found["loss"][1]) == len(walks)
    return {
        "what": f"Sacred MongoObserver, {len(walks):,} steps",
        WRITE: len(walks) / took,
        BYTES: (stats["storageSize"] + stats["totalIndexSize"]) / len(walks),
        READ: 1e3 * statistics.median(reads) * STEPS / len(walks),
    }


def mlflow_steps(walks: np.ndarray) -> tuple[str, float]:
    """Steps a second of `mlflow.log_metrics`."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("events", artifact_location=f"{folder}/artifacts")
        mlflow.set_experiment("events")
        with mlflow.start_run():
            began = time.perf_counter()
            for step, row in enumerate(walks.tolist()):
                mlflow.log_metrics(dict(zip(NAMES, row, strict=True)), step)
            took = time.perf_counter() - began
    return f"MLflow log_metrics on SQLite, {len(walks):,} steps", len(walks) / took


def missing(module: str) -> str | None:
    """Why a peer cannot take part."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # it tells of each table that it makes
    if importlib.util.find_spec(module) is None:
        return "not installed; pip install keras_tl[bench]"
    try:
        __import__(module)
    except ImportError as error:
        return f"cannot be imported here ({error})"
    return None


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as local:
            measure(options, report, local.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

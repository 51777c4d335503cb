"""How long it takes to find the best of very many runs, beside MLflow.

The runs are documents like those that training leaves, each with params, tags and the metrics of
its epochs, on a real mongod with the indexes that every project has. MLflow has its runs on
SQLite, made by its own client, and far fewer of them, since making 10^5 takes it an hour or more:
how many is said with each row. Each figure is the median of many calls of the public function,
ours the least of three rounds.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main

GOAL = "<= 5 ms"
LIMIT = 5.0
WHAT = "best_of_runs_ms"
MODELS = 10


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl

    if options.only_backend_rows:
        return
    ours, theirs = (10_000, 100) if options.quick else (100_000, 1_000)
    with keras_tl.Hub(mongodb, project="bench_runs", timeoutMS=120_000) as hub:
        runs = hub.connection.db["runs"]
        for some in documents(ours):
            runs.insert_many(some, ordered=False)
        hub.connection.client.admin.command("fsync")  # what was inserted is on disk, and done with
        questions: dict[str, Callable[[], Any]] = {
            "all": lambda: hub.runs.best("val_loss"),
            "of one model": lambda: hub.runs.best("val_loss", model="m3"),
            "with a larger learning rate": lambda: hub.runs.best(
                "val_loss", **{"params.lr__gt": 0.01}
            ),
            "the ten best": lambda: hub.runs.where(10, "best.val_loss"),
        }
        # In rounds, so that what else the machine does falls on some of them only.
        rounds = [{q: milliseconds(ask) for q, ask in questions.items()} for _ in range(3)]
        figures = {question: min(some[question] for some in rounds) for question in questions}
        least = runs.find_one(sort=[("min.val_loss", 1)])
        assert least is not None and hub.runs.best("val_loss").id == least["_id"]
        hub.connection.client.drop_database(hub.project)

    def quick(value: float) -> bool:
        return value <= LIMIT

    try:
        peer = mlflow_milliseconds(theirs)
    except ImportError as error:
        why = f"MLflow: not installed ({error.name}); pip install keras_tl[bench]"
        for question, figure in figures.items():
            report.missing(WHAT, figure, "ms", f"{why}; {question}, of {ours:,} runs", GOAL)
        return
    for question, figure in figures.items():
        # MLflow keeps params as text, so that it can not be asked for a larger one.
        limit = " (without that)" if "larger" in question else ""
        name = f"MLflow with {theirs:,} runs{limit}; {question}, of {ours:,} runs"
        asked = (
            peer["ten"] if "ten" in question else peer["model" if "model" in question else "all"]
        )
        report.add(WHAT, figure, "ms", name, asked, GOAL, quick)


def documents(n: int, size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Runs as they are stored, in slices."""
    rng = np.random.default_rng(0)
    began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    attempt = {"number": 0, "start_step": 0, "started": began, "host": "h", "pid": 1}
    for first in range(0, n, size):
        some = []
        for i in range(first, min(n, first + size)):
            loss, accuracy, val_loss, val_accuracy = rng.uniform(size=4).tolist()
            last = {"loss": loss, "accuracy": accuracy}
            last |= {"val_loss": val_loss, "val_accuracy": val_accuracy}
            some.append(
                {
                    **{"_id": f"run{i:06d}", "name": "search", "model": f"m{i % MODELS}"},
                    **{"state": "finished", "started": began + datetime.timedelta(seconds=i)},
                    **{"attempt": "a", "attempts": {"a": attempt}, "last_step": 1000},
                    "params": {
                        **{"lr": float(10 ** rng.uniform(-5, -1)), "units": int(rng.integers(512))},
                        "optimizer": {"name": "adam", "weight_decay": float(rng.uniform())},
                    },
                    "tags": {"fold": i % 5},
                    **{"last": last, "min": last, "max": last},
                    "best": {name: {"v": value, "step": 900} for name, value in last.items()},
                }
            )
        yield some


def milliseconds(call: Callable[[], Any], calls: int = 50) -> float:
    call()
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return 1e3 * statistics.median(took)


def mlflow_milliseconds(n: int) -> dict[str, float]:
    """The same questions to MLflow's client."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # it tells of each table that it makes
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        store = client.create_experiment("bench", artifact_location=f"{folder}/artifacts")
        for i in range(n):
            run = client.create_run(store).info.run_id
            values = zip(("loss", "val_loss"), rng.uniform(size=2).tolist(), strict=True)
            metrics = [Metric(name, value, 0, 1000) for name, value in values]
            params = [Param("model", f"m{i % MODELS}"), Param("lr", str(rng.uniform()))]
            client.log_batch(run, metrics=metrics, params=params)
        order = ["metrics.val_loss ASC"]

        def ask(condition: str = "", most: int = 1) -> float:
            return milliseconds(
                lambda: client.search_runs([store], condition, max_results=most, order_by=order), 10
            )

        return {"all": ask(), "model": ask("params.model = 'm3'"), "ten": ask(most=10)}


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            import pymongo

            with pymongo.MongoClient(stack.mongodb) as client:
                report.server("mongod", client.server_info()["version"])
            measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

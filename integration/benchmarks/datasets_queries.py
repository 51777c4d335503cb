"""How long a question takes to a dataset of a million samples.

- `count_ms`: how many samples two tags choose, which is one in a hundred.
- `key_lookup_ms`: a sample by its key.
- `scan_warning`: whether a view that has to look at all samples says so.

Ours are calls of the public functions; the peers ask the same collection by `pymongo`, as it is
without an index, and with the same index, which is the least that it can take.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main
from dataset_peers import stores
from dataset_peers.clock import milliseconds
from dataset_peers.files import why_missing

COUNT, LOOKUP, WARNING = "count_ms", "key_lookup_ms", "scan_warning"
GOALS = {COUNT: "<= 5 ms", LOOKUP: "<= 1 ms", WARNING: "a warning when a view would scan"}
PART = 50_000  # samples that are inserted at a time
CHOSEN = {"split": "s3", "quality": 7}


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl

    if options.only_backend_rows:
        return
    n, rounds = (50_000, 30) if options.quick else (1_000_000, 100)
    project = f"bench_{uuid.uuid4().hex[:8]}"
    with keras_tl.Hub(mongodb, project=project, timeoutMS=120_000) as hub:
        try:
            ours(report, filled(hub, n), n, rounds)
        finally:
            hub.connection.client.drop_database(project)
    fiftyone(report, mongodb, 2_000 if options.quick else 50_000)


def filled(hub: Any, n: int) -> Any:
    """A dataset of so many samples, with two tags of ten values each."""
    from keras_tl import datasets as d

    ds = hub.datasets.create("tags", x=d.Array((4,), "uint8"), tags={"split": str, "quality": int})
    x = np.zeros((PART, 4), "uint8")
    for begin in range(0, n, PART):
        numbers = range(begin, begin + PART)
        tags = {
            "split": [f"s{i % 10}" for i in numbers],
            "quality": [i // 10 % 10 for i in numbers],
        }
        ds.insert_many({"x": x}, [f"k{i:07d}" for i in numbers], tags)
    return ds


def ours(report: Report, ds: Any, n: int, rounds: int) -> None:
    from keras_tl.datasets.views import indexes

    view, samples = ds.where(**CHOSEN), ds.samples
    query = {f"tags.{name}": {"$eq": value} for name, value in CHOSEN.items()}
    scan = {"$natural": 1}
    with warnings_of("keras_tl") as told:
        assert view.count == n // 100
    warned = float(any("looks at all" in record.getMessage() for record in told))
    slow = milliseconds(
        {
            "count": lambda: samples.count_documents(query, hint=scan),
            "key": lambda: samples.find_one({"_id": f"k{n // 2:07d}"}, hint=scan),
        },
        3,
    )
    indexes.wait(ds)
    explained = view.explain()
    assert not explained["scan"] and explained["index"], explained
    rng = np.random.default_rng(0)

    def key() -> str:
        return f"k{rng.integers(n):07d}"

    quick = milliseconds(
        {
            "view.count": lambda: view.count,
            "count_documents": lambda: samples.count_documents(query),
            "ds[key]": lambda: ds[key()].tags,
            "find_one": lambda: samples.find_one({"_id": key()}),
        },
        rounds,
    )
    of = f"; 1 % of {n:,} by two tags"
    for what, mine, peers in (
        (COUNT, "view.count", {"no index": slow["count"], "its index": quick["count_documents"]}),
        (LOOKUP, "ds[key]", {"no index": slow["key"], "its index": quick["find_one"]}),
    ):
        limit = 5 if what == COUNT else 1
        for name, value in peers.items():
            peer = f"pymongo, {name}" + (of if what == COUNT else f"; of {n:,}")
            report.add(
                what, quick[mine], "ms", peer, value, GOALS[what], lambda v, limit=limit: v <= limit
            )
    peer = "pymongo does not"
    report.add(WARNING, warned, "1: told", peer, 0.0, GOALS[WARNING], lambda v: v == 1)


@contextmanager
def warnings_of(name: str) -> Iterator[list[logging.LogRecord]]:
    """What a logger says meanwhile."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def fiftyone(report: Report, mongodb: str, n: int) -> None:
    ours = next(row.value for row in report.rows if row.what == COUNT)
    assert ours is not None
    why = why_missing("fiftyone")
    if why is not None:
        report.missing(COUNT, ours, "ms", f"FiftyOne: {why}", GOALS[COUNT])
        return
    from fiftyone import ViewField

    with stores.fiftyone_samples(mongodb, n) as (dataset, _):
        view = dataset.match((ViewField("split") == "s3") & (ViewField("quality") == 7))
        took = milliseconds({"len": lambda: len(view)}, 10)
    peer = f"FiftyOne len(view), two indexes, {n:,} samples"
    report.add(COUNT, ours, "ms", peer, took["len"], GOALS[COUNT], lambda v: v <= 5)


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

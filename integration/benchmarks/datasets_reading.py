"""How fast samples are read in batches: in `fit`, warm, straight from MongoDB, and the first time.

- `fit_share`: samples a second of `fit` on a view's batches over those on NumPy arrays, both
  shuffled. A step of the dense layer takes less than a millisecond, the network of convolutions is
  bound by its computation. The first epoch of a fit, which compiles, does not count.
- `warm_samples_s`: shuffled epochs from the local cache, the reader alone, each of which asks the
  server anew which samples the view has. All peers have their files in the page cache.
- `mongo_samples_s`, `first_batch_ms`: the same without a cache; the latter from the question which
  samples there are to the first batch in hand.
- `fill_samples_s`: an epoch that checks the hashes of all packs and writes the local cache.
- `order_and_resume`: one order for 1, 2 and 4 partitions, and in a `fit` that is killed by SIGKILL
  in the middle of an epoch and started again.
- `machine_noise`: how far the rounds of the same NumPy loop lie apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main
from dataset_peers import files, stores
from dataset_peers.clock import (
    Reader,
    checked,
    drain,
    first,
    medians,
    milliseconds,
    rates,
    seconds,
    spread,
)
from dataset_peers.patches import CLASSES, SHAPE, SIDE, patches

FIT, WARM, MONGO, FIRST, FILL, ORDER, NOISE = (
    *("fit_share", "warm_samples_s", "mongo_samples_s", "first_batch_ms", "fill_samples_s"),
    *("order_and_resume", "machine_noise"),
)
GOALS = {
    FIT: ">= 0.95x arrays",
    WARM: ">= 0.65x NumPy's fancy index",
    MONGO: ">= 250 k/s",
    FIRST: "first batch <= 15 ms",
    FILL: ">= 120 k/s",
    ORDER: "same order for 1, 2, 4 partitions and after kill -9 in mid-epoch",
}
BATCH = 256
OURS = "keras_tl"


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl
    from keras_tl import datasets as d

    n, rounds = (10_000, 3) if options.quick else (50_000, 9)
    x, y = patches(n)
    project = f"bench_{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory() as folder,
        keras_tl.Hub(mongodb, project=project, timeoutMS=120_000) as hub,
    ):
        try:
            kinds = {"x": d.Image(SIDE, SIDE), "y": d.Label(CLASSES)}
            ds = hub.datasets.create("patches", tags={"number": int}, **kinds)
            ds.insert_many({"x": x, "y": y}, tags={"number": np.arange(n)})
            fit(report, options, ds, x, y)
            if not options.only_backend_rows:
                warm(report, ds, x, y, Path(folder), rounds, 0.1 if options.quick else 0.3)
                from_mongodb(report, hub, ds, x, y, rounds)
                filling(report, ds, x, y, Path(folder), rounds)
                order(report, ds, mongodb)
        finally:
            hub.connection.client.drop_database(project)


def fit(report: Report, options: argparse.Namespace, ds: Any, x: np.ndarray, y: np.ndarray) -> None:
    rounds, epochs = (3, 1) if options.quick else (5, 2)
    drain(ds.batches(BATCH))  # into the cache
    few = 10 * BATCH if options.quick else len(x)  # a step of these takes 0.1 s on torch
    cases = (("a dense layer", dense(), len(x)), ("convolutions", convolutional(), few))
    for name, model, n in cases:
        arrays, ours, batches = [], [], ds.limit(n).batches(BATCH, shuffle=True)
        for _ in range(rounds):
            arrays.append(epoch_seconds(model, epochs, x=x[:n], y=y[:n], batch_size=BATCH))
            ours.append(epoch_seconds(model, epochs, x=batches))
        share = statistics.median(arrays) / statistics.median(ours)
        peer = f"arrays in fit ({name}, {options.backend})"
        report.add(FIT, share, "of arrays'", peer, 1.0, GOALS[FIT], lambda v: v >= 0.95)
        report.setting[f"fit_samples_s {options.backend} {name}"] = n / statistics.median(ours)


def dense() -> Any:
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    return compiled(layers)


def convolutional() -> Any:
    import keras

    options = {"strides": 2, "activation": "relu"}
    layers = [keras.layers.Conv2D(filters, 3, **options) for filters in (16, 32)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
    return compiled(layers)


def compiled(layers: list[Any]) -> Any:
    import keras

    front = [keras.Input(SHAPE, dtype="uint8"), keras.layers.Rescaling(1 / 255)]
    model = keras.Sequential([*front, *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def epoch_seconds(model: Any, epochs: int, **data: Any) -> float:
    """Seconds of an epoch, on average without the first one."""
    import keras

    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.fit(**data, epochs=epochs + 1, shuffle=True, verbose=0, callbacks=[clock])
    return float((ends[-1] - ends[0]) / epochs)


def warm(
    report: Report, ds: Any, x: np.ndarray, y: np.ndarray, folder: Path, rounds: int, least: float
) -> None:
    batches = ds.batches(BATCH, shuffle=True)
    readers = [Reader(OURS, lambda: batches), files.numpy_reader(x, y, BATCH, folder)]
    missing = {}
    for name, (module, make) in files.PEERS.items():
        why = files.why_missing(module)
        if why is None:
            readers.append(make(x, y, BATCH, folder))
        else:
            missing[name] = why
    for reader in readers:
        checked(reader, x, y)
    found = rates(readers, len(x), rounds, least)
    speed = medians(found)
    ours, floor, unit = speed.pop(OURS), speed[files.NUMPY], "samples/s"
    for name, peer in speed.items():
        report.add(WARM, ours, unit, name, peer, GOALS[WARM], lambda v: v >= 0.65 * floor)
    for name, why in missing.items():
        report.missing(WARM, ours, unit, f"{name}: {why}", GOALS[WARM])
    noise = spread(found[files.NUMPY])
    report.add(NOISE, noise, "of the median", f"{files.NUMPY}: best to worst of {rounds} rounds")


def from_mongodb(
    report: Report, hub: Any, ds: Any, x: np.ndarray, y: np.ndarray, rounds: int
) -> None:
    documents = hub.connection.db["documents"]
    split = [f"s{i % 10}" for i in range(len(x))]
    stores.insert_documents(documents, x, y, split, list(range(len(x))))
    batches = ds.batches(BATCH, shuffle=True, cache=None)
    readers = [Reader(OURS, lambda: batches), *stores.readers(documents, len(x), BATCH)]
    for reader in readers:
        checked(reader, x, y)
    speed = medians(rates(readers, len(x), rounds, 0.2))
    ours = speed.pop(OURS)
    for name, peer in speed.items():
        report.add(MONGO, ours, "samples/s", name, peer, GOALS[MONGO], lambda v: v >= 250_000)
    calls = {
        OURS: lambda: first(ds.batches(BATCH, shuffle=True, cache=None)),
        **{reader.name: lambda reader=reader: first(reader.epoch()) for reader in readers[1:]},
    }
    took = milliseconds(calls, 5 * rounds)
    mine = took.pop(OURS)
    for name, peer in took.items():
        report.add(FIRST, mine, "ms", name, peer, GOALS[FIRST], lambda v: v <= 15)
    documents.drop()


def filling(
    report: Report, ds: Any, x: np.ndarray, y: np.ndarray, folder: Path, rounds: int
) -> None:
    why = files.why_missing("tensorflow")
    path = files.records(x, y, folder) if why is None else None
    ours, peers = [], []
    for number in range(rounds):
        with cache_folder(folder / f"cache{number}"):
            batches = ds.batches(BATCH, shuffle=True)
            ours.append(len(x) / seconds(lambda: drain(batches)))  # noqa: B023
        if path is not None:
            pipeline = files.tf_pipeline(path, BATCH, str(folder / f"tf{number}"))
            peers.append(len(x) / seconds(lambda: drain(pipeline.as_numpy_iterator())))  # noqa: B023
    speed, unit, name = statistics.median(ours), "samples/s", "tf.data, TFRecord into .cache(file)"
    if path is None:
        report.missing(FILL, speed, unit, f"{name}: {why}", GOALS[FILL])
    else:
        peer = statistics.median(peers)
        report.add(FILL, speed, unit, name, peer, GOALS[FILL], lambda v: v >= 120_000)


@contextmanager
def cache_folder(path: Path) -> Iterator[None]:
    os.environ["KERAS_TL_CACHE"] = str(path)
    try:
        yield
    finally:
        del os.environ["KERAS_TL_CACHE"]


def order(report: Report, ds: Any, mongodb: str) -> None:
    from dataset_peers import resumed

    orders = [resumed.order(ds, partitions) for partitions in (1, 2, 4)]
    same = all(np.array_equal(orders[0], other) for other in orders[1:])
    permutes = np.array_equal(np.sort(orders[0]), np.arange(len(orders[0])))
    place, kept = resumed.killed(ds, mongodb)
    name = f"an unbroken run; killed in epoch 2, resumed at its batch {place}"
    found = float(same and permutes and kept and place > 0)
    report.add(ORDER, found, "1: the same", name, 1.0, GOALS[ORDER], lambda v: v == 1)


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

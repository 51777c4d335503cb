"""What versions cost: the stall of a checkpoint, their size, and how fast weights come and go.

- `checkpoint_stall_ms`: the training thread in `on_epoch_end`, weights and optimizer of 96 MB. The
  epochs are 2 steps; between them it is waited until nothing is written any more, by all alike.
- `versions10_size_ratio`: bytes of 10 versions of a fine-tuned head over those of the first.
- `upload_mb_s`: `hub.models[...].save(model)` of new weights, from the call to the commit, beside
  `GridFSBucket.upload_from_stream` of as many bytes.
- `load_cold_mb_s`: every tensor of a version as an array, verified, with nothing in the cache,
  beside `GridFSBucket`'s `read()` of as many bytes. The cache is filled meanwhile.
- `load_cached_mb_s`: `restore_into` of a built model from the cache, beside `load_weights` of the
  same model.

The best of the repeats counts, of ours and of the peers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main

MB = 1e6
SIZE = 95_000_000  # bytes of weights
PARAMETERS = SIZE // 4


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl

    repeats, share = (2, 4) if options.quick else (10, 1)  # of what is measured, a fourth
    with (
        tempfile.TemporaryDirectory() as folder,
        keras_tl.Hub(mongodb, project="bench_versions") as hub,
    ):
        os.environ["KERAS_TL_CACHE"] = f"{folder}/cache"
        report.server("mongod", hub.connection.client.server_info()["version"])
        stalls(report, options.backend, hub, Path(folder), repeats, 8_000_000 // share)
        sizes(report, options.backend, hub, Path(folder), PARAMETERS // share)
        for layers in (4, 375):  # two tensors each
            model = network(layers, PARAMETERS // share)
            upload(report, options.backend, hub, model, repeats)
            load(report, options.backend, hub, model, Path(folder), repeats)
            contention(report, options.backend, hub, model)
        del os.environ["KERAS_TL_CACHE"]


def network(layers: int, parameters: int, optimizer: str = "sgd") -> Any:
    """A network of Dense layers that together have so many parameters.

    With SGD without momentum a version holds the weights and hardly anything else.
    """
    import keras

    width = int((parameters / layers) ** 0.5)
    model = keras.Sequential(
        [keras.Input((width,))] + [keras.layers.Dense(width) for _ in range(layers)]
    )
    model.compile(optimizer, "mse")
    return model


def size(model: Any) -> int:
    return sum(4 * int(np.prod(weight.shape)) for weight in model.weights)


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def stalls(
    report: Report, backend: str, hub: Any, folder: Path, repeats: int, parameters: int
) -> None:
    import keras

    model = network(8, parameters, "adam")  # with both moments of Adam: 96 MB
    width = model.input_shape[1]
    x = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
    model.fit(x, x, verbose=0)
    (checkpoint,) = (c for c in hub.callbacks("stall") if hasattr(c, "save_freq"))
    contenders = {
        "MongoCheckpoint": checkpoint,
        "ModelCheckpoint .weights.h5": keras.callbacks.ModelCheckpoint(
            str(folder / "m{epoch}.weights.h5"), save_weights_only=True
        ),
        "ModelCheckpoint .keras": keras.callbacks.ModelCheckpoint(str(folder / "m{epoch}.keras")),
        "BackupAndRestore": keras.callbacks.BackupAndRestore(str(folder / "backup")),
    }
    why = None
    try:
        contenders["Orbax, asynchronous"] = keras.callbacks.OrbaxCheckpoint(
            str(folder / "orbax"), save_freq="epoch"
        )
    except (ImportError, AttributeError) as error:
        why = str(error).partition("\n")[0]
    took = {}
    for name, callback in contenders.items():
        times = timed(callback)
        settle = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: settled(hub))
        epochs = repeats + 1
        model.fit(x, x, verbose=0, epochs=epochs, callbacks=[settle, callback])
        took[name] = min(times[1:])  # the first has to ask for memory, or to make folders
        if name == "MongoCheckpoint":
            report.setting["checkpoint_first_ms"] = 1e3 * times[0]
            report.setting["checkpoint_median_ms"] = 1e3 * statistics.median(times[1:])
    arrays = [np.ones(parameters, "float32") for _ in range(3)]
    room = [np.ones_like(a) for a in arrays]
    floor = min(
        seconds(lambda: [np.copyto(r, a) for r, a in zip(room, arrays, strict=True)])
        for _ in range(repeats)
    )
    ours = 1e3 * took.pop("MongoCheckpoint")
    what, unit, goal = "checkpoint_stall_ms", "ms", "<= 20 ms"
    for name, peer in took.items():
        report.add(what, ours, unit, f"{name}, {backend}", 1e3 * peer, goal, lambda v: v <= 20)
    report.add(
        what,
        ours,
        unit,
        f"copy into memory that is there, {backend}",
        1e3 * floor,
        goal,
        lambda v: v <= 20,
    )
    if why is not None:
        report.missing(what, ours, unit, f"Orbax: {why}", goal)


def timed(callback: Any) -> list[float]:
    """Lets a callback note the seconds of each `on_epoch_end`."""
    times: list[float] = []
    inner = callback.on_epoch_end

    def on_epoch_end(epoch: int, logs: Any = None) -> None:
        times.append(seconds(lambda: inner(epoch, logs)))

    callback.on_epoch_end = on_epoch_end
    return times


def settled(hub: Any) -> None:
    hub.models.flush(60)
    time.sleep(0.3)  # what peers write in the background


def sizes(report: Report, backend: str, hub: Any, folder: Path, parameters: int) -> None:
    import keras

    width = int(parameters**0.5)
    inputs = keras.Input((width,))
    body = keras.layers.Dense(width, trainable=False, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10, name="head")(body))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, width)).astype("float32")
    files = hub.connection.db["blobs.files"]

    def stored() -> int:
        found = list(files.aggregate([{"$group": {"_id": None, "n": {"$sum": "$length"}}}]))
        return int(found[0]["n"]) if found else 0

    before, paths, first = stored(), [], 0
    for number in range(10):
        model.fit(x, x[:, :10], verbose=0)
        hub.models["head"].save(model)
        first = first or stored() - before
        paths.append(folder / f"head{number}.weights.h5")
        model.save_weights(paths[-1])
    total = sum(path.stat().st_size for path in paths)
    peer = total / paths[0].stat().st_size
    ratio = (stored() - before) / first
    name = f"10 files .weights.h5, {backend}"
    report.add(
        "versions10_size_ratio",
        ratio,
        "x one version",
        name,
        peer,
        "<= 1.3x one version",
        lambda v: v <= 1.3,
    )
    for path in paths:
        path.unlink()


def upload(report: Report, backend: str, hub: Any, model: Any, repeats: int) -> None:
    import gridfs
    import pymongo

    # The peer as it comes: no write concern is asked for.
    peers = pymongo.MongoClient(hub.connection._uri)["bench_gridfs"]
    rng = np.random.default_rng(0)
    names = {"255 kB": 255 * 1024, "1 MB": 1 << 20}
    best: dict[str, float] = dict.fromkeys(["ours", *names], float("inf"))
    total = size(model)
    for _ in range(repeats):
        for name, chunk in names.items():
            data = rng.bytes(total)
            put = gridfs.GridFSBucket(peers, chunk_size_bytes=chunk).upload_from_stream
            best[name] = min(best[name], seconds(partial(put, "x", data)))
        renew(model, rng)
        best["ours"] = min(best["ours"], seconds(lambda: hub.models["up"].save(model)))
        peers.client.drop_database(peers.name)
    peers.client.close()
    ours = total / MB / best["ours"]
    for name in names:
        peer = total / MB / best[name]
        what = f"GridFS put, chunks of {name}; {len(model.weights)} tensors, {backend}"
        report.add(
            "upload_mb_s",
            ours,
            "MB/s",
            what,
            peer,
            ">= 0.9x also with 750 tensors",
            lambda v, peer=peer: v >= 0.9 * peer,
        )


def renew(model: Any, rng: np.random.Generator) -> None:
    model.set_weights([rng.random(w.shape, dtype="float32") for w in model.weights])


def load(report: Report, backend: str, hub: Any, model: Any, folder: Path, repeats: int) -> None:
    import gridfs
    import pymongo

    from keras_tl.models import versions
    from keras_tl.storage import cache

    key = f"load{len(model.weights)}"
    document = hub.models[key].save(model).document
    total = size(model)
    peers = pymongo.MongoClient(hub.connection._uri)["bench_gridfs"]
    bucket = gridfs.GridFSBucket(peers)
    stored = bucket.upload_from_stream("x", np.random.default_rng(0).bytes(total))
    path = folder / "peer.weights.h5"
    model.save_weights(path)
    cold, cached, read, keras_load = [], [], [], []
    for number in range(repeats):
        with environ("KERAS_TL_CACHE", f"{folder}/cache{key}{number}"):
            cold.append(seconds(lambda: list(versions.read(hub.connection.db, document))))
            cache.shared().flush()
            cached.append(seconds(lambda: hub.models[key].restore_into(model)))
        read.append(seconds(lambda: bucket.open_download_stream(stored).read()))
        keras_load.append(seconds(lambda: model.load_weights(path)))
    peers.client.drop_database(peers.name)
    peers.client.close()
    note = f"{len(model.weights)} tensors, {backend}"
    peer = total / MB / min(read)
    report.add(
        "load_cold_mb_s",
        total / MB / min(cold),
        "MB/s",
        f"GridFS read(); {note}",
        peer,
        ">= 2x by parallel chunk reads",
        lambda v: v >= 2 * peer,
    )
    slow = total / MB / min(keras_load)
    report.add(
        "load_cached_mb_s",
        total / MB / min(cached),
        "MB/s",
        f".weights.h5; {note}",
        slow,
        ">= 4x",
        lambda v: v >= 4 * slow,
    )


@contextmanager
def environ(name: str, value: str) -> Any:
    before = os.environ.get(name)
    os.environ[name] = value
    yield
    if before is None:
        del os.environ[name]
    else:
        os.environ[name] = before


def contention(report: Report, backend: str, hub: Any, model: Any) -> None:
    """What another client's compare-and-set takes while a version is uploaded, and without."""
    import pymongo

    other = pymongo.MongoClient(hub.connection._uri, w="majority")["bench_versions"]["counters"]
    other.insert_one({"_id": len(model.weights), "n": 0})

    def sets(until: Callable[[], bool]) -> list[float]:
        times: list[float] = []
        while not until() or len(times) < 50:
            n = other.find_one({"_id": len(model.weights)})["n"]
            change = {"$set": {"n": n + 1}}
            query = {"_id": len(model.weights), "n": n}
            times.append(seconds(lambda: other.update_one(query, change)))  # noqa: B023
        return times

    idle = time.perf_counter() + 1
    alone = sets(lambda: time.perf_counter() > idle)
    renew(model, np.random.default_rng(1))
    saving = threading.Thread(target=lambda: hub.models["up"].save(model))
    saving.start()
    during = sets(lambda: not saving.is_alive())
    saving.join()
    other.database.client.close()
    peer = f"without an upload; {len(model.weights)} tensors, {backend}"
    p99 = [1e3 * float(np.percentile(times, 99)) for times in (during, alone)]
    report.add("upload_cas_p99_ms", p99[0], "ms", peer, p99[1])


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

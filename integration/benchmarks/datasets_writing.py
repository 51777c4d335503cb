"""How fast samples are stored, what they take, and whether a changed byte is noticed.

- `insert_samples_s`: `insert_many` of columns into a dataset with two indexes on its tags, the
  events of the outbox included, beside a document a sample by `pymongo`, and FiftyOne.
- `size_ratio`, `size_ratio_photo`: what packs, heads, samples and all indexes take on the server,
  over the bytes of the pixels, raw and with the codec for photographs.
- `identity`: two snapshots between which one byte of one sample has changed have two ids, and two
  of the same samples have one; beside the digest of MLflow, of the same arrays.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, main
from dataset_peers import stores
from dataset_peers.clock import medians, seconds
from dataset_peers.files import why_missing
from dataset_peers.patches import BYTES, CLASSES, SIDE, patches

INSERT, SIZE, PHOTO, IDENTITY = (
    *("insert_samples_s", "size_ratio", "size_ratio_photo", "identity"),
)
GOALS = {
    INSERT: ">= 40 k samples/s",
    SIZE: "<= 1.03x raw",
    PHOTO: "<= 0.70x with the photo codec",
    IDENTITY: "one changed byte changes the snapshot's id",
}
OURS, NAMED = "ours", "ours, with keys of the user"


def measure(options: argparse.Namespace, report: Report, mongodb: str) -> None:
    import keras_tl

    if options.only_backend_rows:
        return
    n, rounds = (10_000, 2) if options.quick else (50_000, 5)
    x, y = patches(n)
    project = f"bench_{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory() as folder,
        keras_tl.Hub(mongodb, project=project, timeoutMS=120_000) as hub,
    ):
        try:
            insertion(report, hub, x, y, rounds)
            sizes(report, hub, x, y, Path(folder))
            identity(report, hub, x, y)
        finally:
            hub.connection.client.drop_database(project)


def dataset(hub: Any, name: str, **about: Any) -> Any:
    from keras_tl import datasets as d

    kinds = {"x": d.Image(SIDE, SIDE, **about), "y": d.Label(CLASSES)}
    return hub.datasets.create(name, tags={"split": str, "quality": int}, **kinds)


def tags(n: int) -> dict[str, list[Any]]:
    return {"split": [f"s{i % 10}" for i in range(n)], "quality": [i // 10 % 10 for i in range(n)]}


def insertion(report: Report, hub: Any, x: np.ndarray, y: np.ndarray, rounds: int) -> None:
    columns, tagged = {"x": x, "y": y}, tags(len(x))
    keys = [f"{i:08d}" for i in range(len(x))]
    db = hub.connection.db
    found: dict[str, list[float]] = {OURS: [], NAMED: [], stores.DOCUMENTS: []}
    for number in range(rounds):
        for name in found:
            if name == stores.DOCUMENTS:
                peer = db["documents"]
                took = seconds(lambda: stores.insert_documents(peer, x, y, **tagged))  # noqa: B023
                peer.drop()
            else:
                key = f"insert{number}{name == NAMED}"
                ds = dataset(hub, key)
                for tag in tagged:
                    ds.create_index(tag)
                named = keys if name == NAMED else None
                took = seconds(lambda: ds.insert_many(columns, named, tagged))  # noqa: B023
                assert ds.count == len(x)
                hub.datasets.delete(key)
            found[name].append(len(x) / took)
    speed = medians(found)
    goal = GOALS[INSERT]

    def reached(value: float) -> bool:
        return value >= 40_000

    single = speed[stores.DOCUMENTS]
    report.add(INSERT, speed[OURS], "samples/s", stores.DOCUMENTS, single, goal, reached)
    name = f"{stores.DOCUMENTS}; ours with keys that are looked up"
    report.add(INSERT, speed[NAMED], "samples/s", name, single, goal, reached)
    why = why_missing("fiftyone")
    if why is not None:
        name = f"FiftyOne: {why}"
        report.missing(INSERT, speed[OURS], "samples/s", name, goal)
        return
    some = len(x) // 5
    with stores.fiftyone_samples(hub.connection._uri, some) as (_, took):
        report.add(INSERT, speed[OURS], "samples/s", stores.FIFTYONE, some / took, goal, reached)


def sizes(report: Report, hub: Any, x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    def stored(key: str, **about: Any) -> float:
        ds = dataset(hub, key, **about)
        ds.insert_many({"x": x, "y": y}, tags=tags(len(x)))
        # A checkpoint: until then sizes are of the last one.
        hub.connection.client.admin.command("fsync")
        stats = [
            hub.connection.db.command("collStats", collection.name)
            for collection in (ds.packs, ds.heads, ds.samples)
        ]
        return sum(s["storageSize"] + s["totalIndexSize"] for s in stats) / x.nbytes

    raw, unit = stored("raw"), "x the pixels' bytes"
    for name, size in stores.sizes(x, y, folder):
        try:
            peer = size() / BYTES
        except ImportError as error:
            report.missing(SIZE, raw, unit, f"{name}: not installed ({error.name})", GOALS[SIZE])
        else:
            report.add(SIZE, raw, unit, name, peer, GOALS[SIZE], lambda v: v <= 1.03)
    try:
        photo = stored("photo", compress="photo")
    except ImportError as error:
        report.missing(PHOTO, None, unit, f"ours: not installed ({error.name})", GOALS[PHOTO])
    else:
        peer = stores.png(x) / BYTES
        name = "a PNG file each"
        report.add(PHOTO, photo, unit, name, peer, GOALS[PHOTO], lambda v: v <= 0.70)


def identity(report: Report, hub: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Whether a byte changes the id: 1, or 0."""
    changed = x.copy()
    place = len(x) // 2
    changed[place, 5, 7, 1] ^= 1
    ds = dataset(hub, "identity")
    ds.insert_many({"x": x, "y": y}, [f"{i:08d}" for i in range(len(x))])
    ids = []
    for number, pixels in enumerate((x, changed, x)):
        ds.insert({"x": pixels[place], "y": y[place]}, f"{place:08d}", replace=True)
        ids.append(ds.freeze(f"s{number}").id)
    found = float(ids[0] != ids[1] and ids[0] == ids[2])
    why, unit = why_missing("mlflow"), "1: noticed"
    if why is not None:
        report.missing(IDENTITY, found, unit, f"MLflow: {why}", GOALS[IDENTITY])
        return
    import mlflow.data

    digests = {mlflow.data.from_numpy(pixels, targets=y).digest for pixels in (x, changed)}
    name = "MLflow's digest of the two arrays"
    peer = float(len(digests) == 2)
    report.add(IDENTITY, found, unit, name, peer, GOALS[IDENTITY], lambda v: v == 1)


def alone(options: argparse.Namespace, report: Report) -> None:
    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, alone)

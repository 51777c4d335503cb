"""What is elsewhere becomes a dataset, whole and once, however often the import is run."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_tl as ktl
from keras_tl.datasets import Array, Bytes, Dataset, Image, Label, Text
from keras_tl.datasets.importers import elements, folder, kinds, tables

RANDOM = np.random.default_rng(0)


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def stored(dataset: Dataset, field: str = "x") -> dict[str, Any]:
    return {sample.key: sample[field] for sample in dataset}


def counted(dataset: Dataset) -> int:
    """Every pack and sample there is: what is imported twice shows in either."""
    return dataset.packs.count_documents({}) * 10_000 + dataset.samples.count_documents({})


# NumPy


def test_arrays(hub: ktl.Hub) -> None:
    x = RANDOM.integers(0, 256, (600, 4, 5, 3), dtype=np.uint8)
    y, quality = np.arange(600) % 7, [i / 4 for i in range(600)]

    def load() -> Dataset:
        return hub.datasets.from_numpy(
            "d", x=x, y=y, tags={"split": "train", "quality": quality}, prefix="a-"
        )

    found = load()
    assert found.schema.fields == {"x": Image(4, 5, 3), "y": Label()}
    assert found.schema.tags == {"split": "str", "quality": "float"}
    before = counted(found)
    assert counted(load()) == before and before % 10_000 == 600
    values = stored(found)
    assert list(values) == [f"a-{i:08d}" for i in range(600)]
    assert (np.stack(list(values.values())) == x).all()
    sample = found["a-00000009"]
    assert sample.labels == {"y": 2} and sample.tags == {"split": "train", "quality": 2.25}
    more = hub.datasets.from_numpy("d", x=x[:2], y=[5, None], tags={"fresh": True}, prefix="b-")
    assert more.count == 602 and more["b-00000001"].labels == {"y": None}
    with pytest.raises(ValueError, match="a-00000000"):  # another content under the same key
        hub.datasets.from_numpy("d", x=x[1:3], y=y[1:3], prefix="a-")


def test_what_people_changed_since_is_kept(hub: ktl.Hub) -> None:
    x = RANDOM.integers(0, 256, (600, 2), dtype=np.uint8)

    def load(count: int, **options: Any) -> Dataset:
        y = np.arange(count) % 7
        return hub.datasets.from_numpy("d", x=x[:count], y=y, tags={"split": "a"}, **options)

    found = load(400)
    keys = found.keys()
    found.update(keys[:2], y=[6, None], split="b")
    events = hub.connection.db["outbox"]
    told = events.count_documents({})
    load(400)
    assert events.count_documents({}) == told
    load(600)  # what was stopped, or has grown, is completed
    assert found.count == 600
    assert [found[key].labels["y"] for key in keys[:3]] == [6, None, 2]
    assert [found[key].tags["split"] for key in keys[:3]] == ["b", "b", "a"]
    with pytest.raises(ValueError, match="unless `replace=True`. Received: '00000000' .* x or y"):
        hub.datasets.from_numpy("d", x=x[:1] + 1, y=[0])
    assert found.where(split="b").count == 2 and (found["00000000"]["x"] == x[0]).all()
    x[1] += 1
    load(600, replace=True)
    assert [found[key].labels["y"] for key in keys[:3]] == [0, 1, 2]
    assert found.where(split="a").count == 600 and (found["00000001"]["x"] == x[1]).all()
    with pytest.raises(ValueError, match="'00000000' with another y"):
        found.insert_many({"x": x[:1], "y": [3]}, keys=["00000000"])


@pytest.mark.parametrize("kind", ["csv", "folder", "tf"])
def test_each_import_keeps_what_people_changed(hub: ktl.Hub, tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        (tmp_path / "t.csv").write_text("a,y\n1,0\n2,1\n")

        def load(**options: Any) -> Dataset:
            return hub.datasets.from_csv("d", tmp_path / "t.csv", x=["a"], y="y", **options)
    elif kind == "folder":
        for i in range(2):
            write(tmp_path / str(i) / "a.png", picture(i, 4, 4, 3))

        def load(**options: Any) -> Dataset:
            return hub.datasets.from_image_folder("d", tmp_path, (4, 4), **options)
    else:
        tf = pytest.importorskip("tensorflow")

        def load(**options: Any) -> Dataset:
            given = tf.data.Dataset.from_tensor_slices((np.eye(2), [0, 1]))
            return hub.datasets.from_tf_dataset("d", given, **options)

    found = load()
    first, second = found.keys()
    found.update([first], y=1)
    assert [sample.labels["y"] for sample in load()] == [1, 1]
    assert [sample.labels["y"] for sample in load(replace=True)] == [0, 1]


def test_kinds_of_columns(hub: ktl.Hub) -> None:
    ragged = [np.zeros((i + 1, 2), "float32") for i in range(3)]
    found = hub.datasets.from_numpy(
        "kinds",
        text=["a", "ü", ""],
        raw=[b"\0", b"", b"x"],
        ragged=ragged,
        wave=np.ones((3, 4), "float32"),
        scale=np.ones((3, 4, 4), "uint8"),
        target=np.array([0.5, np.nan, -1]),
        place=np.array([-1, 0, 1]),
        keys=["p", "q", "r"],
        fields={"place": Array((), "int8")},
    )
    assert found.schema.fields == {
        **{"text": Text(), "raw": Bytes(), "ragged": Array((None, 2), "float32")},
        **{"wave": Array((4,), "float32"), "scale": Array((4, 4), "uint8")},
        **{"target": Label(dtype="float64"), "place": Array((), "int8")},
    }
    assert stored(found, "text") == {"p": "a", "q": "ü", "r": ""}
    assert [len(v) for v in stored(found, "ragged").values()] == [1, 2, 3]
    assert found["q"].labels == {"target": None} and found["p"]["place"] == -1


def test_labels_as_keras_has_them(hub: ktl.Hub) -> None:
    x = np.zeros((3, 2), "float32")
    found = hub.datasets.from_numpy("column", x=x, y=np.array([[2], [0], [1]], "uint8"))
    assert found.schema.fields["y"] == Label()
    assert [sample.labels["y"] for sample in found] == [2, 0, 1]
    x, y = found.batches(3)[0]
    assert x.shape == (3, 2) and y.tolist() == [2, 0, 1]
    found = hub.datasets.from_numpy("hot", x=x, y=np.eye(3, dtype="float32"))
    x, y = found.batches(3)[0]
    assert x.shape == (3, 2) and y.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize(
    "y",
    [
        np.array(["b", "a", "c"]),
        np.array([["b"], ["a"], ["c"]]),
        np.array(["b", "a", "c"], object),
        ["b", "a", "c"],
        ["b", None, "a", "c"],
    ],
)
def test_labels_by_name(hub: ktl.Hub, y: Any) -> None:
    n = len(y)

    def load(**options: Any) -> Dataset:
        return hub.datasets.from_numpy("named", x=np.zeros((n, 2)), y=y, **options)

    found = load()
    assert found.schema.fields["y"] == Label(names=["a", "b", "c"])
    expected = [1, None, 0, 2] if n == 4 else [1, 0, 2]
    assert [sample.labels["y"] for sample in found] == expected
    assert load().count == n
    with pytest.raises(ValueError, match="`y` of sample '00000000' .*'b'"):
        hub.datasets.create("other", x=Array((2,), "float64"), y=Label(names=["a", "c"]))
        hub.datasets.from_numpy("other", x=np.zeros((n, 2)), y=y)


def test_text_that_is_no_label(hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    y = [f"sentence {i}" for i in range(5)]
    found = hub.datasets.from_numpy("text", x=np.zeros((5, 2)), y=y, fields={"y": Text()})
    assert found.schema.fields["y"] == Text() and found["00000003"]["y"] == "sentence 3"
    monkeypatch.setattr(kinds, "CLASSES", 4)
    for given in (y, np.array(y)):
        with pytest.raises(ValueError, match="`y` must be given a kind .* Received: 5"):
            hub.datasets.from_numpy("many", x=np.zeros((5, 2)), y=given)


def test_keys_of_a_csv_stay_as_they_are(hub: ktl.Hub, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,a\n007,1\n7,2\n08,3\n")
    found = hub.datasets.from_csv("keys", path, x=["a"], key_column="id")
    assert {key: float(x[0]) for key, x in stored(found).items()} == {"007": 1, "7": 2, "08": 3}
    path.write_text("007;1\n")
    found = hub.datasets.from_csv("bare", path, x=["1"], key_column="0", sep=";", header=None)
    assert found.keys() == ["007"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "`path` must have rows"),
        ("\n\n", "`path` must have rows"),
        ("a,b\n", "`path` must have rows"),
        ("a,b\n1,2,3\n", "`path` must have as many names in its first line"),
        ("a,b\n1,2\n1,2,3\n", "`path` must have as many names .* in line 3"),
        ("a,b\n" + "1,2\n" * 3000 + "1,2,3\n", "`path` must have as many names .* in line 3002"),
    ],
)
def test_a_csv_that_is_no_table(hub: ktl.Hub, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        hub.datasets.from_csv("none", path, x=["a"], y="b")


def test_a_label_without_a_value_has_no_classes(hub: ktl.Hub, tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"a": [1.0], "y": pd.array([None], "string")}).to_parquet(tmp_path / "t")
    with pytest.raises(ValueError, match="`y` must name a column that has values"):
        hub.datasets.from_parquet("none", tmp_path / "t", x=["a"], y="y")


def test_arrays_in_a_file_are_read_in_parts(hub: ktl.Hub, tmp_path: Path) -> None:
    import h5py

    x = RANDOM.normal(size=(700, 8)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    hub.datasets.from_numpy("npy", x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    with h5py.File(tmp_path / "x.h5") as file:
        hub.datasets.from_numpy("h5", x=file["x"])
    for key in ("npy", "h5"):
        assert (np.stack(list(stored(hub.datasets[key]).values())) == x).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "`from_numpy` must be given columns"),
        ({"x": 3}, "`x` must be an array or a list"),
        ({"x": [1, "a"]}, "`x` must be an array, or a list .* int, str"),
        ({"x": np.zeros((2, 2)), "y": [0]}, "same length"),
        ({"x": np.zeros((2, 2)), "y": [-1, 1]}, r"`y` must be given a kind .* Received: -1"),
        ({"x": np.zeros((2, 2)), "fields": {"z": Label()}}, "`fields` must name some of x"),
        ({"x": np.zeros((2, 2)), "tags": {"t": [None, None]}}, r"`tags\['t'\]` .* no value"),
        ({"x": np.zeros((2, 2)), "tags": {"t": {}}}, r"`tags\['t'\]` .* dict"),
        ({"x": np.zeros((2, 2)), "tags": {"$t": 1}}, r"\$"),
        ({"x.y": np.zeros((2, 2))}, r"\."),
    ],
)
def test_wrong_columns(hub: ktl.Hub, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){says}"):
        hub.datasets.from_numpy("wrong", **options)


def test_a_dataset_that_exists_keeps_its_schema(hub: ktl.Hub) -> None:
    hub.datasets.create("old", x=Array((2,), "float64"), y=Label(names=["no", "yes"]))
    found = hub.datasets.from_numpy("old", x=np.ones((2, 2), "float32"), y=["yes", "no"])
    assert found["00000000"].labels == {"y": 1} and found["00000000"]["x"].dtype == "float64"
    with pytest.raises(ValueError, match="with the field 'z'"):
        hub.datasets.from_numpy("old", x=np.ones((1, 2)), z=[1])
    with pytest.raises(ValueError, match=r"`fields\['y'\]` must be as in the dataset 'old'"):
        hub.datasets.from_numpy("old", x=np.ones((1, 2)), y=[1], fields={"y": Label(3)})


# keras.datasets


def fake(monkeypatch: pytest.MonkeyPatch, name: str, x: Any, y: Any) -> list[dict[str, Any]]:
    """Keras' loader, without a network: what it was called with."""
    calls: list[dict[str, Any]] = []

    def load_data(**options: Any) -> Any:
        calls.append(options)
        return (x[:3], y[:3]), (x[3:], y[3:])

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", load_data)
    return calls


def test_keras_images(hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = RANDOM.integers(0, 256, (5, 28, 28), dtype=np.uint8), np.array([0, 9, 2, 3, 4], "uint8")
    fake(monkeypatch, "fashion_mnist", x, y)
    found = hub.datasets.from_keras("fashion_mnist")
    assert found.schema.fields["x"] == Image(28, 28, 1)
    assert found.schema.fields["y"].names[9] == "Ankle boot"  # type: ignore[attr-defined]
    assert counted(hub.datasets.from_keras("fashion_mnist")) == counted(found)
    assert found["train-00000001"].labels == {"y": 9}
    assert (found["test-00000000"]["x"][..., 0] == x[3]).all()
    assert [s.tags["split"] for s in found] == ["train"] * 3 + ["test"] * 2


def test_keras_labels_in_a_column_and_texts(hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RANDOM.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    fake(monkeypatch, "cifar100", x, np.array([[7], [1], [99], [3], [4]], "uint8"))
    found = hub.datasets.from_keras("cifar100", "hundred")
    assert found.key == "hundred" and found.schema.fields["y"] == Label(100)
    words = np.empty(5, object)
    words[:] = [[1, 5], [1], [1, 2, 3], [], [1, 9]]
    calls = fake(monkeypatch, "imdb", words, np.array([0, 1, 1, 0, 1]))
    found = hub.datasets.from_keras("imdb", num_words=10)
    assert calls == [{"num_words": 10}]
    assert found.schema.fields["y"] == Label(names=["negative", "positive"])
    assert [v.tolist() for v in stored(found).values()] == list(words)
    fake(monkeypatch, "california_housing", np.ones((5, 8), "float32"), np.arange(5.0))
    found = hub.datasets.from_keras("california_housing")
    assert found.schema.fields["y"] == Label(dtype="float64")
    with pytest.raises(ValueError, match="`name` must be one of mnist"):
        hub.datasets.from_keras("os")


# Folders of images


def write(path: Path, image: np.ndarray, **options: Any) -> None:
    import PIL.Image

    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, **options)


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for i in range(40):
        write(root / ["cat", "dog"][i % 2] / f"{i:02d}.png", picture(i, 6, 5, 3))
    write(root / "cat" / "deep" / "Ä b.JPG", picture(40, 9, 9, 3))
    write(root / "loose.png", picture(41, 6, 5))
    (root / ".thumbs").mkdir()
    (root / ".thumbs" / "x.png").write_bytes(b"not an image")
    (root / "cat" / "._00.png").write_bytes(b"not an image")
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


def test_a_folder_decoded_to_one_size(hub: ktl.Hub, images: Path) -> None:
    found = hub.datasets.from_image_folder("pets", images, (6, 5), tags={"split": "train"})
    assert found.schema.fields == {"x": Image(6, 5, 3), "y": Label(names=["cat", "dog"])}
    assert found.count == 42
    assert (found["cat/00.png"]["x"] == picture(0, 6, 5, 3)).all()
    assert found["dog/07.png"].labels == {"y": 1} and found["dog/07.png"].tags["split"] == "train"
    assert found["cat/deep/Ä b.JPG"].labels == {"y": 0}
    assert found["loose.png"].labels == {"y": None}
    assert (found["loose.png"]["x"] == picture(41, 6, 5)[..., None]).all()
    before = counted(found)
    hub.datasets.from_image_folder("pets", images, (6, 5), tags={"split": "train"})
    assert counted(found) == before
    more = hub.datasets.from_image_folder("pets", images, (6, 5), prefix="again/")
    assert more.count == 84


def test_a_folder_kept_encoded(hub: ktl.Hub, images: Path) -> None:
    found = hub.datasets.from_image_folder("files", images)
    assert found.schema.fields["x"] == Image(None, None, 3, encoded="any")
    assert found["cat/00.png"]["x"] == (images / "cat" / "00.png").read_bytes()
    assert found["cat/deep/Ä b.JPG"]["x"][:3] == b"\xff\xd8\xff"


def test_a_folder_kept_encoded_that_batches_decode(hub: ktl.Hub, images: Path) -> None:
    found = hub.datasets.from_image_folder("later", images, (6, 5), encoded=True)
    assert found.schema.fields["x"] == Image(6, 5, 3, encoded="any")
    for layer in (keras.layers.Rescaling(1.0), keras.layers.RandomCrop(6, 5)):
        batch = found.where(key__in=["cat/00.png", "cat/deep/Ä b.JPG"]).batches(2, map=layer)
        x, _ = batch[0]
        assert x.shape == (2, 6, 5, 3) and (x[0] == picture(0, 6, 5, 3)).all()


def test_a_folder_without_classes(hub: ktl.Hub, tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(0, 4, 4))
    found = hub.datasets.from_image_folder("flat", tmp_path, (4, 4), channels=1)
    assert found.schema.fields == {"x": Image(4, 4, 1)} and found.count == 1


@pytest.mark.parametrize("size", [None, (6, 5)])
@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_a_broken_image_is_named_or_skipped(
    hub: ktl.Hub, images: Path, size: Any, content: Any, caplog: Any
) -> None:
    whole = (images / "dog" / "05.png").read_bytes()
    (images / "dog" / "05.png").write_bytes(whole[:60] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"skip_broken=True.*Received: 'dog/05.png'"):
        hub.datasets.from_image_folder("broken", images, size)
    with caplog.at_level(logging.WARNING, logger="keras_tl"):
        found = hub.datasets.from_image_folder("broken", images, size, skip_broken=True)
    assert "1 files below" in caplog.text and "'dog/05.png'" in caplog.text
    assert found.count == 41 and "dog/05.png" not in found


def test_few_images_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Eager(folder.ThreadPoolExecutor):
        """Does at once what a pool of any size might have done."""

        def map(self, function: Any, *values: Any, **options: Any) -> Any:
            return [function(*given) for given in zip(*values, strict=True)]

    read = []

    def counting(path: Path) -> bytes:
        read.append(path)
        with path.open("rb") as file:
            return file.read()

    for i in range(100):
        write(tmp_path / f"{i:03d}.png", picture(i, 2, 2))
    monkeypatch.setattr(folder, "ThreadPoolExecutor", Eager)
    monkeypatch.setattr(Path, "read_bytes", counting)
    samples = folder._Reader(tmp_path, (2, 2), 1, "", False, False).samples()
    next(samples)
    assert len(read) == folder._AHEAD
    assert len(list(samples)) == 99 and len(set(read)) == len(read) == 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folder": "nowhere"}, "`folder` must be a folder"),
        ({"folder": ""}, "`folder` must have files that end in .png"),
        ({"folder": "", "size": (0, 1)}, "`size` must be"),
        ({"folder": "", "channels": 2}, "`channels` must be"),
        ({"folder": "", "encoded": False}, "`size` must be given"),
    ],
)
def test_wrong_folders(hub: ktl.Hub, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        hub.datasets.from_image_folder("wrong", tmp_path / options.pop("folder"), **options)
    assert "wrong" not in hub.datasets


def test_a_new_class_does_not_fit_the_old_ones(hub: ktl.Hub, images: Path) -> None:
    hub.datasets.from_image_folder("pets", images, (6, 5))
    write(images / "bird" / "0.png", picture(0, 6, 5, 3))
    with pytest.raises(ValueError, match=r"(?s)`y` .*cat.*bird"):
        hub.datasets.from_image_folder("pets", images, (6, 5))


# tf.data


def test_tf_dataset(hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setattr(elements, "_PACKS", 1)
    x, y = picture(0, 300, 4, 4, 3), np.arange(300) % 5
    given = tf.data.Dataset.from_tensor_slices((x, y))
    found = hub.datasets.from_tf_dataset("tf", given, tags={"split": "train"}, prefix="t")
    assert found.schema.fields == {"x": Image(4, 4, 3), "y": Label()}
    assert (np.stack(list(stored(found).values())) == x).all()
    before = counted(found)
    hub.datasets.from_tf_dataset("tf", given.batch(7).unbatch(), prefix="t")
    assert counted(found) == before
    named = tf.data.Dataset.from_tensor_slices(
        ({"a": np.ones((3, 2), "float32"), "b": [b"1", b"\xff", b""]}, [0.5, 1, 2], [1.0, 2, 3])
    )
    found = hub.datasets.from_tf_dataset("named", named, fields={"y": Label(dtype="float64")})
    assert found.schema.fields == {
        **{"a": Array((2,), "float32"), "b": Bytes(), "y": Label(dtype="float64")},
        "sample_weight": Label(dtype="float32"),
    }
    assert list(stored(found, "b").values()) == [b"1", b"\xff", b""]
    sizes = tf.data.Dataset.from_generator(
        lambda: ([0] * i for i in range(4)), output_signature=tf.TensorSpec([None], tf.int32)
    )
    found = hub.datasets.from_tf_dataset("sizes", sizes)
    assert found.schema.fields == {"x": Array((None,), "int32")}
    assert [len(v) for v in stored(found).values()] == [0, 1, 2, 3]


def test_wrong_tf_datasets(hub: ktl.Hub) -> None:
    tf = pytest.importorskip("tensorflow")
    one = tf.data.Dataset.from_tensor_slices(np.ones((3, 2)))
    for given, says in [
        ([1, 2], "`dataset` must be a `tf.data.Dataset`"),
        (one.repeat(), "must have an end"),
        (tf.data.Dataset.zip((one, one, one, one)), "must have elements"),
        (tf.data.Dataset.zip((one, (one, one))), "must have elements"),
        (tf.data.Dataset.zip(({"y": one}, one)), "must have elements"),
        (tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]])), "dense tensors"),
    ]:
        with pytest.raises(ValueError, match=says):
            hub.datasets.from_tf_dataset("wrong", given)
    assert "wrong" not in hub.datasets


# Tables


ROWS = [
    # name, height (m), weight, kind, notes, seen
    ("a", 1.5, 3, "cat", "first, of all", True),
    ("b", None, 4, "dog", 'says "woof"', False),
    ("c", 2.5, 5, None, "x\ny", True),
]
NAMES = ["name", "height (m)", "weight", "kind", "notes", "seen"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    import pandas as pd

    frame = pd.DataFrame(ROWS, columns=NAMES)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    return {"csv": tmp_path / "t.csv", "parquet": tmp_path / "t.parquet"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_with_labels_of_true_and_false(
    hub: ktl.Hub, files: dict[str, Path], kind: str
) -> None:
    load = getattr(hub.datasets, f"from_{kind}")
    found = load("table", files[kind], x=["weight"], y="seen", key_column="name")
    assert [found[key].labels for key in "abc"] == [{"y": 1}, {"y": 0}, {"y": 1}]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table(hub: ktl.Hub, files: dict[str, Path], kind: str) -> None:
    def load() -> Dataset:
        return getattr(hub.datasets, f"from_{kind}")(
            "table",
            files[kind],
            x=["height (m)", "weight"],
            y="kind",
            fields={"notes": Text()},
            tag_columns=["seen", "weight"],
            tags={"split": "train"},
            key_column="name",
        )

    found = load()
    assert found.schema.fields == {
        **{"x": Array((2,), "float32"), "notes": Text()},
        "y": Label(names=["cat", "dog"]),
    }
    assert found.schema.tags == {"seen": "bool", "weight": "int", "split": "str"}
    assert np.isnan(found["b"]["x"][0]) and found["b"]["x"][1] == 4
    assert found["c"].labels == {"y": None} and found["c"]["notes"] == "x\ny"
    assert found["a"].tags == {"seen": True, "weight": 3, "split": "train"}
    before = counted(found)
    assert counted(load()) == before


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_long_table_comes_in_parts(
    hub: ktl.Hub, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.setattr(f"{tables.__name__}.ROWS", 256)
    monkeypatch.setattr("keras_tl.datasets.importers.files.ROWS", 256)
    n = 1000
    frame = pd.DataFrame({"a": np.arange(n) / 3, "y": np.arange(n) % 9})
    frame.loc[frame.index >= 300, "y"] += 100  # what comes later counts, too
    path = tmp_path / "long"
    frame.to_csv(path, index=False, sep=";") if kind == "csv" else frame.to_parquet(path)
    sizes = []
    insert = tables.insert

    def counting(dataset: Dataset, columns: Any, keys: Any, *about: Any, **options: Any) -> int:
        sizes.append(len(keys))
        return insert(dataset, columns, keys, *about, **options)

    monkeypatch.setattr(tables, "insert", counting)
    options = {"sep": ";"} if kind == "csv" else {}
    found = getattr(hub.datasets, f"from_{kind}")("long", path, x=["a"], y="y", **options)
    assert sizes == [256, 256, 256, 232]
    assert found["00000999"].labels == {"y": int(frame["y"].iloc[-1])}
    assert np.allclose(np.stack(list(stored(found).values()))[:, 0], frame["a"])


def test_types_of_csv_columns(hub: ktl.Hub, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x,when\n007,1,2026-01-31T00:00:00Z\n008,2.5,\n")
    found = hub.datasets.from_csv(
        *("typed", path),
        **{"x": ["x"], "key_column": "id", "tag_columns": ["when"]},
        **{"dtype": {"id": "string"}, "parse_dates": ["when"]},
    )
    assert found["007"].tags == {"when": datetime(2026, 1, 31, tzinfo=UTC)}
    assert found["008"].tags == {}
    path.write_text("1;2\n3;4\n")
    found = hub.datasets.from_csv("bare", path, x=["0", "1"], sep=";", header=None)
    assert found["00000001"]["x"].tolist() == [3, 4]


def test_parquet_of_arrays_and_images(hub: ktl.Hub, tmp_path: Path) -> None:
    import PIL.Image
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = io.BytesIO()
    PIL.Image.fromarray(picture(0, 4, 4)).save(target, "PNG")
    table = pa.table(
        {
            "image": [{"bytes": target.getvalue(), "path": "a.png"}] * 2,
            "steps": [[1.0, 2.0], [3.0]],
            "y": pa.array(["b", "a"]).dictionary_encode(),
            "when": [datetime(2026, 1, 1, tzinfo=UTC), None],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = hub.datasets.from_parquet(
        *("images", tmp_path / "t.parquet"),
        y="y",
        fields={
            "image": Image(None, None, encoded="png"),
            "steps": Array((None,), "float32"),
        },
        tag_columns=["when"],
        prefix="r",
    )
    assert found["r00000000"]["image"] == target.getvalue()
    assert found["r00000001"]["steps"].tolist() == [3.0]
    assert found["r00000000"].labels == {"y": 1}
    assert found["r00000000"].tags == {"when": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "`x` or `fields` must name columns"),
        ({"x": ["size"]}, "Columns must be among .*'height .m.*Received: 'size'"),
        ({"x": ["kind"]}, "`x` must name columns of numbers. Received: 'kind', which has 'cat'"),
        ({"x": ["weight"], "fields": {"x": Text()}}, "`fields` must not name|Columns must be"),
        ({"x": ["weight"], "key_column": "kind"}, "`key_column` .* none in row 2"),
        ({"x": ["weight"], "tag_columns": ["height (m)"], "tags": {"a.b": 1}}, r"a\.b"),
    ],
)
def test_wrong_tables(
    hub: ktl.Hub, files: dict[str, Path], kind: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s){says}"):
        getattr(hub.datasets, f"from_{kind}")("wrong", files[kind], **options)


def test_a_type_that_changes_in_a_csv(hub: ktl.Hub, tmp_path: Path) -> None:
    lines = ["1"] * tables.ROWS + ["one"]
    (tmp_path / "t.csv").write_text("a\n" + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="`path` must have columns of the types"):
        hub.datasets.from_csv("changes", tmp_path / "t.csv", x=["a"])


@pytest.mark.parametrize(
    ("module", "kind", "extra"),
    [("pandas", "csv", "pandas"), ("pyarrow.parquet", "parquet", "parquet")],
)
def test_what_to_install(
    hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch, module: str, kind: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'keras_tl\[{extra}\]'"):
        getattr(hub.datasets, f"from_{kind}")("none", "t", x=["a"])

"""What tf.data, torch and copies get of a view is what its batches have."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_tl as ktl
from keras_tl.datasets import Array, Bytes, Dataset, Label, Text

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path))


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def numbers(hub: ktl.Hub, count: int = 20) -> Dataset:
    made = hub.datasets.create("numbers", x=Array((2,)), y=Label(50), tags={"split": str})
    add(made, 0, count)
    return made


def add(dataset: Dataset, begin: int, end: int) -> None:
    values = np.arange(begin, end)
    keys = [f"{value:03d}" for value in values]
    dataset.insert_many({"x": np.stack([values] * 2, 1), "y": values}, keys=keys)


def labels(batches: Any) -> list[list[int]]:
    return [np.asarray(y).tolist() for _, y in batches]


def test_bytes_and_text_reach_tf_data_whole(hub: ktl.Hub) -> None:
    pytest.importorskip("tensorflow")
    texts, files = ["ä€", "", "b"], [b"ab\0\0c\0", b"", b"\0"]
    made = hub.datasets.create("files", t=Text(), b=Bytes(), y=Label(3), tags={"s": str})
    tags = {"s": ["ü", "v", None]}
    made.insert_many({"t": texts, "b": files, "y": [0, 1, 2]}, keys=["a", "b", "c"], tags=tags)
    ((x, y),) = made.to_tf_dataset(3, x=["t", "b"])
    assert x["b"].numpy().tolist() == files
    assert [value.decode() for value in x["t"].numpy()] == texts and y.numpy().tolist() == [0, 1, 2]
    ((x, _),) = made.to_tf_dataset(3, x="b")
    assert x.numpy().tolist() == files
    ((x, _),) = made.where(s__exists=True).to_tf_dataset(3, x="s")
    assert [value.decode() for value in x.numpy()] == ["ü", "v"]
    with pytest.raises(ValueError, match=r"`s` must be there .* `where\(s__exists=True\)`"):
        made.to_tf_dataset(3, x="s")
    ragged = hub.datasets.create("ragged", r=Array((None,)), y=Label(3))
    ragged.insert({"r": np.zeros(2, "float32"), "y": 0}, key="a")
    with pytest.raises(ValueError, match="`map` must make `r`, .* Received: ndarrays"):
        ragged.to_tf_dataset(3)


def test_an_epoch_of_tf_data_has_what_the_view_has_by_then(hub: ktl.Hub) -> None:
    tf = pytest.importorskip("tensorflow")
    made = numbers(hub)
    frozen = made.freeze("v1").to_tf_dataset(8)
    live = made.to_tf_dataset(8)
    assert live.cardinality() == tf.data.UNKNOWN_CARDINALITY and frozen.cardinality() == 3
    assert sum(labels(live), []) == list(range(20))
    add(made, 20, 40)
    assert sum(labels(live), []) == list(range(40))
    made.delete(made.where(y__gte=10))
    assert sum(labels(live), []) == list(range(10))
    assert sum(labels(frozen), []) == list(range(20))


def decoded(columns: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**columns, "x": columns["x"] + rng.random(columns["x"].shape)}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_torch_make_the_same_batches(hub: ktl.Hub, method: str) -> None:
    torch = pytest.importorskip("torch")
    made = numbers(hub, 50)
    options: Any = {"shuffle": True, "seed": 3, "map": decoded}
    wanted = made.batches(8, **options)
    loader = torch.utils.data.DataLoader(
        made.to_torch(8, **options),
        batch_size=None,
        num_workers=1 if method == "spawn" else 2,
        multiprocessing_context=method,
    )
    for _ in range(2):
        found = list(loader)
        assert labels(found) == labels(wanted_epoch := list(wanted))
        np.testing.assert_array_equal(found[3][0], wanted_epoch[3][0])


def test_copies_of_batches_go_on_by_themselves(hub: ktl.Hub) -> None:
    made = numbers(hub, 50)
    batches = made.where(y__gte=5).batches(8, shuffle=True, seed=3)
    first = labels(batches)
    other = copy.deepcopy(batches)
    second = labels(batches)
    assert labels(other) == second != first
    with pytest.raises(RuntimeError, match="Connection objects should only be shared"):
        pickle.dumps(batches)  # the password of the URI stays here

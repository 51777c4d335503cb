"""A view in other people's hands: NumPy, pandas, tf.data, torch and grain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_tl as ktl
from keras_tl import datasets as d

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

COUNT = 700


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ds(mongodb: str, project: str) -> Iterator[d.Dataset]:
    with ktl.Hub(mongodb, project=project) as hub:
        made = hub.datasets.create(
            "numbers", x=d.Array((4,)), t=d.Text(), y=d.Label(3), tags={"split": str, "q": int}
        )
        own = np.arange(COUNT)
        made.insert_many(
            {
                "x": np.repeat(own[:, None], 4, 1).astype("float32"),
                "t": [f"text {i}" for i in own],
                "y": own % 3,
            },
            keys=[f"k{i:03d}" for i in own],
            tags={"split": ["train" if i % 5 else "test" for i in own], "q": (own % 7).tolist()},
        )
        yield made


def test_to_numpy(ds: d.Dataset) -> None:
    for _ in range(2):
        found = ds.to_numpy()
        assert list(found) == ["x", "t", "y"]
        assert found["x"].shape == (COUNT, 4) and found["x"][:, 1].tolist() == list(range(COUNT))
        assert found["t"][7] == "text 7" and found["y"].dtype == np.int64
    found = ds.where(split="test").sort("-q").fields("q", "x").to_numpy(cache=None)
    assert list(found) == ["q", "x"] and found["q"][0] == 6
    assert set(found["x"][:, 0].astype(int) % 5) == {0}
    empty = ds.where(q=9).to_numpy()
    assert empty["x"].shape == (0, 4) and empty["t"].shape == empty["y"].shape == (0,)


def test_to_pandas(ds: d.Dataset) -> None:
    pytest.importorskip("pandas")
    frame = ds.where(split="train").to_pandas()
    assert list(frame.columns) == ["y", "split", "q"] and frame.index.name == "key"
    assert frame.index[0] == "k001" and len(frame) == ds.where(split="train").count
    assert frame.loc["k008"].tolist() == [2, "train", 1]
    frame = ds.sort("-q").limit(9).fields("q").to_pandas(["x", "t"])
    assert list(frame.columns) == ["q", "x", "t"] and frame["q"].tolist() == [6] * 9
    for key, row in frame.iterrows():
        assert row["t"] == f"text {int(key[1:])}" and row["x"].tolist() == [int(key[1:])] * 4


def epochs(batches: Any, count: int = 2) -> list[list[list[int]]]:
    return [[np.asarray(x)[:, 0].astype(int).tolist() for x, _ in batches] for _ in range(count)]


def test_to_tf_dataset(ds: d.Dataset) -> None:
    pytest.importorskip("tensorflow")
    view = ds.fields("x", "y")
    data = view.to_tf_dataset(64, shuffle=True)
    x, y = data.element_spec
    assert x.shape.as_list() == [None, 4] and y.dtype.name == "int64"
    assert epochs(data) == epochs(view.batches(64, shuffle=True))


def test_to_torch(ds: d.Dataset) -> None:
    torch = pytest.importorskip("torch")
    view = ds.fields("x", "y")
    wanted = epochs(view.batches(64, shuffle=True))
    for workers in (0, 2):
        data = view.to_torch(64, shuffle=True)
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers)
        assert epochs(loader) == wanted
        x, y = next(iter(loader))
        assert isinstance(x, torch.Tensor) and y.dtype == torch.int64


def test_to_grain(ds: d.Dataset) -> None:
    pytest.importorskip("grain")
    data = ds.where(split="train").fields("x", "y").to_grain()
    assert len(data) == 560
    assert data[3]["x"].tolist() == [4] * 4 and data[3]["y"] == 1 and sorted(data[0]) == ["x", "y"]
    batches = list(data.seed(1).shuffle().batch(50).to_iter_dataset())
    numbers = np.concatenate([batch["x"][:, 0] for batch in batches]).astype(int).tolist()
    assert sorted(numbers) == [i for i in range(COUNT) if i % 5] and numbers != sorted(numbers)


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("pandas", "pandas", lambda ds: ds.to_pandas()),
        ("tensorflow", "tensorflow", lambda ds: ds.to_tf_dataset(8)),
        ("torch", "torch", lambda ds: ds.to_torch(8)),
        ("grain", "grain", lambda ds: ds.to_grain()),
    ],
)
def test_what_is_not_installed_is_told(
    ds: d.Dataset, package: str, extra: str, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'keras_tl\[{extra}\]'"):
        call(ds)

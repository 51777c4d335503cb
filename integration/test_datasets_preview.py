"""Previews of views on a real store: the samples that are asked for, as a figure and in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import keras_tl as ktl
from keras_tl.datasets import Array, Bytes, Dataset, Image, Label
from keras_tl.datasets.look import pictures

X = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def dataset(mongodb: str, project: str) -> Iterator[Dataset]:
    with ktl.Hub(mongodb, project=project) as hub:
        made = hub.datasets.create(
            "set", x=Image(6, 5), y=Label(names=["$a_1", "b"]), tags={"odd": bool}
        )
        odd = [bool(i % 2) for i in range(40)]
        labels = [i % 2 for i in range(39)] + [None]
        made.insert_many(
            {"x": X, "y": labels}, keys=[f"{i:02d}" for i in range(40)], tags={"odd": odd}
        )
        yield made


def test_a_grid(dataset: Dataset, tmp_path: Path) -> None:
    figure = dataset.where(odd=True).preview(n=7, columns=4, save=tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 7
    for i, axes in enumerate(figure.axes):
        assert (axes.images[0].get_array() == X[2 * i + 1]).all()
        assert axes.get_title() == "b"
    assert figure.axes[0].get_subplotspec().get_geometry()[:2] == (2, 4)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_titles_are_plain_text(dataset: Dataset) -> None:
    figure = dataset.sort("-key").preview(2)
    titles = [axes.title for axes in figure.axes]
    assert [title.get_text() for title in titles] == ["", "$a_1"]
    assert not any(title.get_parse_math() for title in titles)


def test_predictions_are_titles(dataset: Dataset) -> None:
    dataset.add_predictions(["00", "01"], model="m", version=3, p=[0.25, 0.75])
    figure = dataset.join_predictions(model="m", version=3).preview(3)
    assert [axes.get_title() for axes in figure.axes] == ["$a_1, p 0.25", "b, p 0.75", "$a_1"]


def test_what_cannot_be_shown(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must have samples to show"):
        dataset.where(key="none").preview()
    for wrong in ({"n": 0}, {"n": True}, {"columns": -1}):
        with pytest.raises(ValueError, match="an integer from 1 up"):
            dataset.preview(**wrong)
    with pytest.raises(ValueError, match="`field` must be one that holds pictures: x"):
        dataset.preview(field="y")
    with pytest.raises(ValueError, match="there is none"):
        dataset.fields("y").preview()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_tl\[plot\]'"):
        dataset.preview()


def test_html_of_a_view(dataset: Dataset) -> None:
    page = dataset.where(odd=False)._repr_html_()
    assert (
        "<b>set</b>: 20 samples <code>View(&#x27;set&#x27;, " in page
        and page.count("<img") == 8
        and "$a_1" in page
    )
    assert "<b>set</b>: 40 samples</p>" in dataset._repr_html_()


def test_other_kinds_of_pictures(mongodb: str, project: str) -> None:
    with ktl.Hub(mongodb, project=project) as hub:
        made = hub.datasets.create(
            "kinds", raw=Bytes(), file=Image(None, None, encoded="any"), map=Array((None, None))
        )
        sizes = [(2, 3), (40, 1), (1, 1)]
        for i, size in enumerate(sizes):
            file = pictures.png(X[i]) if i else b"\x89PNG\r\n\x1a\nbroken"
            made.insert({"raw": b"", "file": file, "map": np.full(size, i / 2)}, key=str(i))
        first, second, _ = made.preview().axes
        assert not first.images and first.texts[0].get_text() == "cannot be read"
        assert (second.images[0].get_array() == X[1]).all()
        maps = [axes.images[0].get_array() for axes in made.preview(field="map").axes]
        assert [image.shape for image in maps] == sizes
        assert [int(image[0, 0]) for image in maps] == [0, 128, 255]

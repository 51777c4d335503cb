"""What people see of a view: texts in HTML are escaped, and pictures are those of the samples."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets import Array, Bytes, Field, Image, Label, Mask, Schema, Text
from keras_tl.datasets.look import pictures
from keras_tl.datasets.look.preview import Looking, caption, picture


class Shown(Looking):
    """A view of samples in memory."""

    def __init__(
        self,
        schema: Schema,
        samples: list[dict[str, Any]],
        key: str = "set",
        chosen: tuple[str, ...] | None = None,
    ) -> None:
        self.dataset: Any = SimpleNamespace(schema=schema, key=key)
        self.samples, self.chosen = samples, chosen

    @property
    def count(self) -> int:
        return len(self.samples)

    def limit(self, n: int) -> Shown:
        return Shown(self.dataset.schema, self.samples[:n], self.dataset.key, self.chosen)

    def __iter__(self) -> Iterator[Any]:
        return map(Sample, self.samples)


class Sample:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.key = values, values.get("key", "k")
        self.labels = values.get("labels", {})
        self.predictions = values.get("predictions", {})

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class Tags(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def images(page: str) -> list[np.ndarray]:
    Image = pytest.importorskip("PIL.Image")
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)'", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_html() -> None:
    schema = Schema(
        {"x": Image(4, 6), "y": Label(names=["cat", "dog"]), "note": Text()}, {"split": str}
    )
    view = Shown(schema, [{"x": RGB + i, "labels": {"y": i % 2}} for i in range(20)])
    page = view._repr_html_()
    for text in ("<b>set</b>: 20 samples", "note", "Text()", "tag: str", "dog"):
        assert text in page
    assert len(page) < 20_000
    shown = images(page)
    assert len(shown) == 8
    assert all((image == RGB + i).all() for i, image in enumerate(shown))
    only = Shown(schema, view.samples, chosen=("note",))._repr_html_()
    assert "note" in only and "Image" not in only and "img" not in only


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "'><img src=x onerror=alert(1)>",
            '" onmouseover="alert(1)',
            "&lt;b&gt;",
            "' onload='alert(1)",
        ]
    ),
)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_html_has_no_tags_of_the_data(key: str, name: str, predicted: str) -> None:
    schema = Schema({"x": Image(4, 6), "y": Label(names=[name, name + "2"])}, {})
    sample = {"x": RGB, "key": key, "labels": {"y": 0}, "predictions": {"p": predicted}}
    found = Tags(Shown(schema, [sample], key=key)._repr_html_())
    plain = Tags(Shown(schema, [{"x": RGB, "labels": {"y": 0}}], key="k")._repr_html_())
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [set(about) for _, about in found.tags] == [set(about) for _, about in plain.tags]
    (figure,) = (about for tag, about in found.tags if tag == "figure")
    assert figure["title"] == key
    if "\r" not in key:  # which HTML reads as an end of line
        assert key in "".join(found.texts)


def test_captions() -> None:
    fields: dict[str, Field] = {"y": Label(names=["cat", "dog"]), "age": Label(dtype="float32")}
    sample: Any = SimpleNamespace(labels={"y": 1}, predictions={})
    assert caption(sample, fields) == "dog"
    sample.labels = {"y": None}
    assert caption(sample, fields) == ""
    sample.labels = {"y": 0, "age": 2.34567}
    sample.predictions = {"label": 1, "p": 0.51239}
    assert caption(sample, fields) == "y cat, age 2.35, label 1, p 0.512"
    sample.predictions = {"text": "long " * 30}
    assert len(caption(sample, fields)) == 40
    sample.predictions, sample.labels = {"text": "a\x1b[1m\n"}, {}
    assert caption(sample, fields) == "text a\ufffd[1m\ufffd"


def test_pictures_of_kinds() -> None:
    pytest.importorskip("PIL.Image")
    mask = picture(np.array([[0, 1], [2, 1]], "uint8"), Mask(2, 2))
    assert mask is not None and mask.tolist() == [[0, 128], [255, 128]]
    encoded = Image(None, None, encoded="any")
    assert (picture(pictures.png(RGB), encoded) == RGB).all()
    grey = picture(pictures.png(RGB), Image(None, None, 1, encoded="png"))
    assert grey is not None and grey.shape == (4, 6)
    assert picture(b"\x89PNG\r\n\x1a\nbroken", encoded) is None


def test_what_cannot_be_read_is_said() -> None:
    pytest.importorskip("PIL.Image")
    schema = Schema({"x": Image(None, None, encoded="any")})
    page = Shown(schema, [{"x": b"broken"}, {"x": pictures.png(RGB)}])._repr_html_()
    assert page.count("cannot be read") == 1 and (images(page)[0] == RGB).all()


def test_without_pillow_what_is_encoded_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    encoded = Shown(Schema({"x": Image(None, None, encoded="any")}), [{"x": b""}])
    assert "1 samples" in encoded._repr_html_() and "<img" not in encoded._repr_html_()
    assert "<img" in Shown(Schema({"x": Image(4, 6)}), [{"x": RGB}])._repr_html_()


def test_large_pictures_are_made_small() -> None:
    schema = Schema({"x": Image(None, None)})
    page = Shown(schema, [{"x": np.zeros((3000, 2000, 3), "uint8")}] * 8)._repr_html_()
    assert len(page) < 50_000


def test_the_field_that_is_shown() -> None:
    schema = Schema({"z": Array((64,)), "b": Bytes(), "w": Array((4, 6)), "x": Image(4, 6)})
    sample = {"w": RGB[..., 0] / 255, "x": RGB}
    assert (images(Shown(schema, [sample])._repr_html_())[0] == RGB[..., 0]).all()
    assert (images(Shown(schema, [sample], chosen=("x",))._repr_html_())[0] == RGB).all()
    assert "<img" not in Shown(Schema({"z": Array((64,))}), [sample])._repr_html_()

"""Views as people look at them: a grid of pictures, and HTML in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from keras_tl.datasets.look import pictures
from keras_tl.datasets.schema.fields import Array, Field, Mask
from keras_tl.datasets.schema.media import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.views.sample import Sample

_IN_HTML, _PIXELS = 8, 96  # pictures in a notebook, and the longer side of each
_LONGEST = 40  # characters of a caption


class Looking:
    """Shows what is in a view."""

    if TYPE_CHECKING:
        dataset: Dataset
        chosen: tuple[str, ...] | None

        @property
        def count(self) -> int: ...
        def limit(self, n: int) -> Self: ...
        def __iter__(self) -> Iterator[Sample]: ...

    def preview(
        self,
        n: int = 16,
        columns: int | None = None,
        *,
        field: str | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """The first samples as a grid of pictures, with labels and joined predictions as titles.

        Args:
            n: how many samples; `view.sample(16).preview()` chooses them by chance.
            columns: pictures in a row; default: about as many as there are rows.
            field: the field to show: an `Image`, a `Mask`, or an `Array` of shape
                `(height, width)` or `(height, width, 1 | 3 | 4)`. Default: the first such field.
            save: a file to write it to; its suffix says the format, as in `"grid.png"`.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            ImportError: without matplotlib (`pip install 'keras_tl[plot]'`); for images that are
                kept encoded, without Pillow (`pip install 'keras_tl[datasets]'`).
            ValueError: if there is no sample or no such field.

        Example:

        ```python
        ds.where(split="train").preview(save="train.png")
        ```
        """
        for name, value in (("n", n), ("columns", 1 if columns is None else columns)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer from 1 up. Received: {value!r}")
        name = _pictured(self, field)
        figure = _figure()
        fields = self.dataset.schema.fields
        found = [(caption(s, fields), picture(s[name], fields[name])) for s in self.limit(n)]
        if not found:
            raise ValueError(f"A preview must have samples to show. Received: none in {self!r}")
        across = min(columns or math.ceil(math.sqrt(len(found))), len(found))
        down = -(-len(found) // across)
        figure.set_size_inches(1.5 * across, 1.7 * down)
        for i, (title, image) in enumerate(found):
            axes = figure.add_subplot(down, across, i + 1)
            axes.axis("off")
            axes.set_title(title, fontsize="small", parse_math=False)
            if image is None:
                axes.text(0.5, 0.5, "cannot be read", ha="center", fontsize="x-small")
            else:
                axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if save is not None:
            figure.savefig(save, dpi=120)
        return figure

    def _repr_html_(self) -> str:
        """What a notebook shows: how many samples, their fields and tags, and the first of them."""
        schema = self.dataset.schema
        fields = {n: f for n, f in schema.fields.items() if self.chosen is None or n in self.chosen}
        rows = [
            *((name, repr(field)) for name, field in fields.items()),
            *((name, f"tag: {kind}") for name, kind in schema.tags.items()),
        ]
        cells = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td>"
            f"<td style='text-align:left'><code>{html.escape(_short(about, 200))}</code></td></tr>"
            for name, about in rows
        )
        view = (
            "" if self.dataset is self else f" <code>{html.escape(_short(repr(self), 200))}</code>"
        )
        return (
            f"<div><p><b>{html.escape(self.dataset.key)}</b>: {self.count} samples{view}</p>"
            f"<table>{cells}</table>{''.join(self._figures())}</div>"
        )

    def _figures(self) -> Iterable[str]:
        try:
            name = _pictured(self, None)
        except ValueError:
            return
        fields = self.dataset.schema.fields
        for sample in self.limit(_IN_HTML):
            try:
                image = picture(sample[name], fields[name])
            except ImportError:  # without Pillow: what is encoded is not shown
                return
            shown = "cannot be read"
            if image is not None:
                data = pictures.png(pictures.thumbnail(image, _PIXELS))
                shown = (
                    f"<img style='height:{_PIXELS}px;image-rendering:pixelated' "
                    f"src='data:image/png;base64,{base64.b64encode(data).decode()}'>"
                )
            yield (
                f"<figure title='{html.escape(sample.key)}' style='display:inline-block;"
                f"margin:4px;text-align:center'>{shown}"
                f"<figcaption>{html.escape(caption(sample, fields))}</figcaption></figure>"
            )


def picture(value: Any, kind: Field) -> np.ndarray | None:
    """A field's value in 8 bits (see `pictures.pixels`); `None` if it cannot be read as a picture.

    Raises:
        ImportError: if it is kept encoded, and Pillow is not installed.
    """
    if isinstance(value, bytes):
        try:
            value = pictures.decode(value, _channels(kind))
        except ValueError:
            return None
    elif isinstance(kind, Mask):
        value = np.asarray(value, "int64")  # classes: from black to white, however few
    return pictures.pixels(value)


def caption(sample: Sample, fields: Mapping[str, Field]) -> str:
    """A sample's labels, by the names of their classes, and what was predicted for it."""
    parts = []
    for name, value in sample.labels.items():
        if value is not None:
            names = getattr(fields[name], "names", None)
            text = names[value] if names else _figure_of(value)
            parts.append(text if len(sample.labels) == 1 else f"{name} {text}")
    parts += (f"{name} {_figure_of(value)}" for name, value in sample.predictions.items())
    text = _short(", ".join(parts), _LONGEST)
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _figure_of(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _pictured(view: Looking, field: str | None) -> str:
    """The field to show."""
    schema = view.dataset.schema
    shown = [
        name
        for name, kind in schema.tensors.items()
        if _is_picture(kind) and (view.chosen is None or name in view.chosen)
    ]
    if field is not None and field not in shown or not shown:
        raise ValueError(
            f"`field` must be one that holds pictures: {', '.join(shown) or 'there is none'}. "
            f"Received: {field!r}"
        )
    return field or shown[0]


def _is_picture(kind: Field) -> bool:
    if isinstance(kind, Image):
        return True
    shape = kind.shape
    return (
        isinstance(kind, Array)
        and shape is not None
        and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))
    )


def _channels(kind: Field) -> int:
    shape = getattr(kind, "decoded_shape", None)
    return shape[2] if shape and shape[2] in (1, 3, 4) else 3


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure  # draws without a display and without a global state
    except ImportError as error:
        raise ImportError("Previews need matplotlib: `pip install 'keras_tl[plot]'`.") from error

    class Grid(Figure):
        """A figure that a notebook shows, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            target = io.BytesIO()
            self.savefig(target, format="png", dpi=100)
            return target.getvalue()

    return Grid(layout="constrained")

"""Which field of a sample is the image, its mask and its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.fields import Array, Boxes, Mask
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.schema.media import Image

if TYPE_CHECKING:
    from keras_tl.datasets.schema.schema import Schema

#: Numbers of a box.
BOXES = 4


class Roles:
    """Finds by their kinds what belongs together in the columns of a batch.

    Args:
        schema: of the dataset.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def image(self, columns: Mapping[str, Any]) -> str:
        """The image's name.

        Raises:
            ValueError: if there is none, or more than one.
        """
        images = self._of(Image, columns)
        if not images:
            images = [
                name
                for name, field in self.schema.fields.items()
                if name in columns and type(field) is Array and len(field.shape or ()) == 3
            ]
        if len(images) != 1:
            raise ValueError(
                "`map` of images needs one image a sample; of several a function takes care. "
                f"Received: {images or 'none'}"
            )
        return images[0]

    def pixels(self, name: str, column: np.ndarray, one_size: bool) -> np.ndarray:
        """A column of images as arrays; encoded ones are decoded.

        Args:
            name: of the field.
            column: its values.
            one_size: whether encoded images get the size that the field tells, if it does.

        Raises:
            ValueError: if a file cannot be read.
        """
        field = self.schema.fields[name]
        if not isinstance(field, Image) or field.encoded is None:
            return column
        from keras_tl.datasets.look.pictures import decode

        height, width, channels = field.decoded_shape or (None, None, None)
        size = (height, width) if one_size and height and width else None
        images = [decode(data, channels or 3, size) for data in column]
        return np.stack(images) if size is not None else ragged(images)

    def single(self, columns: Mapping[str, Any]) -> str:
        """The name of the one field that is no label.

        Raises:
            ValueError: if there is none, or more than one.
        """
        fields = [name for name in self.schema.tensors if name in columns]
        if len(fields) != 1:
            raise ValueError(
                "`map` by this layer needs one field that is no label; of several a function "
                f"takes care. Received: {fields or 'none'}"
            )
        return fields[0]

    def mask(self, columns: Mapping[str, Any]) -> str | None:
        """The mask's name, if there is one."""
        return self._at_most_one(Mask, columns)

    def boxes(self, columns: Mapping[str, Any]) -> str | None:
        """The name of the boxes, if there are any."""
        return self._at_most_one(Boxes, columns)

    def label(self, columns: Mapping[str, Any]) -> str | None:
        """The label's name, if there is one."""
        labels = self._of(Label, columns)
        return labels[0] if len(labels) == 1 else None

    def classes(self, name: str) -> int | None:
        """How many classes a label has."""
        field = self.schema.fields[name]
        return field.num_classes if isinstance(field, Label) else None

    def check_boxes(self, wanted: str, who: str) -> None:
        """Refuses boxes of another format.

        Raises:
            ValueError: if there are some.
        """
        for name, field in self.schema.fields.items():
            if isinstance(field, Boxes) and field.format != wanted:
                raise ValueError(
                    f"{who} must take boxes as `{name}` has them: {field.format!r}. "
                    f"Received: {wanted!r}"
                )

    def _of(self, kind: type, columns: Mapping[str, Any]) -> list[str]:
        return [n for n, f in self.schema.fields.items() if n in columns and isinstance(f, kind)]

    def _at_most_one(self, kind: type, columns: Mapping[str, Any]) -> str | None:
        names = self._of(kind, columns)
        if len(names) > 1:
            raise ValueError(
                f"`map` of images takes one {kind.__name__} a sample; of several a function "
                f"takes care. Received: {names}"
            )
        return names[0] if names else None


def follow(
    schema: Schema,
    columns: Mapping[str, Any],
    boxes: str,
    left: Sequence[np.ndarray],
    kept: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """The boxes that are left, and what other fields have for them.

    Args:
        schema: of the dataset.
        columns: of the batch, before.
        boxes: the name of the boxes.
        left: of each sample the boxes, after.
        kept: of each sample the numbers that they had before.
    """
    found = {boxes: ragged([value.astype(np.float32) for value in left])}
    counts = [len(value) for value in columns[boxes]]
    for name, field in schema.tensors.items():
        shape = field.shape if type(field) is Array else None
        follows = bool(shape) and shape[0] is None  # type: ignore[index]
        if name in columns and follows:
            if [len(value) for value in columns[name]] == counts:
                values = zip(columns[name], kept, strict=True)
                found[name] = ragged([value[rows] for value, rows in values])
    return found


def ragged(values: Sequence[Any]) -> np.ndarray:
    """Values of any sizes as a column of objects."""
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column

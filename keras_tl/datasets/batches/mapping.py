"""`map=`: what is done to a batch before it is trained, the same whoever makes the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_tl.datasets.batches.order import batch_random
from keras_tl.datasets.reading.locks import ForkLock
from keras_tl.datasets.schema.roles import BOXES, Roles, follow

if TYPE_CHECKING:
    from keras_tl.datasets.batches.passes import Order
    from keras_tl.datasets.schema.schema import Schema

Columns = dict[str, Any]


class Mapped:
    """A `map` as batches use it; its random numbers belong to the epoch and the batch.

    Args:
        given: one of

            - A function of a dict with the batch's fields, labels and tags by name, which returns
              such a dict. If it has a parameter `rng` it gets a `numpy.random.Generator`.
            - A Keras preprocessing layer, or a `keras.layers.Pipeline` of them: it gets the image
              with its mask and boxes where it is for images, else the one field.
            - A transform of albumentations, usually a `Compose`: it gets each sample's image with
              its mask and boxes.

            Boxes that leave the image are left out, with their values in fields of shape
            `(None, ...)` that have as many as there are boxes.
        schema: of the dataset.

    Raises:
        ValueError: for another object.
    """

    def __init__(self, given: Any, schema: Schema) -> None:
        self._schema = schema
        self._run: Callable[[Columns, np.ndarray, Order, int, int], Columns]
        if isinstance(given, keras.Layer):
            self._run = _Layers(given, schema)
        elif type(given).__module__.partition(".")[0] == "albumentations":
            from keras_tl.datasets.batches.albumented import Albumented

            self._run = Albumented(given, schema)
        elif callable(given):
            self._run = _Function(given)
        else:
            raise ValueError(
                "`map` must be a function of a dict, a Keras layer or a transform of "
                f"albumentations. Received: map={given!r}"
            )

    def __call__(
        self, columns: Columns, at: np.ndarray, order: Order, epoch: int, batch: int
    ) -> Columns:
        """The batch, mapped.

        Args:
            columns: by name, with a row a sample.
            at: the samples' addresses.
            order: of the epochs.
            epoch: the epoch's number.
            batch: the batch's index in it.

        Raises:
            ValueError: if no dict comes out, or the batch is not what the map can take.
        """
        found = self._run(columns, at, order, epoch, batch)
        if not isinstance(found, Mapping):
            raise ValueError(f"`map` must return a dict. Received: {type(found).__name__}")
        return dict(found)


class _Function:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        try:
            self._random = "rng" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # some builtins have none
            self._random = False

    def __call__(
        self, columns: Columns, at: np.ndarray, order: Order, epoch: int, batch: int
    ) -> Any:
        if not self._random:
            return self._function(columns)
        return self._function(columns, rng=batch_random(order.seed, epoch, batch, order.shard[0]))


class _Layers:
    """Keras layers, one after the other."""

    def __init__(self, layer: keras.Layer, schema: Schema) -> None:
        self._roles = Roles(schema)
        self._layers = _flat(layer)
        self._seeds = [
            variable
            for one in self._layers
            for variable in one.variables
            if variable.name == "seed_generator_state"
        ]
        self._mixes = any(isinstance(o, keras.layers.MixUp | _CUT_MIX) for o in self._layers)
        self._lock = ForkLock()  # two passes would mix up the seeds
        for one in self._layers:
            wanted = getattr(one, "bounding_box_format", None)
            if wanted is not None:
                self._roles.check_boxes(wanted, f"`map`: {type(one).__name__}")

    def __call__(
        self, columns: Columns, at: np.ndarray, order: Order, epoch: int, batch: int
    ) -> Columns:
        found = dict(columns)
        with self._lock:
            random = batch_random(order.seed, epoch, batch, order.shard[0])
            for variable in self._seeds:
                variable.assign(random.integers(0, 1 << 31, 2).astype(str(variable.dtype)))
            if not any(map(_is_for_images, self._layers)):
                name = self._roles.single(columns)
                found[name] = self._roles.pixels(name, found[name], one_size=True)
                for layer in self._layers:
                    found[name] = _called(layer, found[name])
                found[name] = keras.ops.convert_to_numpy(found[name])
                return found
            data = self._inputs(columns)
            for layer in self._layers:
                if _is_for_images(layer):
                    data = _called(layer, data)
                else:
                    data["images"] = _called(layer, data["images"])
            return found | self._outputs(columns, data)

    def _inputs(self, columns: Columns) -> dict[str, Any]:
        """As the layers take them: boxes padded, with their numbers as labels."""
        roles = self._roles
        name = roles.image(columns)
        images = roles.pixels(name, columns[name], one_size=True)
        if images.dtype == object:
            raise ValueError(
                "`map` of Keras layers needs images of one size. Received: images whose size "
                "varies; use a function, or albumentations"
            )
        data: dict[str, Any] = {"images": images}
        mask, boxes, label = roles.mask(columns), roles.boxes(columns), roles.label(columns)
        if mask is not None:
            data["segmentation_masks"] = columns[mask][..., None]
        if boxes is not None:
            counts = [len(value) for value in columns[boxes]]
            padded = np.zeros((len(counts), max(1, *counts), BOXES), np.float32)
            labels = np.full(padded.shape[:2], -1, np.int32)
            for row, value in enumerate(columns[boxes]):
                padded[row, : len(value)] = value
                labels[row, : len(value)] = np.arange(len(value))
            data["bounding_boxes"] = {"boxes": padded, "labels": labels}
        if self._mixes:
            classes = None if label is None else roles.classes(label)
            if label is None or classes is None or boxes is not None:
                raise ValueError(
                    "`map` by MixUp or CutMix needs one `Label(num_classes)`, which becomes a "
                    "probability of each class, and no boxes. Received: "
                    f"label={label!r} of {classes} classes, boxes={boxes!r}"
                )
            known = np.asarray(columns[label])
            if (known < 0).any():
                raise ValueError(
                    f"`map` by MixUp or CutMix needs the label `{label}` of each sample: "
                    f"`where({label}__exists=True)`. Received: {int((known < 0).sum())} samples of "
                    f"a batch of {len(known)} without"
                )
            data["labels"] = np.eye(classes, dtype="float32")[known]
        return data

    def _outputs(self, columns: Columns, data: Mapping[str, Any]) -> Columns:
        roles, to_numpy = self._roles, keras.ops.convert_to_numpy
        found: Columns = {roles.image(columns): to_numpy(data["images"])}
        mask, boxes = roles.mask(columns), roles.boxes(columns)
        if mask is not None:
            values = to_numpy(data["segmentation_masks"])[..., 0]
            found[mask] = np.round(values).astype(columns[mask].dtype)
        if self._mixes:
            found[str(roles.label(columns))] = to_numpy(data["labels"])
        if boxes is not None:
            values, labels = (to_numpy(data["bounding_boxes"][k]) for k in ("boxes", "labels"))
            kept = [row[row >= 0] for row in labels.astype(np.int64)]
            left = [value[row >= 0] for value, row in zip(values, labels, strict=True)]
            found |= follow(roles.schema, columns, boxes, left, kept)
        return found


_CUT_MIX = getattr(keras.layers, "CutMix", keras.layers.MixUp)


def _flat(layer: keras.Layer) -> list[keras.Layer]:
    if isinstance(layer, keras.layers.Pipeline):
        return [inner for outer in layer.layers for inner in _flat(outer)]
    return [layer]


def _is_for_images(layer: keras.Layer) -> bool:
    """Whether it takes images with masks and boxes; the class of such layers is private."""
    return hasattr(layer, "transform_images")


def _called(layer: keras.Layer, data: Any) -> Any:
    # What layers for images do to the dict that they get is their own affair.
    data = dict(data) if isinstance(data, dict) else data
    if "training" in inspect.signature(layer.call).parameters:
        return layer(data, training=True)
    return layer(data)

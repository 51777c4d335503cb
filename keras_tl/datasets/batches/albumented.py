"""Transforms of albumentations, sample by sample: an image with its mask and boxes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.reading.locks import ForkLock
from keras_tl.datasets.schema.roles import BOXES, Roles, follow, ragged

if TYPE_CHECKING:
    from keras_tl.datasets.batches.passes import Order
    from keras_tl.datasets.schema.schema import Schema

# Their names of the formats that boxes may have here.
_FORMATS = {
    "pascal_voc": "xyxy",
    "coco": "xywh",
    "albumentations": "rel_xyxy",
    "yolo": "rel_center_xywh",
}


class Albumented:
    """Applies a transform to each sample; its seed is the sample's, so batches do not matter.

    Args:
        transform: a `Compose`; for boxes it has `bbox_params`, without `label_fields`.
        schema: of the dataset.

    Raises:
        ValueError: if the transform takes boxes otherwise than the dataset has them.
    """

    def __init__(self, transform: Any, schema: Schema) -> None:
        self._transform = transform
        self._roles = Roles(schema)
        self._lock = ForkLock()  # the transform holds the random numbers
        processor = getattr(transform, "processors", {}).get("bboxes")
        self._takes_boxes = processor is not None
        if processor is not None:
            named = processor.params.format
            self._roles.check_boxes(_FORMATS.get(named, named), "`map`: bbox_params")
            if processor.params.label_fields:
                raise ValueError(
                    "`map`: bbox_params must have no `label_fields`: fields with as many values "
                    f"as boxes follow them. Received: {processor.params.label_fields}"
                )

    def __call__(
        self, columns: dict[str, Any], at: np.ndarray, order: Order, epoch: int, batch: int
    ) -> dict[str, Any]:
        roles = self._roles
        image, mask, boxes = roles.image(columns), roles.mask(columns), roles.boxes(columns)
        if boxes is not None and not self._takes_boxes:
            raise ValueError(
                f"`map` must take the boxes `{boxes}`: give the Compose `bbox_params`, or leave "
                "them out by `fields`. Received: a transform without"
            )
        images = roles.pixels(image, columns[image], one_size=False)
        done: dict[str, list[Any]] = {"image": [], "mask": [], "bboxes": []}
        with self._lock:
            for row, address in enumerate(at.tolist()):
                self._transform.set_random_seed(_seed(order.seed, epoch, address))
                given = {"image": images[row]}
                if mask is not None:
                    given["mask"] = columns[mask][row]
                if boxes is not None:
                    own = np.asarray(columns[boxes][row], np.float32)
                    given["bboxes"] = np.column_stack([own, np.arange(len(own))])
                found = self._transform(**given)
                for name in given:
                    done[name].append(found[name])
        results = {**columns, image: _column(done["image"])}
        if mask is not None:
            results[mask] = _column(done["mask"])
        if boxes is not None:
            # Without a box the columns behind the four numbers are lost.
            arrays = [np.asarray(value, np.float32) for value in done["bboxes"]]
            arrays = [
                value if value.size else np.empty((0, BOXES + 1), np.float32) for value in arrays
            ]
            left = [value[:, :BOXES] for value in arrays]
            numbers = [value[:, BOXES].astype(np.int64) for value in arrays]
            results |= follow(roles.schema, columns, boxes, left, numbers)
        return results


def _column(values: list[Any]) -> np.ndarray:
    same = len({value.shape for value in values}) == 1
    return np.stack(values) if same else ragged(values)


def _seed(seed: int, epoch: int, address: int) -> int:
    text = f"{seed}/{epoch}/{address}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "little")

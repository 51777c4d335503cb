"""The room `detection` in the table of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import Arrays, Case

from keras_tl.layers import CornerPooling2D, NonMaxSuppression, ROIAlign2D, ROIPooling2D


def regions(rng: np.random.Generator, channels_first: bool = False, size: float = 1.0) -> Arrays:
    """Maps of 6 x 7 pixels, and four boxes each of an image `size` as large; one is padding."""
    maps = rng.standard_normal((2, 3, 6, 7) if channels_first else (2, 6, 7, 3))
    low = rng.uniform(-1, 5, (2, 4, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 5, (2, 4, 2))], axis=-1) * size
    boxes[1, 3] = -1
    return maps.astype("float32"), boxes.astype("float32")


def scored(rng: np.random.Generator) -> Arrays:
    low = rng.uniform(0, 20, (2, 9, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 20, (2, 9, 2))], axis=-1)
    return boxes.astype("float32"), rng.uniform(0.1, 1, (2, 9)).astype("float32")


def labelled(rng: np.random.Generator) -> Arrays:
    return *scored(rng), rng.integers(0, 3, (2, 9)).astype("int32")


SHAPES = ((2, 6, 7, 3), (2, 4, 4))
REGIONS: dict[str, Any] = {"call": "args", "inputs": regions, "differentiable": (0,)}

CASES = [
    Case(
        "CornerPooling2D",
        CornerPooling2D,
        ((2, 4, 5, 3), (2, 4, 5, 3)),
        call="list",
        fixed=(1, 2),
    ),
    Case(
        "CornerPooling2D-channels_first",
        lambda **kw: CornerPooling2D("bottom_right", data_format="channels_first", **kw),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
        call="list",
        fixed=(2, 3),
    ),
    Case("NonMaxSuppression", NonMaxSuppression, ((2, 9, 4), (2, 9)), "args", scored, mixed=False),
    Case(
        "NonMaxSuppression-labels",
        lambda **kw: NonMaxSuppression(0.2, 4, 0.3, "xywh", **kw),
        ((2, 9, 4), (2, 9), (2, 9)),
        "args",
        labelled,
        mixed=False,
    ),
    Case("ROIAlign2D", lambda **kw: ROIAlign2D((2, 3), **kw), SHAPES, free=(1, 2), **REGIONS),
    Case(
        "ROIAlign2D-adaptive",
        lambda **kw: ROIAlign2D(
            2, 0, spatial_scale=0.5, aligned=False, data_format="channels_first", **kw
        ),
        ((2, 3, 6, 7), (2, 4, 4)),
        free=(2, 3),
        **REGIONS | {"inputs": lambda rng: regions(rng, channels_first=True, size=2.0)},
    ),
    Case("ROIPooling2D", lambda **kw: ROIPooling2D((2, 3), **kw), SHAPES, free=(1, 2), **REGIONS),
    Case(
        "ROIPooling2D-channels_first",
        lambda **kw: ROIPooling2D(
            2, bounding_box_format="rel_xyxy", data_format="channels_first", **kw
        ),
        ((2, 3, 6, 7), (2, 4, 4)),
        free=(2, 3),
        **REGIONS | {"inputs": lambda rng: regions(rng, channels_first=True, size=0.15)},
    ),
]

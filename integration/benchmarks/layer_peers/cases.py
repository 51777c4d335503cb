"""The layers that are measured, and on what: a call takes over 5 ms on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tl import layers

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """A layer that is called with `inputs`, in training unless it has no gradient.

    quick: whether `--quick` measures it. differentiable: how many of the first inputs get one.
    kinds: what is measured: the call, and its gradient.
    """

    name: str
    make: Callable[[], Any]
    inputs: Callable[[np.random.Generator], Arrays]
    quick: bool = False
    differentiable: int = 1
    kinds: tuple[str, ...] = ("forward", "train")
    output: Callable[[Any], Any] = lambda outputs: outputs


def normal(*shape: int) -> Callable[[np.random.Generator], Arrays]:
    return lambda rng: [rng.standard_normal(shape).astype("float32")]


def deformed(rng: np.random.Generator) -> Arrays:
    size = (4, 56, 56)
    offsets = rng.normal(0, 2, (*size, 18))
    arrays = [rng.standard_normal((*size, 64)), offsets, rng.uniform(0, 1, (*size, 9))]
    return [a.astype("float32") for a in arrays]


def transformed(rng: np.random.Generator) -> Arrays:
    theta = np.eye(2, 3) + rng.normal(0, 0.2, (16, 2, 3))
    return [rng.standard_normal((16, 96, 96, 16)).astype("float32"), theta.astype("float32")]


def regions(rng: np.random.Generator) -> Arrays:
    low, size = rng.uniform(0, 60, (2, 128, 2)), rng.uniform(8, 40, (2, 128, 2))
    boxes = np.concatenate([low, low + size], -1)
    return [rng.standard_normal((2, 100, 100, 64)).astype("float32"), boxes.astype("float32")]


def detections(rng: np.random.Generator) -> Arrays:
    low, size = rng.uniform(0, 900, (4, 4000, 2)), rng.uniform(10, 100, (4, 4000, 2))
    boxes = np.concatenate([low, low + size], -1).astype("float32")
    scores = np.stack([rng.permutation(4000) for _ in range(4)]) / 4000 + 1e-4
    return [boxes, scores.astype("float32")]


def maps(rng: np.random.Generator) -> Arrays:
    return [rng.standard_normal((8, 64, 64, 64)).astype("float32") for _ in range(2)]


def conv(cls: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: cls(128, 3, padding="same", **kwargs)


IMAGES = normal(8, 32, 32, 128)
MAPS = normal(16, 64, 64, 128)

CASES = [
    Case(
        "DeformableConv2D",
        lambda: layers.DeformableConv2D(64, 3, padding="same", modulated=True),
        deformed,
        quick=True,
        differentiable=3,
    ),
    Case(
        "SpatialTransformer2D",
        lambda: layers.SpatialTransformer2D(use_head=False),
        transformed,
        differentiable=2,
    ),
    Case("ROIAlign2D", layers.ROIAlign2D, regions, quick=True),
    Case("ROIPooling2D", layers.ROIPooling2D, regions),
    Case("BinaryConv2D", conv(layers.BinaryConv2D), IMAGES),
    Case("TernaryDense", lambda: layers.TernaryDense(2048), normal(256, 2048)),
    Case("DoReFaConv2D", conv(layers.DoReFaConv2D, weight_bits=2, input_bits=4), IMAGES),
    Case("FakeQuantConv2D", conv(layers.FakeQuantConv2D), IMAGES, quick=True),
    Case("InstanceNormalization", layers.InstanceNormalization, MAPS, quick=True),
    Case("SwitchNormalization", layers.SwitchNormalization, MAPS),
    Case("FilterResponseNormalization", layers.FilterResponseNormalization, MAPS),
    Case(
        "LocalResponseNormalization",
        lambda: layers.LocalResponseNormalization(beta=0.75),
        normal(16, 55, 55, 96),
        quick=True,
    ),
    Case(
        "WeightNormalization",
        lambda: layers.WeightNormalization(keras.layers.Dense(4096)),
        normal(64, 4096),
    ),
    Case(
        "SpectralNormalization",
        lambda: layers.SpectralNormalization(keras.layers.Conv2D(256, 3, padding="same")),
        normal(4, 24, 24, 256),
    ),
    Case(
        "DropConnectDense",
        lambda: layers.DropConnectDense(2048, rate=0.5),
        normal(256, 2048),
    ),
    Case(
        "DropConnectDense per sample",
        lambda: layers.DropConnectDense(512, rate=0.5, per_sample=True),
        normal(32, 512),
    ),
    Case("DropConnectConv2D", conv(layers.DropConnectConv2D, rate=0.5), IMAGES, quick=True),
    Case("SubpixelConv2D", lambda: layers.SubpixelConv2D(2), MAPS, quick=True),
    Case(
        "CornerPooling2D",
        layers.CornerPooling2D,
        maps,
        differentiable=2,
    ),
    Case(
        "NonMaxSuppression",
        lambda: layers.NonMaxSuppression(0.5, 100),
        detections,
        quick=True,
        differentiable=0,
        kinds=("forward",),
        output=lambda outputs: outputs["indices"],
    ),
]

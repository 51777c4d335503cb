"""Layers that learn to reconstruct what they are given."""

from __future__ import annotations

from typing import Any

import keras
from harness import Case

from keras_tl.layers import Reconstruction


def sparse(**kwargs: Any) -> keras.layers.Layer:
    layer = keras.layers.Dense(3, "sigmoid", dtype=kwargs.get("dtype"))
    return Reconstruction(layer, "sigmoid", penalty="kl", **kwargs)


def denoising(**kwargs: Any) -> keras.layers.Layer:
    layer = keras.layers.Dense(4, "softplus", dtype=kwargs.get("dtype"))
    return Reconstruction(layer, tied=False, noise=0.4, penalty="l1", **kwargs)


CASES = [
    Case("Reconstruction", sparse, ((4, 5),), fixed=(1,)),
    Case("Reconstruction-denoising", denoising, ((2, 3, 5),), free=(1,), fixed=(2,), random=True),
]

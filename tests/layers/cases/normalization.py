"""The room `normalization` in the table of layers."""

from __future__ import annotations

from typing import Any

import keras
from harness import Case

from keras_tl.layers import (
    FilterResponseNormalization,
    InstanceNormalization,
    LocalResponseNormalization,
    SpectralNormalization,
    SwitchNormalization,
    WeightNormalization,
)


def dense(**kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Dense(3, bias_initializer="ones", dtype=kwargs.get("dtype"))


def block(**kwargs: Any) -> keras.layers.Layer:
    """A layer with a kernel, a state and a seed."""
    return KernelBlock(4, dtype=kwargs.get("dtype"))


@keras.saving.register_keras_serializable(package="keras_tl_tests")
class KernelBlock(keras.layers.Dense):
    """A dense layer with dropout and batch normalisation of its own."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.dropout = keras.layers.Dropout(0.5, dtype=self.dtype_policy, name="dropout")
        self.norm = keras.layers.BatchNormalization(dtype=self.dtype_policy, name="norm")
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.dropout(super().call(inputs), training=training)
        return self.norm(x, training=training)


CASES = [
    Case(
        "InstanceNormalization",
        InstanceNormalization,
        ((2, 5, 4, 3),),
        free=(1, 2),
        fixed=(3,),
    ),
    Case(
        "InstanceNormalization-channels_first",
        lambda **kw: InstanceNormalization(axis=1, scale=False, **kw),
        ((2, 3, 5),),
        free=(2,),
        fixed=(1,),
    ),
    Case(
        "InstanceNormalization-sequence",
        lambda **kw: InstanceNormalization(center=False, **kw),
        ((3, 6, 2),),
        free=(1,),
        masks=True,
    ),
    Case(
        "SwitchNormalization",
        SwitchNormalization,
        ((3, 4, 5, 3),),
        free=(1, 2),
        fixed=(3,),
        differs_in_training=True,
    ),
    Case(
        "SwitchNormalization-channels_first",
        lambda **kw: SwitchNormalization(axis=1, momentum=0.5, **kw),
        ((3, 2, 6),),
        free=(2,),
        fixed=(1,),
        differs_in_training=True,
    ),
    Case(
        "SwitchNormalization-sequence",
        lambda **kw: SwitchNormalization(momentum=0.9, **kw),
        ((3, 6, 2),),
        masks=True,
        differs_in_training=True,
    ),
    Case(
        "FilterResponseNormalization",
        FilterResponseNormalization,
        ((2, 5, 4, 3),),
        free=(1, 2),
        fixed=(3,),
    ),
    Case(
        "FilterResponseNormalization-channels_first",
        lambda **kw: FilterResponseNormalization(axis=1, learned_epsilon=True, **kw),
        ((2, 3, 5),),
        free=(2,),
        fixed=(1,),
    ),
    Case(
        "FilterResponseNormalization-sequence",
        lambda **kw: FilterResponseNormalization(threshold=False, **kw),
        ((3, 6, 2),),
        masks=True,
    ),
    Case(
        "LocalResponseNormalization",
        LocalResponseNormalization,
        ((2, 3, 4, 7),),
        free=(1, 2),
    ),
    Case(
        "LocalResponseNormalization-channels_first",
        lambda **kw: LocalResponseNormalization(1, 2.0, 0.5, 0.75, axis=1, **kw),
        ((2, 7, 3, 4),),
        free=(2, 3),
    ),
    Case(
        "LocalResponseNormalization-sequence",
        lambda **kw: LocalResponseNormalization(9, beta=1.2, **kw),
        ((3, 5, 6),),
        free=(1,),
        masks=True,
    ),
    Case(
        "WeightNormalization",
        lambda **kw: WeightNormalization(dense(**kw), **kw),
        ((2, 5, 4),),
        free=(1,),
        fixed=(),
        masks=True,
    ),
    Case(
        "WeightNormalization-Conv2DTranspose",
        lambda **kw: WeightNormalization(
            keras.layers.Conv2DTranspose(2, 3, dtype=kw.get("dtype")), **kw
        ),
        ((2, 4, 4, 3),),
        free=(1, 2),
    ),
    Case(
        "WeightNormalization-state_and_seed",
        lambda **kw: WeightNormalization(block(**kw), axis=0, **kw),
        ((6, 3),),
        random=True,
    ),
    Case(
        "SpectralNormalization",
        lambda **kw: SpectralNormalization(dense(**kw), **kw),
        ((2, 5, 4),),
        free=(1,),
        masks=True,
        differs_in_training=True,
        gradient="surrogate",
    ),
    Case(
        "SpectralNormalization-Conv2D",
        lambda **kw: SpectralNormalization(
            keras.layers.Conv2D(1, 3, use_bias=False, dtype=kw.get("dtype")), 2, **kw
        ),
        ((2, 5, 5, 3),),
        free=(1, 2),
    ),
    Case(
        "SpectralNormalization-state_and_seed",
        lambda **kw: SpectralNormalization(block(**kw), **kw),
        ((6, 3),),
        random=True,
        gradient="surrogate",
    ),
]

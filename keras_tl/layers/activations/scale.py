from __future__ import annotations

from typing import Any

import keras

__all__ = ["Scale"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Scale(keras.layers.Layer):
    """Multiplies by one learned number, at first 0.05: `y = scale * x`.

    It puts the outputs of a network of binary weights in the range of a softmax.
    `keras.layers.Rescaling` multiplies by a constant.

    Args:
        scale_initializer: of the number. None: 0.05.
        scale_regularizer, scale_constraint: for the number.

    Input shape: any. Output shape: the same. A mask is passed on.

    Example:
        >>> import numpy as np
        >>> y = Scale("ones")(np.array([[1.0, 2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[1.0, 2.0]]
    """

    def __init__(
        self,
        scale_initializer: Any = None,
        scale_regularizer: Any = None,
        scale_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale_initializer = (
            keras.initializers.Constant(0.05)
            if scale_initializer is None
            else keras.initializers.get(scale_initializer)
        )
        self.scale_regularizer = keras.regularizers.get(scale_regularizer)
        self.scale_constraint = keras.constraints.get(scale_constraint)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(
            shape=(1,),
            initializer=self.scale_initializer,
            regularizer=self.scale_regularizer,
            constraint=self.scale_constraint,
            name="scale",
        )

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale_initializer": keras.initializers.serialize(self.scale_initializer),
            "scale_regularizer": keras.regularizers.serialize(self.scale_regularizer),
            "scale_constraint": keras.constraints.serialize(self.scale_constraint),
        }

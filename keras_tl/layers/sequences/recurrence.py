"""The recurrent layer of `Seq2Seq`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["Recurrence", "forget_bias", "fresh"]


class Recurrence(keras.layers.Layer):
    """What of an LSTM's step depends on the step before; a cell for `keras.layers.RNN`.

    Its inputs are `x @ kernel + bias`, of all steps in one product before the loop: with
    `keras.layers.LSTM` on CPU each step has a product of its own.
    """

    def __init__(self, units: int, recurrent_initializer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.output_size = units
        self.state_size = [units, units]
        self.recurrent_initializer = recurrent_initializer

    def build(self, *shapes: Any) -> None:
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 4 * self.units),
            initializer=self.recurrent_initializer,
            name="recurrent_kernel",
        )

    def call(self, inputs: Any, states: Any) -> Any:
        hidden, carry = states
        i, f, g, o = ops.split(inputs + ops.matmul(hidden, self.recurrent_kernel), 4, axis=-1)
        carry = ops.sigmoid(f) * carry + ops.sigmoid(i) * ops.tanh(g)
        hidden = ops.sigmoid(o) * ops.tanh(carry)
        return hidden, [hidden, carry]


def forget_bias(shape: Sequence[int], dtype: Any = None) -> Any:
    """Zeros, and ones for the forget gate, as of `keras.layers.LSTM`."""
    units = shape[0] // 4
    parts = [ops.zeros((units,), dtype), ops.ones((units,), dtype), ops.zeros((2 * units,), dtype)]
    return ops.concatenate(parts)


def fresh(initializer: Any) -> Any:
    """An equal initializer: the same one gives two weights of one shape the same values."""
    return keras.initializers.get(keras.initializers.serialize(initializer))

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.recurrent.cell import Cell

__all__ = ["PeepholeLSTMCell"]


@keras.saving.register_keras_serializable(package="keras_tl")
class PeepholeLSTMCell(Cell):
    """An LSTM cell whose gates see its carry; for `keras.layers.RNN`. It can count and time.

    With `z = x @ kernel + h @ recurrent_kernel + bias` and one weight `p` a unit and gate:

        i = sigmoid(z_i + p_i * c)         f = sigmoid(z_f + p_f * c)
        c' = f * c + i * tanh(z_g)
        o = sigmoid(z_o + p_o * c')        h' = o * tanh(c')

    Gers and Schmidhuber, *Recurrent Nets that Time and Count*, IJCNN 2000, with the forget gate,
    the output's tanh and the full gradient of Greff et al., *LSTM: A Search Space Odyssey*, 2015
    (https://arxiv.org/abs/1503.04069). The peepholes start at 0, as a plain LSTM cell.

    Args:
        units, activation, recurrent_activation, use_bias, kernel_initializer,
            recurrent_initializer, bias_initializer, unit_forget_bias, kernel_regularizer,
            recurrent_regularizer, bias_regularizer, kernel_constraint, recurrent_constraint,
            bias_constraint, dropout, recurrent_dropout, seed: as in `keras.layers.LSTMCell`.
        peephole_initializer, peephole_regularizer, peephole_constraint: of the peepholes
            `(3, units)`, to the input, the forget and the output gate.

    Input shape: `(batch, features)`, and the states h and c of `(batch, units)`. Output shape:
    `(batch, units)`, and the two next states.

    Raises:
        ValueError: if `units` is not a positive integer, or a rate not in [0, 1).

    Example:
        >>> import numpy as np
        >>> layer = keras.layers.RNN(PeepholeLSTMCell(4))
        >>> tuple(layer(np.ones((2, 5, 3), "float32")).shape)
        (2, 4)
    """

    def __init__(
        self,
        units: int,
        *args: Any,
        peephole_initializer: Any = "zeros",
        peephole_regularizer: Any = None,
        peephole_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.peephole_initializer = keras.initializers.get(peephole_initializer)
        self.peephole_regularizer = keras.regularizers.get(peephole_regularizer)
        self.peephole_constraint = keras.constraints.get(peephole_constraint)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.peephole = self.add_weight(
            shape=(3, self.units),
            initializer=self.peephole_initializer,
            regularizer=self.peephole_regularizer,
            constraint=self.peephole_constraint,
            name="peephole",
        )

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        hidden, carry = states
        of_inputs, of_hidden = self.products(inputs, hidden, training)
        z = of_inputs + of_hidden
        if self.bias is not None:
            z = z + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        to_input, to_forget, to_output = ops.unstack(ops.convert_to_tensor(self.peephole), 3)
        gate = self.recurrent_activation
        old = carry
        carry = gate(f + to_forget * old) * old + gate(i + to_input * old) * self.activation(g)
        hidden = gate(o + to_output * carry) * self.activation(carry)
        return hidden, [hidden, carry]

    def get_config(self) -> dict[str, Any]:
        own = {
            "peephole_initializer": keras.initializers.serialize(self.peephole_initializer),
            "peephole_regularizer": keras.regularizers.serialize(self.peephole_regularizer),
            "peephole_constraint": keras.constraints.serialize(self.peephole_constraint),
        }
        return {**super().get_config(), **own}

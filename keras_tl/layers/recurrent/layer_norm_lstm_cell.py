from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.normalization.moments import moments
from keras_tl.layers.recurrent.cell import Cell

__all__ = ["LayerNormLSTMCell"]


@keras.saving.register_keras_serializable(package="keras_tl")
class LayerNormLSTMCell(Cell):
    """An LSTM cell that normalises the inputs of its gates and its state; for `keras.layers.RNN`.

    With `LN(v) = gamma * (v - mean(v)) / sqrt(variance(v) + epsilon)` over the features, and a
    gamma for each of the three norms:

        [i, f, g, o] = LN(x @ kernel) + LN(h @ recurrent_kernel) + bias
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c') + state_beta)

    Ba, Kiros and Hinton, *Layer Normalization*, 2016 (https://arxiv.org/abs/1607.06450),
    equations 20 to 22. The paper adds a bias to each of the first two norms as well; their sum is
    the one `bias` here. The state that goes on to the next step is not normalised, as in the
    paper; TensorFlow Addons' cell passed the normalised one on.

    Args:
        units, activation, recurrent_activation, use_bias, kernel_initializer,
            recurrent_initializer, bias_initializer, unit_forget_bias, kernel_regularizer,
            recurrent_regularizer, bias_regularizer, kernel_constraint, recurrent_constraint,
            bias_constraint, dropout, recurrent_dropout, seed: as in `keras.layers.LSTMCell`.
        epsilon: is added to the variances.
        beta_initializer, gamma_initializer: of the norms.

    Input shape: `(batch, features)`, and the states h and c of `(batch, units)`. Output shape:
    `(batch, units)`, and the two next states.

    Raises:
        ValueError: if `units` is not a positive integer, a rate not in [0, 1), `epsilon` not
            above 0.

    Example:
        >>> import numpy as np
        >>> layer = keras.layers.RNN(LayerNormLSTMCell(4), return_sequences=True)
        >>> tuple(layer(np.ones((2, 5, 3), "float32")).shape)
        (2, 5, 4)
    """

    def __init__(
        self,
        units: int,
        *args: Any,
        epsilon: float = 1e-3,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.epsilon = arguments.number("epsilon", epsilon, 0, exclusive=True)
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)

        def add(name: str, size: int, initializer: Any) -> Any:
            return self.add_weight(shape=(size,), initializer=initializer, name=name)

        self.kernel_gamma = add("kernel_gamma", 4 * self.units, self.gamma_initializer)
        self.recurrent_gamma = add("recurrent_gamma", 4 * self.units, self.gamma_initializer)
        self.state_gamma = add("state_gamma", self.units, self.gamma_initializer)
        self.state_beta = add("state_beta", self.units, self.beta_initializer)

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        hidden, carry = states
        of_inputs, of_hidden = self.products(inputs, hidden, training)
        z = self._normalized(of_inputs, self.kernel_gamma)
        z = z + self._normalized(of_hidden, self.recurrent_gamma)
        if self.bias is not None:
            z = z + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        gate = self.recurrent_activation
        carry = gate(f) * carry + gate(i) * self.activation(g)
        state = self._normalized(carry, self.state_gamma) + self.state_beta
        hidden = gate(o) * self.activation(state)
        return hidden, [hidden, carry]

    def _normalized(self, x: Any, gamma: Any) -> Any:
        exact = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        mean, variance = moments(exact, (-1,))
        exact = (exact - mean) * ops.rsqrt(variance + self.epsilon)
        return ops.cast(exact, x.dtype) * gamma

    def get_config(self) -> dict[str, Any]:
        own = {
            "epsilon": self.epsilon,
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
        return {**super().get_config(), **own}

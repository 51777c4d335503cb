from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["NoisyDense"]


@keras.saving.register_keras_serializable(package="keras_tl")
class NoisyDense(keras.layers.Dense):
    """A `Dense` layer that learns how much noise its weights have: exploration in deep RL.

    In training `y = activation(x @ (kernel + kernel_sigma * e) + bias + bias_sigma * d)`, where
    the noise is drawn anew for each batch and shared by its samples; in inference `e = d = 0`.
    An agent that explores calls its network with `training=True`.
    Factorised noise is made of a normal vector `p` over the inputs and `q` over the outputs:
    `e[i, j] = f(p[i]) f(q[j])` and `d[j] = f(q[j])`, with `f(z) = sign(z) sqrt(|z|)`;
    independent noise is normal for each weight.

    Fortunato et al., *Noisy Networks for Exploration*, arXiv:1706.10295, section 3 (equations 9 to
    11) and its initialisation in section 3.2.

    Args:
        units, activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Dense`, but for the initializers' None: the paper's uniform distribution
            within +-1/sqrt(features), or +-sqrt(3/features) for independent noise.
        sigma: what the sigmas are at first: `sigma / sqrt(features)` for factorised noise, `sigma`
            for independent noise. None: the paper's 0.5 and 0.017.
        factorized: whether the noise is factorised, which draws `features + units` numbers in
            place of their product.
        seed: of the noise.

    Input shape: `(batch, ..., features)`. Output shape: `(batch, ..., units)`.

    Raises:
        ValueError: if `sigma` is not a finite number of at least 0.

    Example:
        >>> import numpy as np
        >>> layer, x = NoisyDense(3), np.ones((2, 4), "float32")
        >>> a, b, c, d = (layer(x, training=t) for t in (True, True, False, False))
        >>> bool(keras.ops.all(a == b)), bool(keras.ops.all(c == d))
        (False, True)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        sigma: float | None = None,
        factorized: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arguments.integer("units", units),
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.sigma = None if sigma is None else arguments.number("sigma", sigma, 0)
        self.factorized = factorized
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        features = arguments.static(self, input_shape, -1, "number of features")
        limit = ((1 if self.factorized else 3) / features) ** 0.5
        names = ("kernel_initializer", "bias_initializer")
        unset = [name for name in names if getattr(self, name) is None]
        for name in unset:
            setattr(self, name, keras.initializers.RandomUniform(-limit, limit))
        super().build(input_shape)
        for name in unset:  # the config stays what was given
            setattr(self, name, None)

        if self.factorized:
            sigma = (0.5 if self.sigma is None else self.sigma) / features**0.5
        else:
            sigma = 0.017 if self.sigma is None else self.sigma
        first = keras.initializers.Constant(sigma)
        self.kernel_sigma = self.add_weight(
            shape=(features, self.units), initializer=first, name="kernel_sigma"
        )
        self.bias_sigma = None
        if self.use_bias:
            self.bias_sigma = self.add_weight(
                shape=(self.units,), initializer=first, name="bias_sigma"
            )

    def call(self, inputs: Any, training: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)  # observations may be integers
        if not training:
            return super().call(inputs)
        kernel_noise, bias_noise = self._noise(inputs.shape[-1])
        y = ops.matmul(inputs, self.kernel + self.kernel_sigma * kernel_noise)
        if self.bias is not None:
            y = y + (self.bias + self.bias_sigma * bias_noise)
        return y if self.activation is None else self.activation(y)

    def _noise(self, features: int) -> tuple[Any, Any]:
        if not self.factorized:
            draws = keras.random.normal(
                (features + 1, self.units), dtype="float32", seed=self.seed_generator
            )
            draws = ops.cast(draws, self.compute_dtype)
            return draws[:-1], draws[-1]
        draws = keras.random.normal(
            (features + self.units,), dtype="float32", seed=self.seed_generator
        )
        draws = ops.cast(ops.sign(draws) * ops.sqrt(ops.abs(draws)), self.compute_dtype)
        return draws[:features, None] * draws[features:], draws[features:]

    # `Dense` would save its kernel and bias alone.
    def save_own_variables(self, store: Any) -> None:
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        own = {"sigma": self.sigma, "factorized": self.factorized, "seed": self.seed}
        return {**super().get_config(), **own}

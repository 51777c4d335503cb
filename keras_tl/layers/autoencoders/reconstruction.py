from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["Reconstruction"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class Reconstruction(keras.layers.Wrapper):
    """An autoencoder of one `Dense` layer, which is trained to give back its input.

    The output is `activation(layer(x) @ kernel_T + bias)`, where the decoder's kernel is the
    layer's own, transposed (`tied`), or a weight. The layer adds the loss: a model of it is
    compiled without one, and fitted to inputs alone. What is trained is the given layer, which can
    be a layer of another model: see `pretrain`. The loss is, with `h = layer(x)`,

        mean(sum((x - output)^2)) / 2                  over the batch, and over the features
        + weight_decay / 2 * sum(kernel^2)             over the kernels of both
        + sparsity_weight * sum(KL(sparsity || mean(h)))      over the units ("kl")
        + sparsity_weight * mean(abs(h))                      ("l1")

    `KL(p || q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q))`: each unit is to be active in the
    part `sparsity` of the samples, which makes sense for activations between 0 and 1.

    Ng et al., *UFLDL Tutorial*, "Sparse autoencoder" ("kl", whose defaults are its own); Glorot et
    al., AISTATS 2011 ("l1"); Vincent et al., ICML 2008 (`noise`). TensorLayer's `ReconLayer` had
    two fixed losses for two activations, without the halves, and trained itself by a loop of its
    own with fixed settings.

    Args:
        layer: a `keras.layers.Dense`.
        activation: of the output; the default gives any number, "sigmoid" those of [0, 1].
        tied: whether the decoder has the layer's kernel.
        noise: the part of the input that is set to 0 in training, 0 <= noise < 1: a denoising
            autoencoder, which is to give back what was there.
        weight_decay: as above.
        penalty: "kl", "l1" or None.
        sparsity: the mean activation to reach ("kl"), 0 < sparsity < 1.
        sparsity_weight: as above; the default is 3 for "kl" and 1e-3 for "l1".
        kernel_initializer, bias_initializer: of the decoder's weights.
        seed: of the noise.

    Input shape: `(batch, ..., features)`. Output shape: the same.

    Raises:
        ValueError: if an argument is none of these.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).random((64, 8)).astype("float32")
        >>> model = keras.Sequential([Reconstruction(keras.layers.Dense(4, "tanh"), noise=0.1)])
        >>> model.compile(keras.optimizers.Adam(0.01))
        >>> losses = model.fit(x, epochs=20, verbose=0).history["loss"]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        layer: keras.layers.Dense,
        activation: Any = None,
        *,
        tied: bool = True,
        noise: float = 0.0,
        weight_decay: float = 1e-4,
        penalty: str | None = None,
        sparsity: float = 0.01,
        sparsity_weight: float | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Dense):
            raise ValueError(f"`layer` must be a `keras.layers.Dense`. Received: layer={layer!r}")
        super().__init__(layer, **kwargs)
        self.activation = keras.activations.get(activation)
        self.tied = tied
        self.noise = arguments.fraction("noise", noise)
        self.weight_decay = arguments.number("weight_decay", weight_decay, 0)
        self.penalty = penalty
        if penalty is not None:
            arguments.choice("penalty", penalty, ("kl", "l1"))
        self.sparsity = arguments.fraction("sparsity", sparsity)
        if not self.sparsity:
            raise ValueError(f"`sparsity` must be above 0. Received: sparsity={sparsity!r}")
        if sparsity_weight is None:
            sparsity_weight = 1e-3 if penalty == "l1" else 3.0
        self.sparsity_weight = arguments.number("sparsity_weight", sparsity_weight, 0)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        features = arguments.static(self, input_shape, -1, "number of features")
        super().build(input_shape)
        self.kernel = None
        if not self.tied:
            self.kernel = self.add_weight(
                shape=(self.layer.units, features),
                initializer=self.kernel_initializer,
                name="kernel",
            )
        self.bias = self.add_weight(
            shape=(features,), initializer=self.bias_initializer, name="bias"
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = inputs
        if training and self.noise:
            drawn = keras.random.uniform(ops.shape(x), dtype="float32", seed=self.seed_generator)
            x = ops.where(drawn >= self.noise, x, ops.zeros((), x.dtype))
        hidden = self.layer(x)
        own = ops.convert_to_tensor(self.layer.kernel)
        kernel = ops.transpose(own) if self.kernel is None else ops.convert_to_tensor(self.kernel)
        hidden = ops.cast(hidden, self.compute_dtype)
        outputs = ops.matmul(hidden, ops.cast(kernel, self.compute_dtype))
        outputs = self.activation(outputs + ops.convert_to_tensor(self.bias))
        self.add_loss(self._loss(inputs, hidden, outputs, [own, kernel]))
        return outputs

    def _loss(self, inputs: Any, hidden: Any, outputs: Any, kernels: list[Any]) -> Any:
        # Half precision is too little for sums of squares.
        inputs, hidden, outputs, *kernels = (
            ops.cast(v, keras.backend.result_type(v.dtype, "float32"))
            for v in (inputs, hidden, outputs, *kernels)
        )
        loss = ops.mean(ops.sum(ops.square(inputs - outputs), axis=-1)) / 2
        loss += self.weight_decay / 2 * sum(ops.sum(ops.square(k)) for k in kernels)
        if self.penalty == "kl":
            active = ops.mean(hidden, axis=tuple(range(len(hidden.shape) - 1)))
            active = ops.clip(active, 1e-7, 1 - 1e-7)
            p = self.sparsity
            divergence = p * ops.log(p / active) + (1 - p) * ops.log((1 - p) / (1 - active))
            loss += self.sparsity_weight * ops.sum(divergence)
        elif self.penalty == "l1":
            loss += self.sparsity_weight * ops.mean(ops.abs(hidden))
        return loss

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "tied": self.tied,
            "noise": self.noise,
            "weight_decay": self.weight_decay,
            "penalty": self.penalty,
            "sparsity": self.sparsity,
            "sparsity_weight": self.sparsity_weight,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }
        # Keras would build the layer with it, ahead of the wrapper and so not under its path.
        config["layer"].pop("build_config", None)
        return config

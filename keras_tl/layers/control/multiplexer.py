"""One of several layers, chosen while the compiled step runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.control import attached

__all__ = ["Multiplexer"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Multiplexer(keras.layers.Layer):
    """Runs one of its layers, for the whole batch; the others are not evaluated.

    The choice is made inside the compiled step, so that another one compiles nothing again. It is
    the scalar `index` that the layer is called with, or else a non-trainable weight which
    `select` sets, also while `fit` is under way (see `Control.assign`).

    TensorLayer's `MultiplexerLayer` took the outputs of all its branches and computed each.

    Args:
        layers: the layers, Sequential and other models among them. For the same input they must
            give outputs of the same shapes and dtypes. They may have state (BatchNormalization,
            Dropout): that of the chosen one is updated.
        selected: index of the layer that the weight chooses at first.
        **kwargs: as for every layer, `name` and `dtype`.

    Call arguments:
        inputs: what each of the layers takes as its first argument.
        index: integer scalar, a tensor or an int. A tensor out of range counts as the nearest
            index.
        training: as for every layer.

    Input shape: that of the layers.

    Output shape: that of the layers.

    The weights of the layers that are not chosen get gradients of zero. An optimizer with momentum
    or weight decay moves them all the same.

    Raises:
        ValueError: if there is no layer, an index is out of range or no scalar, or, at build, if
            outputs differ.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import Multiplexer
    >>> layer = Multiplexer([keras.layers.Activation("relu"), keras.layers.Activation("linear")])
    >>> x = np.array([[-1.0, 2.0]], "float32")
    >>> keras.ops.convert_to_numpy(layer(x)).tolist()
    [[0.0, 2.0]]
    >>> layer.select(1)
    >>> keras.ops.convert_to_numpy(layer(x)).tolist()
    [[-1.0, 2.0]]
    >>> keras.ops.convert_to_numpy(layer(x, index=0)).tolist()
    [[0.0, 2.0]]
    """

    def __init__(
        self, layers: Sequence[keras.layers.Layer], selected: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.layers = list(layers)
        if not self.layers or not all(isinstance(la, keras.layers.Layer) for la in self.layers):
            raise ValueError(f"`layers` must be a list of layers. Received: layers={layers!r}")
        self.selected = self._checked("selected", selected)
        self.supports_masking = all(layer.supports_masking for layer in self.layers)
        self._selector = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.selected),
            dtype="int32",
            trainable=False,
            name="selected",
        )

    def _checked(self, name: str, index: int) -> int:
        if arguments.integer(name, index, 0) >= len(self.layers):
            raise ValueError(
                f"`{name}` must be below {len(self.layers)}, the number of layers. "
                f"Received: {name}={index}"
            )
        return int(index)

    def select(self, index: int) -> None:
        """Choose the layer that is run from the next step on, unless a call brings an `index`.

        Raises:
            ValueError: if the index is out of range.
            RuntimeError: on JAX in the middle of a step.
        """
        attached.assign({"selected": self._selector}, {"selected": self._checked("index", index)})

    def build(self, inputs_shape: Any, index_shape: Any = None) -> None:
        for layer in self.layers:
            if not layer.built:
                layer.build(inputs_shape)
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, self.compute_dtype), inputs_shape
        )
        specs = [
            keras.tree.map_structure(
                lambda t: (t.shape, t.dtype), layer.compute_output_spec(inputs)
            )
            for layer in self.layers
        ]
        if any(spec != specs[0] for spec in specs):
            raise ValueError(
                "`layers` must give outputs of the same shapes and dtypes. "
                f"Received: {', '.join(map(str, specs))} for inputs of {inputs_shape}"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("index"), np.integer):  # Keras would make it a tensor
            kwargs["index"] = int(kwargs["index"])
        return super().__call__(*args, **kwargs)

    def call(
        self, inputs: Any, index: Any = None, training: bool | None = None, mask: Any = None
    ) -> Any:
        state = [v for v in self.variables if v is not self._selector]
        # Read here: within a branch the scope around this call is out of sight.
        values = [ops.convert_to_tensor(v.value, v.dtype) for v in state]
        added: list[keras.layers.Layer] = []
        branches = [self._branch(la, state, inputs, training, mask, added) for la in self.layers]
        if isinstance(index, int):
            outputs, updates, loss = branches[self._checked("index", index)](values)
        else:
            index = ops.convert_to_tensor(self._selector if index is None else index, "int32")
            if len(index.shape):
                raise ValueError(f"`index` must be a scalar. Received: shape {tuple(index.shape)}")
            outputs, updates, loss = ops.switch(index, branches, values)
        for variable, value, update in zip(state, values, updates, strict=True):
            if not variable.trainable and update is not value:
                variable.assign(update)
        if added:
            self.add_loss(loss)
        if training and keras.backend.backend() == "torch":
            outputs = _with_gradients(outputs, self.trainable_variables)
        return outputs

    def _branch(
        self,
        layer: keras.layers.Layer,
        state: list[keras.Variable],
        inputs: Any,
        training: bool | None,
        mask: Any,
        added: list[keras.layers.Layer],
    ) -> Callable[[list[Any]], tuple[Any, list[Any], Any]]:
        """A function from the values of `state` to outputs, its updates and the sum of its losses.

        The layers that do add losses come to `added`.

        It is `layer.stateless_call` by way of `__call__`, which also casts to the layer's own
        dtype, tells inner layers whether this is training, and adds activity regularisation.
        """
        takes_mask = mask is not None and "mask" in inspect.signature(layer.call).parameters
        masks = {"mask": mask} if takes_mask else {}

        def run(values: list[Any]) -> tuple[Any, list[Any], Any]:
            with keras.StatelessScope(
                zip(state, values, strict=True), collect_losses=True
            ) as scope:
                outputs = layer(inputs, training=training, **masks)
                added.extend([layer] if scope.losses else [])
                losses = [ops.cast(loss, "float32") for loss in scope.losses]
                # Private: else the layer takes a later loss at the same address for its own.
                layer._clear_losses()
            loss = sum(losses, start=ops.zeros((), "float32"))
            return outputs, [scope.get_current_value(v) for v in state], loss

        return run

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.layers[0].compute_mask(inputs, previous_mask)

    def compute_output_shape(self, inputs_shape: Any, index_shape: Any = None) -> Any:
        return self.layers[0].compute_output_shape(inputs_shape)

    def compute_output_spec(self, inputs: Any, index: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(index, int):
            self._checked("index", index)
        return self.layers[0].compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        for config in layers:
            config.pop("build_config", None)  # the layers are built by this one, within its path
        return {**super().get_config(), "layers": layers, "selected": self.selected}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Multiplexer:
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


def _with_gradients(outputs: Any, weights: list[keras.Variable]) -> Any:
    """On torch, what was not run has no gradient at all: give it zeros, as elsewhere."""

    def identity(output: Any, *values: Any) -> Any:
        def gradient(*args: Any, upstream: Any) -> Any:
            return upstream, *[ops.zeros_like(value) for value in values]

        return output, gradient

    first, *others = keras.tree.flatten(outputs)
    first = ops.custom_gradient(identity)(first, *[w.value for w in weights])
    return keras.tree.pack_sequence_as(outputs, [first, *others])

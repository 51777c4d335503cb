"""A function inside the compiled step, with variables that can be set while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers.control import attached
from keras_tl.layers.functions import FunctionLayer

__all__ = ["Control"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Control(FunctionLayer):
    """A function of tensors, the step and named control variables.

    The function is compiled with the step. Its control variables are non-trainable weights: a
    callback, or whoever calls `train_on_batch`, sets them by `assign`, and the next step is
    computed with the new values. Nothing is traced or compiled again, on any backend. They suit
    schedules, annealing and gates. They are saved with the model and can be set from outside the
    process as well (`keras-tl runs set`), as each scalar variable can.

    This is the paper's "control functions that are lazily evaluated to adjust training behaviours"
    (https://arxiv.org/abs/1707.08551, section 2.1), for which TensorLayer itself had placeholders.

    Args:
        fn: `fn(inputs, step, **controls)`, a function of tensors under
            `@keras.saving.register_keras_serializable()`. `inputs` is what the layer was called
            with, a tensor or a structure of tensors; `step` an int32 scalar, the number of training
            calls before this one; each control variable comes as a tensor by its name, a float in
            the compute dtype.
        controls: initial values by name: numbers, bools or nested lists of them. Integers are kept
            as int32. They are the arguments of `fn` after the first two, all of those that have no
            default.
        **kwargs: as for every layer, `name` and `dtype`.

    Input shape: any that `fn` takes.

    Output shape: that of `fn`.

    The step counts calls with `training=True`; a layer that is called twice in a step counts two,
    and one with `trainable=False` counts none. With `steps_per_execution`, new values are seen by
    the next execution. On JAX they must be set in a callback, or between two calls: in the middle
    of a step, which is where another thread or a data generator would be, it is refused. The mask
    of the input is passed on.

    Raises:
        ValueError: if `fn` is not registered or does not take the controls, a name is `step` or no
            identifier, or a value is none or too large for its type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import Control
    >>> @keras.saving.register_keras_serializable("example")
    ... def soften(logits, step, temperature):
    ...     return keras.ops.softmax(logits / temperature)
    >>> layer = Control(soften, {"temperature": 1.0})
    >>> layer.assign(temperature=100.0)
    >>> outputs = layer(np.array([[0.0, 10.0]], "float32"))
    >>> np.round(keras.ops.convert_to_numpy(outputs), 2).tolist()
    [[0.47999998927116394, 0.5199999809265137]]
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        controls: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(fn, **kwargs)
        self.controls = dict(controls or {})
        self._named = {"step": self._control("step", 0)}
        for name, value in self.controls.items():
            if not isinstance(name, str) or not name.isidentifier() or name == "step":
                raise ValueError(
                    "`controls` must have identifiers other than `step` as names. "
                    f"Received: controls={dict(self.controls)!r}"
                )
            self._named[name] = self._control(name, value)
        try:
            inspect.signature(fn).bind(None, step=0, **self.controls)
        except TypeError as error:
            raise ValueError(
                "`controls` must be what `fn` takes beside its inputs and the `step`. "
                f"Received: controls={self.controls!r}, fn={fn!r}, of which: {error}"
            ) from None

    def _control(self, name: str, value: Any) -> keras.Variable:
        array = attached.array_of(value)
        dtypes = {"b": "bool", "i": "int32", "f": None}
        if array.dtype.kind not in dtypes:
            raise ValueError(
                "`controls` must hold numbers, bools or nested lists of them. "
                f"Received: {name}={value!r}"
            )
        if not attached.in_range(array, "int32"):
            raise ValueError(
                f"`controls` must hold integers that int32 has. Received: {name}={value!r}"
            )
        return self.add_weight(
            shape=array.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(array, dtype),
            dtype=dtypes[array.dtype.kind],
            trainable=False,
            name=name,
        )

    def assign(self, **values: Any) -> None:
        """Set control variables, or the `step`, by name; the next step is computed with them.

        Raises:
            ValueError: if a name is unknown, or a value has another shape or kind.
            RuntimeError: on JAX in the middle of a step.
        """
        attached.assign(self._named, values)

    def read(self) -> dict[str, np.ndarray]:
        """The values of the control variables and of the `step`, by name."""
        return attached.read(self._named)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # Cast here: while torch finds shapes, Keras does not.
        values = {
            name: ops.cast(v, self.compute_dtype if "float" in v.dtype else v.dtype)
            for name, v in self._named.items()
        }
        outputs = self.fn(inputs, **values)
        if training and self.trainable:
            step = self._named["step"]
            step.assign(step + 1)
        return outputs

    def get_config(self) -> dict[str, Any]:
        controls = {name: np.asarray(value).tolist() for name, value in self.controls.items()}
        return {**super().get_config(), "controls": controls}

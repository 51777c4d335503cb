from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.regularizers import groups

__all__ = ["MaxNorm"]


@keras.saving.register_keras_serializable(package="keras_tl")
class MaxNorm(keras.regularizers.Regularizer):
    """A penalty on the largest absolute weight, of the kernel or of each group.

    `factor * max |x|` (TensorLayer's `maxnorm_regularizer`), or the sum of the maxima of the
    groups, each of which is all that leads to one output (`group="outputs"`, its
    `maxnorm_o_regularizer`) or away from one input (`group="inputs"`, its
    `maxnorm_i_regularizer`). `keras.constraints.MaxNorm` is no penalty: it cuts.

    Args:
        factor: of the penalty.
        group: "inputs", "outputs", or `None`: the kernel is one group.

    Raises:
        ValueError: if `factor` is negative or not finite, if `group` is none of the three, or, in
            use with groups, if the kernel has fewer than two axes.

    Example:
        >>> import numpy as np
        >>> from keras_tl.regularizers import MaxNorm
        >>> kernel = np.array([[3.0, 0.0], [-4.0, 2.0]], "float32")
        >>> print(float(MaxNorm(0.5)(kernel)), float(MaxNorm(0.5, "outputs")(kernel)))
        2.0 3.0
    """

    def __init__(self, factor: float = 0.01, group: str | None = None) -> None:
        self.factor = groups.factor(factor)
        if group is not None and group not in groups.GROUPS:
            raise ValueError(
                f"`group` must be None or one of {groups.GROUPS}. Received: group={group!r}"
            )
        self.group = group

    def __call__(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        axis = None if self.group is None else groups.axes(self, x)
        return self.factor * ops.sum(ops.max(ops.abs(x), axis=axis))

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor, "group": self.group}

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.regularizers import groups

__all__ = ["GroupLasso"]


@keras.saving.register_keras_serializable(package="keras_tl")
class GroupLasso(keras.regularizers.Regularizer):
    """Makes whole neurons of a layer vanish, or whole inputs.

    `factor * sum over groups of sqrt(sum of squares of the group)`, where a group is all that
    leads to one output (`group="outputs"`, TensorLayer's `lo_regularizer`) or away from one input
    (`group="inputs"`, its `li_regularizer`). A group that is 0 has the gradient 0.

    Source: Yuan and Lin, "Model selection and estimation in regression with grouped variables",
    J. R. Statist. Soc. B 68, 2006, equation 2.3; for neurons Scardapane et al., arXiv:1607.00485.

    Args:
        factor: of the penalty.
        group: "inputs" or "outputs".

    Raises:
        ValueError: if `factor` is negative or not finite, if `group` is none of the two, or, in
            use, if the kernel has fewer than two axes.

    Example:
        >>> import numpy as np
        >>> from keras_tl.regularizers import GroupLasso
        >>> kernel = np.array([[3.0, 0.0], [4.0, 0.0]], "float32")
        >>> print(*[float(GroupLasso(0.5, group)(kernel)) for group in ("inputs", "outputs")])
        3.5 2.5
    """

    def __init__(self, factor: float = 0.01, group: str = "outputs") -> None:
        self.factor = groups.factor(factor)
        if group not in groups.GROUPS:
            raise ValueError(f"`group` must be one of {groups.GROUPS}. Received: group={group!r}")
        self.group = group

    def __call__(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        squares = ops.sum(ops.square(x), axis=groups.axes(self, x))
        # The root has no slope at 0, and `where` passes on a NaN of the side that it does not take.
        there = squares > 0
        norms = ops.sqrt(ops.where(there, squares, ops.ones_like(squares)))
        return self.factor * ops.sum(ops.where(there, norms, ops.zeros_like(norms)))

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor, "group": self.group}

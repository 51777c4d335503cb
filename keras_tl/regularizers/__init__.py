"""Regularizers that Keras lacks."""

from keras_tl.regularizers.group_lasso import GroupLasso
from keras_tl.regularizers.max_norm import MaxNorm

__all__ = ["GroupLasso", "MaxNorm"]

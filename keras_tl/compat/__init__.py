"""Weights of TensorLayer models, in Keras models."""

from keras_tl.compat.files import read_tensorlayer
from keras_tl.compat.loading import load_tensorlayer

__all__ = ["load_tensorlayer", "read_tensorlayer"]

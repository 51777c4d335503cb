"""Pooling that remembers where the maximum was, and its inverse."""

from keras_tl.layers.pooling.max_pooling_with_argmax import MaxPooling2DWithArgmax
from keras_tl.layers.pooling.max_unpooling import MaxUnpooling2D

__all__ = ["MaxPooling2DWithArgmax", "MaxUnpooling2D"]

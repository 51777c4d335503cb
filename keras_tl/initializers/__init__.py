"""Initial values that Keras lacks."""

from keras_tl.initializers.bilinear_upsampling import BilinearUpsampling
from keras_tl.initializers.icnr import ICNR

__all__ = ["ICNR", "BilinearUpsampling"]

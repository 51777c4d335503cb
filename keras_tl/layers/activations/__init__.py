"""Activations with weights or a form that Keras lacks."""

from keras_tl.layers.activations.leaky_twice_relu6 import LeakyTwiceReLU6
from keras_tl.layers.activations.maxout import Maxout
from keras_tl.layers.activations.prelu6 import PReLU6, PTReLU6
from keras_tl.layers.activations.scale import Scale

__all__ = ["LeakyTwiceReLU6", "Maxout", "PReLU6", "PTReLU6", "Scale"]

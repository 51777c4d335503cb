"""Convolutions that sample or mask their input, and what goes with them."""

from keras_tl.layers.convolutional.deformable_conv import DeformableConv2D
from keras_tl.layers.convolutional.masked_conv import MaskedConv2D, MaskedConv3D
from keras_tl.layers.convolutional.spatial_transformer import SpatialTransformer2D
from keras_tl.layers.convolutional.squeeze_excite import SqueezeExcite2D

__all__ = [
    "DeformableConv2D",
    "MaskedConv2D",
    "MaskedConv3D",
    "SpatialTransformer2D",
    "SqueezeExcite2D",
]

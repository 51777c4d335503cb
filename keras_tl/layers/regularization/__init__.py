"""Layers that disturb a network in training."""

from keras_tl.layers.regularization.drop_block_2d import DropBlock2D
from keras_tl.layers.regularization.drop_connect_conv2d import DropConnectConv2D
from keras_tl.layers.regularization.drop_connect_dense import DropConnectDense
from keras_tl.layers.regularization.gaussian_noise import GaussianNoise
from keras_tl.layers.regularization.noisy_dense import NoisyDense
from keras_tl.layers.regularization.stochastic_depth import StochasticDepth

__all__ = [
    "DropBlock2D",
    "DropConnectConv2D",
    "DropConnectDense",
    "GaussianNoise",
    "NoisyDense",
    "StochasticDepth",
]

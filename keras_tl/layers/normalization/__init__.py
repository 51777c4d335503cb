"""Normalisations of activations and of weights."""

from keras_tl.layers.normalization.filter_response_normalization import FilterResponseNormalization
from keras_tl.layers.normalization.instance_normalization import InstanceNormalization
from keras_tl.layers.normalization.local_response_normalization import LocalResponseNormalization
from keras_tl.layers.normalization.spectral_normalization import SpectralNormalization
from keras_tl.layers.normalization.switch_normalization import SwitchNormalization
from keras_tl.layers.normalization.weight_normalization import WeightNormalization

__all__ = [
    "FilterResponseNormalization",
    "InstanceNormalization",
    "LocalResponseNormalization",
    "SpectralNormalization",
    "SwitchNormalization",
    "WeightNormalization",
]

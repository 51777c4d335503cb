"""Layers that learn to reconstruct what they are given."""

from keras_tl.layers.autoencoders.pretrain import pretrain
from keras_tl.layers.autoencoders.reconstruction import Reconstruction

__all__ = ["Reconstruction", "pretrain"]

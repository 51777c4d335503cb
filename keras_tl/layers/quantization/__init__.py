"""Layers that are trained for few bits."""

from keras_tl.layers.quantization.binary import BinaryConv2D, BinaryDense
from keras_tl.layers.quantization.dorefa import DoReFaConv2D, DoReFaDense
from keras_tl.layers.quantization.fake_quant import FakeQuantConv2D, FakeQuantDense
from keras_tl.layers.quantization.folded import (
    FakeQuantConv2DWithBatchNorm,
    FakeQuantDenseWithBatchNorm,
)
from keras_tl.layers.quantization.packing import unpack_weights
from keras_tl.layers.quantization.sign import Sign
from keras_tl.layers.quantization.ternary import TernaryConv2D, TernaryDense

__all__ = [
    "BinaryConv2D",
    "BinaryDense",
    "DoReFaConv2D",
    "DoReFaDense",
    "FakeQuantConv2D",
    "FakeQuantConv2DWithBatchNorm",
    "FakeQuantDense",
    "FakeQuantDenseWithBatchNorm",
    "Sign",
    "TernaryConv2D",
    "TernaryDense",
    "unpack_weights",
]

"""Layers that Keras 3 lacks, on TensorFlow, JAX and PyTorch."""

# activations
# control
# convolutional
# detection
# normalization
from keras_tl.layers.normalization import (
    FilterResponseNormalization,
    InstanceNormalization,
    LocalResponseNormalization,
    SpectralNormalization,
    SwitchNormalization,
    WeightNormalization,
)

# pooling
# quantization
from keras_tl.layers.quantization import (
    BinaryConv2D,
    BinaryDense,
    DoReFaConv2D,
    DoReFaDense,
    FakeQuantConv2D,
    FakeQuantConv2DWithBatchNorm,
    FakeQuantDense,
    FakeQuantDenseWithBatchNorm,
    Sign,
    TernaryConv2D,
    TernaryDense,
    unpack_weights,
)

# regularization
# reshaping
# upsampling

__all__ = [
    "BinaryConv2D",
    "BinaryDense",
    "DoReFaConv2D",
    "DoReFaDense",
    "FakeQuantConv2D",
    "FakeQuantConv2DWithBatchNorm",
    "FakeQuantDense",
    "FakeQuantDenseWithBatchNorm",
    "FilterResponseNormalization",
    "InstanceNormalization",
    "LocalResponseNormalization",
    "Sign",
    "SpectralNormalization",
    "SwitchNormalization",
    "TernaryConv2D",
    "TernaryDense",
    "WeightNormalization",
    "unpack_weights",
]

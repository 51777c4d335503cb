"""Layers that Keras 3 lacks, on TensorFlow, JAX and PyTorch."""

# activations
from keras_tl.layers.activations import LeakyTwiceReLU6, Maxout, PReLU6, PTReLU6, Scale

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
from keras_tl.layers.regularization import (
    DropBlock2D,
    DropConnectConv2D,
    DropConnectDense,
    GaussianNoise,
    NoisyDense,
    StochasticDepth,
)

# reshaping
# upsampling

__all__ = [
    "BinaryConv2D",
    "BinaryDense",
    "DoReFaConv2D",
    "DoReFaDense",
    "DropBlock2D",
    "DropConnectConv2D",
    "DropConnectDense",
    "FakeQuantConv2D",
    "FakeQuantConv2DWithBatchNorm",
    "FakeQuantDense",
    "FakeQuantDenseWithBatchNorm",
    "FilterResponseNormalization",
    "GaussianNoise",
    "InstanceNormalization",
    "LeakyTwiceReLU6",
    "LocalResponseNormalization",
    "Maxout",
    "NoisyDense",
    "PReLU6",
    "PTReLU6",
    "Scale",
    "Sign",
    "SpectralNormalization",
    "StochasticDepth",
    "SwitchNormalization",
    "TernaryConv2D",
    "TernaryDense",
    "WeightNormalization",
    "unpack_weights",
]

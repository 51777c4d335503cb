"""Layers that Keras 3 lacks, on TensorFlow, JAX and PyTorch."""

# activations
from keras_tl.layers.activations import LeakyTwiceReLU6, Maxout, PReLU6, PTReLU6, Scale

# autoencoders
from keras_tl.layers.autoencoders import Reconstruction, pretrain

# control
from keras_tl.layers.control import Control, Multiplexer, Shared

# convolutional
from keras_tl.layers.convolutional import (
    DeformableConv2D,
    MaskedConv2D,
    MaskedConv3D,
    SpatialTransformer2D,
    SqueezeExcite2D,
)

# detection
from keras_tl.layers.detection import (
    CornerPooling2D,
    NonMaxSuppression,
    ROIAlign2D,
    ROIPooling2D,
    non_max_suppression,
)

# embedding
from keras_tl.layers.embedding import AverageEmbedding, SkipGrams, Word2VecEmbedding

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
from keras_tl.layers.pooling import MaxPooling2DWithArgmax, MaxUnpooling2D

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

# recurrent
from keras_tl.layers.recurrent import LayerNormLSTMCell, PeepholeLSTMCell

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
from keras_tl.layers.reshaping import (
    ChannelShuffle,
    EinMix,
    ElementwiseLambda,
    Padding,
    Rearrange,
    Reduce,
)

# sequences
from keras_tl.layers.sequences import CRF, Seq2Seq

# upsampling
from keras_tl.layers.upsampling import SubpixelConv1D, SubpixelConv2D, SubpixelConv3D

__all__ = [
    "AverageEmbedding",
    "BinaryConv2D",
    "BinaryDense",
    "CRF",
    "ChannelShuffle",
    "Control",
    "CornerPooling2D",
    "DeformableConv2D",
    "DoReFaConv2D",
    "DoReFaDense",
    "DropBlock2D",
    "DropConnectConv2D",
    "DropConnectDense",
    "EinMix",
    "ElementwiseLambda",
    "FakeQuantConv2D",
    "FakeQuantConv2DWithBatchNorm",
    "FakeQuantDense",
    "FakeQuantDenseWithBatchNorm",
    "FilterResponseNormalization",
    "GaussianNoise",
    "InstanceNormalization",
    "LayerNormLSTMCell",
    "LeakyTwiceReLU6",
    "LocalResponseNormalization",
    "MaskedConv2D",
    "MaskedConv3D",
    "MaxPooling2DWithArgmax",
    "MaxUnpooling2D",
    "Maxout",
    "Multiplexer",
    "NoisyDense",
    "NonMaxSuppression",
    "PReLU6",
    "PTReLU6",
    "Padding",
    "PeepholeLSTMCell",
    "ROIAlign2D",
    "ROIPooling2D",
    "Rearrange",
    "Reconstruction",
    "Reduce",
    "Scale",
    "Seq2Seq",
    "Shared",
    "Sign",
    "SkipGrams",
    "SpatialTransformer2D",
    "SpectralNormalization",
    "SqueezeExcite2D",
    "StochasticDepth",
    "SubpixelConv1D",
    "SubpixelConv2D",
    "SubpixelConv3D",
    "SwitchNormalization",
    "TernaryConv2D",
    "TernaryDense",
    "WeightNormalization",
    "Word2VecEmbedding",
    "non_max_suppression",
    "pretrain",
    "unpack_weights",
]

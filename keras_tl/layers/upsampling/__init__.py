"""Resolution out of channels."""

from keras_tl.layers.upsampling.subpixel_conv import (
    SubpixelConv1D,
    SubpixelConv2D,
    SubpixelConv3D,
)

__all__ = ["SubpixelConv1D", "SubpixelConv2D", "SubpixelConv3D"]

"""The room `upsampling` in the table of layers."""

from __future__ import annotations

from harness import Case

from keras_tl.layers import SubpixelConv1D, SubpixelConv2D, SubpixelConv3D

CASES = [
    Case("SubpixelConv1D", SubpixelConv1D, ((2, 3, 4),), free=(1,), fixed=(2,)),
    Case("SubpixelConv2D", SubpixelConv2D, ((2, 3, 4, 8),), free=(1, 2), fixed=(3,)),
    Case(
        "SubpixelConv2D-torch",
        lambda **kw: SubpixelConv2D((2, 3), "torch", "channels_first", **kw),
        ((2, 12, 3, 4),),
        free=(2, 3),
        fixed=(1,),
    ),
    Case(
        "SubpixelConv3D",
        lambda **kw: SubpixelConv3D((1, 2, 2), **kw),
        ((2, 2, 3, 4, 8),),
        free=(1, 2, 3),
        fixed=(4,),
    ),
]

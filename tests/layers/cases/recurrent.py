"""Recurrent cells, without `keras.layers.RNN`."""

from __future__ import annotations

from functools import partial

from harness import Case

from keras_tl.layers import LayerNormLSTMCell, PeepholeLSTMCell

CASES = [
    Case(
        make.__name__,
        partial(make, 4),
        ((2, 3), (2, 4), (2, 4)),
        call="cell",
        fixed=(1,),
    )
    for make in (LayerNormLSTMCell, PeepholeLSTMCell)
]

"""Cells that Keras' `RNN` runs."""

from keras_tl.layers.recurrent.layer_norm_lstm_cell import LayerNormLSTMCell
from keras_tl.layers.recurrent.peephole_lstm_cell import PeepholeLSTMCell

__all__ = ["LayerNormLSTMCell", "PeepholeLSTMCell"]

"""Sequences made from sequences, and labelled."""

from keras_tl.layers.sequences.crf import CRF
from keras_tl.layers.sequences.seq2seq import Seq2Seq

__all__ = ["CRF", "Seq2Seq"]

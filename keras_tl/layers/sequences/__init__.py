"""Sequences made from sequences, and labelled."""

from keras_tl.layers.sequences.seq2seq import Seq2Seq

__all__ = ["Seq2Seq"]

"""Losses that Keras lacks."""

from keras_tl.losses.berhu import BerHu
from keras_tl.losses.jaccard import Jaccard
from keras_tl.losses.normalized_mean_squared_error import NormalizedMeanSquaredError
from keras_tl.losses.sequence_crossentropy import SequenceCrossentropy

__all__ = ["BerHu", "Jaccard", "NormalizedMeanSquaredError", "SequenceCrossentropy"]

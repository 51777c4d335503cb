"""Metrics that Keras lacks."""

from keras_tl.metrics.bleu import BLEU
from keras_tl.metrics.confusion_matrix import ConfusionMatrix
from keras_tl.metrics.hard_dice import HardDice, HardIoU

__all__ = ["BLEU", "ConfusionMatrix", "HardDice", "HardIoU"]

"""What object detectors need around a network."""

from keras_tl.layers.detection.corner_pooling_2d import CornerPooling2D
from keras_tl.layers.detection.non_max_suppression import NonMaxSuppression, non_max_suppression
from keras_tl.layers.detection.roi_align_2d import ROIAlign2D
from keras_tl.layers.detection.roi_pooling_2d import ROIPooling2D

__all__ = [
    "CornerPooling2D",
    "NonMaxSuppression",
    "ROIAlign2D",
    "ROIPooling2D",
    "non_max_suppression",
]

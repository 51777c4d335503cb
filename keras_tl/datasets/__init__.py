"""Datasets that keep changing: samples, labels, tags and predictions as documents of MongoDB."""

from keras_tl.datasets.catalog import Datasets
from keras_tl.datasets.collection import Dataset
from keras_tl.datasets.fields import Array, Boxes, Bytes, Field, Mask, Text
from keras_tl.datasets.labels import Label
from keras_tl.datasets.media import Audio, Image
from keras_tl.datasets.schema import Schema

__all__ = [
    "Array",
    "Audio",
    "Boxes",
    "Bytes",
    "Dataset",
    "Datasets",
    "Field",
    "Image",
    "Label",
    "Mask",
    "Schema",
    "Text",
]

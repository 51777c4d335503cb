"""Datasets that keep changing: samples, labels, tags and predictions as documents of MongoDB."""

from keras_tl.datasets.batches import Batches
from keras_tl.datasets.catalog import Datasets
from keras_tl.datasets.collection import Dataset
from keras_tl.datasets.fields import Array, Boxes, Bytes, Field, Mask, Text
from keras_tl.datasets.labels import Label
from keras_tl.datasets.media import Audio, Image
from keras_tl.datasets.resolved import Resolved
from keras_tl.datasets.sample import Sample
from keras_tl.datasets.schema import Schema
from keras_tl.datasets.snapshots import Snapshot
from keras_tl.datasets.view import View
from keras_tl.datasets.watching import Change

__all__ = [
    "Array",
    "Audio",
    "Batches",
    "Boxes",
    "Bytes",
    "Change",
    "Dataset",
    "Datasets",
    "Field",
    "Image",
    "Label",
    "Mask",
    "Resolved",
    "Sample",
    "Schema",
    "Snapshot",
    "Text",
    "View",
]

"""Datasets that keep changing: samples, labels, tags and predictions as documents of MongoDB."""

from keras_tl.datasets.batches.batches import Batches
from keras_tl.datasets.catalog import Datasets
from keras_tl.datasets.collection import Dataset
from keras_tl.datasets.schema.fields import Array, Boxes, Bytes, Field, Mask, Text
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.schema.media import Audio, Image
from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.snapshots.snapshots import Snapshot
from keras_tl.datasets.views.resolved import Resolved
from keras_tl.datasets.views.sample import Sample
from keras_tl.datasets.views.view import View
from keras_tl.datasets.views.watching import Change

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

"""The life of a model: its runs, events and versions, in MongoDB."""

from keras_tl.models.aliases import AliasMoved
from keras_tl.models.catalog import Models
from keras_tl.models.history import RunRecord, Runs
from keras_tl.models.registry import Versions
from keras_tl.models.retention import Keep
from keras_tl.models.runs import Run
from keras_tl.models.selection import Version, best

__all__ = [
    "AliasMoved",
    "Keep",
    "Models",
    "Run",
    "RunRecord",
    "Runs",
    "Version",
    "Versions",
    "best",
]

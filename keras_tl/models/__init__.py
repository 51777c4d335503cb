"""The life of a model: its runs, events and versions, in MongoDB."""

from keras_tl.models.history import RunRecord, Runs
from keras_tl.models.registry import Models, Version, Versions
from keras_tl.models.runs import Run

__all__ = ["Models", "Run", "RunRecord", "Runs", "Version", "Versions"]

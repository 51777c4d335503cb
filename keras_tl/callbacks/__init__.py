"""What `model.fit` takes to keep its events and its model in MongoDB."""

from keras_tl.callbacks.backup import MongoBackupAndRestore
from keras_tl.callbacks.broadcast import MongoBroadcast
from keras_tl.callbacks.checkpoint import MongoCheckpoint
from keras_tl.callbacks.logger import MongoLogger

__all__ = ["MongoBackupAndRestore", "MongoBroadcast", "MongoCheckpoint", "MongoLogger"]

from __future__ import annotations

import subprocess
import sys

import pytest

import keras_tl.storage


def test_storage_modules_import_neither_pymongo_nor_kafka() -> None:
    code = """
import sys
import keras_tl.storage
from keras_tl.storage import Blobs, Lease, LeaseLost, compile_query, records, tensors
heavy = {"pymongo", "gridfs", "kafka"} & {name.partition(".")[0] for name in sys.modules}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_there_and_others_are_not() -> None:
    for name in keras_tl.storage.__all__:
        assert getattr(keras_tl.storage, name).__name__ == name
        assert name in dir(keras_tl.storage)
    with pytest.raises(AttributeError, match="'Blob'"):
        keras_tl.storage.Blob  # noqa: B018

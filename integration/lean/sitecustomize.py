"""Hides packages from the processes that tests start: Keras imports what it finds, used or not.

`conftest.py` has this folder on their PYTHONPATH: one costs 2 s of CPU then instead of 6.
"""

import os
import sys

hidden = set(os.environ.get("KERAS_TL_TEST_HIDE", "").split()) - {os.environ.get("KERAS_BACKEND")}


class Hides:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name in hidden:  # None in sys.modules would say that it is there
            raise ModuleNotFoundError(f"{name} is hidden by a test", name=name)


sys.meta_path.insert(0, Hides)

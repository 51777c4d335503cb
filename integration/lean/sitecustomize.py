"""Hides packages from the processes that tests start: Keras imports what it finds, used or not.

`conftest.py` has this folder on their PYTHONPATH: one costs 2 s of CPU then instead of 6.
"""

import os
import sys
from importlib.machinery import ModuleSpec

hidden = set(os.environ.get("KERAS_TL_TEST_HIDE", "").split()) - {os.environ.get("KERAS_BACKEND")}


class Hides:
    """Finds what is hidden and cannot import it; None in sys.modules would say it is there."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, Hides) if name in hidden else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        raise ImportError(f"{spec.name} is hidden by a test", name=spec.name)

    exec_module = None


sys.meta_path.insert(0, Hides)

"""Hides packages from the processes that tests start: Keras imports what it finds, used or not.

`conftest.py` has this folder on their PYTHONPATH: one costs 2 s of CPU then instead of 6.
"""

import os
import sys

for name in os.environ.get("KERAS_TL_TEST_HIDE", "").split():
    if name != os.environ.get("KERAS_BACKEND"):
        sys.modules[name] = None

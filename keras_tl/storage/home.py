"""Where keras_tl keeps files on this machine."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of journals and local services: `KERAS_TL_HOME`, else `~/.keras_tl`."""
    return Path(os.environ.get("KERAS_TL_HOME") or Path.home() / ".keras_tl")

"""Where keras_tl keeps files on this machine."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of journals, the cache and local services: `KERAS_TL_HOME`, else `~/.keras_tl`."""
    return Path(os.environ.get("KERAS_TL_HOME") or Path.home() / ".keras_tl")


def cache_settings() -> tuple[Path, int]:
    """The folder of the cache of tensors and its limit in bytes.

    `KERAS_TL_CACHE`, else the folder `cache` in `home()`; `KERAS_TL_CACHE_LIMIT`, else 10 GiB; a
    limit of 0 turns the cache off.

    Raises:
        ValueError: if the limit is no whole number from 0 up.
    """
    folder = Path(os.environ.get("KERAS_TL_CACHE") or home() / "cache")
    limit = os.environ.get("KERAS_TL_CACHE_LIMIT") or str(10 << 30)
    if not (limit.isascii() and limit.isdigit()):
        raise ValueError(
            "`KERAS_TL_CACHE_LIMIT` must be a whole number of bytes, 0 for no cache. "
            f"Received: {limit!r}"
        )
    return folder, int(limit)

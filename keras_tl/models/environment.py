"""In what surroundings a run trains: process, packages, git."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import keras


def rank() -> int:
    """The number of this process among those that train one model together."""
    if keras.backend.backend() == "jax":
        import jax

        return int(jax.process_index())
    return 0


def packages() -> dict[str, Any]:
    """Versions of what computes: Python, Keras, its backend and the packages around them."""
    import platform
    from importlib import metadata

    found = {}
    for name in ("keras_tl", "keras", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "packages": found,
    }


def git() -> dict[str, Any] | None:
    """The commit that is checked out and a hash of what was changed since, or `None`."""
    import hashlib

    def call(*args: str) -> bytes:
        return subprocess.run(
            ["git", *args], capture_output=True, timeout=5, check=True, stdin=subprocess.DEVNULL
        ).stdout

    try:
        diff = call("diff", "HEAD")
        return {
            "sha": call("rev-parse", "HEAD").decode().strip(),
            "diff": hashlib.sha256(diff).hexdigest() if diff else None,
        }
    except (OSError, subprocess.SubprocessError):
        return None

"""What holds for every test: fixed seeds, a home of its own, and no server."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

# Loaded after tensorflow, torch crashes the interpreter.
if all(importlib.util.find_spec(name) for name in ("torch", "tensorflow")):
    import torch  # noqa: F401

# XLA simulates a second device, for layers under `DataParallel`, and compiles quickly, not well.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

# The same examples in every run, and no limit by the clock: the machine is shared.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Journals, the config file and the local stack live in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_TL_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("KERAS_TL_MONGODB", "KERAS_TL_KAFKA"):
            patch.delenv(name, raising=False)  # the developer's own servers are not for tests
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)

"""The memory of variables: seen without a copy, and copied into memory that is used again.

Fresh memory costs a page fault every 4 kB, which is more than the copy itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

_ALIGNMENT = 64
_MOST = 2  # bundles

_free: list[np.ndarray] = []
_lock = threading.Lock()


class Bundle(dict[str, np.ndarray]):
    """Captured arrays by name, in memory that whoever is done with them may give back.

    Args:
        memory: what the arrays are views of.
    """

    def __init__(self, memory: np.ndarray) -> None:
        self._memory: np.ndarray | None = memory

    def release(self) -> None:
        """Give the memory back to the next capture: the arrays must not be used any more."""
        self.clear()
        memory, self._memory = self._memory, None
        if memory is not None:
            with _lock:
                _free.append(memory)
                del _free[:-_MOST]


def views(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """The values of variables, where they lie on a CPU without a copy: to be read at once.

    A training step may write to this memory.
    """
    backend = keras.backend.backend()
    values = [variable.value for variable in variables]
    if backend == "jax":
        for value in values:
            if next(iter(value.devices())).platform != "cpu":
                value.copy_to_host_async()  # all are on their way when the first is waited for
        return [np.asarray(value) for value in values]
    if backend == "tensorflow":
        # `numpy()` copies; but `__array__` of a scalar of some dtypes is no array.
        return [np.asarray(v.value() if v.shape.rank else v.numpy()) for v in values]
    if backend == "torch":
        return [_of_torch(value) for value in values]
    return [keras.ops.convert_to_numpy(value) for value in values]


def _of_torch(value: Any) -> np.ndarray:
    value = value.detach().cpu()
    name = str(value.dtype).removeprefix("torch.")
    if name != "bfloat16" and not name.startswith("float8"):
        return value.numpy()  # type: ignore[no-any-return]
    import ml_dtypes
    import torch

    raw = value.view(torch.int16 if name == "bfloat16" else torch.uint8).numpy()
    return raw.view(getattr(ml_dtypes, name))  # type: ignore[no-any-return]


def copy(arrays: Iterable[tuple[str, np.ndarray]]) -> Bundle:
    """Copies of arrays, one after the other in one piece of memory."""
    arrays = list(arrays)
    size = sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for _, array in arrays)
    memory = _take(size)
    bundle = Bundle(memory)
    here = 0
    for name, array in arrays:
        room = memory[here : here + array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(room, array)
        bundle[name] = room
        here += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return bundle


def clear() -> None:
    """Give the memory that no bundle uses back to the system."""
    with _lock:
        _free.clear()


def _take(size: int) -> np.ndarray:
    with _lock:
        for i, memory in enumerate(_free):
            if memory.nbytes == size:
                return _free.pop(i)
        _free.clear()  # of a model that is not trained any more
    return np.empty(size, np.uint8)

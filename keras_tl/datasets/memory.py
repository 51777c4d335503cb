"""Memory of batches: where jax takes it as it is, and used again when nobody has it any more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LINE = 64  # bytes
_SMALL = 4 << 20  # bytes that the allocator keeps by itself
_KEPT = 2


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An empty array that begins where jax on CPU takes it as it is, without a copy."""
    return _array(np.empty(_size(shape, dtype) + _LINE, np.uint8), shape, dtype)


class Memory:
    """Gives arrays whose memory it gets back when they, and all views of them, are forgotten.

    Pages that come from the system are filled with zeros first, which takes as long as half of
    reading a sample from a dataset's pack.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An empty array, aligned."""
        size = _size(shape, dtype) + _LINE
        if size < _SMALL:
            return aligned(shape, dtype)
        while self._free:
            try:
                memory = self._free.pop()
            except IndexError:  # another thread took it
                break
            if size <= memory.nbytes <= 2 * size:
                break
        else:
            memory = np.empty(size, np.uint8)
        return _array(np.asarray(_Lent(memory, self._free)), shape, dtype)


class _Lent:
    """What an array and all of its views refer to, and so ends behind the last one."""

    def __init__(self, memory: np.ndarray, free: list[np.ndarray]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._free = memory, free

    def __del__(self) -> None:
        if len(self._free) < _KEPT:
            self._free.append(self._memory)


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _array(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    begin = -memory.__array_interface__["data"][0] % _LINE
    return memory[begin : begin + _size(shape, dtype)].view(dtype).reshape(shape)

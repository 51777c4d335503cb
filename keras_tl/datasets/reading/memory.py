"""Memory of batches: where jax takes it as it is, and used again when nobody has it any more."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from keras_tl.datasets.reading.locks import ForkLock

_LINE = 64  # bytes
_SMALL = 256 << 10  # bytes of which the allocator itself keeps some
_KEPT_BYTES = 160 << 20  # that nobody has: two windows, and some batches; in a process


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An empty array that begins where jax on CPU takes it as it is, without a copy."""
    return _array(np.empty(_size(shape, dtype) + _LINE, np.uint8), shape, dtype)


class Memory:
    """Gives arrays whose memory it gets back when they, and all views of them, are forgotten.

    The system fills pages with zeros before it gives them, which costs as much as a copy.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = ForkLock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An empty array, aligned."""
        size = _size(shape, dtype) + _LINE
        if size < _SMALL:
            return aligned(shape, dtype)
        with self._lock:
            fits = (i for i, m in enumerate(self._free) if size <= m.nbytes <= 2 * size)
            place = next(fits, None)
            if place is not None:
                memory = self._free.pop(place)
            else:
                # What fits nobody gives way, the oldest first: else it stayed for ever.
                while self._free and sum(m.nbytes for m in self._free) + size > _KEPT_BYTES:
                    self._free.pop(0)
                memory = np.empty(size, np.uint8)
        return _array(np.asarray(_Lent(memory, self._free)), shape, dtype)


def shared() -> Memory:
    """The memory of this process, for as long as somebody has it: of all views that are read."""
    with _lock:
        found = _shared.get(0)
        if found is None:
            found = _shared[0] = Memory()
        return found


_shared: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
_lock = ForkLock()


class _Lent:
    """What an array and all of its views refer to, and so ends behind the last one."""

    def __init__(self, memory: np.ndarray, free: list[np.ndarray]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._free = memory, free
        self._most = _KEPT_BYTES  # names of the module are gone when the interpreter ends

    def __del__(self) -> None:
        # Called at any time, by any thread: it waits for no lock, and a list takes one as it is.
        if sum(memory.nbytes for memory in self._free) + self._memory.nbytes <= self._most:
            self._free.append(self._memory)


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _array(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    begin = -memory.__array_interface__["data"][0] % _LINE
    return memory[begin : begin + _size(shape, dtype)].view(dtype).reshape(shape)

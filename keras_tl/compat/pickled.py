"""The one place where something pickled is read: object arrays in old `.npz` files."""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from typing import IO, Any

import numpy as np

__all__ = ["object_array"]


def object_array(file: IO[bytes]) -> np.ndarray:
    """The list of arrays of numbers that `file` holds from here on, as NumPy pickled it.

    `np.load(allow_pickle=True)` would run what a file says. Here a pickle can name what NumPy
    itself names to rebuild an array; what it gets is a stand-in, which checks all it is given, as
    NumPy does not: a dtype's state can make pointers of a file's bytes. Any other name is a
    ValueError. Files of Python 2 are read as well.
    """
    start = file.tell()
    try:
        for opcode, argument, place in pickletools.genops(file):
            if opcode.name not in _OPCODES:
                raise ValueError(f"no array needs the opcode {opcode.name}")
            if opcode.name == "LONG_BINPUT" and (argument or 0) > (place or 0):
                raise ValueError("a number of a memo is too large")  # memory is taken for all below
        file.seek(start)
        found = _Arrays(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"The file holds a damaged array: {error}") from error
    except (TypeError, OverflowError, MemoryError, UnicodeError, RecursionError) as error:
        raise ValueError(f"The file holds what no array pickles to: {error}") from error
    if not isinstance(found, _Array) or found.value is None:
        raise ValueError("The file must hold an array. Received: a file of something else")
    return found.value


# What pickling arrays needs. Without dictionaries: the hash of tuples in tuples, a million deep,
# would crash Python.
_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS
    BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE
    """.split()
)
_NDARRAY = object()  # stands for the class, which a pickle could call with any shape


def _require(rule: bool, what: str) -> None:
    if not rule:
        raise pickle.UnpicklingError(f"not {what}")


class _Dtype:
    """Stands for a dtype of numbers, or of objects; its state tells the order of its bytes."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *flags: Any) -> None:
        _require(isinstance(name, str), "the name of a type")
        _require(re.fullmatch(r"[biufcO]\d{0,2}", name) is not None, f"a number's type: {name!r}")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) > 4, "a type's state")
        # No part of an array, no names and no fields.
        _require(all(part is None for part in state[2:5]), "a number's type")
        _require(isinstance(state[1], str) and state[1] in ("<", ">", "|", "="), "an order")
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for an array, which is empty until it is given its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) == 5, "an array's state")
        _, shape, kind, fortran, data = state
        _require(isinstance(shape, tuple) and isinstance(kind, _Dtype), "a shape and a type")
        _require(all(isinstance(n, int) and n >= 0 for n in shape), "a shape")
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        if isinstance(data, bytes):
            dtype = kind.value
            _require(not dtype.hasobject, "objects")
            _require(math.prod(shape) * dtype.itemsize == len(data), "as many numbers as said")
            self.value = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
            return
        _require(isinstance(data, list) and kind.value.hasobject, "a list of objects")
        _require(shape == (len(data),), "a list of the length that is said")
        values = np.empty(len(data), object)
        for i, item in enumerate(data):
            _require(isinstance(item, _Array) and not item.value.dtype.hasobject, "an array")
            values[i] = item.value
        self.value = values


class _Reconstruct:
    """`numpy._core.multiarray._reconstruct`."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        _require(kind is _NDARRAY and shape == (0,), "an empty array")
        return _Array()


class _NewDtype:
    """`numpy.dtype`. Not the class `_Dtype`, whose attributes a pickle could set."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)


class _Encode:
    """`_codecs.encode`: bytes of a pickle of protocol 2, which old NumPy wrote on Python 3."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        _require(isinstance(text, str) and encoding == "latin1", "bytes")
        return text.encode("latin1")


_ADMITTED = {
    ("_codecs", "encode"): _Encode(),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _NewDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise ValueError(
                "A file of weights must hold arrays and nothing else. "
                f"Received: a file that names {module}.{name}"
            ) from None

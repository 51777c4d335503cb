"""The one place where something pickled is read: object arrays in old `.npz` files."""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

__all__ = ["object_array"]


def object_array(file: IO[bytes]) -> np.ndarray:
    """The pickled array that `file` holds from here on.

    `np.load(allow_pickle=True)` would run what a file says. Here a pickle can name what NumPy
    itself names to rebuild an array, each replaced by a function that does this alone; any other
    name is a ValueError. Files of Python 2 are read as well.
    """
    try:
        found = _Arrays(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"The file holds a damaged array: {error}") from error
    except (TypeError, OverflowError, MemoryError, UnicodeError) as error:
        raise ValueError(f"The file holds what no array pickles to: {error}") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"The file must hold an array. Received: {type(found).__name__}")
    return found


class _Ndarray:
    """Stands for the class, which a pickle could call with any shape."""

    __slots__ = ()


class _Reconstruct:
    """`numpy._core.multiarray._reconstruct`: an empty array, which is then given its state."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        if kind is not _Ndarray or shape != (0,):
            raise pickle.UnpicklingError("not an empty array")
        return np.ndarray((0,), "b")


class _Encode:
    """`_codecs.encode`: bytes of a pickle of protocol 2, which old NumPy wrote on Python 3."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("not bytes")
        return text.encode("latin1")


class _Dtype:
    __slots__ = ()

    def __call__(self, name: Any, *flags: Any) -> np.dtype:
        # Structured types would need a state that NumPy does not check.
        if not isinstance(name, str) or name[:1] not in "biufcO":
            raise pickle.UnpicklingError(f"not a number's type: {name!r}")
        return np.dtype(name)


_ADMITTED = {
    ("_codecs", "encode"): _Encode(),
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype(),
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

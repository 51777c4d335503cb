"""Bundles of named arrays to and from bytes, in the safetensors format.

Source of the format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON
header, the arrays one after the other). Both ways are done here, because the library copies every
array and takes a name that stands twice; what is written is what the library writes, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

Bundle = Mapping[str, np.ndarray]

#: Parts of a file, one after the other.
Pieces = Sequence[bytes | memoryview]

# Hostile JSON takes some thirty times its size once parsed; this is room for 100,000 arrays.
MAX_HEADER = 16 << 20
_METADATA = "__metadata__"
_NUMPY = {
    "BOOL": "bool",
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
    "C64": "complex64",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


@cache
def _dtypes() -> dict[str, np.dtype]:
    """The dtypes that a bundle may hold, by their safetensors code."""
    import ml_dtypes  # a dependency of Keras

    known = {code: np.dtype(name).newbyteorder("<") for code, name in _NUMPY.items()}
    for code, name in _ML_DTYPES.items():
        if hasattr(ml_dtypes, name):  # older releases have fewer kinds
            known[code] = np.dtype(getattr(ml_dtypes, name))
    return known


# The library's order of arrays: by dtype as listed, then by name.
_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)


@cache
def _codes() -> dict[str, str]:
    """The safetensors codes by dtype, in the order in which arrays are written."""
    return {_dtypes()[code].name: code for code in _ORDER if code in _dtypes()}


def _storable(name: Any, value: Any) -> np.ndarray:
    if not isinstance(name, str) or name == _METADATA or not _is_unicode(name):
        raise ValueError(
            f"A name in `bundle` must be a Unicode string other than '{_METADATA}'. "
            f"Received: {name!r}"
        )
    array = np.asarray(value)
    if array.dtype.name not in _codes():
        raise ValueError(
            f"`bundle[{name!r}]` must have one of the dtypes {', '.join(sorted(_codes()))}. "
            f"Received: dtype={array.dtype}"
        )
    # Not `ascontiguousarray`, which makes a scalar one-dimensional.
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def dumps(bundle: Bundle) -> bytes:
    """Packs named arrays into bytes; equal bundles give equal bytes, whatever their order.

    Args:
        bundle: Arrays by name, of any shape (scalars and empty arrays too), memory layout and byte
            order. dtypes: bool, integers of 8 to 64 bits, float16 to float64, complex64, bfloat16
            and the float8 kinds of `ml_dtypes` that safetensors knows.

    Returns:
        The bytes of a `.safetensors` file.

    Raises:
        ValueError: A name or a dtype that the format does not hold (text, objects, dates, ...).

    Example:

    >>> import numpy as np
    >>> loads(dumps({"x": np.arange(3, dtype="float32")}))["x"]
    array([0., 1., 2.], dtype=float32)
    """
    return b"".join(pieces(bundle))


def pieces(bundle: Bundle) -> list[bytes | memoryview]:
    """What `dumps` joins: the header, then each array as a view (a copy if it is not contiguous).

    Raises:
        ValueError: A name or a dtype that the format does not hold.

    Example:

    >>> import numpy as np
    >>> bundle = {"x": np.arange(3, dtype="float32")}
    >>> b"".join(pieces(bundle)) == dumps(bundle)
    True
    """
    codes = _codes()
    ranks = {code: rank for rank, code in enumerate(codes.values())}
    arrays = [(name, _storable(name, value)) for name, value in bundle.items()]
    arrays.sort(key=lambda item: (ranks[codes[item[1].dtype.name]], item[0].encode()))
    header: dict[str, Any] = {}
    here = 0
    for name, array in arrays:
        end = here + array.nbytes
        code = codes[array.dtype.name]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [here, end]}
        here = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"The names in `bundle` must fit a header of {MAX_HEADER} bytes. "
            f"Received: {len(arrays)} arrays"
        )
    # Through uint8: the dtypes of `ml_dtypes` have no buffer of their own.
    views = [array.reshape(-1).view(np.uint8).data for _, array in arrays]
    return [len(text).to_bytes(8, "little") + text, *views]


def loads(data: bytes | bytearray | memoryview) -> dict[str, np.ndarray]:
    """Unpacks what `dumps`, or any safetensors writer, packed.

    The arrays are read-only views of `data` (an array that a foreign writer did not align is
    copied): loading costs nothing a byte, and no declared shape makes it allocate more than that.

    Args:
        data: The bytes of a `.safetensors` file, from a source that need not be trusted.

    Returns:
        Arrays by name.

    Raises:
        ValueError: `data` is truncated, has bytes left over, or declares what does not fit it.

    Example:

    >>> loads(b"short")
    Traceback (most recent call last):
    ...
    ValueError: `data` must be a safetensors bundle: it has no header. Received: 5 bytes
    """
    try:
        view = memoryview(data).cast("B")
    except TypeError as error:
        raise ValueError(
            f"`data` must be contiguous bytes. Received: {type(data).__name__}"
        ) from error
    try:
        return _parse(view)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"`data` must be a safetensors bundle: {error}. Received: {len(view)} bytes"
        ) from None


def _parse(view: memoryview) -> dict[str, np.ndarray]:
    if len(view) < 8:
        raise ValueError("it has no header")
    size = int.from_bytes(view[:8], "little")
    if size > len(view) - 8:
        raise ValueError("its header is longer than the data")
    if size > MAX_HEADER:
        raise ValueError(f"its header is longer than {MAX_HEADER} bytes")
    header = json.loads(str(view[8 : 8 + size], "utf-8"), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise ValueError(f"'{_METADATA}' is not a table of strings")

    start = 8 + size
    arrays: dict[str, np.ndarray] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the length of {name!r} does not fit its shape and dtype")
        if end > len(view) - start:
            raise ValueError(f"{name!r} ends behind the data")
        spans.append((begin, end))
        array = np.ndarray(shape, dtype, buffer=view, offset=start + begin)
        if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
            raise ValueError(f"{name!r} holds a byte that is no boolean")
        if not array.flags.aligned:
            array = array.copy()
        array.flags.writeable = False
        arrays[name] = array
    here = 0
    for begin, end in sorted(spans):
        if begin != here:
            raise ValueError("its arrays overlap or leave a gap")
        here = end
    if here != len(view) - start:
        raise ValueError("bytes are left over behind its arrays")
    return arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return table


def _entry(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if not _is_unicode(name):
        raise ValueError(f"the name {name!r} is not Unicode")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} needs dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _dtypes():
        raise ValueError(f"{name!r} has the unknown dtype {str(code)[:40]!r}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"the {field} of {name!r} must be whole numbers from 0 up")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the data_offsets of {name!r} must be a begin and an end")
    if len(shape) > 64:  # before `prod`, which a long list would keep busy
        raise ValueError(f"{name!r} has more than 64 dimensions")
    return _dtypes()[code], tuple(shape), offsets[0], offsets[1]


def checksum(data: bytes | memoryview | Pieces) -> str:
    """The SHA-256 of `data` as 64 hexadecimal digits: the name of a blob.

    Example:

    >>> checksum(b"")[:16]
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    for piece in (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data:
        digest.update(piece)
    return digest.hexdigest()

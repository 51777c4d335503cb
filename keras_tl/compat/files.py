from __future__ import annotations

import lzma
import math
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from keras_tl.compat.pickled import object_array

__all__ = ["read_tensorlayer"]


def read_tensorlayer(filepath: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file of TensorLayer weights, in the file's order.

    The three formats are told apart by what a file holds, not by its name:

    * `.npz` (`save_npz`): a list without names, which become `"0"`, `"1"`, ...;
    * `.npz_dict` (`save_npz_dict`): by the variables' names, as `"dense/W:0"`;
    * `.hdf5` (2.x): by `"layer/variable"`, as `"dense_1/dense_1/weights:0"`.

    Where the arrays of an `.npz` differ in shape, NumPy has pickled their list. It is read without
    running anything: a pickle that names anything but the parts of an array is refused.

    Args:
        filepath: of the file.

    Returns:
        A dict from names to arrays.

    Raises:
        ValueError: if the file is of none of these formats, is damaged, or holds anything but
            arrays of numbers.

    Example:
        >>> import io, os, tempfile
        >>> import numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
        >>> np.savez(path, params=[np.ones((2, 3)), np.zeros((2, 3))])
        >>> {name: array.shape for name, array in read_tensorlayer(path).items()}
        {'0': (2, 3), '1': (2, 3)}
    """
    import h5py

    if zipfile.is_zipfile(filepath):
        found = _npz(filepath)
    elif os.path.isfile(filepath) and h5py.is_hdf5(filepath):
        found = _hdf5(filepath)
    elif not os.path.exists(filepath):
        raise FileNotFoundError(f"`filepath` must exist. Received: filepath={str(filepath)!r}")
    else:
        raise _refused(filepath, "a file that is neither a zip archive nor HDF5")
    for name, array in found.items():
        if array.dtype.kind not in "biufc":
            raise _refused(filepath, f"{name!r} of the dtype {array.dtype}")
    return found


# What reading damaged files raises, by what is damaged; encrypted zip files are a RuntimeError.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, MemoryError),
    *(ValueError, TypeError, KeyError, OverflowError, RuntimeError),
)


def _refused(filepath: Any, what: str) -> ValueError:
    return ValueError(
        "`filepath` must be a `.npz`, `.npz_dict` or `.hdf5` file of TensorLayer weights. "
        f"Received: filepath={str(filepath)!r}, {what}"
    )


def _npz(filepath: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(filepath) as archive:
            for item in archive.infolist():
                name = item.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError(f"two arrays have the name {name!r}")
                with archive.open(item) as file:
                    found[name] = _npy(file)
        if list(found) == ["params"]:
            if not found["params"].ndim:
                raise ValueError("`params` is no list of arrays")
            found = {str(i): np.asarray(array) for i, array in enumerate(found["params"])}
    except _DAMAGE as error:
        raise ValueError(f"{_refused(filepath, 'this error')}: {error}") from error
    return found


def _npy(file: Any) -> np.ndarray:
    # `read_array` itself, up to the array, to learn whether it is pickled.
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        return object_array(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of the shape {shape}")
    data = file.read(math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _hdf5(filepath: Any) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}
    seen = set()

    def once(parent: Any, name: str, kind: Any) -> Any:
        """What has the name. Of this file, as HDF5 can name others, and not in a circle."""
        item = parent[name]
        own = isinstance(item, kind) and item.file.filename == parent.file.filename
        place = h5py.h5o.get_info(item.id).addr if own else None
        if not own or place in seen:
            raise ValueError(f"{name!r} is no {kind.__name__.lower()} of its own")
        seen.add(place)
        return item

    def read(data: Any) -> np.ndarray:
        if data.shape is None or data.external or data.is_virtual:
            raise ValueError(f"{data.name!r} has its numbers elsewhere")
        # A file of a kilobyte can promise any size; what zlib makes of a byte is at most this.
        if data.nbytes > 1032 * data.id.get_storage_size():
            raise ValueError(f"{data.name!r} has a shape of more numbers than there are")
        return np.asarray(data)

    def add(group: Any, prefix: str) -> None:
        for layer in _names(group, "layer_names"):
            inner = once(group, layer, h5py.Group)
            for weight in _names(inner, "weight_names"):
                found[f"{prefix}{layer}/{weight}"] = read(once(inner, weight, h5py.Dataset))
            if "layer_names" in inner.attrs:  # a model within the model
                add(inner, f"{prefix}{layer}/")

    try:
        with h5py.File(filepath, "r") as file:
            if "layer_names" not in file.attrs:
                raise ValueError("an HDF5 file without the attribute `layer_names`")
            add(file, "")
    except _DAMAGE as error:
        raise ValueError(f"{_refused(filepath, 'this error')}: {error}") from error
    return found


def _names(group: Any, attribute: str) -> list[str]:
    # h5py 2 wrote bytes, h5py 3 gives text where it can.
    return [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs.get(attribute, [])]

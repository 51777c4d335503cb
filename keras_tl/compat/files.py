from __future__ import annotations

import os
import zipfile
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


def _refused(filepath: Any, what: str) -> ValueError:
    return ValueError(
        "`filepath` must be a `.npz`, `.npz_dict` or `.hdf5` file of TensorLayer weights. "
        f"Received: filepath={str(filepath)!r}, {what}"
    )


def _npz(filepath: Any) -> dict[str, np.ndarray]:
    found = {}
    try:
        with zipfile.ZipFile(filepath) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    found[name.removesuffix(".npy")] = _npy(file)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{_refused(filepath, 'this error')}: {error}") from error
    if list(found) == ["params"]:
        found = {str(i): np.asarray(array) for i, array in enumerate(found["params"])}
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
    count = int(np.prod(shape, dtype=np.int64))
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C")


def _hdf5(filepath: Any) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}

    def add(group: Any, prefix: str) -> None:
        for layer in _names(group, "layer_names"):
            inner = group[layer]
            for weight in _names(inner, "weight_names"):
                found[f"{prefix}{layer}/{weight}"] = np.asarray(inner[weight])
            if "layer_names" in inner.attrs:  # a model within the model
                add(inner, f"{prefix}{layer}/")

    try:
        with h5py.File(filepath, "r") as file:
            if "layer_names" not in file.attrs:
                raise _refused(filepath, "an HDF5 file without the attribute `layer_names`")
            add(file, "")
    except (KeyError, OSError) as error:
        raise _refused(filepath, f"a damaged HDF5 file: {error}") from error
    return found


def _names(group: Any, attribute: str) -> list[str]:
    # h5py 2 wrote bytes, h5py 3 gives text where it can.
    return [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs.get(attribute, [])]

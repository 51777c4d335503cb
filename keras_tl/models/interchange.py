"""Versions as files of other tools, and back: `.keras` and `.safetensors`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_tl.models import state, versions
from keras_tl.models.selection import Reference, Version
from keras_tl.storage import tensors

if TYPE_CHECKING:
    from keras_tl.models.registry import Versions

#: What a model needs to predict.
WEIGHTS = ("trainable", "non_trainable")


def to_keras(found: Versions, path: str | os.PathLike[str], version: Reference) -> None:
    """Write a `.keras` file (see `Versions.to_keras`)."""
    model = found.load(version)
    with _written(path, ".keras") as temporary:
        model.save(temporary)


def from_keras(
    found: Versions,
    path: str | os.PathLike[str],
    metrics: Mapping[str, float] | None,
    tags: Mapping[str, Any] | None,
) -> Version:
    """Save the model of a `.keras` file (see `Versions.from_keras`)."""
    _checked(path, ".keras")
    return found.save(keras.saving.load_model(path, safe_mode=True), metrics, tags)


def to_safetensors(
    found: Versions, path: str | os.PathLike[str], version: Reference, roles: Sequence[str]
) -> None:
    """Write a `.safetensors` file (see `Versions.to_safetensors`)."""
    unknown = set(roles) - set(state.ROLES)
    if unknown or not roles:
        raise ValueError(f"`roles` must be some of {state.ROLES}. Received: {roles!r}")
    db = found.connection.db
    document = found.version(version).document
    codes = {dtype.name: (code, dtype) for code, dtype in tensors._dtypes().items()}
    # The widest first, as the format's own library does: then each tensor is aligned.
    chosen = sorted(
        (e for e in versions.entries(db, document) if e["role"] in roles),
        key=lambda e: (-codes[e["dtype"]][1].itemsize, e["path"]),
    )
    order: dict[str, list[str]] = {}
    for entry in versions.entries(db, document):
        if entry["role"] in roles:
            order.setdefault(entry["role"], []).append(entry["path"])
    about = {"model": found.key, "version": str(document["version"])}
    header: dict[str, Any] = {"__metadata__": {**about, "order": json.dumps(order)}}
    here = 0
    for entry in chosen:
        if entry["path"] in header:
            raise ValueError(
                "`roles` must have one variable of each path, which names it in the file. "
                f"Received: roles={tuple(roles)!r} with two of {entry['path']!r}"
            )
        end = here + math.prod(entry["shape"]) * codes[entry["dtype"]][1].itemsize
        header[entry["path"]] = {
            "dtype": codes[entry["dtype"]][0],
            "shape": entry["shape"],
            "data_offsets": [here, end],
        }
        here = end
    packed = json.dumps(header, ensure_ascii=False).encode()
    packed += b" " * (-len(packed) % 8)
    with _written(path, ".safetensors") as temporary, open(temporary, "wb") as file:
        start = file.write(len(packed).to_bytes(8, "little") + packed)
        part = {**document, "tensors": chosen, "manifest": None}
        for entry, array in versions.read(db, part):
            file.seek(start + header[entry["path"]]["data_offsets"][0])
            file.write(np.asarray(array, codes[entry["dtype"]][1], order="C").tobytes())
        file.truncate(start + here)


def from_safetensors(
    found: Versions,
    path: str | os.PathLike[str],
    model: keras.Model,
    metrics: Mapping[str, float] | None,
    tags: Mapping[str, Any] | None,
) -> Version:
    """Save the tensors of a `.safetensors` file (see `Versions.from_safetensors`)."""
    state.check(model)
    data = _checked(path, ".safetensors").read_bytes()
    arrays = tensors.loads(data)
    named = _by_order(model, arrays, data)
    variables = list(state.variables(model))
    find = state.same_path(arrays)
    names = [named.get(id(v)) if named else find(v.path) for _, v in variables]
    missing = [
        v.path
        for (role, v), name in zip(variables, names, strict=True)
        if role in WEIGHTS and name is None
    ]
    unknown = [name for name in arrays if name not in names]
    if missing or unknown:
        raise ValueError(
            f"`path` must hold the variables of `model` by their paths. Received: {path} without "
            f"{_some(missing)} and with the unknown {_some(unknown)}"
        )
    manifest, bundle = [], {}
    for i, ((role, variable), found_name) in enumerate(zip(variables, names, strict=True)):
        if found_name is None:
            continue
        array = arrays[found_name]
        if array.shape != tuple(variable.shape):
            raise ValueError(
                f"`path` must hold {variable.path!r} in the shape {tuple(variable.shape)}. "
                f"Received: {array.shape}"
            )
        name = f"{i:05d}"
        manifest.append({"name": name, "path": variable.path, "role": role})
        bundle[name] = array
    return found._commit(model, manifest, bundle, metrics, tags)


def _by_order(model: keras.Model, arrays: Mapping[str, np.ndarray], data: bytes) -> dict[int, str]:
    """Names by the variable's id in a file of `to_safetensors`, which knows the model's order."""
    size = int.from_bytes(data[:8], "little")
    try:
        order = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["order"])
        stored = [({"path": p, "role": role}, p) for role in order for p in order[role]]
        if sorted(p for _, p in stored) != sorted(arrays):
            return {}
        found = state.pairs(model, stored, order)
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}  # a file of another tool, or a model of another making
    fits = all(tuple(v.shape) == arrays[name].shape for v, name in found)
    return {id(v): name for v, name in found} if fits else {}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "(none)"


def _checked(path: str | os.PathLike[str], suffix: str) -> Path:
    found = Path(path)
    if found.suffix != suffix:
        raise ValueError(f"`path` must end in {suffix!r}. Received: {str(path)!r}")
    return found


@contextmanager
def _written(path: str | os.PathLike[str], suffix: str) -> Iterator[str]:
    """A file beside `path` that takes its place once it is whole."""
    target = _checked(path, suffix)
    with NamedTemporaryFile(dir=target.parent, suffix=suffix, delete=False) as file:
        temporary = file.name
    try:
        yield temporary
        # As `open` would have made it; a temporary file is for its owner alone.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)

"""What a model is made of while it trains: its variables by role, out of Keras and back into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import keras
import numpy as np

from keras_tl.models import buffers

_T = TypeVar("_T")

#: In the order of capture. `metric` is what running means have summed up in this epoch.
ROLES = ("trainable", "non_trainable", "seed", "optimizer", "metric")


def synchronise(model: keras.Model) -> None:
    """Bring the trained values into the model's variables.

    In a step callback on the JAX backend they are `None` until then: the trainer holds the state
    and donates it from step to step.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """The model's variables with their roles."""
    weights = {id(v) for v in model.weights}
    yield from (("trainable", v) for v in model.trainable_variables)
    yield from (("non_trainable", v) for v in model.non_trainable_weights)
    # `variables` adds the states of seed generators to `weights`.
    yield from (("seed", v) for v in model.variables if id(v) not in weights)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        yield from (("optimizer", v) for v in optimizer.variables)
    yield from (("metric", v) for v in model.metrics_variables)


def capture(model: keras.Model) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Copy every variable; a copy, since the next step may reuse the buffers.

    Returns:
        The manifest `[{name, path, role}]`, and the arrays by `name`, a `buffers.Bundle`: who is
        done with it may `release` it, so that the next capture need not ask for memory.
    """
    synchronise(model)
    _build_optimizer(model)  # a version that lacks its variables could not be restored
    found = list(variables(model))
    manifest = [
        {"name": f"{i:05d}", "path": variable.path, "role": role}
        for i, (role, variable) in enumerate(found)
    ]
    values = buffers.views(variable for _, variable in found)
    names = [entry["name"] for entry in manifest]
    return manifest, buffers.copy(zip(names, values, strict=True))


def describe(model: keras.Model) -> str | None:
    """The model's config with its build and compile config as JSON, or `None` if it has none."""
    try:
        return json.dumps(keras.saving.serialize_keras_object(model))
    except (NotImplementedError, TypeError, ValueError):
        return None


def revive(config: str) -> keras.Model:
    """The model that `describe` described, built and compiled, in Keras' safe mode.

    Raises:
        ValueError: if Keras refuses the config (an unregistered class, a lambda).
    """
    try:
        return keras.saving.deserialize_keras_object(json.loads(config), safe_mode=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`load` could not make the model from its stored config; register its classes with "
            "`keras.saving.register_keras_serializable`, or build it and use `restore_into`. "
            f"Received: {error}"
        ) from error


def restore(
    model: keras.Model,
    tensors: Iterable[tuple[Mapping[str, Any], np.ndarray]],
    roles: Iterable[str] = ROLES[:4],
    match: str | Sequence[str] | None = None,
) -> None:
    """Assign stored tensors to the model's variables of the given roles.

    Variables are found by path; where Keras numbered the layers otherwise, by position. What was
    not stored of a role (a version of weights only) stays as it is.

    Args:
        model: a built model; its optimizer is built if it is not.
        tensors: pairs of a manifest entry (`path`, `role`) and its array.
        roles: which roles to restore.
        match: glob or globs on paths: only these are restored, found by path alone, and what the
            model does not have of them is left out.

    Raises:
        ValueError: if the model is not the one that was stored, or has nothing that `match` names.
    """
    found = pairs(model, tensors, roles, match)
    for variable, array in found:
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"`model` must have the stored shape {array.shape} for {variable.path}. "
                f"Received: {tuple(variable.shape)}"
            )
    for variable, array in found:  # only once all of them fit
        variable.assign(array)


def pairs(
    model: keras.Model,
    stored: Iterable[tuple[Mapping[str, Any], _T]],
    roles: Iterable[str] = ROLES[:4],
    match: str | Sequence[str] | None = None,
) -> list[tuple[keras.Variable, _T]]:
    """Which variable each stored thing belongs to; arguments and errors as of `restore`."""
    roles = set(roles)
    if "optimizer" in roles:
        _build_optimizer(model)
    chosen = matcher(match)
    have: dict[str, list[tuple[str, _T]]] = {role: [] for role in roles}
    for entry, thing in stored:
        if entry["role"] in roles and chosen(entry["path"]):
            have[entry["role"]].append((entry["path"], thing))
    want: dict[str, list[keras.Variable]] = {role: [] for role in roles}
    for role, variable in variables(model):
        if role in roles:
            want[role].append(variable)
    found: list[tuple[keras.Variable, _T]] = []
    for role in (role for role in ROLES if have.get(role)):
        if match is None:
            found += _pair(role, have[role], want[role])
        else:
            found += _common(have[role], want[role])
    if match is not None and not found:
        raise ValueError(
            "`match` must name tensors that the version holds and `model` has. "
            f"Received: match={match!r}"
        )
    return found


def matcher(match: str | Sequence[str] | None) -> Callable[[str], bool]:
    """Tells of a path whether one of the globs names it; `None` names all.

    Raises:
        ValueError: if `match` holds something else than strings.

    Example:

    >>> [path for path in ("head/kernel", "body/kernel") if matcher("head/*")(path)]
    ['head/kernel']
    """
    if match is None:
        return lambda path: True
    globs = [match] if isinstance(match, str) else list(match)
    if not globs or not all(isinstance(glob, str) for glob in globs):
        raise ValueError(f"`match` must be a glob or a list of globs. Received: {match!r}")
    return lambda path: any(fnmatchcase(path, glob) for glob in globs)


def _build_optimizer(model: keras.Model) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


def _pair(
    role: str, have: Sequence[tuple[str, _T]], want: Sequence[keras.Variable]
) -> list[tuple[keras.Variable, _T]]:
    by_path = dict(have)
    if len(have) != len(want):
        raise ValueError(
            f"`model` must have the {len(have)} {role} variables that were stored. "
            f"Received: a model with {len(want)}"
        )
    if len(by_path) == len(want) and all(v.path in by_path for v in want):
        return [(v, by_path[v.path]) for v in want]
    return [(v, thing) for v, (_, thing) in zip(want, have, strict=True)]


def _common(
    have: Sequence[tuple[str, _T]], want: Sequence[keras.Variable]
) -> list[tuple[keras.Variable, _T]]:
    by_path = dict(have)
    find = same_path(by_path)
    return [(v, by_path[path]) for v in want if (path := find(v.path)) is not None]


def same_path(known: Iterable[str]) -> Callable[[str], str | None]:
    """Finds the one of the known paths that names the same variable as another path.

    A `Sequential` names its variables `model/layer/...` when it is made, and `layer/...` when Keras
    makes it of its config.

    Example:

    >>> find = same_path(["net/a/kernel", "b/kernel"])
    >>> find("a/kernel"), find("net/b/kernel"), find("b/kernel"), find("kernel")
    ('net/a/kernel', 'b/kernel', 'b/kernel', None)
    """
    exact = set(known)
    inner: dict[str, list[str]] = {}
    for path in exact:
        inner.setdefault(path.partition("/")[2], []).append(path)

    def find(path: str) -> str | None:
        outer = path.partition("/")[2]
        if path in exact:
            return path
        found = [outer] if outer in exact else inner.get(path, [])
        # Of two nobody knows which, and `kernel` alone says nothing.
        return found[0] if len(found) == 1 and "/" in min(path, found[0], key=len) else None

    return find

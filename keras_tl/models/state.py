"""What a model is made of while it trains: its variables by role, out of Keras and back into it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

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


def check(model: keras.Model) -> None:
    """Refuse a model of which a version would not hold all.

    Raises:
        ValueError: if it is no model, is not built, or has a layer that holds an asset.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(
            "`model` must be built, since a version holds its variables: give it an `Input`, or "
            f"call it on a batch. Received: an unbuilt {type(model).__name__}"
        )
    found = assets(model)
    if found:
        raise ValueError(f"`model` must hold no assets: {_ASSETS} Received: {', '.join(found)}")


_ASSETS = (
    "a version keeps variables and the config, and the vocabulary of a lookup layer is in the "
    "config only if it is given as `vocabulary` when the layer is made."
)


def warn_of_assets(model: keras.Model) -> None:
    """Warn of what the versions of a `fit` will lack."""
    found = assets(model)
    if found:
        warnings.warn(f"Versions lack the assets of {', '.join(found)}: {_ASSETS}", stacklevel=3)


def assets(model: keras.Model) -> list[str]:
    """Names of layers whose state is a file of its own in Keras' format: adapted vocabularies."""
    found = []
    for layer in model._flatten_layers():
        if hasattr(layer, "save_assets"):
            with TemporaryDirectory() as folder:
                layer.save_assets(folder)  # writes nothing of what the config has
                if any(Path(folder).iterdir()):
                    found.append(layer.name)
    return found


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

    Variables are found by path; where Keras numbered the layers otherwise, by position, unless a
    path says that another one is meant. What was not stored of a role (a version of weights only)
    stays as it is.

    Args:
        model: a built model; its optimizer is built if it is not.
        tensors: pairs of a manifest entry (`path`, `role`) and its array.
        roles: which roles to restore.
        match: glob or globs on stored paths: only these are restored. In a model with other
            variables they are found by path alone; states of its optimizer and seeds that it
            does not have are left out.

    Raises:
        ValueError: if the model is not the one that was stored, or lacks what `match` names.
    """
    assign(model, pairs(model, tensors, roles, match))


def assign(model: keras.Model, found: Sequence[tuple[keras.Variable, np.ndarray]]) -> None:
    """Assign arrays to variables of the model, all or none.

    Raises:
        ValueError: if a shape is another one.
    """
    for variable, array in found:
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"`model` must have the stored shape {array.shape} for {variable.path}. "
                f"Received: {tuple(variable.shape)}"
            )
    for variable, array in found:  # only once all of them fit
        variable.assign(array)
    finalise(model, (variable for variable, _ in found))


def finalise(model: keras.Model, assigned: Iterable[keras.Variable]) -> None:
    """Let layers that keep tensors made of their variables make them of what was assigned.

    `Normalization` does so when Keras loads it. What is compiled holds the old ones as constants.
    """
    written = {id(variable) for variable in assigned}
    layers = list(model._flatten_layers())
    stale = [
        layer
        for layer in layers
        # One without variables (`Discretization`) would make them of the data it has seen.
        if hasattr(layer, "finalize_state")
        and layer.built
        and written & {id(variable) for variable in layer.variables}
    ]
    for layer in stale:
        layer.finalize_state()
    for inner in layers if stale else ():
        for name in ("train", "test", "predict"):
            if getattr(inner, f"{name}_function", None) is not None:
                getattr(inner, f"make_{name}_function")(force=True)


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
        if entry["role"] in roles:
            have[entry["role"]].append((entry["path"], thing))
    want: dict[str, list[keras.Variable]] = {role: [] for role in roles}
    for role, variable in variables(model):
        if role in roles:
            want[role].append(variable)
    found: list[tuple[keras.Variable, _T]] = []
    for role in (role for role in ROLES if have.get(role)):
        unnumbered = _unnumbered(model, role)
        if match is None:
            paired = _pair(role, have[role], want[role], unnumbered)
        else:
            paired = _chosen(role, have[role], want[role], unnumbered, chosen)
        found += [(variable, thing) for variable, _, thing in paired]
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


_Pair = tuple[keras.Variable, str, _T]  # the variable, the stored path, what is stored


def _pair(
    role: str,
    have: Sequence[tuple[str, _T]],
    want: Sequence[keras.Variable],
    unnumbered: Callable[[str], str],
) -> list[_Pair[_T]]:
    if len(have) != len(want):
        raise ValueError(
            f"`model` must have the {len(have)} {role} variables that were stored. "
            f"Received: a model with {len(want)}"
        )
    by_path = dict(have)
    find = same_path(by_path)
    names = [find(variable.path) for variable in want]
    if len({name for name in names if name is not None}) == len(want):
        return [(v, name, by_path[name]) for v, name in zip(want, names, strict=True) if name]
    # `dense_1` of another process may be `dense_2` of this one; other names are meant.
    bare = [unnumbered(path) for path, _ in have]
    find = same_path(bare)
    for variable, here, (path, _) in zip(want, bare, have, strict=True):
        if find(unnumbered(variable.path)) not in (None, here):
            raise ValueError(
                f"`model` must have its {role} variables under the stored paths or in the stored "
                f"order. Received: {variable.path} in the place of {path}, stored in another place"
            )
    return [(v, path, thing) for v, (path, thing) in zip(want, have, strict=True)]


def _chosen(
    role: str,
    have: Sequence[tuple[str, _T]],
    want: Sequence[keras.Variable],
    unnumbered: Callable[[str], str],
    chosen: Callable[[str], bool],
) -> list[_Pair[_T]]:
    """Of a model of the same making what is chosen; of another one only what has its path."""
    try:
        paired = _pair(role, have, want, unnumbered)
    except ValueError:
        paired = []
    find = same_path(variable.path for variable in want)
    # The position says nothing in another model, which tells itself by its shapes.
    by_path = all(find(path) is not None for path, _ in have)
    if paired and (by_path or all(tuple(v.shape) == _shape(thing) for v, _, thing in paired)):
        return [pair for pair in paired if chosen(pair[1])]
    by_name = {variable.path: variable for variable in want}
    named = [(find(path), path, thing) for path, thing in have if chosen(path)]
    missing = [path for name, path, _ in named if name is None]
    if missing and role in ROLES[:2]:
        raise ValueError(
            "`match` must name tensors that `model` has. "
            f"Received: a model without {', '.join(missing[:5])}"
        )
    return [(by_name[name], path, thing) for name, path, thing in named if name is not None]


def _shape(thing: Any) -> tuple[int, ...]:
    return tuple(thing["shape"] if isinstance(thing, Mapping) else thing.shape)


def _unnumbered(model: keras.Model, role: str) -> Callable[[str], str]:
    """Takes from a path the numbers that Keras gave to layers without a name of their own."""
    classes = {type(layer).__name__ for layer in model._flatten_layers()} | {"SeedGenerator"}
    names = "|".join(re.escape(to_snake_case(name)) for name in classes)
    # An optimizer's variable has the whole path of its weight, joined by `_`, in its name.
    between = "[/_]" if role == "optimizer" else "/"
    numbered = re.compile(
        rf"((?:^|{between})(?:forward_|backward_)?(?:{names}))_\d+(?={between}|$)"
    )
    return lambda path: numbered.sub(r"\1", path)


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

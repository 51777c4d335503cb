"""Names of a run's fields, as people write them and as documents hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_tl.models import buckets

#: Values of metrics on a run, as plain numbers, by the field's public name.
METRICS = ("last", "best", "min", "max")
#: What a run is beside its params, tags and metrics, by public name.
OWN = ("name", "model", "state", "started", "ended", "parent", "step")
_PLAIN = {"id": "_id", "step": "last_step"}


def path(name: str) -> str:
    """Where a run's document holds what people call `name`.

    Raises:
        ValueError: for a name that no run has.

    Example:

    >>> path("id"), path("params.lr"), path("last.a.b"), path("best.val_loss")
    ('_id', 'params.lr', 'last.a%2Eb', 'best.val_loss.v')
    """
    kind, _, metric = name.partition(".")
    if name in OWN or name == "id" or (kind in ("params", "tags") and metric):
        return _PLAIN.get(name, name)
    if kind not in METRICS or not metric:
        known = ["id", *OWN, *(f"{kind}.NAME" for kind in ("params", "tags", *METRICS))]
        raise ValueError(f"`where` and `order` take {', '.join(known)}. Received: {name!r}")
    return f"{kind}.{buckets.key(metric)}{'.v' if kind == 'best' else ''}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, which `Runs.where` takes; lists stay as they are.

    Example:

    >>> flat({"lr": 0.1, "fit": {"epochs": 2}}, "params.")
    {'params.lr': 0.1, 'params.fit.epochs': 2}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def metrics(run: Mapping[str, Any]) -> dict[str, float]:
    """A run's `last.*` and `best.*` by public name, as numbers.

    Example:

    >>> metrics({"last": {"loss": 0.5}, "best": {"a%2Eb": {"v": 0.25, "step": 3}}})
    {'last.loss': 0.5, 'best.a.b': 0.25}
    """
    found = {f"last.{buckets.name(k)}": v for k, v in run.get("last", {}).items()}
    found |= {f"best.{buckets.name(k)}": v["v"] for k, v in run.get("best", {}).items()}
    return found


def row(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's document says of it, flat, by the names that `Runs.where` takes."""
    return {
        **{name: run.get(path(name)) for name in OWN},
        **flat(run.get("params", {}), "params."),
        **flat(run.get("tags", {}), "tags."),
        **metrics(run),
    }

"""What a view is at one moment: the only thing that reading its samples needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.views import conditions, ordering
from keras_tl.datasets.views.plan import Joined, Plan
from keras_tl.datasets.views.rows import Rows, Store, evaluate, leading

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset


@dataclass(frozen=True)
class Resolved:
    """The samples of a view, as they were when it was asked.

    Args:
        dataset: the dataset.
        at: int64 `(n,)`, where each sample is, in the view's order: pack times `dataset.rows` plus
            the row in the pack.
        columns: labels by name (-1 or NaN where one is missing), and the tags and predictions that
            were asked for, aligned with `at` (see `ordering.column`).
    """

    dataset: Dataset
    at: np.ndarray
    columns: dict[str, np.ndarray]


def resolve(
    dataset: Dataset,
    store: Any,
    plan: Plan,
    names: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    join: Joined | None = None,
) -> Resolved:
    """Evaluates a plan, with columns.

    Args:
        dataset: the dataset.
        store: what the plan is evaluated on.
        plan: the view's steps.
        names: labels that are wanted; default: all.
        extra: labels, tags and predictions that are wanted besides.
        join: whose predictions `prediction.NAME` names.

    Raises:
        ValueError: if `extra` names something else.
    """
    schema = dataset.schema
    labels = [name for name in schema.labels if names is None or name in (*names, *extra)]
    rest = [name for name in extra if name not in schema.labels]
    paths = {name: conditions.path(schema, name, join is not None, "extra") for name in rest}
    query, sort, limit, others = leading(plan, schema)
    if not query and not sort and limit is None and not others:
        at, columns = store.heads(labels)
        rows = Rows(at, exact=True)
    else:
        rows = evaluate(plan, store)
        columns = store.labels(rows.at, labels)
    for name, path in paths.items():
        columns[name] = _column(store, rows, name, path, join)
    return Resolved(dataset, rows.at, columns)


def _column(store: Store, rows: Rows, name: str, path: str, join: Joined | None) -> np.ndarray:
    if name.startswith(conditions.PREDICTION):
        assert join is not None  # or its path would be none
        bare = name.removeprefix(conditions.PREDICTION)
        return ordering.column(store.predictions(rows, join, bare))
    return ordering.column(store.values(rows, path), conditions.tag_type(store.schema, name))

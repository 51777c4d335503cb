"""A plan becomes rows: the steps that a server can take together as one filter, the others here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from keras_tl.datasets.views import conditions as compiling
from keras_tl.datasets.views import folds, ordering
from keras_tl.datasets.views.plan import Combine, Draw, Joined, Limit, Part, Plan, Sort, Step, Where

if TYPE_CHECKING:
    from keras_tl.datasets.schema.schema import Schema

#: Paths to sort by and directions, 1 or -1.
Order = list[tuple[str, int]]


@dataclass(frozen=True)
class Rows:
    """Some of the samples of a store.

    Args:
        at: their addresses, int64, each once; ascending unless `ordered`.
        query: a filter that lets all of them through, and may let others through.
        ordered: whether somebody asked for their order.
        exact: whether the filter lets no others through.
    """

    at: np.ndarray
    query: dict[str, Any] = field(default_factory=dict)
    ordered: bool = False
    exact: bool = False

    def only(self, mask: np.ndarray) -> Rows:
        """Those where the mask is true, in their order."""
        return replace(self, at=self.at[mask], exact=self.exact and bool(mask.all()))


class Store(Protocol):
    """What plans are evaluated on: a dataset at one moment, or a snapshot of it."""

    @property
    def schema(self) -> Schema: ...

    @property
    def origin(self) -> Plan:
        """The steps that its samples come from: those that were frozen; of a dataset none."""

    def select(self, query: dict[str, Any], sort: Order, limit: int | None) -> np.ndarray:
        """Addresses of the samples that the filter lets through: ascending, or as sorted."""

    def found(self, query: dict[str, Any]) -> list[str]:
        """Keys of the samples that the filter lets through."""

    def keys(self, rows: Rows) -> list[str]:
        """The samples' keys."""

    def values(self, rows: Rows, path: str) -> list[Any]:
        """What the samples have there, `None` where they have nothing."""

    def predicted(self, join: Joined, query: dict[str, Any]) -> set[str]:
        """Keys of the samples with a prediction that the filter lets through."""

    def predictions(self, rows: Rows, join: Joined, name: str) -> list[Any]:
        """What was predicted for the samples, `None` where nothing was."""


def leading(
    plan: Plan, schema: Schema
) -> tuple[dict[str, Any], tuple[Sort, ...], int | None, Plan]:
    """The steps that one filter, sort and limit stand for: these three, and the other steps."""
    query: dict[str, Any] = {}
    sort: tuple[Sort, ...] = ()
    for i, step in enumerate(plan):
        if isinstance(step, Where) and not compiling.divided(step.conditions)[1]:
            query = compiling.both(query, compiling.compiled(schema, step.conditions))
        elif isinstance(step, Sort) and step.join is None:
            sort = (step,)
        elif isinstance(step, Combine) and not (sort and step.operation == "or"):
            other, _, limit, rest = leading(step.other, schema)
            if limit is not None or rest or _sorts(step.other):
                return query, sort, None, plan[i:]
            query = _COMPOSE[step.operation](query, other)
        elif isinstance(step, Limit):
            return query, sort, step.count, plan[i + 1 :]
        else:
            return query, sort, None, plan[i:]
    return query, sort, None, ()


_COMPOSE = {"and": compiling.both, "or": compiling.either, "sub": compiling.without}


def _sorts(plan: Plan) -> bool:
    return any(isinstance(step, Sort) for step in plan)


def order_by(schema: Schema, sort: Sequence[Sort]) -> Order:
    """What a server sorts by: equal samples are in the order of their storage, or its reverse."""
    paths = [(compiling.path(schema, s.name), -1 if s.descending else 1) for s in sort]
    return [*paths, ("at", paths[0][1])] if paths else []


def evaluate(plan: Plan, store: Store) -> Rows:
    """The rows of a plan.

    A view that nobody has sorted is in the order of storage. `a & b` and `a - b` keep the order of
    `a`; `a | b` has the rest of `b` behind `a` if one of them is sorted.
    """
    query, sort, limit, rest = leading(plan, store.schema)
    at = store.select(query, order_by(store.schema, sort), limit)
    rows = Rows(at, query, bool(sort), exact=limit is None)
    done = len(plan) - len(rest)
    for i, step in enumerate(rest, done):
        rows = _apply(step, rows, store, (*store.origin, *plan[:i]))
    return rows


def _apply(step: Step, rows: Rows, store: Store, before: Plan) -> Rows:
    if isinstance(step, Where):
        return _where(step, rows, store)
    if isinstance(step, Sort):
        rows = replace(rows, at=np.sort(rows.at))
        order = ordering.order(_values(step, rows, store), step.descending)
        return replace(rows, at=rows.at[order], ordered=True)
    if isinstance(step, Limit):
        return replace(rows, at=rows.at[: step.count], exact=False)
    if isinstance(step, Draw):
        return rows.only(folds.drawn(store.keys(rows), step.count, folds.salt(before, step)))
    if isinstance(step, Part):
        classes = None
        if step.stratify is not None:
            classes = store.values(rows, compiling.path(store.schema, step.stratify))
        salt = folds.salt(before, step)
        inside = folds.part(store.keys(rows), step.fractions, step.index, salt, classes)
        return rows.only(~inside if step.outside else inside)
    other = evaluate(step.other, store)
    if step.operation == "and":
        return rows.only(np.isin(rows.at, other.at))
    if step.operation == "sub":
        return rows.only(~np.isin(rows.at, other.at))
    ordered = rows.ordered or other.ordered
    at = np.concatenate([rows.at, other.at[~np.isin(other.at, rows.at)]])
    query = compiling.either(rows.query, other.query)
    return Rows(at if ordered else np.sort(at), query, ordered, rows.exact and other.exact)


def _where(step: Where, rows: Rows, store: Store) -> Rows:
    mine, predicted = compiling.divided(step.conditions)
    if mine:
        query = compiling.both(rows.query, compiling.compiled(store.schema, mine))
        among = np.isin(rows.at, store.select(query, [], None))
        rows = replace(rows, at=rows.at[among], query=query)
    keys = store.keys(rows) if predicted else []
    mask = np.ones(len(rows.at), bool)
    for condition in predicted:
        assert step.join is not None
        query = compiling.compiled(store.schema, (condition,), joined=True)
        # A sample without a prediction is one that has nothing under any name.
        missing = compiling.matches_missing(query)
        found = store.predicted(step.join, {"$nor": [query]} if missing else query)
        mask &= np.fromiter(((key in found) is not missing for key in keys), bool, len(keys))
    return rows.only(mask) if predicted else rows


def _values(step: Sort, rows: Rows, store: Store) -> list[Any]:
    if step.join is None:
        return store.values(rows, compiling.path(store.schema, step.name))
    return store.predictions(rows, step.join, step.name.removeprefix(compiling.PREDICTION))

"""A snapshot's rows as a store for plans: labels, tags and keys as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.views import live, ordering
from keras_tl.datasets.views.matching import matches
from keras_tl.datasets.views.plan import Joined, Plan
from keras_tl.datasets.views.rows import Order, Rows
from keras_tl.storage.frozen import FrozenRows

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.schema.schema import Schema


class Frozen:
    """A store for plans (`rows.Store`): samples as they were, in memory.

    Args:
        dataset: the dataset, whose predictions can be joined.
        rows: the samples, by their addresses.
        origin: the steps that were frozen.
    """

    def __init__(self, dataset: Dataset, rows: FrozenRows, origin: Plan = ()) -> None:
        self.dataset, self.rows, self.origin = dataset, rows, origin

    @property
    def schema(self) -> Schema:
        return self.dataset.schema

    @cached_property
    def _columns(self) -> dict[str, Sequence[Any]]:
        schema, rows = self.schema, self.rows
        return {
            **{"_id": rows.keys, "added": rows.added, "at": rows.at.tolist()},
            **{f"labels.{name}": rows.label(name) for name in schema.labels},
            **{f"tags.{name}": rows.tag(name) for name in schema.tags},
        }

    def select(self, query: dict[str, Any], sort: Order, limit: int | None) -> np.ndarray:
        """Addresses of the samples that the filter lets through: ascending, or as sorted."""
        places = np.flatnonzero(matches(query, self._columns.__getitem__, len(self.rows.at)))
        if sort:
            path, direction = sort[0]
            column = self._columns[path]
            values = [column[place] for place in places.tolist()]
            places = places[ordering.order(values, direction < 0)]
        return self.rows.at[places][:limit]

    def count(self, query: dict[str, Any], limit: int | None) -> int:
        """How many samples the filter lets through."""
        return len(self.select(query, [], limit))

    def found(self, query: dict[str, Any]) -> list[str]:
        """Keys of the samples that the filter lets through."""
        return self.keys(Rows(self.select(query, [], None)))

    def keys(self, rows: Rows) -> list[str]:
        """The samples' keys."""
        return self.values(rows, "_id")

    def values(self, rows: Rows, path: str) -> list[Any]:
        """What the samples have there, `None` where they have nothing."""
        column = self._columns[path]
        return [column[place] for place in self.places(rows.at).tolist()]

    def labels(self, at: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns of labels."""
        places = self.places(at)
        return {name: self.rows.labels[name][places] for name in names}

    def heads(self, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The addresses of all samples, ascending, and the columns of these labels."""
        return self.rows.at, {name: self.rows.labels[name] for name in names}

    def predicted(self, join: Joined, query: dict[str, Any]) -> set[str]:
        """Keys of the samples with a prediction that the filter lets through."""
        return live.Live(self.dataset, None).predicted(join, query)

    def predictions(self, rows: Rows, join: Joined, name: str) -> list[Any]:
        """What was predicted for the samples, `None` where nothing was."""
        keys = self.keys(rows)
        found = live.predictions(self.dataset, keys, join, [name])
        return [found.get(key, {}).get(name) for key in keys]

    def documents(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is known of samples, as the documents of a dataset's samples have it."""
        rows, found = self.rows, []
        mask = matches(query, self._columns.__getitem__, len(rows.at))
        for place in np.flatnonzero(mask).tolist():
            document: dict[str, Any] = {"_id": rows.keys[place], "at": int(rows.at[place])}
            for path, column in self._columns.items():
                kind, _, name = path.partition(".")
                if name:
                    document.setdefault(kind, {})[name] = column[place]
            found.append({**document, "added": rows.added[place]})
        return found

    def places(self, at: np.ndarray) -> np.ndarray:
        """Where the samples with these addresses are."""
        return np.searchsorted(self.rows.at, at)

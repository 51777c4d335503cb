"""`ds.where(split="train")`: a view, which is a question until somebody reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keras_tl.datasets.batches.reading import Reading
from keras_tl.datasets.look.preview import Looking
from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.views import folds
from keras_tl.datasets.views.conditions import both
from keras_tl.datasets.views.live import ask
from keras_tl.datasets.views.plan import Joined, Plan, describe, to_document
from keras_tl.datasets.views.resolved import Resolved, resolve
from keras_tl.datasets.views.rows import Rows, Store, evaluate, leading
from keras_tl.datasets.views.selecting import Selecting

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.snapshots.snapshots import Snapshot
    from keras_tl.datasets.views.sample import Sample
    from keras_tl.datasets.views.watching import Change

T = TypeVar("T")


class View(Selecting, Reading, Looking):
    """Some samples of a dataset, in some order: a question, which is asked when it is read.

    A view stores and copies nothing, and never changes; samples that meet its conditions later are
    in it from then on. Views are combined by `|`, `&` and `-`. A view that is not sorted is in the
    order in which the samples were stored.

    Args:
        dataset: the dataset.
        plan: the view's steps.
        chosen: fields and tags that are read; default: all.
        join: model and version whose predictions are joined.
        base: the snapshot that it is a view of; default: the dataset as it is.

    Example:

    ```python
    good = ds.where(split="train", quality__gte=3).sort("-quality").limit(1000)
    for sample in good:
        print(sample.key, sample["x"].shape, sample.tags)
    ```
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan = (),
        chosen: tuple[str, ...] | None = None,
        join: Joined | None = None,
        base: Snapshot | None = None,
    ) -> None:
        self.dataset = dataset
        self.plan = plan
        self.chosen = chosen
        self.join = join
        self.base = base

    def __repr__(self) -> str:
        source = f", snapshot={self.base.id[:12]!r}" if self.base is not None else ""
        return f"View({self.dataset.key!r}{source}, {describe(self.plan)})"

    def _ask(self, question: Callable[[Any], T]) -> T:
        """The answer of what the view is evaluated on, at one moment."""
        return ask(self.dataset, question) if self.base is None else question(self.base.store)

    def resolve(self, extra: Sequence[str] = ()) -> Resolved:
        """Where the view's samples are, with their labels, at this moment.

        Args:
            extra: tags and `prediction.NAME`s that are wanted as columns.

        Raises:
            ValueError: if `extra` names something else.
        """
        about = self.plan, self.chosen, extra, self.join
        return self._ask(lambda store: resolve(self.dataset, store, *about))

    @property
    def count(self) -> int:
        """How many samples there are."""
        query, _, limit, rest = leading(self.plan, self.dataset.schema)
        if rest:
            return self._ask(lambda store: len(evaluate(self.plan, store).at))
        return self._ask(lambda store: int(store.count(query, limit)))

    def keys(self) -> list[str]:
        """The keys of the samples, in the view's order."""
        return self._ask(lambda store: list(store.keys(evaluate(self.plan, store))))

    def __iter__(self) -> Iterator[Sample]:
        """The samples, in the view's order.

        Memory stays bounded, whatever the number of samples. A sample that is deleted or replaced
        behind the beginning is left out.
        """
        from keras_tl.datasets.views.sample import listed

        return listed(self)

    def first(self) -> Sample:
        """The first sample.

        Raises:
            KeyError: if there is none.
        """
        for found in self.limit(1):
            return found
        raise KeyError(f"{self!r} has no samples")

    def __getitem__(self, key: str) -> Sample:
        """A sample by its key.

        Raises:
            KeyError: if there is no such sample in the view.
        """
        from keras_tl.datasets.views.sample import single

        found = single(self, key)
        if found is None:
            raise KeyError(f"`key` must be one of a sample in {self!r}. Received: {key!r}")
        return found

    def __contains__(self, key: object) -> bool:
        """Whether a sample with this key is in the view."""
        return isinstance(key, str) and bool(self.among([key]))

    def among(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose samples are in the view.

        Raises:
            ValueError: if one is no key.
        """
        wanted = sorted({check_key(key, "keys") for key in keys})
        one = {"_id": {"$in": wanted}}
        query, _, limit, rest = leading(self.plan, self.dataset.schema)

        def question(store: Store) -> set[str]:
            if limit is None and not rest:
                # A key is looked up in its index, whatever the other conditions are.
                return set(store.found(both(one, query)))
            inside = store.select(one, [], None)
            return set(store.keys(Rows(inside[np.isin(inside, evaluate(self.plan, store).at)])))

        return self._ask(question)

    def _documents(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is known of samples that a filter lets through, without their tensors."""
        if self.base is not None:
            return self.base.store.documents(query)
        return list(self.dataset.samples.find(query))

    def explain(self) -> dict[str, Any]:
        """How the view is evaluated.

        Returns:
            `steps` in words; the MongoDB `filter` of the first ones, which the server evaluates;
            the first `index` that it uses, or `None`; whether it has to `scan` all samples or
            predictions; the `docs` and index `keys` that it looks at for the rows of all steps.
        """
        query = leading(self.plan, self.dataset.schema)[0]
        found: dict[str, Any] = {"steps": describe(self.plan), "filter": query}
        told: list[dict[str, Any]] = []

        def question(store: Any) -> None:
            told.clear()  # it may be asked again
            if self.base is None:
                store.tell = told.append
            evaluate(self.plan, store)

        self._ask(question)
        return found | {
            "index": next((one["index"] for one in told if one["index"]), None),
            "scan": any(one["scan"] for one in told),
            "docs": sum(one["docs"] for one in told),
            "keys": sum(one["keys"] for one in told),
        }

    def class_weights(self, label: str) -> dict[int, float]:
        """Weights for `fit`'s `class_weight` by which each class counts the same.

        Args:
            label: an integer label.

        Returns:
            `n / (classes * count)` by class, as scikit-learn's `"balanced"`; samples without a
            label do not count.

        Raises:
            ValueError: if `label` is no integer label.
        """
        kinds = self.dataset.schema.labels
        if label not in kinds or kinds[label].dtype.kind != "i":  # type: ignore[union-attr]
            listed = ", ".join(kinds) or "none"
            raise ValueError(
                f"`label` must be an integer label of the dataset: {listed}. Received: {label!r}"
            )
        return folds.class_weights(self.fields(label).resolve().columns[label])

    def save(self, name: str) -> View:
        """Keeps the view under a name, as a question: `ds.views[name]`.

        Raises:
            ValueError: if another view has the name.
        """
        from keras_tl.datasets.views.saved import Views

        Views(self.dataset).save(self, name)
        return self

    def freeze(self, name: str) -> Snapshot:
        """Freezes the samples with their labels and tags as they are: `ds.snapshots[name]`.

        A snapshot is a set: it is in the order of storage. No tensor is copied, and rows that a
        snapshot has are kept when their samples are edited or deleted. Frozen again, samples that
        are the same are the same snapshot.

        Raises:
            ValueError: if another snapshot has the name.
        """
        from keras_tl.datasets.snapshots.snapshots import freeze

        return freeze(self, name)

    def watch(self, timeout: float | None = None) -> Iterator[Change]:
        """What comes into the view, changes in it and leaves it, from now on.

        Args:
            timeout: s without a change after which it ends; default: never.

        Returns:
            `Change(kind, key)`, where `kind` is `"entered"`, `"changed"` or `"left"`. Each change
            is told once at least; one that was undone at once may not be. Once the dataset is
            deleted, it raises a `KeyError`.

        Example:

        ```python
        for change in ds.where(y=None).watch():
            print(change.kind, change.key)
        ```
        """
        from keras_tl.datasets.views.watching import watch

        return watch(self, timeout)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a model's version keeps of the data that it was trained on, as plain values."""
        return {
            "dataset": self.dataset.key,
            "uid": self.dataset.uid,
            "query": to_document(self.plan),
            "text": describe(self.plan),
            "snapshot": None if self.base is None else self.base.id,
        }

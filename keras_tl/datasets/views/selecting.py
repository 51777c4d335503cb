"""Lazy selection: what `where`, `sort` and their like do to a view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.views import conditions as compiling
from keras_tl.datasets.views import folds
from keras_tl.datasets.views.plan import Combine, Draw, Joined, Limit, Part, Plan, Sort, Step, Where

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.schema.schema import Schema
    from keras_tl.datasets.snapshots.snapshots import Snapshot
    from keras_tl.datasets.views.view import View


class Selecting:
    """Makes views of a view; nothing is read or stored by it, and nothing changes.

    Attributes:
        dataset: the dataset.
        plan: the steps of the view.
        chosen: the fields and tags that are read (`fields`), or `None`: all.
        join: model and version whose predictions were joined, or `None`.
        base: the snapshot that it is a view of, or `None`: the dataset as it is.
    """

    dataset: Dataset
    plan: Plan
    chosen: tuple[str, ...] | None
    join: Joined | None
    base: Snapshot | None

    @property
    def source(self) -> tuple[str, str | None]:
        """What its rows are taken from: the dataset's `uid`, and the snapshot's id."""
        return self.dataset.uid, None if self.base is None else self.base.id

    def _made(self, **changes: Any) -> View:
        from keras_tl.datasets.views.view import View

        about = {name: getattr(self, name) for name in ("plan", "chosen", "join", "base")}
        return View(self.dataset, **{**about, **changes})

    def _then(self, step: Step) -> View:
        return self._made(plan=(*self.plan, step))

    def where(self, **conditions: Any) -> View:
        """The samples that meet all conditions.

        Args:
            **conditions: of labels, tags, `key`, `added` and, behind `join_predictions`,
                `prediction.NAME`, with the operators of `keras_tl.storage.compile_query`:
                `split="train"`, `quality__gte=3`, `y__in=[0, 1]`, `added__after=...`,
                `quality__exists=True`. A class of a label with names can be given by its name.

        Raises:
            ValueError: for a name that is not there, an unknown operator, and a value that is no
                plain one or of another type than the name's.

        Example:

        ```python
        train = ds.where(split="train", quality__gte=3)
        unsure = ds.join_predictions(model="m", version=3).where(**{"prediction.p__lt": 0.6})
        ```
        """
        if not conditions:
            return self._made()
        given = tuple(conditions.items())
        schema = self._schema(*(name.rpartition("__")[0] or name for name in conditions))
        mine, predicted = compiling.divided(given)
        compiling.compiled(schema, mine)
        compiling.compiled(schema, predicted, self.join is not None)
        frozen = tuple((name, _frozen(value)) for name, value in given)
        return self._then(Where(frozen, self.join if predicted else None))

    def sort(self, by: str) -> View:
        """The samples in the order of a label, a tag, `key`, `added` or `prediction.NAME`.

        Args:
            by: the name. Samples without a value come first, equal ones are in the order of their
                storage. With a `-` before the name all of it is the other way round.

        Raises:
            ValueError: for a name that is not there.
        """
        if not isinstance(by, str):
            raise ValueError(f"`by` must be a name. Received: {by!r}")
        name = by.removeprefix("-")
        compiling.path(self._schema(name), name, self.join is not None, "by")
        join = self.join if name.startswith(compiling.PREDICTION) else None
        return self._then(Sort(name, name != by, join))

    def limit(self, n: int) -> View:
        """The first `n` samples.

        Raises:
            ValueError: if `n` is no integer from 0 up.
        """
        return self._then(Limit(_whole(n, "n")))

    def sample(self, n: int, seed: int = 0) -> View:
        """`n` samples that chance chooses, in the view's order; all, if there are no more.

        A sample's key decides together with the seed and the steps of this view: the same call
        gives the same samples, also after others were edited, and one that comes takes the place of
        one at most. Of another view, or of a part of this one, chance chooses independently.

        Raises:
            ValueError: if `n` is no integer from 0 up, or `seed` is no integer.
        """
        return self._then(Draw(_whole(n, "n"), _seed(seed)))

    def fields(self, *names: str) -> View:
        """Only these fields and tags, where samples are read.

        Raises:
            ValueError: for a name that is not there.
        """
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"`names` must be texts. Received: {names!r}")
        schema = self._schema(*names)
        for name in names:
            if name not in schema.fields:
                compiling.path(schema, name, self.join is not None, "names")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"`names` must be one name or more, none twice. Received: {names!r}")
        return self._made(chosen=names)

    def join_predictions(self, model: str, version: int) -> View:
        """Lets `prediction.NAME` name what a version of a model has predicted for a sample.

        Raises:
            ValueError: if `model` is no text, or `version` no integer from 1 up.
        """
        if not isinstance(model, str) or not model or "\0" in model:
            raise ValueError(f"`model` must be the key of a model. Received: {model!r}")
        return self._made(join=(model, _whole(version, "version")))

    def __or__(self, other: View) -> View:
        return self._combined("or", other)

    def __and__(self, other: View) -> View:
        return self._combined("and", other)

    def __sub__(self, other: View) -> View:
        return self._combined("sub", other)

    def _combined(self, operation: str, other: Any) -> View:
        if not isinstance(other, Selecting):
            return NotImplemented
        if other.source != self.source:
            raise ValueError(
                "`other` must be a view of the same dataset and, of a snapshot's views, of the "
                f"same snapshot. Received: {other!r}"
            )
        return self._then(Combine(operation, other.plan))

    def folds(self, k: int, seed: int = 0, stratify: str | None = None) -> list[tuple[View, View]]:
        """`k` pairs of views to train and to test on; each sample is tested in one of them.

        Args:
            k: how many folds; 2 or more.
            seed: another seed gives other folds. Chance is independent for each `k`, too, and for
                each view by its steps, so that a fold of a fold is as random as one of all.
            stratify: a label or tag: then each fold has its share of each value, within one.
                Default: a sample's key alone decides where it falls, and no sample that comes or
                goes moves another one.

        Returns:
            `(train, test)` for each fold. Each view is evaluated when it is read: where labels
            change meanwhile and `stratify` is given, make the folds of a snapshot (`freeze`).

        Raises:
            ValueError: for a `k`, `seed` or `stratify` that is none of the above.
        """
        if _whole(k, "k") < 2:
            raise ValueError(f"`k` must be 2 or more. Received: {k!r}")
        fractions, by = (1 / k,) * k, self._stratified(stratify)
        parts = [Part(fractions, i, False, _seed(seed), by) for i in range(k)]
        return [(self._then(replace(part, outside=True)), self._then(part)) for part in parts]

    def split(
        self, parts: Mapping[str, float], seed: int = 0, stratify: str | None = None
    ) -> dict[str, View]:
        """Disjoint views by name that together have all samples.

        Args:
            parts: the fraction of the samples that each gets; their sum is 1.
            seed: as for `folds`.
            stratify: as for `folds`.

        Raises:
            ValueError: for `parts`, `seed` or `stratify` that are none of the above.

        Example:

        ```python
        parts = ds.split({"train": 0.8, "test": 0.2}, seed=1, stratify="y")
        model.fit(parts["train"].batches(256, shuffle=True))
        ```
        """
        fractions, by = folds.shares(parts), self._stratified(stratify)
        return {
            name: self._then(Part(fractions, i, False, _seed(seed), by))
            for i, name in enumerate(parts)
        }

    def _schema(self, *names: str) -> Schema:
        """The schema, read again if it lacks one of the names: others may have declared it."""
        schema = self.dataset.schema
        known = {"key", "added", *schema.fields, *schema.tags}
        if any(name not in known and not _predicted(name) for name in names):
            self.dataset.refresh()
        return self.dataset.schema

    def _stratified(self, name: str | None) -> str | None:
        if name is None:
            return None
        if not isinstance(name, str):
            raise ValueError(f"`stratify` must be a name. Received: {name!r}")
        schema = self._schema(name)
        if name not in schema.labels and name not in schema.tags:
            listed = ", ".join([*schema.labels, *schema.tags]) or "none"
            raise ValueError(f"`stratify` must be a label or a tag: {listed}. Received: {name!r}")
        return name


def _predicted(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(compiling.PREDICTION)


def _frozen(value: Any) -> Any:
    """A value of a condition that nobody changes later."""
    tolist = getattr(value, "tolist", None)
    value = value if tolist is None else tolist()
    return tuple(value) if isinstance(value, (list, set, frozenset)) else value


def _whole(value: Any, what: str) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool) or not 0 <= int(value) < 2**63:
        raise ValueError(f"`{what}` must be an integer from 0 up, of 63 bits. Received: {value!r}")
    return int(value)


def _seed(value: Any) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool) or abs(int(value)) >= 2**63:
        raise ValueError(f"`seed` must be an integer of 64 bits. Received: {value!r}")
    return int(value)

"""What a dataset does as the view of all its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.datasets.resolved import Resolved
    from keras_tl.datasets.view import View


class Viewed:
    """Methods of `View`, on the view of all samples (`all`)."""

    def all(self: Any) -> View:
        """The view of all samples."""
        from keras_tl.datasets.view import View

        return View(self)

    def where(self, **conditions: Any) -> View:
        """See `View.where`."""
        return self.all().where(**conditions)

    def sort(self, *names: str) -> View:
        """See `View.sort`."""
        return self.all().sort(*names)

    def sample(self, n: int, seed: int = 0) -> View:
        """See `View.sample`."""
        return self.all().sample(n, seed=seed)

    def limit(self, n: int) -> View:
        """See `View.limit`."""
        return self.all().limit(n)

    def fields(self, *names: str) -> View:
        """See `View.fields`."""
        return self.all().fields(*names)

    def join_predictions(self, model: str, version: int) -> View:
        """See `View.join_predictions`."""
        return self.all().join_predictions(model=model, version=version)

    def __or__(self, other: Any) -> View:
        return self.all() | other

    def __and__(self, other: Any) -> View:
        return self.all() & other

    def __sub__(self, other: Any) -> View:
        return self.all() - other

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all())

    def __getitem__(self, key: str) -> Any:
        return self.all()[key]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.all().count

    def keys(self) -> list[str]:
        """See `View.keys`."""
        return self.all().keys()

    def first(self) -> Any:
        """See `View.first`."""
        return self.all().first()

    def explain(self) -> dict[str, Any]:
        """See `View.explain`."""
        return self.all().explain()

    def resolve(self, extra: Any = ()) -> Resolved:
        """See `View.resolve`."""
        return self.all().resolve(extra)

    def save(self, name: str) -> Any:
        """See `View.save`."""
        return self.all().save(name)

    def freeze(self, name: str | None = None) -> Any:
        """See `View.freeze`."""
        return self.all().freeze(name)

    def watch(self, timeout: float | None = None) -> Iterator[Any]:
        """See `View.watch`."""
        return self.all().watch(timeout=timeout)

    def folds(self, k: int, seed: int = 0, stratify: str | None = None) -> Any:
        """See `View.folds`."""
        return self.all().folds(k, seed=seed, stratify=stratify)

    def split(
        self, shares: Mapping[str, float], seed: int = 0, stratify: str | None = None
    ) -> dict[str, View]:
        """See `View.split`."""
        return self.all().split(shares, seed=seed, stratify=stratify)

    def class_weights(self, label: str) -> dict[int, float]:
        """See `View.class_weights`."""
        return self.all().class_weights(label)

    def batches(self, size: int, **options: Any) -> Any:
        """See `View.batches`."""
        return self.all().batches(size, **options)

    def to_numpy(self) -> dict[str, Any]:
        """See `View.to_numpy`."""
        return self.all().to_numpy()

    def to_pandas(self) -> Any:
        """See `View.to_pandas`."""
        return self.all().to_pandas()

    def to_tf_dataset(self, *args: Any, **options: Any) -> Any:
        """See `View.to_tf_dataset`."""
        return self.all().to_tf_dataset(*args, **options)

    def to_torch(self, *args: Any, **options: Any) -> Any:
        """See `View.to_torch`."""
        return self.all().to_torch(*args, **options)

    def to_grain(self, *args: Any, **options: Any) -> Any:
        """See `View.to_grain`."""
        return self.all().to_grain(*args, **options)

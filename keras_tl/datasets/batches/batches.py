"""`view.batches(...)`: what `fit` trains on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras

from keras_tl.datasets.batches import fitting
from keras_tl.datasets.batches.following import Followed
from keras_tl.datasets.batches.layout import Batch, Layout, Names
from keras_tl.datasets.batches.mapping import Mapped
from keras_tl.datasets.batches.passes import Epoch, Order, Pass, Recipe, identity
from keras_tl.datasets.reading.locks import ForkLock
from keras_tl.datasets.reading.source import Source

if TYPE_CHECKING:
    from keras_tl.datasets.views.resolved import Resolved
    from keras_tl.datasets.views.view import View

_IN_A_ROW = 3  # batches that were asked for by index, after which those that follow are made ahead


class Batches(keras.utils.PyDataset):
    """The samples of a view as batches: `(x, y)`, `(x, y, sample_weight)` or `(x,)`.

    For `fit`, `evaluate` and `predict` on each backend, for `for`, and by index. Each pass is an
    epoch, whose order depends on the samples, `seed` and the epoch's number alone: not on the
    cache, on threads, or on how many shards there are. It also holds under `fit`'s `shuffle=True`.

    At the beginning of an epoch the view is resolved again: samples that came are in it, once, and
    what is in the local cache is not fetched again. While MongoDB is away an epoch waits for what
    it needs, `fetching.PATIENCE` s at most, and begins with the samples of the one before.

    `get_state` and `set_state` let `MongoBackupAndRestore` go on in the middle of an epoch.

    What is read together is one piece of memory (4 MB; without a cache 64 at most), and stays for
    as long as somebody has a row of it: rows that are kept for long are better copied.

    Args:
        view: the view.
        size: samples of a batch.
        shuffle: whether each epoch has an order of its own: packs are permuted, and rows in
            windows of 10 to 256 packs. Else it is the view's.
        seed: of the orders, and of what is random in `map`.
        shard: `(index, count)` for one of several readers that train together: each gets as many
            batches of the same sizes, and together they get what one reader with
            `size * count` would; `(0, 1)` and `None` for all.
        cache: where what was read is kept: `"auto"` (on this machine's disk, see
            `KERAS_TL_CACHE`), `"memory"`, or `None`.
        prefetch: how many batches a thread makes ahead; 0 for none.
        map: what is done to a batch: a function of a dict, a Keras preprocessing layer, or a
            transform of albumentations (see `mapping.Mapped`).
        drop_remainder: whether a last batch that is not full is left out.
        x: the name of a field or tag for an array, several for a dict; default: all fields but
            labels, a field called `y`, and what `y` and `sample_weight` name; where one is an
            array. Fields whose size varies are arrays of objects.
        y: as `x`; default: all labels, and a field called `y`; `()` for none. A sample that has
            no value for `y` or `sample_weight` is refused when an epoch begins, but not by
            `predict`, which drops them. A `map` that makes something of missing labels gives it a
            name of its own, as in `y="target"`.
        sample_weight: the name of a field or tag, or `None`.

    Raises:
        ValueError: for an argument that is none of the above, and a view without samples; by each
            pass for samples without labels, a view that has no samples left, and in `fit` for
            columns that are no arrays of numbers.

    Example:

    ```python
    train = hub.datasets["cifar"].where(split="train")
    model.fit(train.batches(256, shuffle=True), epochs=10)
    ```
    """

    def __init__(
        self,
        view: View,
        size: int,
        shuffle: bool = False,
        seed: int = 0,
        shard: tuple[int, int] | None = None,
        cache: str | None = "auto",
        prefetch: int = 2,
        map: Any = None,
        drop_remainder: bool = False,
        x: Names = None,
        y: Names = None,
        sample_weight: str | None = None,
    ) -> None:
        super().__init__(workers=1)
        self.view = view
        index, count = _shard(shard)
        self._order = Order(
            _whole(size, "size", 1), shuffle, _seed(seed), (index, count), drop_remainder
        )
        self._prefetch = _whole(prefetch, "prefetch", 0)
        schema = view.dataset.schema
        self._layout = Layout(schema, view.chosen, x, y, sample_weight, map is not None)
        self._cache, self._map = cache, map
        self._prepare()
        self._followed = Followed(view, self._layout.extra)
        self._resolved = self._followed.resolved
        self._labelled: Resolved | None = None  # all of whose samples have labels
        self._number = 0  # of the pass that was begun last, or will be
        self._begun = self._complete = False
        self._fresh = True  # resolved, and no pass begun since
        self._builds = False
        self._asked = (-1, 0)  # the last index, and how many came in a row
        self._unwanted = 0  # batches of the next pass
        self._epoch = self._made(0)
        self._check_samples(self._epoch)

    def _prepare(self) -> None:
        dataset = self.view.dataset
        mapped = Mapped(self._map, dataset.schema) if self._map is not None else None
        source = Source(dataset, self._layout.fields, self._cache)
        self._recipe = Recipe(source, self._layout, mapped)
        self._lock = ForkLock()
        self._failure: Exception | None = None
        self._walk: Pass | None = None  # for who asks by index

    def __repr__(self) -> str:
        return f"Batches({self.view!r}, {self._order})"

    @property
    def provenance(self) -> dict[str, Any]:
        """What a model's version keeps of the data: that of the view."""
        return self.view.provenance

    # What Keras asks.

    @property
    def num_batches(self) -> int:
        frame = sys._getframe(1)
        if fitting.adapts(frame, self):
            labelled = not fitting.predicts(frame)
            if labelled:
                self._refresh()  # labels may have come
                self._check_labels(self._resolved)
            fitting.adopt(frame, self, lambda own: own._batches(labelled, adapted=True))
        return len(self)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._epoch)

    def __getitem__(self, index: int) -> Batch:
        """A batch of the epoch that has begun last, or will begin first.

        Raises:
            IndexError: if there are no so many.
            ValueError: if samples have no labels.
        """
        frame = sys._getframe(1)
        if self._labelled is not self._resolved and not fitting.predicts(frame):
            if not self._begun:
                self._refresh()
            self._check_labels(self._resolved)
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)}. Received: {index}")
        index %= len(self)
        with self._lock:
            last, row = self._asked
            row = row + 1 if index == last + 1 else 1
            self._asked = index, row
            epoch, walk, self._walk = self._epoch, self._walk, None
            if walk is None or walk.index != index or walk.epoch is not epoch:
                walk = None
                if row >= _IN_A_ROW and index + 1 < len(epoch):
                    walk = Pass(self._recipe, epoch, self._prefetch, index)
            batch = self._recipe.one(epoch, index) if walk is None else next(walk)
            if index == len(epoch) - 1:
                self._complete |= self._begun
            else:
                self._walk = walk  # one that has failed has nothing more
        if fitting.adapts(frame, self):
            self._layout.check_arrays(batch)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """One epoch."""
        return self._batches()

    def on_epoch_begin(self) -> None:
        frame = sys._getframe(1)
        self._builds = fitting.builds(frame)
        if self._builds:
            return
        iterator = fitting.epoch_iterator(frame)
        if iterator is None:
            self._begin()
        elif fitting.begins_pass(iterator):
            self._refresh()
            fitting.count(iterator, len(self))

    def on_epoch_end(self) -> None:
        with self._lock:
            self._builds = False
            failure, self._failure = self._failure, None
            if self._complete:
                self._number += 1
                self._begun = self._complete = False
                self._epoch = self._made(self._number)
        if failure is not None:
            raise failure

    def every(self, index: int, count: int, number: int) -> Iterator[Batch]:
        """Of an epoch each `count`th batch, for one of several processes that make them.

        Args:
            index: the first one.
            count: of the processes.
            number: of the epoch.
        """
        self._check_labels(self._resolved)
        return Pass(self._recipe, self._made(number), self._prefetch, index, count)

    def named(self, batch: Batch) -> Iterator[tuple[str, Any]]:
        """The columns of a batch with their names, in the order that `keras.tree` has."""
        return self._layout.named(batch)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned; what was read, and threads, stay here."""
        own = ("_recipe", "_lock", "_walk", "_failure")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    # For callbacks.

    def skip(self, count: int) -> None:
        """The next pass begins with so many batches that whoever asks for them drops.

        They are not read: in their place comes the last one of them, again and again, so that its
        shapes are seen. So `MongoBackupAndRestore` gets to the middle of an epoch at once.
        """
        self._unwanted = count

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs for the next pass to be the one that would come next here."""
        with self._lock:
            if not self._fresh:
                self._resolved = self._followed.look()
            return {
                "epoch": self._number + self._begun,
                "seed": self._order.seed,
                "view": identity(self._resolved, self._order),
            }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass the one that a `get_state` was before; also in another process.

        Warns:
            UserWarning: if the view has other samples than it had, so that the order is another
                one: `view.freeze(name)` makes a view that stays.
        """
        with self._lock:
            seed = int(state["seed"])
            if seed != self._order.seed:
                raise ValueError(
                    f"`seed` must be what it was: {seed}. Received: seed={self._order.seed}"
                )
            if state["view"] != identity(self._resolved, self._order):
                warnings.warn(
                    "The view has other samples than when its state was kept, or is batched in "
                    "another way: the order is another one. `view.freeze(name)` makes a view "
                    "that stays as it is.",
                    stacklevel=2,
                )
            self._number = int(state["epoch"])
            self._begun = self._complete = False
            self._epoch = self._made(self._number)

    # Passes.

    def _batches(self, labelled: bool = True, adapted: bool = False) -> Iterator[Batch]:
        """A pass; nothing is begun before the first batch is asked for.

        Args:
            labelled: whether samples must have labels.
            adapted: whether it is for a model, by an adapter of Keras.
        """
        counts = not self._builds
        epoch = self._begin() if counts else self._epoch
        first = 0
        if counts:
            first, self._unwanted = min(self._unwanted, len(epoch)), 0
        running = Pass(self._recipe, epoch, self._prefetch if counts else 0, first)
        try:
            self._check_samples(epoch)
            if labelled and counts:
                self._check_labels(epoch.resolved)
            unwanted = self._recipe.one(epoch, first - 1) if first else ()
            for index in range(len(epoch)):
                batch = unwanted if index < first else next(running)
                if adapted:
                    self._layout.check_arrays(batch)
                if counts and index == len(epoch) - 1:
                    # Keras does not ask for more than there is, so that nothing follows this.
                    self._completed(epoch)
                yield batch
        except Exception as failure:
            if not (adapted and fitting.HIDES_ERRORS):
                raise
            self._failure = failure
        finally:
            running.close()

    def _begin(self) -> Epoch:
        """Begins a pass; one that was broken off counts."""
        with self._lock:
            if self._begun:
                self._number += 1
            if not self._fresh:
                self._refresh()
            self._epoch = self._made(self._number)
            self._begun, self._complete, self._fresh = True, False, False
            self._walk = None
            return self._epoch

    def _check_samples(self, epoch: Epoch) -> None:
        if not len(epoch):
            raise ValueError(
                f"`view` must have samples for one batch at least. Received: {self.view!r} with "
                f"{len(epoch.resolved.at)} samples, {self._order}"
            )

    def _check_labels(self, resolved: Resolved) -> None:
        if self._labelled is not resolved:
            try:
                self._layout.check_labelled(resolved.columns)
            except ValueError:
                self._begun = self._fresh = False  # for another try, when labels have come
                raise
            self._labelled = resolved

    def _completed(self, epoch: Epoch) -> None:
        with self._lock:
            self._complete |= epoch is self._epoch

    def _refresh(self) -> None:
        """Has the next pass see the samples that the view has now."""
        with self._lock:
            if not self._fresh:
                self._resolved = self._followed.look()
            self._fresh = True
            self._epoch = self._made(self._number + self._begun)

    def _made(self, number: int) -> Epoch:
        epoch = getattr(self, "_epoch", None)
        if epoch is not None and epoch.resolved is self._resolved and epoch.number == number:
            return epoch
        return Epoch(self._resolved, self._order, number)


def _shard(shard: Any) -> tuple[int, int]:
    if shard is None:
        return 0, 1
    try:
        index, count = (_whole(value, "shard", 0) for value in shard)
    except (TypeError, ValueError):
        index = count = 0
    if not index < count:
        raise ValueError(
            f"`shard` must be (index, count) with 0 <= index < count. Received: shard={shard!r}"
        )
    return index, count


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"`{name}` must be an integer from {least} up. Received: {value!r}")
    return int(value)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"`seed` must be an integer. Received: seed={value!r}")
    return int(value)

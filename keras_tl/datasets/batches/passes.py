"""One pass over the samples: what an epoch is, how its batches are made, and a thread ahead."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from keras_tl.datasets.batches.layout import Batch, Layout, nbytes
from keras_tl.datasets.batches.mapping import Mapped
from keras_tl.datasets.batches.order import epoch_order, shard, window_packs
from keras_tl.datasets.batches.shelf import Piece, Shelf, fill
from keras_tl.datasets.reading.source import Source

if TYPE_CHECKING:
    from keras_tl.datasets.views.resolved import Resolved

Stopped = Callable[[], bool]


_VARYING = 64  # packs of a window, where what values take is not known


@dataclass(frozen=True)
class Order:
    """How samples are put into batches.

    Args:
        size: samples of a batch.
        shuffle: whether each epoch has an order of its own; else it is the view's.
        seed: of the orders.
        shard: which part, of how many.
        drop_remainder: whether samples that do not fill a batch are left out.
    """

    size: int
    shuffle: bool = False
    seed: int = 0
    shard: tuple[int, int] = (0, 1)
    drop_remainder: bool = False

    def positions(self, resolved: Resolved, epoch: int) -> np.ndarray:
        """The positions of an epoch's samples in the view."""
        order = np.arange(len(resolved.at))
        if self.shuffle:
            dataset = resolved.dataset
            size = sum(f.row_bytes or 1024 for f in dataset.schema.tensors.values())
            window = window_packs(size, dataset.rows)
            if dataset.schema.varies:  # a pack has up to 4 MB of them, and two windows are held
                window = min(window, _VARYING)
            order = epoch_order(resolved.at, dataset.rows, self.seed, epoch, window)
        return shard(order, self.size, *self.shard, self.drop_remainder)

    def count(self, samples: int) -> int:
        """How many batches so many samples of a view make."""
        full, rest = divmod(samples, self.size * self.shard[1])
        return full + (not self.drop_remainder and rest >= self.shard[1])


@dataclass(frozen=True)
class Epoch:
    """The samples of one pass, in its order."""

    resolved: Resolved
    order: Order
    number: int

    @cached_property
    def positions(self) -> np.ndarray:
        return self.order.positions(self.resolved, self.number)

    @cached_property
    def count(self) -> int:
        return self.order.count(len(self.resolved.at))

    def __len__(self) -> int:
        return self.count


def identity(resolved: Resolved, order: Order) -> str:
    """Tells whether two passes of one number and seed have the same samples in the same order."""
    about = (resolved.dataset.uid, order.size, order.shuffle, order.shard, order.drop_remainder)
    digest = hashlib.sha256(repr(about).encode())
    digest.update(np.ascontiguousarray(resolved.at, "<i8").data)
    return digest.hexdigest()[:32]


class Recipe:
    """Makes batches of an epoch.

    Args:
        source: where values come from.
        layout: what a batch has.
        mapped: what is done to it, or `None`.
    """

    def __init__(self, source: Source, layout: Layout, mapped: Mapped | None) -> None:
        self.source, self.layout, self.mapped = source, layout, mapped

    def one(self, epoch: Epoch, index: int) -> Batch:
        """The batch at an index."""
        size = epoch.order.size
        positions = epoch.positions[index * size : (index + 1) * size]
        columns = self.source.take(epoch.resolved.at[positions])
        (_, batch) = self._batch(epoch, index, columns, positions)
        return batch

    def pieces(self, epoch: Epoch, start: int, step: int, stopped: Stopped) -> Generator[Piece]:
        """Each `step`th batch from an index on, some at a time, with the bytes that they have."""
        size = epoch.order.size
        positions = epoch.positions[start * size :]
        if step > 1:
            positions = positions[np.arange(len(positions)) // size % step == 0]
        at = epoch.resolved.at[positions]
        for begin, end, columns in self.source.stream(at, size, stopped):
            batches, total = [], 0
            for first in range(begin, end, size):
                part = slice(first - begin, first - begin + size)
                chosen = {name: column[part] for name, column in columns.items()}
                mine = positions[first : min(first + size, end)]
                bytes_, batch = self._batch(epoch, start + first // size * step, chosen, mine)
                batches.append(batch)
                total += bytes_
                if self.mapped is not None:  # may be much larger than what was read
                    yield total, batches
                    batches, total = [], 0
            if batches:
                yield total, batches

    def _batch(
        self, epoch: Epoch, index: int, columns: dict[str, np.ndarray], positions: np.ndarray
    ) -> tuple[int, Batch]:
        known = epoch.resolved.columns
        columns |= {name: known[name].take(positions, 0) for name in self.layout.extra}
        if self.mapped is not None:
            at = epoch.resolved.at[positions]
            columns = self.mapped(columns, at, epoch.order, epoch.number, index)
        return nbytes(columns), self.layout.batch(columns)


class Pass(Iterator[Batch]):
    """The batches of an epoch, which a thread makes ahead; it ends when this is forgotten.

    Args:
        recipe: how they are made.
        epoch: which they are.
        prefetch: how many wait; 0: none, and there is no thread.
        start: the first one's index.
        step: how far the next one is from it.
    """

    def __init__(
        self, recipe: Recipe, epoch: Epoch, prefetch: int, start: int = 0, step: int = 1
    ) -> None:
        self.epoch, self.index = epoch, start
        self._recipe, self._prefetch, self._step = recipe, prefetch, step
        self._pid = 0
        self._shelf = Shelf(prefetch)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._shelf = shelf = Shelf(self._prefetch)
        pieces = self._recipe.pieces(self.epoch, self.index, self._step, lambda: shelf.stopped)
        if self._prefetch:
            weakref.finalize(self, shelf.stop).atexit = False
            thread = threading.Thread(
                target=fill, args=(shelf, pieces), name="keras_tl-batches", daemon=True
            )
            thread.start()
        else:
            shelf.pieces = pieces

    def __next__(self) -> Batch:
        if self._pid != os.getpid():  # of a fork, in which the thread is not
            self._begin()
        if self.index >= len(self.epoch):
            raise StopIteration
        batch = self._shelf.take()
        self.index += self._step
        return batch

    def close(self) -> None:
        """Ends the thread."""
        self._shelf.stop()

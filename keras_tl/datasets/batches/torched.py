"""Batches for a `DataLoader` of torch, whose workers are forked or spawned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import torch

if TYPE_CHECKING:
    from keras_tl.datasets.batches.batches import Batches

_WORKERS = 1024  # of a loader, at most


class Rows(torch.utils.data.IterableDataset[Any]):
    """Batches as tensors: see `Reading.to_torch`.

    Args:
        batches: of arrays.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        # A loader's workers are made anew for each epoch, so they count in memory that is shared.
        self._epochs = torch.zeros(_WORKERS, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            mine = iter(self._batches)
        else:
            epoch = int(self._epochs[worker.id])
            mine = self._batches.every(worker.id, worker.num_workers, epoch)
            self._epochs[worker.id] += 1
        for batch in mine:
            yield keras.tree.map_structure(_tensor, batch)


def _tensor(value: Any) -> Any:
    return value if value.dtype == object else torch.from_numpy(value)

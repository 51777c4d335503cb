"""Cuts batches of one size from blocks of any size, copying each sample once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Block = Mapping[str, np.ndarray]


class Batcher:
    """Fills one buffer for each field and gives it away when it is full.

    A fresh buffer for each batch: jax on CPU reads the memory of a NumPy array in place, so a
    buffer that was handed out cannot be filled again.

    Args:
        batch_size: samples in a batch.

    Example:

    >>> batcher = Batcher(4)
    >>> [(row, batch["x"].tolist()) for row, batch in batcher.add({"x": np.arange(6)})]
    [(4, [0, 1, 2, 3])]
    >>> batcher.rest()["x"].tolist()
    [4, 5]
    """

    def __init__(self, batch_size: int) -> None:
        self._size = batch_size
        self._buffers: dict[str, np.ndarray] | None = None
        self._filled = 0
        self._schema: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] | None = None

    def check(self, block: Block) -> None:
        """Raise `ValueError` if the block's fields are not those of the first block."""
        schema = {name: (column.dtype, column.shape[1:]) for name, column in block.items()}
        if self._schema is None:
            _check_names(schema)
            self._schema = schema
            return
        if schema == self._schema:
            return
        if schema.keys() != self._schema.keys():
            raise ValueError(
                f"fields must be those of the stream's first record, {sorted(self._schema)}. "
                f"Received: {sorted(schema)}"
            )
        for name, received in schema.items():
            dtype, shape = self._schema[name]
            if received != (dtype, shape):
                raise ValueError(
                    f"field `{name}` must be {dtype} of shape {shape}, as in the stream's first "
                    f"record. Received: {received[0]} of shape {received[1]}"
                )

    def add(self, block: Block, row: int = 0) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Take the block from `row` on; yield `(rows consumed, batch)` for each full batch."""
        count = len(next(iter(block.values())))
        while row < count:
            if self._buffers is None:
                self._buffers = {
                    name: np.empty((self._size, *column.shape[1:]), column.dtype)
                    for name, column in block.items()
                }
            taken = min(count - row, self._size - self._filled)
            for name, column in block.items():
                self._buffers[name][self._filled : self._filled + taken] = column[row : row + taken]
            row += taken
            self._filled += taken
            if self._filled == self._size:
                batch, self._buffers, self._filled = self._buffers, None, 0
                yield row, batch

    def rest(self) -> dict[str, np.ndarray] | None:
        """The last, shorter batch of a bounded stream, or `None`."""
        if self._buffers is None:
            return None
        batch = {name: buffer[: self._filled] for name, buffer in self._buffers.items()}
        self._buffers, self._filled = None, 0
        return batch


def _check_names(schema: Mapping[str, Any]) -> None:
    if not set(schema) - {"y", "sample_weight"}:
        raise ValueError(
            "a record needs an input field besides `y` and `sample_weight`. "
            f"Received: {sorted(schema)}"
        )
    if "sample_weight" in schema and "y" not in schema:
        raise ValueError(f"field `sample_weight` needs a field `y`. Received: {sorted(schema)}")


def to_keras(batch: Block) -> tuple[Any, ...]:
    """`(x,)`, `(x, y)` or `(x, y, sample_weight)`; inputs of other names make `x` a dict.

    Example:

    >>> to_keras({"x": 1, "y": 2})
    (1, 2)
    >>> to_keras({"image": 1, "age": 2, "y": 3})
    ({'image': 1, 'age': 2}, 3)
    """
    inputs = {name: v for name, v in batch.items() if name not in ("y", "sample_weight")}
    x = inputs["x"] if set(inputs) == {"x"} else inputs
    return (x, *(batch[name] for name in ("y", "sample_weight") if name in batch))

"""How a checkpoint finds the stream of its own `fit`.

Keras gives callbacks the model, not the data. It does call a callback's `on_epoch_begin` and then
the data adapter's, in this order and on one thread, before the first batch: so the callback says
that it expects a stream, and the stream that begins the epoch answers.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.streams.stream import Stream


class _Expected(threading.local):
    def __init__(self) -> None:
        # id(owner) -> (owner, stream or None); the owner is kept so that its id stays its own
        self.owners: dict[int, tuple[Any, Stream | None]] = {}


_expected = _Expected()


def expect(owner: Any) -> None:
    """From `owner.on_epoch_begin`: the next stream that begins an epoch here belongs to `owner`."""
    _expected.owners[id(owner)] = (owner, None)


def attach(stream: Stream) -> bool:
    """From the stream's `on_epoch_begin`: whether a checkpoint expected it and will mark it."""
    waiting = [owner for owner, found in _expected.owners.values() if found is None]
    for owner in waiting:
        _expected.owners[id(owner)] = (owner, stream)
    return bool(waiting)


def attached(owner: Any) -> Stream | None:
    """From `owner.on_train_batch_begin`: the stream of this epoch, or `None`; clears it.

    Clearing also ends the expectation, so that a validation stream of the same `fit` is not
    taken for the training stream.
    """
    return _expected.owners.pop(id(owner), (owner, None))[1]

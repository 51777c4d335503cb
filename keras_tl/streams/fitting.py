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


def forget() -> None:
    """From `owner.on_train_begin`: what an earlier `fit` of this thread expected is over."""
    _expected.owners.clear()


def attach(stream: Stream) -> bool:
    """From the stream's `on_epoch_begin`: whether a checkpoint expected it and will mark it.

    Raises:
        ValueError: if the stream starts where a version stopped, and no checkpoint of this `fit`
            has put that version into the model.
    """
    waiting = [owner for owner, found in _expected.owners.values() if found is None]
    if stream.resumed is not None:
        if not any(getattr(owner, "awaited", None) is stream for owner in waiting):
            raise ValueError(
                "`callbacks` must hold the `MongoCheckpoint` of the model that the stream resumes: "
                "without it a model that has not seen the stream's beginning would go on. "
                f"Received: a stream with resume={stream.resumed!r}, and no such callback"
            )
        stream.resumed = None
    for owner in waiting:
        _expected.owners[id(owner)] = (owner, stream)
    return bool(waiting)


def attached(owner: Any) -> Stream | None:
    """From `owner.on_train_batch_begin`: the stream of this epoch, or `None`; clears it.

    Clearing also ends the expectation, so that a validation stream of the same `fit` is not
    taken for the training stream.
    """
    return _expected.owners.pop(id(owner), (owner, None))[1]

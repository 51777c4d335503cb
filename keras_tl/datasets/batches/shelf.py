"""Batches that wait between a thread that makes them and whoever takes them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterator

from keras_tl.datasets.batches.layout import Batch

#: Some batches that were made together, and the bytes that they have.
Piece = tuple[int, list[Batch]]

_MOST_BYTES = 256 << 20  # that wait, however many batches may


class Shelf:
    """Holds batches, up to a number and a size.

    Args:
        most: how many batches wait at most, besides those of a piece.

    Attributes:
        stopped: whether nobody takes any more.
        pieces: without a thread: what is asked for batches when they are wanted.
    """

    def __init__(self, most: int) -> None:
        self.stopped = False
        self.pieces: Iterator[Piece] | None = None
        self._most = most
        self._waiting: deque[Piece] = deque()
        self._taken: deque[Batch] = deque()  # by a piece at a time: a wake-up takes long
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._process = os.getpid  # names of the module are gone when the interpreter ends
        self._pid = os.getpid()

    def put(self, piece: Piece) -> bool:
        """Puts batches there once there is room; whether somebody wants more."""
        with self._changed:
            while not self.stopped and not self._has_room(piece[0]):
                self._changed.wait()
            self._waiting.append(piece)
            self._changed.notify_all()
            return not self.stopped

    def _has_room(self, size: int) -> bool:
        count = sum(len(batches) for _, batches in self._waiting)
        held = sum(size for size, _ in self._waiting)
        return not count or (count < self._most and held + size <= _MOST_BYTES)

    def fail(self, failure: BaseException) -> None:
        """Has the taker, behind all that waits, raise this; `StopIteration` at the end."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def take(self) -> Batch:
        """The next batch.

        Raises:
            Exception: what making it has raised, once.
            StopIteration: there are no more.
        """
        while not self._taken:
            self._taken.extend(self._piece() if self.pieces is None else next(self.pieces)[1])
        return self._taken.popleft()

    def _piece(self) -> list[Batch]:
        with self._changed:
            while not self._waiting:
                if self.stopped or self._failure is not None:
                    failure, self._failure = self._failure, None
                    self.stopped = True
                    raise failure or StopIteration
                self._changed.wait()
            self._changed.notify_all()
            return self._waiting.popleft()[1]

    def stop(self) -> None:
        """Nobody takes any more."""
        if self._pid != self._process():  # of a fork, where a thread that is not there may hold it
            return
        with self._changed:
            self.stopped = True
            self._waiting.clear()
            self._changed.notify_all()


def fill(shelf: Shelf, pieces: Generator[Piece]) -> None:
    """The thread; it knows nothing of who takes the batches, so that they can be forgotten."""
    try:
        for piece in pieces:
            if not shelf.put(piece):
                break
        else:
            shelf.fail(StopIteration())
    except BaseException as failure:
        shelf.fail(failure)
    finally:
        pieces.close()

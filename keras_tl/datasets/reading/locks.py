"""Locks that a forked process may take, whoever held them when it was made."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any


class ForkLock:
    """As `threading.RLock`; free in a forked process, where the thread that held it is not."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _live.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()


_live: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _renew() -> None:
    for lock in list(_live):
        lock._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew)

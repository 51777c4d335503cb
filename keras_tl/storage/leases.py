"""Leases with fencing tokens: who may publish, decided by MongoDB."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

_PAST = datetime(1970, 1, 1, tzinfo=UTC)
_POLL = 0.1


class LeaseLost(RuntimeError):
    """The lease ended or went to another holder: what it protects must stop, unpublished."""


class Lease:
    """One document `{_id, owner, token, until, rev}` in `leases`, held by one owner at a time.

    The server's clock decides when a lease ends, the token decides what counts: each acquisition
    raises it, and `publish` writes the document inside the publishing transaction, so that a holder
    that sleeps through its lease's end cannot publish beside its successor. A holder takes itself
    for one until the end minus a margin by its own monotonic clock, and never again after that.

    Threads may share it; `with` acquires, keeps it alive from a thread, and releases.

    Args:
        db: The database.
        key: What the lease is for: the document's `_id`.
        duration: Seconds that an acquisition or a renewal lasts.
        margin: Seconds before its end at which the holder stops. Default: a fifth of `duration`.
        owner: Who holds it, for the reader; made unique here. Default: host and process id.
        on_lost: Called once, from the heartbeat's thread, when it finds the lease lost.
        clock: A monotonic clock, in seconds.

    Raises:
        ValueError: `duration` or `margin` is out of range.

    Example:

    ```python
    with Lease(connection.db, "models/digits") as lease, client.start_session() as session:
        with session.start_transaction():
            lease.publish(session)
            versions.insert_one({..., "token": lease.token}, session=session)
    ```
    """

    def __init__(
        self,
        db: Database[dict[str, Any]],
        key: str,
        *,
        duration: float = 15.0,
        margin: float | None = None,
        owner: str | None = None,
        on_lost: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from pymongo import WriteConcern

        margin = duration / 5 if margin is None else margin
        if not 0 < margin < duration:
            raise ValueError(
                "`margin` must be over 0 and under `duration`. "
                f"Received: margin={margin}, duration={duration}"
            )
        self.key = key
        self.owner = f"{owner or f'{socket.gethostname()}:{os.getpid()}'}/{uuid.uuid4().hex}"
        self._leases = db.get_collection("leases", write_concern=WriteConcern("majority"))
        self._duration = duration
        self._margin = margin
        self._on_lost = on_lost
        self._clock = clock
        self._lock = threading.Lock()
        self._token: int | None = None
        self._stop_at = 0.0
        self._stopping = threading.Event()
        self._heart: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Lease({self.key!r}, token={self._token}, held={self.held})"

    @property
    def token(self) -> int:
        """The fencing token of the last acquisition.

        Raises:
            LeaseLost: It was never acquired.
        """
        if self._token is None:
            raise LeaseLost(f"Lease {self.key!r} must be acquired first. Received: no token")
        return self._token

    @property
    def held(self) -> bool:
        """Whether the holder may go on, by its own clock and what it heard from the server."""
        return self._token is not None and self._clock() < self._stop_at

    def check(self) -> None:
        """Raises `LeaseLost` unless `held`."""
        if not self.held:
            raise LeaseLost(
                f"Lease {self.key!r} must be held: it ended, was released or went to another "
                f"holder. Received: token={self._token}"
            )

    def acquire(self, timeout: float = 0.0) -> bool:
        """Takes the lease if it is free, ended, or this object's own, under a new token.

        Args:
            timeout: Seconds to go on trying while another holds it.

        Returns:
            Whether it is held now.
        """
        from pymongo import ReturnDocument

        end = self._clock() + timeout
        free = {
            "_id": self.key,
            # `$$NOW` in a plain comparison would match nothing; a missing field is an ended lease.
            "$expr": {
                "$or": [
                    {"$lte": [{"$ifNull": ["$until", _PAST]}, "$$NOW"]},
                    {"$eq": ["$owner", {"$literal": self.owner}]},
                ]
            },
        }
        taken = {
            "owner": {"$literal": self.owner},
            "token": {"$add": [{"$ifNull": ["$token", 0]}, 1]},
            "until": self._until(),
        }
        while True:
            # The clock is read first: the server's `$$NOW`, fixed when it starts, is later.
            asked = self._clock()
            document = self._leases.find_one_and_update(
                free, [{"$set": taken}], return_document=ReturnDocument.AFTER
            )
            if document is not None:
                with self._lock:
                    self._token = int(document["token"])
                    self._stop_at = asked + self._duration - self._margin
                if self.held:  # else the answer came too late
                    return True
            elif self._create():
                continue
            if self._clock() >= end:
                return False
            time.sleep(_POLL)

    def _create(self) -> bool:
        """Makes the document, free: an upsert cannot use `$expr`."""
        from pymongo.errors import DuplicateKeyError

        if self._leases.find_one({"_id": self.key}, {"_id": 1}) is not None:
            return False
        try:
            self._leases.insert_one({"_id": self.key, "token": 0, "rev": 0})
        except DuplicateKeyError:
            pass  # another was faster, and may have taken it
        return True

    def renew(self) -> None:
        """Prolongs the lease from now on.

        Raises:
            LeaseLost: It ended by the holder's own clock, or another holds it.
        """
        import pymongo

        self.check()
        asked = self._clock()
        # An answer behind the end would be worth nothing.
        with pymongo.timeout(max(0.001, self._stop_at - asked)):
            found = self._leases.update_one(self._mine(), [{"$set": {"until": self._until()}}])
        with self._lock:
            if found.matched_count == 0:
                self._stop_at = float("-inf")
            elif self.held:  # else it was released, or the answer came too late to go on
                self._stop_at = asked + self._duration - self._margin
        self.check()

    def publish(self, session: ClientSession) -> None:
        """Fences the transaction of `session`: it commits only if nobody took the lease.

        Raises:
            LeaseLost: Another took it, or it ended by the holder's own clock.
            ValueError: `session` has no transaction.
            pymongo.errors.OperationFailure: Another is taking it at this moment (a write conflict;
                `with_transaction` tries again, and then gets `LeaseLost`).
        """
        if not session.in_transaction:
            raise ValueError("`session` must be in a transaction. Received: one that is not")
        self.check()
        # A write, because a token that is only read lets a successor commit at the same time.
        found = self._leases.update_one(self._mine(), {"$inc": {"rev": 1}}, session=session)
        if found.matched_count == 0:
            with self._lock:
                self._stop_at = float("-inf")
            self.check()

    def release(self) -> None:
        """Ends the lease, if it is still this one; if the server is away, it runs out instead."""
        from pymongo.errors import PyMongoError

        self._stopping.set()
        with self._lock:
            self._stop_at = float("-inf")
        if self._token is None:
            return
        try:
            self._leases.update_one(self._mine(), {"$set": {"owner": None, "until": _PAST}})
        except PyMongoError:
            pass

    def __enter__(self) -> Lease:
        """Acquires, or raises `LeaseLost` after twice the duration, and starts the heartbeat."""
        self._stopping.clear()
        if not self.acquire(timeout=2 * self._duration):
            raise LeaseLost(f"Lease {self.key!r} must be free. Received: held by another")
        self._heart = threading.Thread(target=self._beat, name=f"lease-{self.key}", daemon=True)
        self._heart.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        if self._heart is not None:
            self._heart.join()
            self._heart = None
        self.release()

    def _beat(self) -> None:
        from pymongo.errors import PyMongoError

        pause = self._duration / 3
        while not self._stopping.wait(pause):
            pause = self._duration / 3
            try:
                self.renew()
            except LeaseLost:
                if self._on_lost is not None and not self._stopping.is_set():
                    self._on_lost()
                return
            except PyMongoError:
                pause = min(_POLL, self._duration / 10)  # and again until the end by the own clock

    def _mine(self) -> dict[str, Any]:
        return {"_id": self.key, "token": self.token, "owner": self.owner}

    def _until(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", round(self._duration * 1000)]}

"""Orders to a run while it trains: sent by any process, kept in MongoDB until it takes them."""

from __future__ import annotations

import math
import numbers
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.models import environment
from keras_tl.models.liveness import LIVE, mark_lost
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    from pymongo.database import Database

ACTIONS = ("set", "pause", "resume", "stop")
_NAME = re.compile(r"[^\W\d][\w./:-]{0,199}")


def send(
    connection: Connection, run: str, action: str, values: Mapping[str, Any] | None = None
) -> str:
    """Send an order to a run that trains; its `MongoLogger` takes it within about a second.

    The order is kept in the collection `orders` until the run has taken it, also over an outage
    or the death of its process. Whether a name can be set, only the `fit` knows: see `wait`.

    Args:
        connection: where the run is kept.
        run: id of the run.
        action: `"set"`, `"pause"`, `"resume"` or `"stop"`.
        values: for `"set"`: numbers by name: `learning_rate`, or a scalar variable of the
            optimizer or a non-trainable one of the model, by its name or the end of its path.

    Returns:
        The order's id.

    Raises:
        KeyError: if there is no such run.
        ValueError: if the run is not under way, or `action` or `values` is none of the above.

    Example:

    ```python
    order = send(hub.connection, run_id, "set", {"learning_rate": 1e-4, "gate/alpha": 0.5})
    ```
    """
    from bson import ObjectId

    if action not in ACTIONS:
        raise ValueError(f"`action` must be one of {ACTIONS}. Received: {action!r}")
    checked = {name: _value(name, value) for name, value in dict(values or {}).items()}
    if bool(checked) != (action == "set"):
        raise ValueError(
            f'`values` must be given for "set", and for it alone. Received: {action!r} with '
            f"{sorted(checked)}"
        )
    db = connection.db
    mark_lost(db)
    found = db["runs"].find_one({"_id": run}, {"state": 1})
    if found is None:
        raise KeyError(f"`run` must be a run's id. Received: {run!r}")
    if found["state"] not in LIVE:
        raise ValueError(
            f"`run` must be under way to take an order. Received: {run!r}, which is "
            f"{found['state']}"
        )
    order = ObjectId()
    first = {
        "run": run,
        "action": action,
        "values": checked,
        "by": environment.user(),
        "state": "pending",
    }
    # An upsert, since only an update takes the server's time; the id makes its retry harmless.
    db["orders"].update_one(
        {"_id": order}, {"$setOnInsert": first, "$currentDate": {"at": True}}, upsert=True
    )
    return str(order)


def listing(connection: Connection, run: str) -> list[dict[str, Any]]:
    """The orders to a run, oldest first.

    Returns:
        Documents: `_id`, `run`, `action`, `values`, `at` (the server's time), `by`, `state`
        (`pending`, `applied`, `refused` with a `reason`, or `replaced` by a newer one before a
        resumed attempt came to it again), and `applied`: `attempt`, `step` (the first one that
        was trained with it), `at`.
    """
    return list(connection.db["orders"].find({"run": run}).sort([("at", 1), ("_id", 1)]))


def wait(connection: Connection, order: str, timeout: float) -> dict[str, Any]:
    """The order's document once the run has taken or refused it, at the latest after `timeout` s.

    Raises:
        KeyError: if there is no such order.
    """
    from bson import ObjectId

    deadline = time.monotonic() + timeout
    while True:
        found = connection.db["orders"].find_one({"_id": ObjectId(order)})
        if found is None:
            raise KeyError(f"`order` must be an order's id. Received: {order!r}")
        if found["state"] != "pending" or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


class Inbox:
    """The orders to one run in its own process: the outbox's thread fills it, `fit` empties it.

    Args:
        run: id of the run.
        attempt: id of its attempt; one that is not the current one any more gets nothing.
        start_step: the step that the attempt resumed from; `None` if it began anew. Orders that
            were applied later than this are handed out again, once.
    """

    def __init__(self, run: str, attempt: str, start_step: int | None = None) -> None:
        self.run = run
        self.attempt = attempt
        self.start_step = start_step
        #: Whether `take` has something, or the inbox was closed: read in every step.
        self.waiting = False
        self.closed = False
        self._known = False
        self._orders: list[dict[str, Any]] = []
        self._seen: set[Any] = set()
        self._changed = threading.Condition()

    def fetch(self, db: Database[dict[str, Any]]) -> None:
        """Ask the server for what is new."""
        wanted: dict[str, Any] = {"state": "pending"}
        if self.start_step is not None and not self._known:
            again = {"state": "applied", "action": "set", "applied.step": {"$gt": self.start_step}}
            wanted = {"$or": [wanted, again]}
        found = db["orders"].find({"run": self.run, **wanted}).sort([("at", 1), ("_id", 1)])
        orders = [order for order in found if order["_id"] not in self._seen]
        if orders or not self._known:
            # Orders are for the attempt that is the run; a process that was taken for dead, and
            # whose run another one has resumed, leaves them alone.
            own = {"_id": self.run, "attempt": self.attempt}
            if db["runs"].find_one(own, {"_id": 1}) is None:
                return
            self.put(orders)

    def put(self, orders: list[dict[str, Any]]) -> None:
        """Hand orders to the training thread."""
        with self._changed:
            self._known = True
            self._seen.update(order["_id"] for order in orders)
            self._orders += orders
            self.waiting = self.waiting or bool(orders)
            self._changed.notify_all()

    def take(self) -> list[dict[str, Any]]:
        """What arrived since the last call."""
        with self._changed:
            orders, self._orders, self.waiting = self._orders, [], False
            return orders

    def wait(self) -> None:
        """Wait until there is something to take, or the inbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._orders or self.closed)

    def wait_known(self, timeout: float) -> bool:
        """Wait until the server was asked once, at most `timeout` s; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._known or self.closed, timeout)

    def close(self) -> None:
        """Nothing comes any more: who waits goes on."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def refuse_left(db: Database[dict[str, Any]], run: str, attempt: str) -> None:
    """Say of what a run has not taken that it is over; one that failed may be resumed."""
    over = {"_id": run, "attempt": attempt, "state": {"$in": ["finished", "stopped"]}}
    if db["runs"].find_one(over, {"_id": 1}) is not None:
        db["orders"].update_many(
            {"run": run, "state": "pending"},
            {"$set": {"state": "refused", "reason": "The run was over before it took this."}},
        )


def _value(name: Any, value: Any) -> int | float | bool:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "`values` must have names of variables, of at most 200 letters, digits and ./:_-. "
            f"Received: {name!r}"
        )
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return value
    elif isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    raise ValueError(f"`values` must be finite numbers of 64 bits. Received: {name}={value!r}")

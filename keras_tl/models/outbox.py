"""What this process has to tell MongoDB: a journal, and threads that empty it in the background."""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from keras_tl.models import liveness, orders
from keras_tl.models.courier import Courier, end_session
from keras_tl.models.uploader import Uploader, Verify
from keras_tl.storage.connection import Connection
from keras_tl.storage.home import home
from keras_tl.storage.journal import Journal, Kind, orphans

log = logging.getLogger("keras_tl")

_INTERVAL = 0.5  # s between looks at the journal
_HEARTBEAT = 5.0  # s
_UNAUTHORIZED = 13  # a code of the server


class Outbox:
    """The journal of one connection in this process, and the threads that send it.

    Nothing here waits for a server, raises, or slows training: an outage is logged once, and what
    it held back is sent when the server is back, by this process or by `keras-tl sync`.

    Args:
        connection: where to send to.
        limit: size in bytes of the journal from which batch rows are dropped and counted.
    """

    def __init__(self, connection: Connection, limit: int = 256 << 20) -> None:
        self.connection = connection
        folder = home() / "journal"
        self.journal = Journal(
            folder / f"{connection.project}-{uuid.uuid4().hex}.journal",
            {
                "project": connection.project,
                "address": connection.address,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                # A run may go on in another journal (after a fork, or after `Hub.close`), and
                # its buckets are named by these numbers.
                "base": time.time_ns() // 1000,
            },
            limit,
        )
        self.uploader = Uploader(connection, self.journal)
        self._courier = Courier(self.journal)
        self._columns: dict[tuple[Any, ...], int] = {}
        self._beats: dict[str, tuple[str, str]] = {}  # attempt and state, by run
        self._beaten = -_HEARTBEAT
        self._inboxes: dict[str, orders.Inbox] = {}
        self._over: list[orders.Inbox] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._served = threading.Condition()
        self._asked = self._answered = 0  # flushes
        self._closing = self._late = False
        self._warned: set[str] = set()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="keras_tl-outbox", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more: closed, or a forked process's parent's."""
        return self._closing

    def columns(self, run: str, attempt: str, rank: int, kind: str, names: Any) -> int:
        """The number under which rows of these columns are journalled."""
        key = (run, attempt, rank, kind, names)
        with self._lock:
            if key not in self._columns:
                number = len(self._columns)
                about = {"id": number, "run": run, "attempt": attempt, "rank": rank, "kind": kind}
                self.append(Kind.COLUMNS, json.dumps({**about, "names": names}).encode())
                self._columns[key] = number
            return self._columns[key]

    def append(self, kind: int, payload: bytes, *, droppable: bool = False) -> None:
        """Journal a record; a disk that refuses it is said once and never stops the caller."""
        try:
            if not self.journal.append(kind, payload, droppable=droppable):
                self.warn(
                    "full",
                    "The journal reached %d MB since MongoDB takes nothing: rows of single "
                    "batches are dropped and counted from here on, epochs are kept.",
                    self.journal.limit >> 20,
                )
        except (OSError, ValueError) as error:  # ValueError: a record of more than 64 MB
            self.warn("disk", "The journal cannot be written (%s): events are lost.", error)

    def document(
        self,
        collection: str,
        identity: str,
        only: dict[str, Any] | None = None,
        **update: dict[str, Any],
    ) -> None:
        """Journal the upsert of a document, `update` being MongoDB operators without the `$`.

        With `only` it is an update of a document that meets this filter, and no upsert.
        """
        from bson import json_util

        about = {"collection": collection, "id": identity, "only": only, "update": update}
        self.append(Kind.DOC, json_util.dumps(about).encode())
        self._wake.set()

    def beat(self, run: str, attempt: str | None, state: str = "running") -> None:
        """Keep the run's heartbeat going, or stop it with its orders (`attempt=None`)."""
        with self._lock:
            if attempt is not None:
                self._beats[run] = (attempt, state)
                return
            self._beats.pop(run, None)
            inbox = self._inboxes.pop(run, None)
            if inbox is not None:
                self._over.append(inbox)
        if inbox is not None:
            inbox.close()

    def listen(self, inbox: orders.Inbox) -> None:
        """Fill this inbox until its run's heartbeat stops."""
        with self._lock:
            self._inboxes[inbox.run] = inbox
        self._wake.set()

    def warn(self, topic: str, message: str, *args: Any) -> None:
        """Say something once."""
        if topic not in self._warned:
            self._warned.add(topic)
            log.warning(message, *args)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that was journalled is sent, at most `timeout` s; whether it is."""
        if self._pid != os.getpid() or self._closing:
            return True
        deadline = time.monotonic() + timeout
        with self._served:
            self._asked = ticket = self._asked + 1
            self._wake.set()
            done = self._served.wait_for(lambda: self._answered >= ticket, timeout)
        done = self.uploader.flush(max(0.0, deadline - time.monotonic())) and done
        self._late = not done
        if not done:
            self.warn(
                "flush",
                "MongoDB at %s did not take everything in time. Nothing is lost: it is kept in "
                "%s; send it with `keras-tl sync` when the server is back.",
                self.connection.address,
                self.journal.path,
            )
        return done

    def close(self, timeout: float | None = None) -> None:
        """Flush, stop the threads and, if everything was sent, delete the journal.

        Args:
            timeout: how long to wait for MongoDB at most, in s; default: 10, or half a second
                where the end of a `fit` has waited in vain.
        """
        if self._closing or self._pid != os.getpid():
            return
        if timeout is None:
            timeout = 0.5 if self._late else 10.0
        done = self.flush(timeout)
        self._closing = True
        self._wake.set()
        with self._lock:
            inboxes = list(self._inboxes.values())
        for inbox in inboxes:
            inbox.close()
        self.uploader.close()
        self._thread.join(1.0)
        if self.journal.dropped:
            log.warning("%d rows of single batches were dropped.", self.journal.dropped)
        self.journal.close(delete=done and not self._thread.is_alive())

    def _work(self) -> None:
        delay = _INTERVAL
        while not self._closing:
            self._wake.wait(delay)
            self._wake.clear()
            try:
                ticket = self._asked
                with self._lock:
                    over = list(self._over)
                db = self.connection.db
                more = True
                while more and not self._closing:
                    more = self._courier.send(db)
                    self._attend(db)  # also while much is sent that an outage held back
                if self._closing:
                    return
                self._compact()
                self._refuse_left(db, over)
                self._say_back()
                delay = _INTERVAL
                with self._served:
                    self._answered = ticket
                    self._served.notify_all()
            except Exception as error:
                if self._closing:
                    return
                self.say_away(error)
                delay = min(2 * delay, 5.0)

    def _compact(self) -> None:
        try:
            self._courier.compact(self.uploader.waiting())
        except OSError as error:  # the old file is as good, only longer
            self.warn("compact", "The journal cannot be made shorter: %s", error)

    def _attend(self, db: Any) -> None:
        """Keep the runs under way alive, and ask for orders to them."""
        from pymongo.errors import OperationFailure

        with self._lock:
            beats, inboxes = dict(self._beats), list(self._inboxes.values())
        if time.monotonic() - self._beaten >= _HEARTBEAT:
            for run, (attempt, state) in beats.items():
                liveness.beat(db, run, attempt, state)
            self._beaten = time.monotonic()
        for inbox in inboxes:
            try:
                inbox.fetch(db)
            except OperationFailure as error:  # no right to read them: events go on
                if error.code != _UNAUTHORIZED:
                    raise
                self.warn("orders", "The run takes no orders: %s", error)

    def _refuse_left(self, db: Any, over: list[orders.Inbox]) -> None:
        # `over` was read before the journal was sent, which says what these runs have taken.
        for inbox in over:
            orders.refuse_left(db, inbox.run, inbox.attempt)
            with self._lock:
                self._over.remove(inbox)

    def say_away(self, error: Exception) -> None:
        """Log once that the server does not answer."""
        self.warn(
            "away",
            "MongoDB at %s does not take what is logged (%s: %s). Training goes on; everything "
            "is kept in %s and sent when it is back.",
            self.connection.address,
            type(error).__name__,
            str(error)[:300],
            self.journal.path,
        )

    def _say_back(self) -> None:
        if "away" in self._warned:
            self._warned -= {"away"}
            log.warning("MongoDB at %s is back; what waited was sent.", self.connection.address)


_outboxes: dict[Connection, Outbox] = {}
_making = threading.Lock()


def outbox(connection: Connection) -> Outbox:
    """The process's outbox of a connection, made at the first use."""
    with _making:
        found = _outboxes.get(connection)
        if found is None or found._pid != os.getpid() or found._closing:
            found = _outboxes[connection] = Outbox(connection)
            atexit.register(found.close)
        return found


def _forget_in_child() -> None:
    global _making
    _making = threading.Lock()  # a thread of the parent may have held it
    for parents in _outboxes.values():
        parents._closing = True
    _outboxes.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def close_outbox(connection: Connection, timeout: float | None = None) -> None:
    """Close the connection's outbox if there is one."""
    found = _outboxes.pop(connection, None)
    if found is not None:
        found.close(timeout)


def sync(connection: Connection, verify: Verify | None = None) -> dict[str, int]:
    """Send what processes that are gone left in their journals for this project and address.

    Args:
        connection: where to send to.
        verify: tells whether a version's stream cursor still holds (see `Uploader.put`); without
            it, versions that were trained on a stream stay in their journal.

    Returns:
        The number of `journals`, `events` and `versions` sent, and of `others`: journals that
        belong to another server or project.

    Raises:
        pymongo.errors.PyMongoError: if the server does not take it; what was not sent is kept.
            Raised for the first such journal, after the others were sent.
    """
    from pymongo.errors import ServerSelectionTimeoutError

    first: Exception | None = None
    counts = {"journals": 0, "events": 0, "versions": 0, "others": 0}
    for journal in orphans(home() / "journal"):
        whose = (journal.header.get("project"), journal.header.get("address"))
        if whose != (connection.project, connection.address):
            counts["others"] += 1
            journal.close()
            continue
        done = False
        try:
            courier = Courier(journal)
            if courier.session is not None:
                end_session(connection.db, courier.session)
            more = True
            while more:
                more = courier.send(connection.db)
            counts["events"] += courier.sent
            uploader = Uploader(connection, journal, courier.versions, verify)
            counts["versions"] += uploader.send_all()
            counts["journals"] += 1
            done = not uploader.waiting()
        except ServerSelectionTimeoutError:
            raise  # so it would be for the others
        except Exception as error:
            first = first or error
        finally:
            journal.close(delete=done)
    if first is not None:
        raise first
    return counts

"""Brings captured versions to MongoDB in the background, by way of a file beside the journal."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_tl.models import versions
from keras_tl.models.buffers import Bundle
from keras_tl.models.plain import plain
from keras_tl.models.refused import permanent, refuse
from keras_tl.storage import hooks, tensors
from keras_tl.storage.connection import Connection
from keras_tl.storage.journal import Journal, Kind

log = logging.getLogger("keras_tl")

#: Returns why a version's cursor does not hold any more, or `None`; raises if it cannot tell now.
Verify = Callable[[Mapping[str, Any]], Exception | None]


class Uploader:
    """Writes captured versions to disk, then commits them, in order, each once.

    Args:
        connection: where to commit to.
        journal: where waiting versions are noted.
        waiting: versions that an orphaned journal still holds, by id.
        verify: tells whether a version's cursor still holds.
    """

    def __init__(
        self,
        connection: Connection,
        journal: Journal,
        waiting: Mapping[str, dict[str, Any]] | None = None,
        verify: Verify | None = None,
    ) -> None:
        self.connection = connection
        self.journal = journal
        self._verify: dict[str, Verify | None] = dict.fromkeys(waiting or (), verify)
        #: Why a version was refused; training on what it was trained on makes no sense.
        self.refused: Exception | None = None
        #: Called in the uploader's thread with the document of each version that was committed.
        self.on_commit: list[Callable[[Mapping[str, Any]], None]] = []
        self.dropped = 0
        self._complained = False
        self._unpruned = False
        self._buried = False  # versions were deleted, and their tensors are garbage
        self._waiting: dict[str, dict[str, Any]] = dict(waiting or {})
        self._captured: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self._disk = threading.Lock()
        self._changed = threading.Condition()
        self._busy = 0  # threads that have something in hand
        self._sending: str | None = None
        self._closing = False
        self._threads: list[threading.Thread] = []

    def put(
        self, about: dict[str, Any], bundle: dict[str, np.ndarray], verify: Verify | None = None
    ) -> None:
        """Take a captured version over; never waits.

        Of one attempt's versions of one model at most two wait on disk and one in memory, and
        beside them the best one if it is none of these: if another comes, the older of those not
        being sent gives way. None gives way to another model's or another attempt's.

        Args:
            about: what `versions.commit` wants to know, and `keep`: the policy by which older
                versions are deleted afterwards (`Keep.to_dict`), or `None` for the stored one.
            bundle: arrays by name; their memory is given back when they are on the disk.
            verify: asked before the commit whether the version's cursor still holds.
        """
        # A tag that no document can hold would hold the version up for ever.
        about = {
            **about,
            "tags": {name: plain(v, name) for name, v in about.get("tags", {}).items()},
        }
        with self._changed:
            kept = []
            for held, arrays in self._captured:
                if _gives_way(held, about):
                    self._verify.pop(held["id"], None)
                    self._drop(held)
                    _release(arrays)
                else:
                    kept.append((held, arrays))
            self._captured = [*kept, (about, bundle)]
            self._verify[about["id"]] = verify
            if not self._threads:
                # Two, since the server may not answer for long, and the disk does not wait for it.
                for work in (self._store_all, self._send_waiting):
                    thread = threading.Thread(target=work, name="keras_tl-uploader", daemon=True)
                    self._threads.append(thread)
                    thread.start()
            self._changed.notify_all()

    def waiting(self) -> dict[str, bytes]:
        """The journal records of the versions that are on disk and not committed."""
        with self._changed:
            return {k: json.dumps(about).encode() for k, about in self._waiting.items()}

    def flush(self, timeout: float) -> bool:
        """Wait until every version is committed, at most `timeout` s; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._captured or self._waiting or self._busy), timeout
            )

    def close(self) -> None:
        """Stop; what waits stays in the journal, also a version that is not on disk yet."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1.0)
        self._store_captured()

    def send_all(self) -> int:
        """Commit what waits, now, in this thread; the number of versions committed.

        Raises:
            pymongo.errors.PyMongoError: if the server does not take it.
        """
        count = 0
        for about in list(self._waiting.values()):
            if about["cursor"] is not None and self._verify[about["id"]] is None:
                log.warning(
                    "A version of %r stays in the journal: it was trained on a stream, and only "
                    "with `kafka` given can its offsets be checked.",
                    about["model"],
                )
                continue
            count += self._send(about, keep=True)
        return count

    def _store_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._captured or self._closing)
                if self._closing:
                    return
            self._store_captured()

    def _send_waiting(self) -> None:
        delay = 0.5
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                about = next(iter(self._waiting.values()))
                self._sending = about["id"]
                self._busy += 1
            failed = False
            try:
                self._send(about)
                delay = 0.5
            except Exception as error:
                log.debug("A version could not be sent yet", exc_info=True)
                self._complain(error)
                failed = True
            with self._changed:
                self._sending = None
                self._busy -= 1
                self._changed.notify_all()
                if failed:
                    self._changed.wait_for(lambda: self._closing, delay)
                    delay = min(2 * delay, 5.0)
                idle = not self._waiting and not self._closing
            if self._buried and idle:  # nobody waits for this
                self._buried = False
                self._collect()

    def _store_captured(self) -> None:
        with self._disk:  # held while a version is written, so that `close` waits for the disk
            while True:
                with self._changed:
                    if not self._captured:
                        return
                    captured = self._captured.pop(0)
                    self._busy += 1
                try:
                    self._store(*captured)
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._changed.notify_all()

    def _store(self, about: dict[str, Any], bundle: dict[str, np.ndarray]) -> None:
        hooks.phase("version-captured")
        path = self._path(about["id"])
        temporary = path.with_suffix(".part")
        try:
            with open(temporary, "wb") as file:
                for piece in tensors.pieces(bundle):
                    file.write(piece)
            os.replace(temporary, path)
            hooks.phase("version-stored")
            with self._changed:  # or compacting could miss the record
                self.journal.append(Kind.VERSION, json.dumps(about).encode())
                first = self._sending or next(iter(self._waiting), None)
                late = [
                    identity
                    for identity, other in self._waiting.items()
                    if identity != first and _gives_way(other, about)
                ]
                for identity in late:  # so that nobody begins to send it
                    self._drop(self._waiting.pop(identity))
                self._waiting[about["id"]] = about
                self._changed.notify_all()
        except (OSError, ValueError, TypeError) as error:
            temporary.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            log.warning("A version of %r could not be kept on disk: %s", about["model"], error)
            return
        finally:
            _release(bundle)
        hooks.phase("version-journalled")
        for identity in late:  # only when the newer one cannot be lost any more
            self._forget(identity)

    def _send(self, about: dict[str, Any], *, keep: bool = False) -> int:
        """Commit one; `keep` the file of one whose cursor does not hold any more."""
        verify = self._verify.get(about["id"])
        if about["cursor"] is not None and verify is not None:
            refused = verify(about["cursor"])
            if refused is not None and keep:
                self._set_aside(about, refused)
                return 0
            if refused is not None:
                self.refused = refused
                log.error("A version of %r was not committed: %s", about["model"], refused)
                self._forget(about["id"])
                return 0
        try:
            with open(self._path(about["id"]), "rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            log.warning("A version of %r is gone: its file was deleted.", about["model"])
            self._forget(about["id"])
            return 0
        hooks.phase("version-verified")
        db = self.connection.db
        try:
            document = versions.commit(db, about, tensors.loads(data), self._note_session)
        except Exception as error:
            if not permanent(error):
                raise
            self._set_aside(about, error)
            return 0
        self._forget(about["id"])
        self._prune(about)
        self._tell(document)
        return 1

    def _prune(self, about: Mapping[str, Any]) -> None:
        from keras_tl.models import retention

        try:
            deleted = retention.apply(self.connection, about["model"], about.get("keep"))
            self._buried = self._buried or bool(deleted)
        except Exception as error:  # the next commit tries again
            if not self._unpruned:
                self._unpruned = True
                log.warning(
                    "Older versions of %r could not be deleted as `keep` says: %s: %s",
                    about["model"],
                    type(error).__name__,
                    str(error)[:300],
                )

    def _collect(self) -> None:
        from keras_tl.models import garbage

        try:
            garbage.collect_when_due(self.connection)
        except Exception:  # in an hour somebody tries again
            log.debug("Garbage could not be collected", exc_info=True)

    def _tell(self, document: Mapping[str, Any]) -> None:
        for callback in list(self.on_commit):
            try:
                callback(document)
            except Exception:
                self.on_commit.remove(callback)
                log.warning("%r fails and is called no more:", callback, exc_info=True)

    def _set_aside(self, about: dict[str, Any], error: Exception) -> None:
        path = self._path(about["id"])
        aside = path.with_suffix(".refused")
        refuse(self.journal, Kind.VERSION, json.dumps(about).encode(), error)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, aside)
        log.error(
            "A version of %r (step %s) cannot be committed and is set aside; its tensors are "
            "kept in %s: %s: %s",
            about["model"],
            about["step"],
            aside,
            type(error).__name__,
            str(error)[:300],
        )
        self._forget(about["id"])

    def _note_session(self, session: str) -> None:
        self.journal.append(Kind.SESSION, session.encode())

    def _forget(self, identity: str) -> None:
        with self._changed:  # or the next one could give way to the one after it
            self.journal.append(Kind.VERSION_SENT, json.dumps(identity).encode())
            self._waiting.pop(identity, None)
            self._verify.pop(identity, None)
            if self._sending == identity:
                self._sending = None
        hooks.phase("version-forgotten")
        self._path(identity).unlink(missing_ok=True)

    def _drop(self, about: Mapping[str, Any]) -> None:
        keep = about.get("keep") or {}
        if keep.get("last") == 1 and not (keep.get("best") or keep.get("every")):
            return  # a backup, for one: the next is meant to take its place
        self.dropped += 1
        if self.dropped == 1:
            log.warning(
                "Versions are made faster than MongoDB takes them: the newest is kept, older ones "
                "that wait are dropped and counted."
            )

    def _complain(self, error: Exception) -> None:
        from pymongo.errors import ConnectionFailure

        if self._closing:  # the client may be closed by now
            return
        # That the server is away is said by the outbox, once for events and versions.
        if not self._complained and not isinstance(error, ConnectionFailure):
            self._complained = True
            log.warning(
                "A version waits in %s: %s: %s",
                self.journal.path.parent,
                type(error).__name__,
                str(error)[:300],
            )

    def _path(self, identity: str) -> Path:
        return self.journal.path.with_name(f"{self.journal.path.stem}.{identity}.safetensors")


def _gives_way(older: Mapping[str, Any], newer: Mapping[str, Any]) -> bool:
    """Whether the newer version can stand for the older: not for the best that there is."""
    same = all(older.get(name) == newer.get(name) for name in ("model", "attempt"))
    return same and (older.get("best") is None or newer.get("best") is not None)


def _release(bundle: Mapping[str, np.ndarray]) -> None:
    if isinstance(bundle, Bundle):
        bundle.release()

"""Carries one journal's events to MongoDB, once, whatever is killed on the way.

A chunk of records is named in the journal before it is sent, and marked sent after a majority
has it. Killed in between, it is sent again under the same ids and recognised there.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.models.buckets import buckets
from keras_tl.storage import hooks
from keras_tl.storage.journal import DATA, Journal, Kind

if TYPE_CHECKING:
    from pymongo.database import Database

_CHUNK = 20_000  # records
_COMPACT = 4 << 20  # bytes already sent

log = logging.getLogger("keras_tl")


class Courier:
    """Sends a journal's data records in order, chunk by chunk.

    Args:
        journal: this process's journal, or an orphaned one.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.columns: dict[int, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.session: str | None = None
        self.sent = 0
        self._position = 0
        self._next = int(journal.header["base"])
        self._sent = self._next - 1
        self._again: tuple[int, int] | None = None
        for record in journal.read():
            if record.kind == Kind.SENT:
                self._sent, self._again = record.json(), None
            elif record.kind == Kind.CHUNK:
                self._again = tuple(record.json())
            elif record.kind == Kind.VERSION:
                version = record.json()
                self.versions[version["id"]] = version
            elif record.kind == Kind.VERSION_SENT:
                self.versions.pop(record.json(), None)
            elif record.kind == Kind.SESSION:
                self.session = record.payload.decode()

    def send(self, db: Database[dict[str, Any]]) -> bool:
        """Send the next chunk; whether there is more than this one.

        Raises:
            pymongo.errors.PyMongoError: if the server does not take it; nothing is lost by that.
        """
        records: list[tuple[int, int, bytes]] = []
        position, number, more = self._position, self._next, False
        for record in self.journal.read(position):
            if record.kind == Kind.COLUMNS:
                about = record.json()
                self.columns[about["id"]] = about
            elif record.kind == Kind.SESSION:
                self.session = record.payload.decode()
            elif record.kind in DATA:
                if number > self._sent:
                    records.append((number, record.kind, record.payload))
                number += 1
            position = record.end
            # What was named before is sent again with the same bounds, or it would be doubled.
            more = len(records) >= _CHUNK if self._again is None else number > self._again[1]
            if more:
                break
        if records:
            bounds = (records[0][0], records[-1][0])
            if self._again is None:
                self.journal.append(Kind.CHUNK, b"[%d,%d]" % bounds)
                self._again = bounds
            hooks.phase("chunk-named")
            self._write(db, records)
            hooks.phase("chunk-written")
            self.journal.append(Kind.SENT, b"%d" % bounds[1])
            self._sent = bounds[1]
            self.sent += len(records)
        self._again = None
        self._position, self._next = position, number
        return more

    def compact(self, versions: Mapping[str, bytes]) -> None:
        """Drop from the file what was sent; keeps `versions`, the records of those that wait."""
        if self._position < _COMPACT:
            return
        keep = [(Kind.COLUMNS, json.dumps(about).encode()) for about in self.columns.values()]
        keep += [(Kind.VERSION, payload) for payload in versions.values()]
        if self.session is not None:
            keep.append((Kind.SESSION, self.session.encode()))
        self._position = self.journal.rewrite({"base": self._next}, keep, self._position)

    def _write(self, db: Database[dict[str, Any]], records: list[tuple[int, int, bytes]]) -> None:
        for _, kind, payload in records:
            if kind == Kind.DOC:
                _upsert(db, payload)
        documents = buckets(records, self.columns)
        if documents:
            _insert(db, documents)
            _summarise(db, documents)


def end_session(db: Database[dict[str, Any]], session: str) -> None:
    """Abort the transaction that a killed process left open.

    The server keeps its locks for a minute (`transactionLifetimeLimitSeconds`), also when the
    client's sockets are closed, and the model's next version would have to wait for them.
    """
    from bson import UuidRepresentation
    from bson.binary import Binary
    from pymongo.errors import OperationFailure

    lsid = Binary.from_uuid(uuid.UUID(session), UuidRepresentation.STANDARD)
    try:
        db.client.admin.command("killSessions", [{"id": lsid}])
    except OperationFailure as error:  # a user without the right to: then it takes a minute
        log.debug("The session of a killed process could not be ended: %s", error)


def _upsert(db: Database[dict[str, Any]], payload: bytes) -> None:
    from bson import json_util

    document = json_util.loads(payload, json_options=json_util.JSONOptions(tz_aware=True))
    update = {f"${op}": fields for op, fields in document["update"].items()}
    db[document["collection"]].update_one({"_id": document["id"]}, update, upsert=True)


def _insert(db: Database[dict[str, Any]], documents: list[dict[str, Any]]) -> None:
    from pymongo.errors import BulkWriteError

    try:
        db["events"].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
        if any(e["code"] != 11000 for e in details.get("writeErrors", [])) or details.get(
            "writeConcernErrors"
        ):
            raise
        ids = [document["_id"] for document in documents]
        there = {d["_id"]: d for d in db["events"].find({"_id": {"$in": ids}})}
        for document in documents:
            found = there[document["_id"]]
            if (found["n"], found["checksum"]) != (document["n"], document["checksum"]):
                # Not the same rows under one name: keep both rather than lose one.
                twin = {**document, "_id": f"{document['_id']}#{document['checksum'][:8]}"}
                log.warning("Two different buckets are named %s; both are kept.", found["_id"])
                db["events"].replace_one({"_id": twin["_id"]}, twin, upsert=True)


def _summarise(db: Database[dict[str, Any]], documents: list[dict[str, Any]]) -> None:
    """Keep the newest value of each metric on the run, where other tools see it as a number."""
    import numpy as np

    for document in documents:
        if document["rank"] == 0 and document["kind"] in ("batch", "epoch"):
            last = {
                f"last.{name}": float(np.frombuffer(packed, "<f8")[-1])
                for name, packed in document["columns"].items()
            }
            db["runs"].update_one(
                {"_id": document["run"]}, {"$set": {**last, "last_step": document["last_step"]}}
            )

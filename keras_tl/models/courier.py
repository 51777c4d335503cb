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

import numpy as np

from keras_tl.models.buckets import Packed, buckets, unpack
from keras_tl.models.refused import permanent, refuse
from keras_tl.models.selection import direction
from keras_tl.storage import hooks
from keras_tl.storage.journal import DATA, Journal, Kind

if TYPE_CHECKING:
    from pymongo.database import Database

_CHUNK, _CHUNK_BYTES = 100_000, 8 << 20  # records, and bytes of them
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
        self.refused = 0
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

        What MongoDB will never take is set aside beside the journal, and the rest goes on.

        Raises:
            pymongo.errors.PyMongoError: if the server does not take it; nothing is lost by that.
        """
        records: list[Packed] = []
        position, number, more, taken, size = self._position, self._next, False, 0, 0
        for block in self.journal.blocks(position):
            if block.kind == Kind.COLUMNS:
                about = json.loads(next(block.payloads()))
                self.columns[about["id"]] = about
            elif block.kind == Kind.SESSION:
                self.session = next(block.payloads()).decode()
            elif block.kind in DATA:
                sent = min(max(self._sent + 1 - number, 0), block.n)
                # What was named before is sent again with the same bounds, or it would be doubled.
                if self._again is None:
                    room = sent + max(min(_CHUNK - taken, (_CHUNK_BYTES - size) // block.stride), 1)
                else:
                    room = self._again[1] + 1 - number
                more = room <= block.n
                block = block.first(min(room, block.n))
                if block.n > sent:
                    rows = block.kind == Kind.ROW
                    payload = block.rows()[sent:] if rows else next(block.payloads())
                    records.append((number + sent, block.kind, payload))
                    taken, size = taken + block.n - sent, size + block.n * block.stride
                number += block.n
            position = block.end
            if more:
                break
        if records:
            bounds = (records[0][0], number - 1)
            if self._again is None:
                self.journal.append(Kind.CHUNK, b"[%d,%d]" % bounds)
                self._again = bounds
            hooks.phase("chunk-named")
            self._write(db, records)
            hooks.phase("chunk-written")
            self.journal.append(Kind.SENT, b"%d" % bounds[1])
            self._sent = bounds[1]
            self.sent += taken
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

    def _write(self, db: Database[dict[str, Any]], records: list[Packed]) -> None:
        # What is said behind all rows, as the end of a run, must not be seen before them.
        behind = 1 + max((i for i, r in enumerate(records) if r[1] != Kind.DOC), default=-1)
        self._write_documents(db, records[:behind])
        self._write_rows(db, [record for record in records if record[1] != Kind.DOC])
        self._write_documents(db, records[behind:])

    def _write_documents(self, db: Database[dict[str, Any]], records: list[Packed]) -> None:
        for record in records:
            if record[1] == Kind.DOC:
                try:
                    _upsert(db, bytes(record[2]))
                except Exception as error:
                    self._refuse(Kind.DOC, bytes(record[2]), error)

    def _write_rows(self, db: Database[dict[str, Any]], rows: list[Packed]) -> None:
        try:
            documents = buckets(rows, self.columns)
        except Exception as error:
            if not permanent(error):
                raise
            single = [row for record in rows for row in _single(record)]
            documents = buckets([row for row in single if self._fits(row)], self.columns)
        if not documents:
            return
        try:
            _insert(db, documents)
        except Exception as error:
            if not permanent(error):
                raise
            documents = [document for document in documents if self._inserted(db, document)]
        newest = {(d["run"], d["kind"], *d.get("columns", ())): d["_id"] for d in documents}
        for document in documents:
            if document["kind"] == "batch" and document["_id"] not in newest.values():
                continue  # of batches only the newest values are kept on the run
            try:
                _summarise(db, document)
            except Exception as error:  # the rows themselves are stored
                if not permanent(error):
                    raise
                log.debug("A run has no summary of %s", document["_id"], exc_info=True)

    def _fits(self, row: Packed) -> bool:
        try:
            buckets([row], self.columns)
        except Exception as error:
            self._refuse(row[1], bytes(row[2]), error)
            return False
        return True

    def _inserted(self, db: Database[dict[str, Any]], document: dict[str, Any]) -> bool:
        from bson import json_util

        try:
            _insert(db, [document])
        except Exception as error:
            self._refuse(Kind.EVENT, json_util.dumps(document).encode(), error)
            return False
        return True

    def _refuse(self, kind: int, payload: bytes, error: Exception) -> None:
        """Set one record aside; an error that may pass is raised again."""
        if not permanent(error):
            raise error
        refuse(self.journal, kind, payload, error)
        self.refused += 1
        if self.refused == 1:
            log.warning(
                "MongoDB will never take a record of what was logged (%s: %s): it is set aside "
                "in %s, as are others like it; the rest goes on.",
                type(error).__name__,
                str(error)[:300],
                self.journal.path.with_suffix(".refused"),
            )


def _single(record: Packed) -> list[Packed]:
    """The rows that came as one record, each as its own."""
    number, kind, payload = record
    if isinstance(payload, bytes):
        return [record]
    return [(number + i, kind, row.tobytes()) for i, row in enumerate(payload)]


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
    only = document.get("only")
    db[document["collection"]].update_one(
        {"_id": document["id"], **(only or {})}, update, upsert=only is None
    )


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


def _summarise(db: Database[dict[str, Any]], document: dict[str, Any]) -> None:
    """Keep the newest and the best value of each metric on the run, as plain numbers.

    The newest are the current attempt's: a journal of an earlier one may be sent much later.
    """
    if document["rank"] or document["kind"] not in ("batch", "epoch"):
        return
    columns = {k: np.frombuffer(v, "<f8") for k, v in document["columns"].items()}
    last = {f"last.{name}": float(column[-1]) for name, column in columns.items()}
    db["runs"].update_one(
        {"_id": document["run"], "attempt": document["attempt"]},
        {"$set": {**last, "last_step": document["last_step"]}},
    )
    if document["kind"] == "epoch":
        steps = unpack(document)["step"]
        best = {name: _best(name, column, steps) for name, column in columns.items()}
        found = {f"best.{name}": value for name, value in best.items() if value is not None}
        for name, column in columns.items():
            finite = column[np.isfinite(column)]
            if len(finite):
                found[f"min.{name}"] = {"$min": [f"$min.{name}", float(finite.min())]}
                found[f"max.{name}"] = {"$max": [f"$max.{name}", float(finite.max())]}
        if found:
            db["runs"].update_one({"_id": document["run"]}, [{"$set": found}])


def _best(name: str, values: np.ndarray, steps: np.ndarray) -> dict[str, Any] | None:
    """An expression: the better of what is stored and the best of `values`; never NaN or Inf."""
    finite = np.isfinite(values)
    if not finite.any():
        return None
    greater = direction(name) == "max"
    order = np.where(finite, values, -np.inf if greater else np.inf)
    at = int(order.argmax() if greater else order.argmin())
    value, stored = float(values[at]), f"$best.{name}.v"
    better = {"$gt" if greater else "$lt": [value, stored]}
    missing = {"$eq": [{"$type": stored}, "missing"]}
    return {
        "$cond": [
            {"$or": [missing, better]},
            {"v": value, "step": int(steps[at])},
            f"$best.{name}",
        ]
    }

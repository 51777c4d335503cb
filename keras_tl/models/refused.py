"""What MongoDB will never take: recognised, and set aside, so that it holds nothing else up."""

from __future__ import annotations

import base64
import json
import os
import struct

from keras_tl.storage.journal import Journal, Kind

# Codes of the server by which it judges a document. What is not here may pass with time: a full
# disk, a missing right, a change of the primary.
_CODES = frozenset(
    {2, 9, 14, 15, 22, 28, 40, 52, 53, 55, 56, 57, 66, 121, 257, 10334, 17280, 17419, 17420}
)


def permanent(error: Exception) -> bool:
    """Whether the error lies in what is sent: sending it again would not help."""
    from bson.errors import BSONError
    from pymongo.errors import BulkWriteError, OperationFailure

    if isinstance(error, BulkWriteError):
        details = error.details or {}
        codes = {found["code"] for found in details.get("writeErrors", [])} - {11000}
        return bool(codes) and codes <= _CODES and not details.get("writeConcernErrors")
    if isinstance(error, OperationFailure):
        return error.code in _CODES
    # UnicodeError is a ValueError; a connection's errors are none of these.
    mine = (BSONError, ValueError, TypeError, AttributeError, KeyError, OverflowError)
    return isinstance(error, (*mine, RecursionError, struct.error))


def refuse(journal: Journal, kind: int, payload: bytes, error: object) -> None:
    """Keep a refused record, as a line of JSON in the file `.refused` beside the journal.

    Raises:
        OSError: if the disk does not take it.
    """
    packed = kind == Kind.ROW
    line = {
        "kind": kind,
        "error": f"{type(error).__name__}: {error}"[:300],
        "base64" if packed else "record": (
            base64.b64encode(payload).decode() if packed else payload.decode("utf-8", "replace")
        ),
    }
    path = journal.path.with_suffix(".refused")
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
        file.write(json.dumps(line) + "\n")

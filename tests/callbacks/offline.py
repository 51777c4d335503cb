"""A MongoDB that is not there, and what the callbacks left in the journal instead."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_tl.models import buckets, current, outbox
from keras_tl.storage.connection import Connection
from keras_tl.storage.journal import DATA, Kind


@contextlib.contextmanager
def connected() -> Iterator[Connection]:
    """A connection to a port where nobody answers."""
    with socket.socket() as taken:  # bound, not listening: nobody else gets it meanwhile
        taken.bind(("127.0.0.1", 0))
        uri = f"mongodb://ada:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        connection = Connection(uri, project="offline", timeoutMS=200)
        try:
            yield connection
        finally:
            current.close(connection, 0.0)  # runs whose `fit` was killed, too
            connection.close()


def rows(connection: Connection, kind: str = "batch") -> dict[str, np.ndarray]:
    """The rows in the connection's journal, as they would be in MongoDB."""
    columns, records = {}, []
    for number, record in enumerate(outbox.outbox(connection).journal.read()):
        if record.kind == Kind.COLUMNS:
            columns[record.json()["id"]] = record.json()
        elif record.kind in DATA:
            records.append((number, record.kind, record.payload))
    found = [d for d in buckets.buckets(records, columns) if d["kind"] == kind]
    if not found:
        return {}
    (document,) = found
    return {k.removeprefix("value:"): v for k, v in buckets.unpack(document).items()}


def documents(connection: Connection) -> list[dict[str, Any]]:
    """The documents in the connection's journal."""
    journal = outbox.outbox(connection).journal
    return [r.json() for r in journal.read() if r.kind == Kind.DOC]

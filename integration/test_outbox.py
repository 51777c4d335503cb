"""The outbox against a real mongod: what it says when the server is back, and bad journals."""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import Any

import pytest

from keras_tl.models import outbox
from keras_tl.storage.connection import Connection
from keras_tl.storage.home import home
from keras_tl.storage.journal import Journal, Kind


def test_a_server_that_is_back_when_the_process_ends_gets_all_and_it_is_said(
    mongodb: str, project: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(mongodb, project=project, timeoutMS=1000)
    db = connection.db
    pid = db.client.admin.command("serverStatus")["pid"]
    box = outbox.outbox(connection)
    away = box.say_away
    heard: list[str] = []

    def back(error: Exception) -> None:
        away(error)
        heard.append(type(error).__name__)
        os.kill(pid, signal.SIGCONT)  # before the thread tries again

    monkeypatch.setattr(box, "say_away", back)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        os.kill(pid, signal.SIGSTOP)
        try:
            document = {"name": "r", "attempts": {}, "state": "running", "started": 0}
            box.document("runs", "r", set=document)
            outbox.close_outbox(connection, 60)
        finally:
            os.kill(pid, signal.SIGCONT)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and len(heard) == 1, said
    assert "does not take" in said[0] and "is back; what waited was sent" in said[1]
    assert db["runs"].find_one({"_id": "r"})["name"] == "r"
    assert not box.journal.path.exists()
    connection.close()


def test_sync_goes_past_a_journal_that_cannot_be_read(mongodb: str, project: str) -> None:
    connection = Connection(mongodb, project=project)
    about = {"project": project, "address": connection.address, "pid": 1, "host": "h"}

    def leave(name: str, kind: int, payload: Any) -> Journal:
        journal = Journal(home() / "journal" / f"{name}.journal", about)
        journal.append(kind, payload)
        journal.close()
        return journal

    def document(name: str) -> bytes:
        fields = {"name": name, "attempts": {}, "state": "failed", "started": 0}
        update = {"collection": "runs", "id": name, "only": None, "update": {"set": fields}}
        return json.dumps(update).encode()

    first = leave("0", Kind.DOC, document("first"))
    bad = leave("1", Kind.CHUNK, b"no JSON")
    last = leave("2", Kind.DOC, document("last"))
    with pytest.raises(ValueError, match="Expecting value"):
        outbox.sync(connection)
    assert {run["_id"] for run in connection.db["runs"].find()} == {"first", "last"}
    # What was sent is gone, what could not be read is kept and can be asked for again.
    assert [j.path.exists() for j in (first, bad, last)] == [False, True, False]
    with pytest.raises(ValueError, match="Expecting value"):
        outbox.sync(connection)
    bad.path.unlink()
    assert outbox.sync(connection)["journals"] == 0
    connection.close()

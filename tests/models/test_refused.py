"""Runs and what they refuse, without a server."""

from __future__ import annotations

import gc
import json
import os
import stat
from pathlib import Path
from typing import Any

import keras
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    OperationFailure,
    WriteError,
)

from keras_tl.models import current, runs
from keras_tl.models.buckets import text
from keras_tl.models.plain import plain
from keras_tl.models.refused import permanent, refuse
from keras_tl.storage.connection import Connection
from keras_tl.storage.journal import Journal, Kind


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    connection = Connection("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
    yield runs.Run(connection)
    current.close(connection, 0.0)


def journalled(run: Any, kind: int) -> list[bytes]:
    return [record.payload for record in run.outbox.journal.read() if record.kind == kind]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "a\ud800"),
        ("kind", ""),
        ("kind", 3),
        ("step", None),
        ("step", 2**63),
        ("step", 1.5),
        ("epoch", 2**31),
        ("epoch", "1"),
        ("values", "\ud800"),
        ("values", json.loads("[" * 60 + "]" * 60)),
    ],
)
def test_an_event_that_no_document_holds_is_refused_at_once(
    run: Any, argument: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be .* Received: "):
        run.event(**{"kind": "note", argument: value})
    assert journalled(run, Kind.EVENT) == []


@pytest.mark.parametrize("kind", [None, 5, "", "a\ud800", "image", "text", "drift", "mixed"])
def test_rows_of_what_is_no_kind_of_numbers_are_refused(run: Any, kind: Any) -> None:
    run.define("drift", score="float")
    run.define("mixed", note="str")
    with pytest.raises(ValueError, match="must be .*Received: |must not be .*Received: "):
        run.log(1, logs={"loss": 1.0}, kind=kind)
    run.log(1, logs={"score": 1.0}, kind="drift")
    run.log(1, logs={"cpu": 1.0}, kind="system")
    run.log(1, logs={"reward": 1.0}, kind="own")
    found = [json.loads(c)["kind"] for c in journalled(run, Kind.COLUMNS)]
    assert found == ["drift", "system", "own"]
    assert len(journalled(run, Kind.ROW)) == 3


def test_an_event_hides_secrets(run: Any) -> None:
    run.event("note", api_key="hunter2", at="mongodb://a:hunter2@b", deep={"a.b": {"token": "x"}})
    (event,) = map(json.loads, journalled(run, Kind.EVENT))
    assert event["values"] == {
        "api_key": "***",
        "at": "mongodb://a:***@b",
        "deep": {"a.b": {"token": "***"}},
    }


def test_a_run_goes_on_in_a_new_outbox_when_its_own_was_closed(run: Any) -> None:
    run.log(1, 0, 0, {"loss": 1.0})
    old = run.outbox
    current.close(run.connection, 0.0)
    run.log(2, 0, 1, {"loss": 1.0})
    assert run.outbox is not old
    assert len(journalled(run, Kind.COLUMNS)) == len(journalled(run, Kind.ROW)) == 1
    assert run.outbox.journal.header["base"] > old.journal.header["base"] + 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_forked_process_has_an_outbox_of_its_own(run: Any) -> None:
    run.log(1, 0, 0, {"loss": 1.0})
    old, parent = run.outbox, run.outbox.journal.path
    child = os.fork()
    if not child:
        try:
            run.log(2, 0, 1, {"loss": 1.0})
            good = old.closed and run.outbox.journal.path != parent
            os._exit(0 if good and len(journalled(run, Kind.ROW)) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert run.outbox is old and len(journalled(run, Kind.ROW)) == 1


def test_a_run_whose_model_is_gone_is_ended(run: Any) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    lost = current.join(member := object(), model, run.connection)
    lost.start()
    del model
    gc.collect()
    keras.backend.clear_session()
    gc.collect()
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert current.join(member, other, run.connection) is not lost
    last = json.loads([d for d in journalled(run, Kind.DOC) if json.loads(d)["id"] == lost.id][-1])
    assert last["update"]["set"]["state"] == "failed"


def test_params_of_an_earlier_attempt_do_not_overwrite(run: Any) -> None:
    run.params = {"lr": 1}
    run.start()
    found = [json.loads(d) for d in journalled(run, Kind.DOC)]
    with_params = [d for d in found if "params" in d["update"].get("set", {})]
    assert [d["only"] for d in with_params] == [{"number": {"$not": {"$gt": 0}}}]


def test_what_is_permanent() -> None:
    for error in (
        TypeError(),
        OverflowError(),
        AttributeError(),
        "\ud800",
        DocumentTooLarge("", {}),
        WriteError("", 121),
        BulkWriteError({"writeErrors": [{"code": 15}, {"code": 11000}]}),
    ):
        assert permanent(error if isinstance(error, Exception) else UnicodeError(error))
    for passing in (
        AutoReconnect(),
        OSError(),
        OperationFailure("not authorized", 13),
        WriteError("disk full", 14031),
        BulkWriteError({"writeErrors": [{"code": 11000}]}),
        BulkWriteError({"writeErrors": [{"code": 121}, {"code": 14031}]}),
    ):
        assert not permanent(passing)


def test_what_was_refused_outlives_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "p-1.journal")
    (tmp_path / "p-1.x.safetensors").touch()
    refuse(journal, Kind.DOC, b"{}", ValueError("why"))
    refuse(journal, Kind.ROW, b"\xff", ValueError("why"))
    journal.close(delete=True)
    (path,) = tmp_path.iterdir()
    assert path.name == "p-1.refused" and stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"kind": Kind.DOC, "error": "ValueError: why", "record": "{}"}
    assert second["base64"] == "/w=="


def test_a_record_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    size = journal.size
    with pytest.raises(ValueError, match="`payload` must be at most .* Received: "):
        journal.append(Kind.EVENT, bytes((64 << 20) + 1))
    assert journal.size == size
    journal.close()


def test_strings_become_valid_and_secrets_stars() -> None:
    assert text("a\ud800b") == "a?b"
    assert plain({"p\ud800": ["\ud800", 2**64], "token": "a"}) == {
        "p?": ["?", str(2**64)],
        "token": "***",
    }


@pytest.mark.parametrize(
    "uri",
    [
        "https://h/x?a=1&api_key=hunter2",
        "https://h/x?sig=hunter2&a=1",
        "https://hunter2@github.com/a/b",
        "s3://b/c?X-Amz-Signature=hunter2",
    ],
)
def test_secrets_in_uris_are_hidden(uri: str) -> None:
    assert plain(uri) == uri.replace("hunter2", "***")

"""Who is lost: by the server's clock, once, and not for ever if the process lives."""

from __future__ import annotations

import datetime
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import keras_tl as ktl
from keras_tl.models import liveness, outbox
from keras_tl.models.runs import Run

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def until(met: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def insert(hub: ktl.Hub, name: str, state: str, silence: float | None, **fields: Any) -> None:
    """A run that was heard of `silence` s ago by the server's clock."""
    started = {"started": NOW, **fields}
    run = {"_id": name, "name": name, "attempts": {}, "attempt": "a", "state": state, **started}
    hub.connection.db["runs"].insert_one(run)
    if silence is not None:
        heard = {"$subtract": ["$$NOW", int(silence * 1000)]}
        hub.connection.db["runs"].update_one({"_id": name}, [{"$set": {"heartbeat": heard}}])


def test_only_the_silent_ones_under_way_are_lost(hub: ktl.Hub) -> None:
    insert(hub, "silent", "running", 31)
    insert(hub, "silent and paused", "paused", 31)
    insert(hub, "heard of", "running", 20)
    insert(hub, "over", "finished", 1000)
    insert(hub, "never heard of", "running", None, started=NOW - HOUR)
    insert(hub, "just begun", "running", None, started=datetime.datetime.now(datetime.UTC))
    db = hub.connection.db
    assert liveness.mark_lost(db) == 3
    states = {d["_id"]: d["state"] for d in db["runs"].find()}
    lost = {name for name, state in states.items() if state == "lost"}
    assert lost == {"silent", "silent and paused", "never heard of"}
    assert (states["heard of"], states["over"]) == ("running", "finished")
    marks = {d["_id"]: d.get("lost_at") for d in db["runs"].find()}
    assert {name for name, at in marks.items() if at is not None} == lost
    assert liveness.mark_lost(db) == 0
    assert {d["_id"]: d.get("lost_at") for d in db["runs"].find()} == marks


def test_of_many_readers_at_once_one_marks_a_run(hub: ktl.Hub) -> None:
    for i in range(40):
        insert(hub, f"run {i}", "running", 31)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda _: liveness.mark_lost(hub.connection.db), range(8)))
    assert sum(moved) == 40
    assert {run.state for run in hub.runs} == {"lost"}


def test_reading_is_enough_to_find_out(hub: ktl.Hub) -> None:
    insert(hub, "silent", "running", 31)
    assert [run.id for run in hub.runs.where(state="lost")] == ["silent"]
    assert hub.connection.db["runs"].find_one({"_id": "silent"})["state"] == "lost"


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
def test_a_client_whose_clock_is_wrong_neither_loses_nor_keeps_its_run(
    hub: ktl.Hub, wrong: datetime.timedelta
) -> None:
    run = Run(hub.connection)
    run.began += wrong.total_seconds()
    run.start()
    assert run.outbox.flush(60)
    assert liveness.mark_lost(hub.connection.db) == 0
    assert hub.runs[run.id].state == "running"
    run.outbox.beat(run.id, None)  # as if the process had died
    assert run.outbox.flush(60)
    assert liveness.mark_lost(hub.connection.db, datetime.timedelta(0)) == 1
    assert hub.runs[run.id].state == "lost"
    run.end("failed")


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_process_that_lives_takes_its_run_back(
    hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(outbox, "_HEARTBEAT", 0.1)
    run = Run(hub.connection)
    run.start()
    run.outbox.document("runs", run.id, {}, set={"state": state})
    run.outbox.beat(run.id, run.attempt, state)
    assert run.outbox.flush(60)
    db = hub.connection.db
    until(lambda: liveness.mark_lost(db, datetime.timedelta(0)))
    until(lambda: db["runs"].find_one({"_id": run.id})["state"] == state)
    until(lambda: liveness.mark_lost(db, datetime.timedelta(0)))
    run.end()
    assert run.outbox.flush(60)
    assert hub.runs[run.id].state == "finished"  # what it said itself, not what readers thought
    assert liveness.mark_lost(db, datetime.timedelta(0)) == 0


def test_an_earlier_attempt_takes_nothing_back(hub: ktl.Hub) -> None:
    insert(hub, "r", "running", 31)
    db = hub.connection.db
    assert liveness.mark_lost(db) == 1
    liveness.beat(db, "r", "an earlier one", "running")
    assert hub.runs["r"].state == "lost"
    liveness.beat(db, "r", "a", "running")
    assert hub.runs["r"].state == "running"


def test_after_a_frozen_mongod_no_living_run_stays_lost(
    mongodb: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_HEARTBEAT", 0.1)
    with ktl.Hub(mongodb, project=project, timeoutMS=1500) as hub:
        run = Run(hub.connection)
        run.start()
        assert run.outbox.flush(60)
        db = hub.connection.db
        before = db["runs"].find_one({"_id": run.id})["heartbeat"]
        pid = db.client.admin.command("serverStatus")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: "away" in run.outbox._warned)
        finally:
            os.kill(pid, signal.SIGCONT)
        # A reader that comes first takes it for lost; its own next heartbeat tells better.
        silence = datetime.timedelta(seconds=1)
        until(lambda: liveness.mark_lost(db, silence) or "away" not in run.outbox._warned)
        until(lambda: "away" not in run.outbox._warned)
        found = hub.runs[run.id]
        assert found.state == "running"
        assert found.document["heartbeat"] - before > silence
        run.end()

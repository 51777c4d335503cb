"""Orders to a `fit` in another process, by the API and by the command, over kills and resumes."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ordered
import pytest
from click.testing import CliRunner
from runner import digest

import keras_tl as ktl
from keras_tl.cli import main
from keras_tl.models import liveness, orders

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCRIPT = Path(__file__).with_name("ordered.py")


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture
def start(mongodb: str, project: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(**about: Any) -> subprocess.Popen[str]:
        given = json.dumps({"mongodb": mongodb, "project": project, **about})
        command = [sys.executable, "-W", "ignore", str(SCRIPT), given]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(met: Callable[[], Any]) -> Any:
    """What `met` returns as soon as it is true."""
    deadline = time.monotonic() + 60
    while not (found := met()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def order_events(hub: ktl.Hub, run: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = hub.runs[run].events(kind="order")
    columns = (found[name].tolist() for name in ("step", "action", "values"))
    return list(zip(*columns, strict=True)) if "action" in found else []


def test_a_fit_in_another_process_is_set_paused_resumed_and_stopped(
    hub: ktl.Hub, mongodb: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(act="obey")
    told: dict[int, float] = {}

    def command(*arguments: str) -> Any:
        about = ["--mongodb", mongodb, "--project", hub.project]
        return CliRunner().invoke(main, ["runs", *arguments, "--wait", "60", *about])

    (run,) = until(lambda: hub.runs.where(state="running"))
    assert process.stdout is not None
    told[1] = json.loads(process.stdout.readline())[1]
    first = orders.wait(hub.connection, run.set(learning_rate=0.125), 60)
    done = command("pause", run.id)
    assert done.exit_code == 0 and "applied before step" in done.output, done.output
    paused = hub.runs[run.id]
    assert paused.state == "paused"
    # It stands before the step that the order names, and lives.
    step = orders.listing(hub.connection, run.id)[-1]["applied"]["step"]
    assert hub.runs[run.id].events("loss", kind="batch")["step"].max() == step - 1
    beat = paused.document["heartbeat"]
    until(lambda: hub.runs[run.id].document["heartbeat"] > beat)
    assert hub.runs[run.id].state == "paused"
    refused = command("set", run.id, "gamma=1")
    assert refused.exit_code == 1 and "Received: gamma" in refused.output
    assert command("set", run.id, "gamma").exit_code == 2
    assert command("set", run.id, "learning_rate=0.5").exit_code == 0
    assert hub.runs[run.id].events("loss", kind="batch")["step"].max() == step - 1
    resumed = json.loads(command("resume", run.id, "--json").output)
    assert resumed["state"] == "applied"
    assert until(lambda: hub.runs[run.id].state) == "running"
    stopped = orders.wait(hub.connection, run.stop(), 60)
    for line in process.stdout:
        number, rate = json.loads(line)
        told[number] = rate
    assert process.wait(60) == 0
    assert hub.runs[run.id].state == "stopped"
    last = stopped["applied"]["step"]
    assert order_events(hub, run.id) == [
        (first["applied"]["step"], "set", {"learning_rate": 0.125}),
        (step, "pause", {}),
        (step, "set", {"learning_rate": 0.5}),
        (step, "resume", {}),
        (last, "stop", {}),
    ]
    # The rate of each step, as its own process saw it.
    changed = [n for n in sorted(told) if n > 1 and told[n] != told[n - 1]]
    assert changed == [first["applied"]["step"], step]
    assert (told[step - 1], told[step], max(told)) == (0.125, 0.5, last)
    with pytest.raises(ValueError, match="`run` must be under way .*, which is stopped"):
        run.set(learning_rate=1.0)


@pytest.fixture(scope="module")
def unbroken(mongodb: str) -> Iterator[list[str]]:
    """What an uninterrupted `fit` ends with that was given the order before its step 10."""
    with ktl.Hub(mongodb, project="test_orders_unbroken") as hub:
        model, run = ordered.train(hub, at=10)
        assert order_events(hub, run) == [(10, "set", {"learning_rate": 0.25})]
        without, _ = ordered.train(hub, at=None)
        assert digest(without) != digest(model)
        yield digest(model)
        hub.connection.client.drop_database(hub.project)


def killed(hub: ktl.Hub, process: subprocess.Popen[str]) -> Any:
    """The run of a process that was killed, which any reader finds lost."""
    assert process.wait(120) == -signal.SIGKILL
    assert liveness.mark_lost(hub.connection.db, datetime.timedelta(0)) == 1
    (run,) = hub.runs.where()
    assert run.state == "lost"
    with pytest.raises(ValueError, match="`run` must be under way .*, which is lost"):
        run.stop()
    return run


def test_what_was_applied_after_the_backup_is_applied_again_at_its_step(
    hub: ktl.Hub, unbroken: list[str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = killed(hub, start(act="train", at=10, die=12))
    (order,) = run.orders()
    assert (order["state"], order["applied"]["step"]) == ("applied", 10)
    model, resumed = ordered.train(hub, at=None)
    assert resumed == run.id
    assert digest(model) == unbroken
    found = hub.runs[run.id]
    assert found.state == "finished"
    starts = sorted(a["start_step"] for a in found.document["attempts"].values())
    assert starts == [0, 8]  # the backup of step 8, and the order of step 10
    assert order_events(hub, run.id) == [(10, "set", {"learning_rate": 0.25})]
    np.testing.assert_array_equal(found.events(kind="batch")["step"], np.arange(1, 19))
    # A third attempt would find it where the second one has applied it.
    (order,) = found.orders()
    assert order["applied"]["step"] == 10
    assert order["applied"]["attempt"] == found.document["attempt"]


def test_killed_between_applying_and_reporting_it_is_applied_once_more(
    hub: ktl.Hub, start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = killed(hub, start(act="train", at=10, phase="order-applied"))
    (order,) = run.orders()
    assert order["state"] == "pending"
    ordered.train(hub, at=None)
    (order,) = hub.runs[run.id].orders()
    assert order["state"] == "applied"
    # Taken by the first step of the attempt that goes on from step 8.
    assert order_events(hub, run.id) == [(9, "set", {"learning_rate": 0.25})]


def test_orders_that_no_run_can_take_are_refused(hub: ktl.Hub) -> None:
    db = hub.connection.db
    db["runs"].insert_one(
        {"_id": "r", "name": "r", "attempts": {}, "state": "running", "attempt": "a"}
        | {"started": datetime.datetime.now(datetime.UTC)}
    )
    db["runs"].update_one({"_id": "r"}, {"$currentDate": {"heartbeat": True}})
    send = orders.send
    with pytest.raises(KeyError, match="`run` must be a run's id. Received: 'x'"):
        send(hub.connection, "x", "stop")
    for action, values, message in [
        ("explode", None, "`action` must be one of .* Received: 'explode'"),
        ("stop", {"a": 1}, "`values` must be given for"),
        ("set", None, "`values` must be given for"),
        ("set", {"a": float("nan")}, "`values` must be finite .* Received: a=nan"),
        ("set", {"a": "0.1"}, "`values` must be finite .* Received: a='0.1'"),
        ("set", {"a": 1 << 63}, "`values` must be finite"),
        ("set", {"$where": 1}, "`values` must have names .* Received: '\\$where'"),
    ]:
        with pytest.raises(ValueError, match=message):
            send(hub.connection, "r", action, values)
    assert orders.listing(hub.connection, "r") == []
    sent = [send(hub.connection, "r", "set", {"a": np.float32(0.5), "b": True}) for _ in "ab"]
    found = orders.listing(hub.connection, "r")
    assert [str(order["_id"]) for order in found] == sent
    assert found[0]["values"] == {"a": 0.5, "b": True} and "@" in found[0]["by"]
    assert orders.wait(hub.connection, sent[0], 0)["state"] == "pending"


def test_an_inbox_is_the_current_attempts_and_what_is_left_over_is_refused(hub: ktl.Hub) -> None:
    db = hub.connection.db
    now = datetime.datetime.now(datetime.UTC)
    run = {"_id": "r", "name": "r", "attempts": {}, "state": "running", "started": now}
    db["runs"].insert_one({**run, "attempt": "b"})
    order = orders.send(hub.connection, "r", "set", {"a": 1})
    early, late = ({"attempt": "a", "step": step, "at": now} for step in (7, 9))
    done = {"run": "r", "action": "set", "values": {"a": 1}, "at": now, "state": "applied"}
    db["orders"].insert_many([{**done, "applied": early}, {**done, "applied": late}])
    db["orders"].insert_one({**done, "action": "stop", "applied": late})
    dead, alive = orders.Inbox("r", "a"), orders.Inbox("r", "b", start_step=8)
    for inbox in (dead, alive, alive):
        inbox.fetch(db)
    assert not dead.waiting and not dead.wait_known(0)
    assert alive.waiting and alive.wait_known(0)
    taken = alive.take()
    assert sorted(o.get("applied", {"step": 0})["step"] for o in taken) == [0, 9]
    alive.fetch(db)
    assert alive.take() == [] and not alive.waiting
    # Of a run that is not over, nothing; of an earlier attempt, nothing.
    orders.refuse_left(db, "r", "b")
    db["runs"].update_one({"_id": "r"}, {"$set": {"state": "finished"}})
    orders.refuse_left(db, "r", "a")
    assert orders.wait(hub.connection, order, 0)["state"] == "pending"
    orders.refuse_left(db, "r", "b")
    found = orders.wait(hub.connection, order, 0)
    assert (found["state"], found["reason"]) == (
        "refused",
        "The run was over before it took this.",
    )

"""Runs read back: as columns, frames and tails; found by what they are; compared and deleted."""

from __future__ import annotations

import datetime
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_tl as ktl
from keras_tl.models import Run, buckets
from keras_tl.models.outbox import outbox
from keras_tl.storage.journal import Kind

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as found:
        yield found


def document(number: int, **about: Any) -> dict[str, Any]:
    """A run as it is stored, without the training."""
    attempt = {"number": 0, "start_step": 0, "started": NOW, "host": "h", "pid": 1}
    return {
        **{"_id": f"run{number:03d}", "name": f"n{number}", "state": "finished", "model": "m"},
        **{"started": NOW + datetime.timedelta(seconds=number), "attempt": "a"},
        **{"attempts": {"a": attempt}, "last_step": 10 * number},
        **about,
    }


def add_rows(
    hub: ktl.Hub,
    number: int,
    steps: list[int],
    values: dict[str, list[float]],
    *,
    run: str = "run001",
    attempt: str = "a",
    kind: str = "batch",
    rank: int = 0,
) -> None:
    """One bucket, as the courier makes it."""
    about = {"run": run, "attempt": attempt, "rank": rank, "kind": kind, "names": list(values)}
    pack = buckets.row_struct(len(values)).pack
    rows = zip(steps, *values.values(), strict=True)
    records = [
        (number + i, Kind.ROW, pack(0, step, step // 100, step % 100, 1e9 + step, *row))
        for i, (step, *row) in enumerate(rows)
    ]
    hub.connection.db["events"].insert_many(buckets.buckets(records, {0: about}))


# Rows.


@pytest.fixture
def resumed(hub: ktl.Hub) -> ktl.Hub:
    """Ten steps, of which an attempt that resumed at 6 has done four again, and two more."""
    later = {"number": 1, "start_step": 6, "started": NOW + datetime.timedelta(seconds=60)}
    run = document(1, attempt="b")
    run["attempts"]["b"] = {**run["attempts"]["a"], **later}
    hub.connection.db["runs"].insert_one(run)
    add_rows(hub, 5, [5, 6, 7, 8], {"loss": [0.5, 0.4, 0.3, math.nan], "acc": [1.0] * 4})
    add_rows(hub, 1, [1, 3, 4], {"loss": [0.9, math.inf, 0.6], "acc": [0.5] * 3})
    add_rows(hub, 9, [9, 10], {"loss": [0.1, 0.0], "acc": [1.0] * 2})
    add_rows(hub, 13, [2], {"loss": [0.8]})  # out of order, and without `acc`
    add_rows(hub, 1, [7, 8, 9, 10, 11], {"loss": [70.0, 80, 90, 100, 110]}, attempt="b")
    return hub


LOSSES = [0.9, 0.8, math.inf, 0.6, 0.5, 0.4, 70.0, 80.0, 90.0, 100.0, 110.0]


def test_rows_that_were_done_again_count_once(resumed: ktl.Hub) -> None:
    run = resumed.runs["run001"]
    found = run.events("loss", kind="batch")
    assert set(found) == {"step", "epoch", "batch", "time", "attempt", "rank", "loss"}
    assert found["step"].tolist() == list(range(1, 12))
    np.testing.assert_array_equal(found["loss"], LOSSES)
    assert found["attempt"].tolist() == ["a"] * 6 + ["b"] * 5
    assert found["time"].tolist() == [1e9 + step for step in range(1, 12)]
    types = {name: column.dtype.name for name, column in found.items()}
    assert types == {
        **{"step": "int64", "epoch": "int32", "batch": "int32", "rank": "int32"},
        **{"time": "float64", "loss": "float64", "attempt": "object"},
    }
    acc = run.events(kind="batch")["acc"]
    np.testing.assert_array_equal(acc, [0.5, math.nan, 0.5, 0.5, 1, 1] + [math.nan] * 5)
    every = run.events("loss", kind="batch", superseded=True)
    again = every["superseded"]
    assert every["step"][again].tolist() == [7, 8, 9, 10]
    np.testing.assert_array_equal(every["loss"][again], [0.3, math.nan, 0.1, 0.0])
    np.testing.assert_array_equal(every["loss"][~again], LOSSES)


def test_rows_of_other_ranks_are_kept(resumed: ktl.Hub) -> None:
    """The run knows the attempts of the first rank alone."""
    for rank, attempt in enumerate(["b", "x", "y"]):
        load = {"cpu": [10.0 * rank + 7, 10.0 * rank + 8]}
        add_rows(resumed, rank, [7, 8], load, attempt=attempt, kind="system", rank=rank)
    found = resumed.runs["run001"].events("cpu", kind="system")
    rows = zip(found["step"].tolist(), found["rank"].tolist(), found["cpu"].tolist(), strict=True)
    assert sorted(rows) == [(s, r, 10.0 * r + s) for s in (7, 8) for r in (0, 1, 2)]


def test_no_rows_are_columns_of_the_same_types(resumed: ktl.Hub) -> None:
    run = resumed.runs["run001"]
    none, some = run.events(), run.events(kind="batch")
    assert all(none[name].dtype == some[name].dtype and not len(none[name]) for name in none)
    with pytest.raises(ValueError, match=r"\['acc', 'loss'\]. Received: \['lost'\]"):
        run.events("loss", "lost", kind="batch")


def test_only_what_is_asked_for_travels(resumed: ktl.Hub) -> None:
    from pymongo import monitoring

    class Sizes(monitoring.CommandListener):
        projections: list[Any] = []

        def started(self, event: Any) -> None:
            if event.command.get("find") == "events":
                self.projections.append(event.command.get("projection"))

        def succeeded(self, event: Any) -> None:
            pass

        failed = succeeded

    listener = Sizes()
    with ktl.Hub(
        resumed.connection._uri, project=resumed.project, event_listeners=[listener]
    ) as hub:
        hub.runs["run001"].events("loss", kind="batch")
    (projection,) = listener.projections
    assert "columns.loss" in projection and "columns.acc" not in projection
    assert "columns" not in projection


def test_a_frame_is_what_the_columns_are(resumed: ktl.Hub) -> None:
    pandas = pytest.importorskip("pandas")
    run = resumed.runs["run001"]
    frame = run.frame("loss", kind="batch")
    np.testing.assert_array_equal(frame["loss"], LOSSES)
    assert frame["time"][0] == pandas.Timestamp(1e9 + 1, unit="s", tz="UTC")
    assert frame["attempt"].dtype == "category"
    assert frame.groupby("attempt", observed=True)["step"].max().to_dict() == {"a": 6, "b": 11}


# Rows as they arrive.


def test_a_tail_gives_each_row_once_in_whatever_order_buckets_arrive(hub: ktl.Hub) -> None:
    runs = hub.connection.db["runs"]
    hub.connection.db["runs"].insert_one(document(1, state="running", heartbeat=None))
    runs.update_one({"_id": "run001"}, [{"$set": {"heartbeat": "$$NOW"}}])
    add_rows(hub, 1, [1, 2], {"loss": [1.0, 2.0]})
    tail = hub.runs["run001"].tail("loss", poll=0.01)
    assert [next(tail)["step"] for _ in range(2)] == [1, 2]
    add_rows(hub, 9, [5, 6], {"loss": [5.0, 6.0]})
    assert [next(tail)["step"] for _ in range(2)] == [5, 6]
    add_rows(hub, 3, [3, 4], {"loss": [3.0, math.nan]})  # late, and before what was seen
    assert [next(tail)["step"] for _ in range(2)] == [3, 4]
    add_rows(hub, 11, [5, 7], {"loss": [5.5, 7.0]})  # as first step one that was seen
    assert [next(tail)["loss"] for _ in range(2)] == [5.5, 7.0]
    # An attempt that resumed at 2 begins again, and an old journal is sent late.
    other = {"number": 1, "start_step": 2, "started": NOW + datetime.timedelta(seconds=9)}
    runs.update_one({"_id": "run001"}, {"$set": {"attempts.b": other}})
    add_rows(hub, 1, [3], {"loss": [30.0]}, attempt="b")
    row = next(tail)
    assert (row["step"], row["loss"], row["attempt"], row["rank"]) == (3, 30.0, "b", 0)
    add_rows(hub, 15, [8], {"loss": [8.0]})  # superseded when it comes
    add_rows(hub, 2, [4], {"loss": [40.0]}, attempt="b")
    add_rows(hub, 0, [0], {"loss": [0.0]})
    runs.update_one({"_id": "run001"}, {"$set": {"state": "finished"}})
    assert sorted(row["loss"] for row in tail) == [0.0, 40.0]


def test_a_tail_follows_another_process(hub: ktl.Hub, tmp_path: Path) -> None:
    script = """
import sys, time
from keras_tl.models import Run
import keras_tl as ktl
hub = ktl.Hub(sys.argv[1], project=sys.argv[2])
run = Run(hub.connection, "other")
run.start()
print(run.id, flush=True)
for step in range(1, 2001):
    run.log(step, 0, step, {"loss": 1 / step, "acc": 0.0})
    if step % 500 == 0:
        time.sleep(0.3)
run.event("note", step=2000, text="end")
run.end()
hub.close()
"""
    environment = {**os.environ, "KERAS_TL_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, hub.connection._uri or "", hub.project]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        identity = process.stdout.readline().strip()
        while hub.connection.db["runs"].find_one({"_id": identity}) is None:
            assert process.poll() is None or process.returncode == 0
        rows = list(hub.runs[identity].tail("loss", poll=0.05))
        assert process.wait(60) == 0
    assert [row["step"] for row in rows] == list(range(1, 2001))
    assert [row["loss"] for row in rows] == [1 / step for step in range(1, 2001)]
    assert "acc" not in rows[0]
    assert next(hub.runs[identity].tail(after=1999))["step"] == 2000
    (note,) = hub.runs[identity].tail(kind="note")
    assert note["text"] == "end"


def test_a_tail_of_a_deleted_run_ends(hub: ktl.Hub) -> None:
    hub.connection.db["runs"].insert_one(document(1))
    run = hub.runs["run001"]
    hub.runs.delete("run001")
    assert list(run.tail()) == []


# Finding.


@pytest.fixture
def many(hub: ktl.Hub) -> ktl.Hub:
    rng = np.random.default_rng(3)
    runs = []
    for i in range(40):
        loss, acc = float(rng.uniform()), float(rng.uniform())
        values = {"val_loss": loss, "a%2Eb": -loss, "val_acc": acc}
        runs.append(
            document(
                i,
                model=f"m{i % 4}",
                params={"lr": 10.0 ** -(i % 5), "opt": {"name": "adam" if i % 2 else "sgd"}},
                last=values,
                best={name: {"v": value, "step": 3} for name, value in values.items()},
                min=values,
                max=values,
            )
        )
    runs[7]["last"]["val_loss"] = math.nan
    runs[0]["min"] = runs[0]["max"] = runs[0]["last"] = runs[0]["best"] = {}
    hub.connection.db["runs"].insert_many(runs)
    return hub


def ids(runs: Any) -> list[str]:
    return [run.id for run in runs]


def test_conditions_mean_what_they_mean_in_python(many: ktl.Hub) -> None:
    every = list(many.runs)
    assert ids(every) == [f"run{i:03d}" for i in reversed(range(40))]
    found = many.runs.where(model="m1", **{"params.lr__gt": 0.05, "best.val_loss__lt": 0.5})
    assert ids(found) == ids(
        run
        for run in every
        if run.document["model"] == "m1"
        and run.params["lr"] > 0.05
        and run.best["val_loss"].value < 0.5
    )
    assert len(found) > 1
    assert ids(many.runs.where(**{"best.a.b__gt": -0.2})) == ids(
        run for run in every if run.best and run.best["a.b"].value > -0.2
    )
    assert len(many.runs.where(limit=3, **{"params.opt.name": "sgd"})) == 3
    assert ids(many.runs.where(id="run005")) == ids(many.runs.where(step=50)) == ["run005"]
    with pytest.raises(ValueError, match="operators"):
        many.runs.where(**{"params.lr__near": 1})


def test_order(many: ktl.Hub) -> None:
    have = [run for run in many.runs if run.best]
    expected = sorted(have, key=lambda run: run.best["val_acc"].value, reverse=True)
    assert ids(many.runs.where(order="-best.val_acc")) == ids(expected)
    known = [run for run in have if not math.isnan(run.last["val_loss"])]
    expected = sorted(known, key=lambda run: run.last["val_loss"])
    assert ids(many.runs.where(5, "last.val_loss")) == ids(expected[:5])
    names = [run.params["opt.name"] for run in many.runs.where(order="params.opt.name")]
    assert names == ["adam"] * 20 + ["sgd"] * 20
    assert ids(many.runs.where(order="started"))[0] == "run000"
    for wrong in ("-", "", "lats.loss"):
        with pytest.raises(ValueError, match="`where` and `order` take id"):
            many.runs.where(order=wrong)
    with pytest.raises(ValueError, match="`limit`"):
        many.runs.where(-1)


def test_best(many: ktl.Hub) -> None:
    have = [run for run in many.runs if run.best]

    def value(run: Any) -> float:
        return float(run.best["val_loss"].value)

    assert many.runs.best("val_loss").id == min(have, key=value).id
    assert many.runs.best("val_loss", mode="max").id == max(have, key=value).id
    assert many.runs.best("val_acc").id == max(have, key=lambda r: r.best["val_acc"].value).id
    of_m2 = [run for run in have if run.document["model"] == "m2"]
    assert many.runs.best("val_loss", model="m2").id == min(of_m2, key=value).id
    assert many.runs.best("a.b", "max").id == min(have, key=value).id
    for wrong in ("nothing", "last"):
        with pytest.raises(KeyError, match="`metric` must be .*" + wrong):
            many.runs.best(wrong, "min")
    with pytest.raises(ValueError, match="`mode`"):
        many.runs.best("val_loss", "least")


def test_best_and_order_by_a_metric_read_one_run(many: ktl.Hub) -> None:
    from keras_tl.models.history import _query

    runs = many.connection.db["runs"]
    for conditions, order in (
        ({}, "min.val_loss"),
        ({}, "-max.a.b"),
        ({"model__ne": "x"}, "-best.val_acc"),
    ):
        query, sort = _query(conditions, order)
        about = runs.find(query).sort(*sort).limit(1).explain()["executionStats"]
        assert (about["nReturned"], about["totalDocsExamined"]) == (1, 1), (order, about)


def test_runs_as_a_frame(many: ktl.Hub) -> None:
    pytest.importorskip("pandas")
    frame = many.runs.frame(model="m1")
    assert list(frame.index) == ids(many.runs.where(model="m1"))
    run = many.runs["run005"]
    row = frame.loc["run005"]
    assert row["params.lr"] == run.params["lr"] and row["params.opt.name"] == "adam"
    assert row["best.a.b"] == run.best["a.b"].value and row["last.val_acc"] == run.last["val_acc"]
    assert row["started"] == run.document["started"] and row["step"] == 50
    assert len(many.runs.frame(model="none")) == 0


# A run and its relatives.


def test_children_and_readers(hub: ktl.Hub) -> None:
    git = {"sha": "abc", "diff": None}
    hub.connection.db["runs"].insert_many(
        [
            document(1, git=git, tags={"who": "me"}),
            document(2, parent="run001"),
            document(3, parent="run001"),
            document(4, parent="run002"),
        ]
    )
    run = hub.runs["run001"]
    assert ids(run.children()) == ["run003", "run002"]
    assert (run.parent, hub.runs["run002"].parent) == (None, "run001")
    assert (run.git, run.tags, run.params, run.best) == (git, {"who": "me"}, {}, {})


def test_compare(many: ktl.Hub) -> None:
    runs = many.connection.db["runs"]
    runs.update_one({"_id": "run001"}, {"$set": {"git": {"sha": "abc"}, "env.keras": "3.15"}})
    runs.update_one({"_id": "run002"}, {"$set": {"git": {"sha": "def"}, "env.keras": "3.15"}})
    found = many.runs.compare(["run001", "run002"], metric="val_loss")
    first, second = many.runs["run001"], many.runs["run002"]
    assert found.rows["params.lr"] == [0.1, 0.01]
    assert found.rows["git.sha"] == ["abc", "def"] and "env.keras" not in found.rows
    assert found.rows["best.val_loss"] == [r.best["val_loss"].value for r in (first, second)]
    assert "best.val_acc" not in found.rows
    assert many.runs.compare([first, second], metric="val_loss").rows == found.rows
    assert "best.val_acc" in many.runs.compare(["run001", "run002"]).rows
    lines = str(found).splitlines()
    assert lines[0].split() == ["run", "run001", "run002"]
    assert ["params.lr", "0.1", "0.01"] in [line.split() for line in lines]
    pytest.importorskip("pandas")
    assert found.frame().loc["params.lr", "run002"] == 0.01
    with pytest.raises(KeyError, match="`run` must be the id"):
        many.runs.compare(["run001", "nowhere"])
    for wrong in ("run001", first):
        with pytest.raises(ValueError, match="`runs` must be a list"):
            many.runs.compare(wrong)


def test_delete(resumed: ktl.Hub) -> None:
    db = resumed.connection.db
    order = {"run": "run001", "action": "stop", "values": {}, "at": NOW}
    db["orders"].insert_one(order)
    db["runs"].insert_one(document(10))
    add_rows(resumed, 1, [1], {"loss": [1.0]}, run="run010")
    db["runs"].update_one({"_id": "run001"}, [{"$set": {"state": "running", "heartbeat": "$$NOW"}}])
    with pytest.raises(ValueError, match="must not train"):
        resumed.runs.delete("run001")
    assert db["events"].count_documents({"run": "run001"}) == 5
    db["runs"].update_one({"_id": "run001"}, {"$set": {"state": "failed"}})
    resumed.runs.delete("run001")
    for name in ("events", "orders"):
        assert db[name].count_documents({"run": "run001"}) == 0
    assert ids(resumed.runs) == ["run010"]
    assert resumed.runs["run010"].events(kind="batch")["loss"].tolist() == [1.0]
    with pytest.raises(KeyError, match="whole id"):
        resumed.runs.delete("run01")


def test_what_a_real_run_says(hub: ktl.Hub, tmp_path: Path) -> None:
    run = Run(hub.connection, "real", model="net", params={"lr": 0.5, "opt": {"beta": 0.9}})
    run.start()
    for epoch, loss in enumerate([0.5, 0.25, math.nan]):
        run.log(10 * (epoch + 1), epoch, 9, {"loss": loss, "acc": -loss}, kind="epoch")
    run.end()
    assert outbox(hub.connection).flush(60)
    found = hub.runs.best("loss")
    assert (found.id, found.best["loss"]) == (run.id, (0.25, 20))
    assert found.params["opt.beta"] == 0.9
    assert hub.runs.best("acc", model="net").best["acc"].value == -0.25
    assert json.dumps(found.events("loss")["loss"].tolist()) == "[0.5, 0.25, NaN]"


def test_closing_a_hub_sends_what_was_logged_without_a_fit(mongodb: str, hub: ktl.Hub) -> None:
    with ktl.Hub(mongodb, project=hub.project) as other:
        run = Run(other.connection, "closed")
        run.start()
        run.log(1, 0, 0, {"loss": 0.5})
        run.end()
        box = outbox(other.connection)
    assert box.closed and not box.journal.path.exists()
    found = hub.runs[run.id]
    assert (found.state, found.events(kind="batch")["loss"].tolist()) == ("finished", [0.5])


def test_orders_go_through(hub: ktl.Hub) -> None:
    hub.connection.db["runs"].insert_one(document(1, state="running"))
    hub.connection.db["runs"].update_one({"_id": "run001"}, [{"$set": {"heartbeat": "$$NOW"}}])
    run = hub.runs["run001"]
    given = [run.set(learning_rate=0.5), run.pause(), run.resume(), run.stop()]
    assert [str(order["_id"]) for order in run.orders()] == given
    assert [order["action"] for order in run.orders()] == ["set", "pause", "resume", "stop"]
    assert run.orders()[0]["values"] == {"learning_rate": 0.5}

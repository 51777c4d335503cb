"""Events on their way to MongoDB and back: all of them, once, exactly as they were logged."""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_tl.callbacks import MongoLogger
from keras_tl.models import buckets, courier, current, outbox, runs
from keras_tl.storage import journal
from keras_tl.storage.connection import Connection

HOSTILE = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def connection(
    mongodb: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Connection]:
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path / "home"))
    made = Connection(mongodb, project=project)
    yield made
    current.close(made, 10.0)
    made.close()


def stored(connection: Connection, run: str, kind: str = "batch") -> dict[str, np.ndarray]:
    """The run's events of a kind, straight from the collection."""
    assert outbox.outbox(connection).flush(60)
    found = connection.db["events"].find({"run": run, "kind": kind}).sort("first_step", 1)
    parts = [buckets.unpack(document) for document in found]
    names = {name for part in parts for name in part}
    return {
        name.removeprefix("value:"): np.concatenate([part[name] for part in parts])
        for name in names
    }


def document(connection: Connection, run: str) -> dict[str, Any]:
    assert outbox.outbox(connection).flush(60)
    found = connection.db["runs"].find_one({"_id": run})
    assert found is not None
    return found


def bits(values: Any) -> bytes:
    return np.asarray(values, "<f8").tobytes()


# What comes back.


def test_numbers_come_back_bit_for_bit(connection: Connection) -> None:
    with runs.Run(connection) as run:
        run.define("drift", score="float")
        for step, value in enumerate(HOSTILE):
            run.log(step, 0, step, {"loss": value})
            run.log(step, 0, step, {"loss": value, "val_loss": -value}, kind="epoch")
            run.event("free", step=step, value=value, nested=[{"v": value}])
            run.event("drift", step=step, score=value)
    assert bits(stored(connection, run.id)["loss"]) == bits(HOSTILE)
    epochs = stored(connection, run.id, "epoch")
    assert bits(epochs["loss"]) == bits(HOSTILE)
    assert bits(epochs["val_loss"]) == bits([-value for value in HOSTILE])
    assert bits(stored(connection, run.id, "drift")["score"]) == bits(HOSTILE)
    free = stored(connection, run.id, "free")
    assert bits(list(free["value"])) == bits(HOSTILE)
    assert bits([nested[0]["v"] for nested in free["nested"]]) == bits(HOSTILE)


def test_a_name_that_is_no_text_holds_nothing_up(connection: Connection) -> None:
    with runs.Run(connection) as run:
        run.log(1, logs={5: 1.0, None: 2.0})  # type: ignore[dict-item]
        run.log(2, logs={"loss": 3.0}, kind="epoch")
    assert document(connection, run.id)["last"]["loss"] == 3.0
    rows = stored(connection, run.id)
    assert (rows["5"].tolist(), rows["None"].tolist()) == ([1.0], [2.0])


def test_extremes_are_finite_and_of_epochs(connection: Connection) -> None:
    with runs.Run(connection) as run:
        run.log(0, 0, 0, {"loss": -9.0})
        for step, value in enumerate([math.nan, 3.0, -math.inf, 7.0, math.inf, 5.0]):
            run.log(step, step, 0, {"loss": value, "a.b": -value, "bad": math.nan}, kind="epoch")
        outbox.outbox(connection).flush(60)
        first = document(connection, run.id)
        run.log(9, 9, 0, {"loss": 2.0}, kind="epoch")  # in another bucket
    found = document(connection, run.id)
    assert (first["min"], first["max"]) == (
        {"loss": 3.0, "a%2Eb": -7.0},
        {"loss": 7.0, "a%2Eb": -3.0},
    )
    assert (found["min"], found["max"]) == (
        {"loss": 2.0, "a%2Eb": -7.0},
        {"loss": 7.0, "a%2Eb": -3.0},
    )
    assert found["best"]["loss"] == {"v": 2.0, "step": 9}
    assert found["last"]["loss"] == 2.0


def test_arrays_and_kinds_come_back_as_they_were(connection: Connection) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 20, 3), "uint8")
    weights = rng.normal(size=1000).astype("float32")
    with runs.Run(connection) as run:
        run.define("probe", at="str", scores="array")
        run.image("photo", image, 1)
        run.histogram("kernel", weights, 2, bins=10)
        run.event("probe", step=3, at="layer.1", scores=np.array([math.nan, -0.0], "float16"))
    (found,) = stored(connection, run.id, "image")["image"]
    np.testing.assert_array_equal(found, image)
    histogram = stored(connection, run.id, "histogram")
    counts, edges = np.histogram(weights.astype("float64"), 10)
    np.testing.assert_array_equal(histogram["counts"][0], counts)
    np.testing.assert_array_equal(histogram["edges"][0], edges)
    (scores,) = stored(connection, run.id, "probe")["scores"]
    assert (scores.dtype, scores.tobytes()) == (
        np.float16,
        np.array([math.nan, -0.0], "f2").tobytes(),
    )
    kinds = document(connection, run.id)["kinds"]
    assert kinds == {"probe": {"at": "str", "scores": "array"}}


def test_half_a_million_points_of_one_metric(connection: Connection) -> None:
    """Sacred's document of a metric ends at 388,000."""
    n = 500_000
    values = np.random.default_rng(0).normal(size=n)
    with runs.Run(connection) as run:
        log = run.log
        for step, value in enumerate(values.tolist()):
            log(step, 0, step, {"loss": value})
        assert outbox.outbox(connection).flush(120)
    found = stored(connection, run.id)
    np.testing.assert_array_equal(found["step"], np.arange(n))
    assert found["loss"].tobytes() == values.tobytes()
    assert (np.diff(found["time"]) > -1e-3).all()
    events = connection.db["events"]
    (sizes,) = events.aggregate(
        [{"$group": {"_id": 0, "n": {"$sum": 1}, "most": {"$max": {"$bsonSize": "$$ROOT"}}}}]
    )
    assert sizes["n"] < 200 and sizes["most"] < 2 << 20
    plan = events.find({"run": run.id, "kind": "batch", "first_step": {"$gte": n // 2}}).explain()
    assert "IXSCAN" in str(plan["queryPlanner"]["winningPlan"])


def test_many_small_events_share_documents(connection: Connection) -> None:
    n = 5_000
    with runs.Run(connection) as run:
        for step in range(n):
            run.event("note", step=step, text=f"event {step}", deep={"even": step % 2 == 0})
    found = stored(connection, run.id, "note")
    assert found["text"].tolist() == [f"event {step}" for step in range(n)]
    assert connection.db["events"].count_documents({"run": run.id}) < 100


# Once, whatever happens on the way.


@pytest.mark.parametrize("limit", ["_CHUNK", "_CHUNK_BYTES"])
def test_a_chunk_that_was_named_is_sent_again_as_it_was(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """The process dies after each write in turn; its successor reads other pieces of the file."""
    # It would also end a chunk elsewhere: the one that was named must not be cut by that.
    limits = itertools.cycle([7, 2, 11, 1, 5] if limit == "_CHUNK" else [600, 150, 1, 900, 300])
    path = tmp_path / "p.journal"
    made = journal.Journal(path)
    pack, other = buckets.row_struct(1).pack, buckets.row_struct(2).pack
    about = {"run": "r", "attempt": "a", "rank": 0, "kind": "x"}
    made.append(journal.Kind.COLUMNS, dumps({"id": 0, **about, "names": ["loss"]}))
    made.append(journal.Kind.COLUMNS, dumps({"id": 1, **about, "names": ["loss", "b"]}))
    made.append(journal.Kind.COLUMNS, dumps({"id": 2, **about, "names": None}))
    expected = []

    def log(n: int) -> None:
        for _ in range(min(n, 45 - len(expected))):
            step = len(expected)
            expected.append(step)
            if step % 11 == 5:
                event = {"columns": 2, "step": step, "epoch": 0, "batch": 0, "time": 1.0}
                made.append(journal.Kind.EVENT, dumps({**event, "values": {"loss": step}}))
            elif step % 4 == 3:
                made.append(journal.Kind.ROW, other(1, step, 0, 0, 1.0, step, 0.0))
            else:
                made.append(journal.Kind.ROW, pack(0, step, 0, 0, 1.0, step))

    class Killed(Exception):
        pass

    log(25)
    sent = -1
    for kill in itertools.cycle(["chunk-named", "chunk-written", "none"]):

        def die(phase: str, kill: str = kill) -> None:
            if phase == kill:
                raise Killed

        monkeypatch.setattr(courier.hooks, "hook", die)
        monkeypatch.setattr(courier, limit, next(limits))
        sender = courier.Courier(made)
        try:
            sender.send(connection.db)
        except Killed:
            log(3)  # what comes meanwhile does not belong to the chunk
            made.close()
            made = journal.Journal(path, create=False)
            continue
        assert sender._sent > sent  # or this would never end
        sent = sender._sent
        if sent == 44:
            break
        log(2)
    found = [buckets.unpack(d) for d in connection.db["events"].find({"run": "r"})]
    steps = np.sort(np.concatenate([part["step"] for part in found]))
    assert steps.tolist() == expected
    for part in found:
        assert [float(v) for v in part["value:loss"]] == part["step"].tolist()
    made.close()


def dumps(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


def test_one_event_that_mongodb_refuses_takes_no_other_with_it(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = courier.buckets

    def strict(records: Any, columns: Any) -> Any:
        records = list(records)
        if any(b'"poison"' in bytes(payload) for _, _, payload in records):
            raise OverflowError("MongoDB can only handle up to 8-byte ints")
        return real(records, columns)

    monkeypatch.setattr(courier, "buckets", strict)
    with runs.Run(connection) as run:
        for step in range(50):
            run.log(step, 0, step, {"loss": float(step)})
        run.event("note", text="poison")
        run.event("note", text="good")
    assert stored(connection, run.id)["loss"].tolist() == list(range(50))
    assert stored(connection, run.id, "note")["text"].tolist() == ["good"]


# Runs.


def test_nested_runs_tags_and_ends(connection: Connection) -> None:
    with runs.Run(connection, "search", tags={"team": "vision", "api_key": "x"}) as outer:
        with runs.Run(connection, "trial", parent=outer, params={"lr": 0.1}) as inner:
            inner.log(step=1, logs={"loss": 1.0})
        with pytest.raises(KeyError):
            with runs.Run(connection, "trial", parent=outer.id) as failed:
                raise KeyError("x")
    found = connection.db["runs"].find({"parent": outer.id}).sort("started", 1)
    states = [(d["_id"], d["state"], d.get("error")) for d in found]
    assert states == [(inner.id, "finished", None), (failed.id, "failed", "KeyError")]
    own = document(connection, outer.id)
    assert (own["state"], own["tags"]) == ("finished", {"team": "vision", "api_key": "***"})
    assert "parent" not in own
    assert document(connection, inner.id)["last"] == {"loss": 1.0}


def fit(logger: MongoLogger, **options: Any) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(
        np.ones((32, 2)), np.ones((32, 1)), batch_size=8, verbose=0, callbacks=[logger], **options
    )


def test_a_fit_logs_its_machine_parent_and_tags(connection: Connection) -> None:
    pytest.importorskip("psutil", reason="the extra `system` is not installed")
    with runs.Run(connection, "search") as outer:
        logger = MongoLogger(connection, parent=outer, tags={"fold": 3}, system=3600.0)
        fit(logger, epochs=2)
    found = stored(connection, logger.run.id, "system")
    assert (found["step"].tolist(), found["epoch"].tolist()) == ([8], [1])
    assert found["rss_bytes"][0] > 50 << 20
    own = document(connection, logger.run.id)
    assert (own["parent"], own["tags"]) == (outer.id, {"fold": 3})
    assert "rss_bytes" not in own["last"]
    silent = MongoLogger(connection, system=None)
    fit(silent)
    assert stored(connection, silent.run.id, "system") == {}
    assert len(stored(connection, silent.run.id)["step"]) == 4


RANK = """
import sys
import jax
rank, port, mongodb, project = int(sys.argv[1]), *sys.argv[2:5]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
import keras, numpy as np
from keras_tl.callbacks import MongoLogger
from keras_tl.models import current
from keras_tl.storage.connection import Connection
connection = Connection(mongodb, project=project)
logger = MongoLogger(connection, system=0.05)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
for _ in range(2):
    logger.set_model(model)
    logger.set_params({"epochs": 1, "steps": 3})
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    for batch in range(3):
        logger.on_train_batch_begin(batch)
        logger.on_train_batch_end(batch, {"loss": 1.0})
    jax._src.distributed.global_state.client.wait_at_barrier(f"fit{_}", 60_000)
    logger.on_epoch_end(0, {"loss": 1.0})
    logger.on_train_end()
    print(logger.run.id, logger.run.attempt, flush=True)
jax._src.distributed.global_state.client.wait_at_barrier("end", 60_000)
current.close(connection, 10.0)
"""


def test_other_ranks_log_their_machine_into_the_run_of_the_first(
    connection: Connection, mongodb: str, project: str, tmp_path: Path
) -> None:
    pytest.importorskip("psutil", reason="the extra `system` is not installed")
    pytest.importorskip("jax", reason="only JAX trains in several processes in Keras")
    connection.db  # noqa: B018  # made once
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    env = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "KERAS_TL_HOME": str(tmp_path / "ranks"),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(port), mongodb, project],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    lines = said[0][0].split("\n")[:2]
    assert said[1][0].split("\n")[:2] == lines and len(set(lines)) == 2
    events = list(connection.db["events"].find())
    for line in lines:
        run, attempt = line.split()
        own = [d for d in events if d["run"] == run]
        assert {d["attempt"] for d in own} == {attempt}
        assert {(d["rank"], d["kind"]) for d in own} == {
            *[(0, "batch"), (0, "epoch"), (0, "system"), (1, "system")]
        }
        assert sum(d["n"] for d in own if d["kind"] == "batch") == 3  # of the first rank alone
    assert {d["_id"] for d in connection.db["runs"].find()} == {line.split()[0] for line in lines}

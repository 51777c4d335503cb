"""The callbacks against a real mongod: what is there afterwards is what happened, once."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pymongo
import pytest
from runner import Witness, X, Y, digest, network

import keras_tl as ktl
from keras_tl.models import versions
from keras_tl.storage import schema, tensors

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS = 8, 6
RUNNER = Path(__file__).with_name("runner.py")


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def fit(hub: ktl.Hub, model: keras.Model, *others: Any, epochs: int = 2, **options: Any) -> Any:
    logger, checkpoint = hub.callbacks("net", **options)
    model.fit(
        *(X, Y),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[logger, checkpoint, *others],
    )
    return logger


def seen(run: Any, kind: str) -> list[tuple[int, int, float]]:
    """A run's rows as a `Witness` sees them."""
    found = run.events("loss", kind=kind)
    batches = found["batch"].tolist() if kind == "batch" else [-1] * len(found["step"])
    return list(zip(found["epoch"].tolist(), batches, found["loss"].tolist(), strict=True))


class Trained:
    """One `fit` that several tests look at."""

    def __init__(self, mongodb: str) -> None:
        self.hub = ktl.Hub(mongodb, project=f"test_{uuid.uuid4().hex[:12]}")
        self.witness, self.model = Witness(), network()
        logger, checkpoint = self.hub.callbacks(
            "net", run="first", tags={"who": "me"}, monitor="loss"
        )
        logger.config.update(lr=0.5, api_token="hunter2", url="mongodb://a:hunter2@b")
        model_callbacks = [logger, checkpoint, self.witness]
        self.model.fit(
            *(X, Y), batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=model_callbacks
        )
        logger.run.event("note", step=12, text="hunting", **{"a.b": [1, None]})
        assert self.hub.models.flush(60)
        self.id = logger.run.id

    @property
    def run(self) -> Any:
        return self.hub.runs[self.id]


@pytest.fixture(scope="module")
def trained(mongodb: str) -> Iterator[Trained]:
    found = Trained(mongodb)
    yield found
    found.hub.connection.client.drop_database(found.hub.project)
    found.hub.close()


def test_the_run_says_what_it_was(trained: Trained) -> None:
    document = trained.run.document
    assert (document["name"], document["model"], document["state"]) == ("first", "net", "finished")
    (attempt,) = document["attempts"].values()
    assert (attempt["number"], attempt["start_step"], attempt["pid"]) == (0, 0, os.getpid())
    assert document["attempt"] in document["attempts"]
    assert document["started"] <= document["ended"]
    assert document["started"].tzinfo is not None
    env = document["env"]
    assert env["keras"] == keras.__version__ and env["backend"] == keras.backend.backend()
    assert env["packages"]["numpy"] == np.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (document["git"] or {}).get("sha") == (head.stdout.strip() or None)
    assert document["params"]["lr"] == 0.5 and document["params"]["fit"] == {
        "epochs": 2,
        "steps": 6,
    }
    assert "hunter2" not in json.dumps(document, default=str)
    assert trained.run.last["loss"] == trained.witness.rows["epoch"][-1][2]


def test_events_are_what_a_witness_saw(trained: Trained) -> None:
    for kind in ("batch", "epoch"):
        assert seen(trained.run, kind) == trained.witness.rows[kind]
    assert trained.run.events(kind="batch")["step"].tolist() == list(range(1, 13))
    assert trained.run.events()["step"].tolist() == [6, 12]
    assert set(trained.run.kinds()) - {"system"} == {"batch", "epoch", "note"}
    note = trained.run.events(kind="note")
    assert (note["text"].tolist(), note["a.b"].tolist()) == (["hunting"], [[1, None]])
    with pytest.raises(ValueError, match="`names` must be .* Received: .*accuracy"):
        trained.run.events("accuracy")


def test_versions_load_bit_for_bit(trained: Trained) -> None:
    model = trained.hub.models["net"]
    assert [v.number for v in model] == [2, 1]
    latest = model.version()
    assert (latest.step, latest.epoch, latest.parent) == (12, 2, 1)
    assert latest.document["tags"] == {"who": "me"}
    assert latest.metrics["loss"] == trained.witness.rows["epoch"][-1][2]
    assert digest(model.load()) == digest(trained.model)
    assert digest(model.load(1)) != digest(trained.model)
    other = network()
    other.fit(X[:8], Y[:8], verbose=0)
    model.restore_into(other)
    assert digest(other) == digest(trained.model)
    with pytest.raises(KeyError, match="`version` must be .* Received: 7"):
        model.version(7)


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_versions_load_on_another_backend(trained: Trained, backend: str) -> None:
    if backend == keras.backend.backend():
        pytest.skip(f"{backend} is the backend of this run")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    with start(trained.hub, "load", KERAS_BACKEND=backend) as process:
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert json.loads(out) == digest(trained.model)


def test_aliases_and_their_history(hub: ktl.Hub) -> None:
    class Scores(keras.callbacks.Callback):
        """A metric that gets worse in the end."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = [1.0, 3.0, float("nan"), 2.0][epoch]

    logger, checkpoint = hub.callbacks("net", monitor="score", mode="max")
    callbacks = [logger, Scores(), checkpoint]
    network().fit(X, Y, batch_size=BATCH, epochs=4, verbose=0, callbacks=callbacks)
    assert hub.models.flush(60)
    # The uploader may have dropped one that waited; the numbers are those of commits.
    model = hub.models["net"]
    by_step = {v.step: v.number for v in model}
    assert model.aliases["latest"] == by_step[24]
    moves = model.history("best")
    best = model.aliases["best"]
    assert model.version("best").number == best == moves[-1]["version"]
    assert model.version("best").metrics["score"] in (1.0, 3.0)
    assert [m["from"] for m in moves] == [None, *[m["version"] for m in moves[:-1]]]
    assert [v.number for v in model.chain()] == sorted(by_step.values(), reverse=True)


def about(model: keras.Model, **changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from keras_tl.models import state

    manifest, bundle = state.capture(model)
    found = {
        **{"id": uuid.uuid4().hex, "model": "net", "run": "r", "attempt": "a", "number": 0},
        **{"began": 1.0, "base": None, "step": 1, "epoch": 0, "batch": 1, "callbacks": []},
        **{"metrics": {"a.b": 1.0}, "tags": {}, "cursor": None, "best": None},
        **{"manifest": manifest, **changes},
    }
    return found, bundle


def test_a_commit_repeated_is_one_version(hub: ktl.Hub) -> None:
    db = hub.connection.db
    first, bundle = about(network())
    one = versions.commit(db, first, bundle)
    assert versions.commit(db, first, bundle)["version"] == one["version"] == 1
    assert len(hub.models["net"]) == 1
    chunks = db["blobs.chunks"].count_documents({})
    again, _ = about(network(), step=2)  # the same weights cost nothing
    assert versions.commit(db, again, bundle)["version"] == 2
    assert db["blobs.chunks"].count_documents({}) == chunks
    assert hub.models["net"].version().metrics == {"a.b": 1.0}


def test_two_that_save_one_model_get_two_versions(hub: ktl.Hub) -> None:
    db, model = hub.connection.db, network()
    made = [about(model, run=f"r{i}", attempt=f"a{i}") for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda pair: versions.commit(db, *pair)["version"], made))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert hub.models["net"].aliases["latest"] in found


def test_a_model_saved_untrained_comes_back(hub: ktl.Hub) -> None:
    model = network()
    hub.models["net"].save(model, {"loss": float("nan")})
    assert digest(hub.models["net"].load()) == digest(model)


# Killed.


def start(hub: ktl.Hub, act: str, **options: Any) -> subprocess.Popen[str]:
    environment = {k: v for k, v in options.items() if k.isupper()}
    given = {k: v for k, v in options.items() if not k.isupper()}
    given |= {"mongodb": hub.connection._uri, "project": hub.project, "act": act}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(RUNNER), json.dumps(given)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "phase",
    [
        "chunk-named",
        "chunk-written",
        "version-stored",
        "version-journalled",
        "version-uploaded",
        "version-transaction",
        "version-committed",
        "version-forgotten",
    ],
)
def test_what_a_killed_process_logged_is_there_once(
    hub: ktl.Hub, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    with start(hub, "train", phase=phase) as process:
        out, error = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, error
    acknowledged = [json.loads(line) for line in out.splitlines()]
    hub.sync()
    (run,) = hub.runs
    # The kill comes from another thread: a row may be journalled and its line not written.
    for kind in ("batch", "epoch"):
        rows = seen(run, kind)
        assert len({r[:2] for r in rows}) == len(rows)
        told = [tuple(row[1:]) for row in acknowledged if row[0] == kind]
        assert rows[: len(told)] == told and len(rows) <= len(told) + 1
    assert len(list(hub.connection.db["versions"].find())) == len(hub.models["net"])
    steps = [v.step for v in hub.models["net"]]
    assert len(set(steps)) == len(steps)
    if phase not in ("chunk-named", "chunk-written", "version-captured", "version-stored"):
        assert 6 in steps  # it was in the journal
    again = hub.sync()
    assert (again["journals"], again["events"], again["versions"]) == (0, 0, 0)
    assert list((tmp_path / "journal").iterdir()) == []
    # A transaction that the killed process left open does not hold up the next version: the
    # server would keep its locks for a minute.
    with pymongo.timeout(20):
        versions.commit(hub.connection.db, *about(network(), step=99))
    assert hub.models["net"].version().step in (99, *steps)


# Away, and back.


class Gate(keras.callbacks.Callback):
    """Does something in the middle of `fit`."""

    def __init__(self, at: int, act: Callable[[], Any]) -> None:
        super().__init__()
        self.at, self.act, self.step = at, act, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self.step == self.at:
            self.act()


def mongod(stack: Any) -> int:
    from keras_tl import services

    return int(services.status(stack.folder)["mongodb"]["pid"])


def test_a_mongod_that_dies_or_freezes_in_fit_costs_nothing(
    stack_factory: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    stack = stack_factory(services=("mongodb",))
    hub = ktl.Hub(stack.mongodb, project="frozen", timeoutMS=2000)
    witness = Witness()
    pid = mongod(stack)
    sent = threading.Event()

    def freeze() -> None:
        os.kill(pid, signal.SIGSTOP)
        sent.set()

    with caplog.at_level(logging.WARNING, "keras_tl"):
        logger, checkpoint = hub.callbacks("net")
        logger.flush_timeout = checkpoint.flush_timeout = 0.1
        callbacks = [logger, checkpoint, witness, Gate(3, freeze)]
        try:
            network().fit(
                X, Y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
            )
            # `fit` is over and mongod has not moved since its third step.
            assert sent.is_set()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "T"
        finally:
            os.kill(pid, signal.SIGKILL)
        stack.restart("mongodb")
        assert hub.models.flush(120)
    run = hub.runs[logger.run.id]
    for kind in ("batch", "epoch"):
        assert seen(run, kind) == witness.rows[kind]
    assert run.state == "finished"
    assert hub.models["net"].version().step == 3 * STEPS
    hub.close()


def test_what_was_sent_while_the_answer_was_lost_is_not_doubled(
    hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are added between the two tries; the first one had reached the server."""
    from keras_tl.models import courier
    from keras_tl.models.outbox import outbox

    real, failures = courier._insert, []

    def insert(db: Any, documents: list[dict[str, Any]]) -> None:
        real(db, documents)
        if not failures:
            failures.append(documents)
            for i in range(5):
                logger.run.log(100 + i, 9, i, {"loss": 1.0, "mae": 1.0})
            raise pymongo.errors.AutoReconnect("connection closed")

    monkeypatch.setattr(courier, "_insert", insert)
    logger = ktl.callbacks.MongoLogger(hub)
    network().fit(X, Y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[logger])
    assert outbox(hub.connection).flush(60)
    assert failures
    found = hub.runs[logger.run.id].events("loss", kind="batch")
    assert found["step"].tolist() == [*range(1, 13), *range(100, 105)]


# A run that goes on.


def test_rows_that_a_later_attempt_did_again_are_superseded(
    hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_tl.models import resuming

    # Each version is committed before the next, or the first could give way to it.
    wait = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: hub.models.flush(60))
    first = fit(hub, network(), wait)
    version = hub.models["net"].version(1)  # of step 6: rows 7 to 12 will be done again
    monkeypatch.setattr(resuming, "claim", lambda *_: (claimed.pop(), None))
    # As if it was trained on a stream: what was trained on arrays is only where another begins.
    claimed, witness = [{**version.document, "cursor": {}}], Witness()
    second = fit(hub, network(), witness, epochs=3)
    assert hub.models.flush(60)
    assert (second.run.id, second.run.number) == (first.run.id, 1)
    run = hub.runs[first.run.id]
    found = run.events("loss", kind="batch")
    assert found["step"].tolist() == list(range(1, 19))
    later = found["attempt"] == second.run.attempt
    assert found["step"][later].tolist() == list(range(7, 19))
    assert found["loss"][later].tolist() == [loss for _, _, loss in witness.rows["batch"]]
    every = run.events(kind="batch", superseded=True)
    assert len(every["step"]) == 12 + 12
    chain = hub.models["net"].chain()
    assert [v.step for v in chain][-1] == 6 and chain[0].step == 18
    assert all(a.parent == b.number for a, b in zip(chain, chain[1:], strict=False))


# What is refused.


def test_a_newer_store_is_refused(hub: ktl.Hub) -> None:
    hub.connection.db["meta"].update_one({"_id": "schema"}, {"$set": {"n": schema.SCHEMA + 1}})
    with ktl.Hub(hub.connection._uri, project=hub.project) as other:
        with pytest.raises(RuntimeError, match="newer keras_tl .*upgrade"):
            _ = other.connection.db
    hub.connection.db["meta"].update_one({"_id": "schema"}, {"$set": {"n": schema.SCHEMA}})


def test_a_standalone_mongod_is_refused(tmp_path: Path) -> None:
    from keras_tl.services.mongod import find_mongod

    (tmp_path / "db").mkdir()
    process = subprocess.Popen(
        [
            *(find_mongod(), "--dbpath", str(tmp_path / "db"), "--bind_ip", "127.0.0.1"),
            *("--unixSocketPrefix", str(tmp_path), "--port", "0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        port = next(
            json.loads(line)["attr"]["port"]
            for line in process.stdout
            if '"Waiting for connections"' in line
        )
        with ktl.Hub(f"mongodb://127.0.0.1:{port}/?directConnection=true") as hub:
            with pytest.raises(
                ValueError, match="`mongodb` must be a replica set.*--replSet.*Receiv"
            ):
                _ = hub.connection.db
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_blob_is_named(hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", "0")  # a cached tensor is as good
    model = network()
    version = hub.models["net"].save(model)
    entry = version.document["tensors"][0]
    db = hub.connection.db
    wrong = tensors.dumps({"tensor": np.zeros(entry["shape"], entry["dtype"])})
    file = db["blobs.files"].find_one({"filename": entry["hash"]})
    db["blobs.chunks"].update_one({"files_id": file["_id"], "n": 0}, {"$set": {"data": wrong}})
    with pytest.raises(ValueError, match=f"tensor {entry['path']} is damaged"):
        hub.models["net"].load()


def test_best_is_the_best_of_the_model(hub: ktl.Hub) -> None:
    db, bundle = hub.connection.db, about(network())[1]
    judged = [("loss", "min", 0.5), ("loss", "min", 0.7), ("loss", "min", 0.4), ("acc", "max", 0.1)]
    for step, (monitor, mode, value) in enumerate(judged, start=1):
        best = {"monitor": monitor, "mode": mode, "value": value}
        # Each by an attempt of its own, as the first epoch of each `fit` is the best of its `fit`.
        versions.commit(db, about(network(), best=best, attempt=str(step))[0], bundle)
    moves = db["transitions"].find({"alias": "best"}).sort("version", 1)
    assert [move["version"] for move in moves] == [1, 3, 4]  # 4: judged by another metric


def test_a_late_journal_changes_nothing_of_a_later_attempt(hub: ktl.Hub) -> None:
    from keras_tl.models.runs import Run

    run = Run(hub.connection, name="long")
    late = Run(hub.connection, name="long")
    late.id, run.number = run.id, 1
    for one, value in ((run, 0.25), (late, 4.0)):  # the first attempt's journal comes last
        one.start()
        for step, loss in enumerate([value, np.nan, 2 * value], start=1):
            one.log(step, 0, step - 1, {"loss": loss, "acc": loss}, kind="epoch")
        if one is run:
            one.end()
        assert one.outbox.flush(60)
    found = hub.runs[run.id].document
    assert (found["state"], found["attempt"]) == ("finished", run.attempt)
    assert found["last"] == {"loss": 0.5, "acc": 0.5}
    assert found["best"] == {"loss": {"v": 0.25, "step": 1}, "acc": {"v": 8.0, "step": 3}}
    late.end("failed")
    assert late.outbox.flush(60)
    assert hub.runs[run.id].document["state"] == "finished"

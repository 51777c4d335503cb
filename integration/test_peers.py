"""What other trackers and checkpoints were measured to do wrong, done by keras_tl.

Each test names the peer and its fault. Not here: BackupAndRestore's step count after a crash is in
`test_backup.py`, a frozen server and a disk that is full in `faults/test_outages.py`, and what
`kill -9` leaves of versions in `faults/test_versions.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gridfs
import keras
import numpy as np
import pytest
from runner import X, Y, network

import keras_tl as ktl
from keras_tl import services
from keras_tl.models import Run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HERE = Path(__file__).parent
PATIENCE = 120  # s


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Stack]:
    """A mongod that may be killed and stopped."""
    with services.up(tmp_path_factory.mktemp("own"), services=("mongodb",)) as stack:
        yield stack


def still() -> keras.Model:
    """A model that does not learn."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
    return model


def test_save_best_only_without_improvement(hub: ktl.Hub) -> None:
    """W&B's WandbModelCheckpoint(save_best_only=True) ends `fit` with a FileNotFoundError in the
    first epoch without an improvement."""
    checkpoint = hub.callbacks("net", monitor="val_mae", save_best_only=True)[1]
    ends = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    seen: list[int] = []
    still().fit(*(X, Y), epochs=3, validation_data=(X, Y), verbose=0, callbacks=[checkpoint, ends])
    assert seen == [0, 1, 2]
    assert hub.models.flush(60)
    assert [version.epoch for version in hub.models["net"]] == [1]
    assert hub.models["net"].aliases["best"] == 1


def test_validation_has_its_steps_and_is_there_once(hub: ktl.Hub) -> None:
    """MLflow's MlflowCallback logs all validation metrics again, and at step 0."""
    model, (logger, _) = network(), hub.callbacks("net")
    history = model.fit(
        *(X, Y), epochs=3, batch_size=8, validation_data=(X, Y), verbose=0, callbacks=[logger]
    )
    model.evaluate(X, Y, verbose=0, callbacks=[logger])
    assert logger.run.outbox.flush(60)
    found = hub.runs[logger.run.id].events()
    assert found["step"].tolist() == [6, 12, 18]
    assert found["val_loss"].tolist() == history.history["val_loss"]
    assert not [name for name in found if name.startswith(("validation", "test"))]
    assert "val_loss" not in hub.runs[logger.run.id].events(kind="batch")


@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_dead_server(
    when: str, own: services.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's asynchronous logger with a dead server kept the process hanging for 413 s and 100 of
    239 points; Sacred's MongoObserver lost 92 % and was off for the rest of the run."""
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    about = {"mongodb": own.mongodb, "project": f"dead_{when}"}
    if when == "start":
        own.kill("mongodb")
    try:
        process = subprocess.Popen(
            [sys.executable, HERE / "leaver.py", json.dumps(about)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"half": True}
        if when == "middle":
            own.kill("mongodb")
        out, errors = process.communicate("go on\n", timeout=PATIENCE)  # it ends
    finally:
        own.restart("mongodb")
    assert process.returncode == 0, errors
    said = json.loads(out)
    assert errors.count("Nothing is lost") == 1
    with ktl.Hub(own.mongodb, project=about["project"]) as hub:
        hub.sync()
        run = hub.runs[said["run"]]
        assert run.events("loss", kind="batch")["loss"].tolist() == said["losses"]
        assert run.state == "finished"
        assert hub.models["net"].version().step == 8  # epochs of no time: the newest is kept
        hub.connection.client.drop_database(hub.project)


def test_a_frozen_server_blocks_no_step(own: services.Stack) -> None:
    """MLflow's synchronous logger, with its server stopped for 25 s: one step took 25 s."""
    with ktl.Hub(own.mongodb, project="frozen") as hub:
        model, (logger, checkpoint) = network(), hub.callbacks("net")
        logger.flush_timeout = checkpoint.flush_timeout = 0.1
        assert hub.models.flush(60)
        server = own._service("mongodb")
        server.signal(signal.SIGSTOP)
        try:  # if anything waited for the server, it would wait for ever
            history = model.fit(
                *(X, Y), epochs=2, batch_size=8, verbose=0, callbacks=[logger, checkpoint]
            )
        finally:
            server.signal(signal.SIGCONT)
        assert hub.models.flush(60)
        assert hub.runs[logger.run.id].events()["loss"].tolist() == history.history["loss"]
        assert len(hub.runs[logger.run.id].events(kind="batch")["step"]) == 12
        assert hub.models["net"].version().step == 12
        hub.connection.client.drop_database(hub.project)


def test_equal_weights_are_stored_once_under_their_hash(hub: ktl.Hub) -> None:
    """Sacred with pymongo 4 stores each source file again with each run, its md5 being None."""
    model, database = network(), hub.connection.db
    for _ in range(3):
        hub.models["net"].save(model)
    files = {file.filename: file.read() for file in gridfs.GridFS(database, "blobs").find()}
    assert len(files) == database["blobs.files"].count_documents({})
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in files.items())
    documents = list(database["versions"].find())
    assert len(documents) == 3
    assert {d["config"] for d in documents} | {
        e["hash"] for d in documents for e in d["tensors"]
    } == set(files)
    assert len({tuple(e["hash"] for e in d["tensors"]) for d in documents}) == 1


def test_half_a_million_points_of_one_metric(hub: ktl.Hub) -> None:
    """Sacred keeps a metric in one document, which ends at 388,000 points and 16 MB; each addition
    costs more than the one before."""
    points = 500_000
    run = Run(hub.connection, "long")
    run.start()
    for i in range(points):
        run.log(i + 1, 0, i, {"loss": i / 4})
    run.end()
    assert hub.models.flush(PATIENCE)
    found = hub.runs[run.id].events("loss", kind="batch")
    assert (found["loss"] == np.arange(points) / 4).all()
    events = hub.connection.db["events"]
    largest = events.aggregate([{"$group": {"_id": 1, "size": {"$max": {"$bsonSize": "$$ROOT"}}}}])
    assert next(largest)["size"] < 4 << 20
    before = {d["_id"]: d for d in events.find()}
    run.log(points + 1, 0, points, {"loss": 0.0})
    assert hub.models.flush(60)
    after = {d["_id"]: d for d in events.find()}
    assert {k: after[k] for k in before} == before and len(after) == len(before) + 1


def test_a_killed_run_is_listed_with_its_metrics(
    mongodb: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aim, after `kill -9`, lists no run and returns no metrics; it never logs the learning rate of
    a Keras 3 optimizer."""
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, HERE / "leaver.py", json.dumps({"mongodb": mongodb, "project": project})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"half": True}
        process.kill()
    with ktl.Hub(mongodb, project=project) as hub:
        hub.sync()
        (run,) = hub.runs
        assert run.events("loss", kind="batch")["step"].tolist() == [1, 2, 3, 4]
        assert run.last["loss"] == run.events("loss", kind="batch")["loss"][-1]
        assert run.params["optimizer.learning_rate"] == 0.125
        assert hub.runs.where(**{"params.optimizer.learning_rate": 0.125})


def test_a_failure_in_the_background_is_said(hub: ktl.Hub, caplog: Any, tmp_path: Path) -> None:
    """Keras' OrbaxCheckpoint swallows what fails in the background: `fit` ends as if all was well,
    without a checkpoint and without a word."""
    database = hub.connection.db
    database.command("collMod", "versions", validator={"never": {"$exists": True}})
    model, callbacks = network(), hub.callbacks("net")
    with caplog.at_level(logging.WARNING, logger="keras_tl"):
        model.fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=callbacks)
        hub.models.flush(60)
    assert len(hub.models["net"]) == 0
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("'net'" in text and "cannot be committed" in text for text in said), said
    assert len(hub.runs[callbacks[0].run.id].events()["step"]) == 2  # the rest goes on

"""Weights on a real mongod: of any dtype, by any backend, in any number, under any name."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pymongo
import pytest
from runner import X, Y, digest, network

import keras_tl as ktl
from keras_tl.models import outbox, state, versions, warm
from keras_tl.storage.cache import shared

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def hub(mongodb: str, project: str, tmp_path: Path, monkeypatch: Any) -> Iterator[ktl.Hub]:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path / "cache"))
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def about(manifest: list[dict[str, Any]], identity: str = "one", **more: Any) -> dict[str, Any]:
    given = {"id": identity, "model": "net", "run": "r", "attempt": "a", "number": 0, "began": 0.0}
    given |= {"base": None, "step": 1, "epoch": 0, "batch": 0, "manifest": manifest}
    return {
        **given,
        "callbacks": [],
        "cursor": None,
        "metrics": {},
        "best": None,
        "tags": {},
        **more,
    }


BACKENDS = [name for name in ("jax", "tensorflow", "torch") if importlib.util.find_spec(name)]

LOAD = """
import json, sys
import keras, numpy as np
import keras_tl as ktl
from keras_tl.models import state
with ktl.Hub(sys.argv[1], project=sys.argv[2]) as hub:
    model = hub.models["net"].load()
    manifest, arrays = state.capture(model)
    found = [[arrays[e["name"]].astype("float64").tobytes().hex(),
              arrays[e["name"]].dtype.name]
             for e in manifest if e["role"] != "metric"]
    x = np.linspace(-1, 1, 24).reshape(6, 4).astype("float32")
    model.fit(x, x[:, :1], verbose=0)  # what was loaded can be trained on
    print(json.dumps(found))
"""


def test_another_backend_loads_the_same_bits(hub: ktl.Hub, mongodb: str, project: str) -> None:
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="whole"),
            keras.layers.Dense(6, name="half", dtype="bfloat16"),
            keras.layers.Dropout(0.2, seed=2, name="drop"),
            keras.layers.Dense(1, name="out", dtype="float16"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, Y, verbose=0)
    hub.models["net"].save(model)
    manifest, arrays = state.capture(model)
    dtypes = {arrays[e["name"]].dtype.name for e in manifest}
    assert {"float32", "bfloat16", "float16"} <= dtypes
    wanted = [
        arrays[e["name"]].astype("float64").tobytes().hex()
        for e in manifest
        if e["role"] != "metric"
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = {
        backend: subprocess.Popen(
            [sys.executable, "-c", LOAD, mongodb, project],
            env={**environment, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
        )
        for backend in BACKENDS
    }
    for backend, process in processes.items():
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, backend
        found = json.loads(said.splitlines()[-1])
        assert [bits for bits, _ in found] == wanted
        assert {"float32", "bfloat16", "float16"} <= {dtype for _, dtype in found}


def test_ten_thousand_tensors(hub: ktl.Hub) -> None:
    """Their list is no part of the document, which ends at 16 MB."""
    db = hub.connection.db
    arrays = {f"{i:05d}": np.full(3, i, "float32") for i in range(10_000)}
    manifest = [{"name": n, "path": f"layer/{n}", "role": "trainable"} for n in arrays]
    commands: list[str] = []

    class Counter(pymongo.monitoring.CommandListener):
        def started(self, event: Any) -> None:
            commands.append(event.command_name)

        def succeeded(self, event: Any) -> None: ...
        def failed(self, event: Any) -> None: ...

    with pymongo.MongoClient(hub.connection._uri, event_listeners=[Counter()]) as client:
        counted = client[hub.project]
        document = versions.commit(counted, about(manifest), arrays)
        assert document["tensors"] == [] and len(commands) < 100  # and not one for each
        commands.clear()
        found = {e["path"]: array for e, array in versions.read(counted, document)}
        assert len(commands) < 50
        shared().flush()
        commands.clear()
        again = {e["path"]: array for e, array in versions.read(counted, document)}
        assert commands == []  # all of it is cached
    assert len(found) == len(again) == 10_000
    for i in (0, 77, 9_999):
        np.testing.assert_array_equal(found[f"layer/{i:05d}"], arrays[f"{i:05d}"])
        np.testing.assert_array_equal(again[f"layer/{i:05d}"], arrays[f"{i:05d}"])
    assert len(list(versions.read(db, document, match="layer/0000*"))) == 10


def test_a_number_that_is_taken_is_counted_past(hub: ktl.Hub) -> None:
    """A counter that was put back, as by a restore of one collection, stops no model."""
    db = hub.connection.db
    arrays, manifest = {"0": np.ones(2)}, [{"name": "0", "path": "p", "role": "trainable"}]
    for name in ("one", "two", "three"):
        versions.commit(db, about(manifest, name), arrays)
    db["models"].update_one({"_id": "net"}, {"$set": {"next": 1}})
    assert versions.commit(db, about(manifest, "four"), arrays)["version"] == 4
    assert versions.commit(db, about(manifest, "four"), arrays)["version"] == 4  # once
    assert [d["version"] for d in db["versions"].find().sort("version")] == [1, 2, 3, 4]


def test_what_follows_a_commit(hub: ktl.Hub, caplog: pytest.LogCaptureFixture) -> None:
    box = outbox.outbox(hub.connection)
    seen: list[int] = []

    def fails(_: Any) -> None:
        raise RuntimeError("a listener's own fault")

    box.uploader.on_commit += [fails, lambda document: seen.append(document["version"])]
    manifest = [{"name": "0", "path": "p", "role": "trainable"}]
    for i in range(4):
        keep = {"last": 2, "best": None, "every": None}
        box.uploader.put(about(manifest, f"v{i}", step=i, keep=keep), {"0": np.full(2, i)})
        assert box.flush(60)
    assert seen == [1, 2, 3, 4]
    assert [r.getMessage().count("is called no more") for r in caplog.records] == [1]
    assert [v.number for v in hub.models["net"]] == [4, 3]


def test_the_best_version_that_waits_gives_way_to_none_that_is_not(
    hub: ktl.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = outbox.outbox(hub.connection)
    uploader, commit, away = box.uploader, versions.commit, True

    def commit_later(*args: Any) -> Any:
        if away:
            raise pymongo.errors.AutoReconnect("away")
        return commit(*args)

    monkeypatch.setattr(versions, "commit", commit_later)
    manifest = [{"name": "0", "path": "p", "role": "trainable"}]
    for i, best in enumerate([None, 0.5, None, None, None]):
        judged = best and {"monitor": "loss", "mode": "min", "value": best}
        uploader.put(about(manifest, f"v{i}", step=i, best=judged), {"0": np.full(2, i)})
        with uploader._changed:
            assert uploader._changed.wait_for(lambda i=i: f"v{i}" in uploader._waiting, 60)
    assert list(uploader.waiting()) == ["v0", "v1", "v4"]
    away = False
    assert box.flush(60)
    found = hub.models["net"]
    assert (found.version("best").step, found.version("latest").step) == (1, 4)


def train(model: keras.Model) -> None:
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def test_a_warm_model_is_the_same_with_what_changed(hub: ktl.Hub) -> None:
    warm.clear()
    model = network()
    digits = hub.models["net"]
    digits.save(model)
    model.layers[-1].set_weights([w + 1 for w in model.layers[-1].get_weights()])
    digits.save(model)

    def assigned(version: int) -> tuple[keras.Model, int]:
        before = warm.assigned
        found = digits.warm(version)
        fresh = digits.load(version)
        assert digest(found) == digest(fresh)
        return found, warm.assigned - before

    first, _ = assigned(1)
    again, count = assigned(1)
    assert again is first and count == 0
    second, count = assigned(2)
    assert second is first and count == 2  # the kernel and the bias of the last layer
    # Whoever writes to a variable is found out, by whatever way: Keras, the trainer, the backend.
    first.layers[0].kernel.assign(first.layers[0].kernel + 1)
    assert assigned(2)[1] == 1
    train(first)
    assert assigned(2)[1] > 4
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            first.layers[0].kernel.value.add_(1)
        assert assigned(2)[1] == 1
    wider = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    digits.save(wider)
    other = digits.warm()
    assert other is not first and len(other.layers) == 1
    assert digits.warm(2) is first and digits.warm(3) is other


def test_a_warm_model_that_is_another_is_made_anew(hub: ktl.Hub) -> None:
    warm.clear()
    digits = hub.models["net"]
    digits.save(network())
    first = digits.warm(1)
    first.layers[0].trainable = False
    second = digits.warm(1)
    assert second is not first and second.layers[0].trainable
    loss = second.loss
    second.compile("sgd", "mae")
    third = digits.warm(1)
    assert third is not second and third.loss == loss
    train(third)  # its optimizer's config changes, which is put back
    assert digits.warm(1) is third and digest(third) == digest(digits.load(1))


def test_what_is_loaded_from_the_cache_can_be_trained_on(hub: ktl.Hub) -> None:
    """Arrays that are views of read-only files must not be what a step writes to."""
    model = network()
    train(model)
    hub.models["net"].save(model)
    first = hub.models["net"].load()
    shared().flush()
    second = hub.models["net"].load()  # from the disk
    train(first)
    train(second)
    assert digest(first) == digest(second) != digest(hub.models["net"].load())

"""Deleting versions and collecting their tensors: what is needed stays, the rest is gone."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from runner import X, Y, network

import keras_tl as ktl
from keras_tl.models import Keep, garbage, retention, versions
from keras_tl.storage import hooks
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.cache import BlobCache

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What gc has taken must not be found on this machine's disk."""
    monkeypatch.setattr(versions, "shared", lambda: BlobCache(tmp_path / "cache", limit=0))


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture
def net(hub: ktl.Hub) -> Any:
    return hub.models["net"]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


def change(model: keras.Model) -> None:
    """Another value of one tensor of 24 numbers."""
    model.layers[0].kernel.assign(model.layers[0].kernel + 1.0)


def save(net: Any, model: keras.Model, *losses: float) -> list[Any]:
    found = []
    for loss in losses:
        change(model)
        found.append(net.save(model, {"val_loss": loss}))
    return found


def kept(net: Any) -> list[int]:
    return [version.number for version in net]


def blobs(hub: ktl.Hub) -> int:
    return hub.connection.db["blobs.files"].count_documents({})


def run(hub: ktl.Hub, net: Any, state: str, *numbers: int) -> None:
    """Let versions be those of a run in that state."""
    db, now = hub.connection.db, datetime.datetime.now(datetime.UTC)
    identity = f"run-{state}"
    about = {"name": "r", "attempts": {}, "state": state, "started": now, "heartbeat": now}
    db["runs"].insert_one({"_id": identity, "model": net.key, **about})
    query = {"model": net.key, "version": {"$in": list(numbers)}}
    db["versions"].update_many(query, {"$set": {"run": identity}})


def test_a_policy_is_applied(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    save(net, model, 0.5, 0.1, math.nan, 0.3, 0.2, 0.9, 0.8, 0.7)
    net.promote("prod", 1)
    keep = Keep(last=2, best=1, every=4)
    assert net.prune(keep, dry_run=True) == [3, 5, 6] and len(net) == 8
    assert net.prune(keep) == [3, 5, 6]
    assert kept(net) == [8, 7, 4, 2, 1] and len(net) == 5
    assert net.prune(keep) == []
    # Of those that are gone only what they were is left.
    with pytest.raises(KeyError, match="version 5 was deleted at"):
        net.load(5)
    with pytest.raises(KeyError, match="was deleted"):
        net.restore_into(model, 5)
    (stone,) = hub.connection.db["versions"].find({"version": 5})
    assert stone["metrics"] == {"val_loss": 0.2} and stone["tensors"] == []
    assert "config" not in stone and stone["deleted"].tzinfo is not None
    assert [v.number for v in net.chain()] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert "6 (deleted)" in str(net.lineage())
    assert net.best("val_loss", mode="max").number == 7  # and not 6
    net.load(4)


def test_the_best_by_what_no_version_has_deletes_nothing(net: Any, model: keras.Model) -> None:
    save(net, model, 0.5, math.nan, 0.4)
    for policy in (Keep(best=1, monitor="typo_loss"), Keep(last=1, best=1, monitor="val_mae")):
        with pytest.raises(ValueError, match="`monitor`"):
            net.prune(policy)
    assert len(net) == 3


def test_what_may_be_resumed_stays(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    save(net, model, *range(10))
    run(hub, net, "running", 1, 2, 3)
    run(hub, net, "lost", 4, 5)
    run(hub, net, "finished", 6, 7)
    assert net.prune(Keep(last=1)) == [1, 2, 4, 6, 7, 8, 9]
    assert kept(net) == [10, 5, 3]


def test_aliases_give_way_only_if_told_so(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    save(net, model, 0.5, 0.4, 0.3)
    net.promote("old", 1)
    net.promote("older", 2)
    db = hub.connection.db
    db["models"].update_one({"_id": "net"}, {"$set": {"aliases.latest": 2}})
    assert net.prune(Keep(last=1)) == []
    assert net.prune(Keep(last=1, aliased=False)) == [1]
    assert net.aliases == {"latest": 2, "older": 2}
    last = net.history("old")[-1]
    assert (last["from"], last["version"], last["note"]) == (1, None, "retention")


def test_one_is_deleted(net: Any, model: keras.Model) -> None:
    save(net, model, 0.5, 0.4)
    net.promote("prod", 2)
    with pytest.raises(ValueError, match="move latest, prod first"):
        net.delete("latest")
    net.delete(1)
    for gone in (1, 7):
        with pytest.raises(KeyError):
            net.delete(gone)
    assert kept(net) == [2]


def test_the_policy_is_stored_with_the_model(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    assert net.retention is None
    assert retention.apply(hub.connection, "net") == []
    net.retention = Keep(last=1)  # before there is a version
    assert net.retention == Keep(last=1)
    save(net, model, 0.5, 0.4, 0.3)
    assert kept(net) == [3]  # a save applies it
    net.retention = None
    save(net, model, 0.2, 0.1)
    assert net.retention is None and net.prune() == [] and kept(net) == [5, 4, 3]
    assert retention.apply(hub.connection, "net", Keep(last=1), dry_run=True) == [3, 4]
    assert retention.apply(hub.connection, "net", Keep(last=2).to_dict()) == [3]
    with pytest.raises(ValueError, match="`retention`"):
        net.retention = {"last": 2}


def test_the_stored_policy_holds_while_a_model_trains(hub: ktl.Hub, net: Any) -> None:
    net.retention = Keep(last=1)
    for number in (1, 2):
        logger, checkpoint = hub.callbacks("net")
        network().fit(X, Y, verbose=0, callbacks=[logger, checkpoint])
        assert hub.models.flush(60)
        assert kept(net) == [number]


def test_gc_takes_what_nobody_refers_to(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    first, *_ = save(net, model, 0.5, 0.4)
    whole = blobs(hub)
    assert hub.models.gc(grace=0) == {"deleted": 0, "bytes": 0, "orphans": 0}
    net.delete(1)
    # A reader that has just found the version has the grace period to read it.
    assert hub.models.gc(grace=600)["deleted"] == 0
    dry = hub.models.gc(grace=0, dry_run=True)
    assert dry["deleted"] >= 1 and blobs(hub) == whole
    assert hub.models.gc(grace=0) == dry
    assert blobs(hub) == whole - dry["deleted"]
    names = {e["hash"] for e in first.document["tensors"]} | {first.document["config"]}
    gone = Blobs(hub.connection.db).missing(names)
    # The kernel that changed, and the counter of saves if the config is another one.
    assert len(gone) == dry["deleted"]
    assert len(weights(net.load())) == len(model.get_weights())
    with pytest.raises(ValueError, match="`grace`"):
        hub.models.gc(grace=-1)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(w)) for w in model.get_weights()]


def test_garbage_is_collected_once_an_hour(
    hub: ktl.Hub, net: Any, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GRACE", 0.0)
    save(net, model, 0.5, 0.4, 0.3)
    net.delete(1)
    whole = blobs(hub)
    assert garbage.collect_when_due(hub.connection) and blobs(hub) == whole - 1
    net.delete(2)
    assert not garbage.collect_when_due(hub.connection) and blobs(hub) == whole - 1
    earlier = [{"$set": {"at": {"$subtract": ["$at", 3_600_001]}}}]
    hub.connection.db["meta"].update_one({"_id": "gc"}, earlier)
    assert garbage.collect_when_due(hub.connection) and blobs(hub) == whole - 2


def test_a_fit_that_deletes_versions_collects(
    hub: ktl.Hub, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = threading.Event()
    monkeypatch.setattr(garbage, "collect_when_due", lambda connection: collected.set())
    for last in (False, True):
        checkpoint = ktl.callbacks.MongoCheckpoint(hub.connection, "net", keep=Keep(last=1))
        network().fit(X, Y, verbose=0, callbacks=[checkpoint])
        assert hub.models.flush(60)
        assert collected.wait(60 if last else 0) is last


def test_gc_knows_what_a_large_manifest_names(
    hub: ktl.Hub, net: Any, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_INLINE_MANIFEST", 3)
    save(net, model, 0.5, 0.4)
    assert net.version(1).document["manifest"] and net.version(1).document["tensors"] == []
    assert hub.models.gc(grace=0)["deleted"] == 0
    net.delete(1)
    assert hub.models.gc(grace=0)["deleted"] >= 2  # the manifest, the kernel
    net.load()
    # Where a manifest is lost, nobody knows what is garbage: nothing may be taken.
    db = hub.connection.db
    db["blobs.files"].delete_one({"filename": net.version().document["manifest"]})
    Blobs(db).put(b"garbage")
    with pytest.raises(ValueError, match="Nothing was collected: the manifest of version 2"):
        hub.models.gc(grace=0)
    assert not Blobs(db).missing([ktl.storage.tensors.checksum(b"garbage")])


@pytest.mark.parametrize("paused", ["version-uploaded", "version-transaction"])
def test_gc_never_takes_what_a_save_is_about_to_reuse(
    hub: ktl.Hub, net: Any, model: keras.Model, monkeypatch: pytest.MonkeyPatch, paused: str
) -> None:
    first, _ = save(net, model, 0.5, 0.4)
    before = weights(net.load(1))
    old = net.load(1)
    net.delete(1)
    reached, go_on = threading.Event(), threading.Event()

    def pause(phase: str) -> None:
        if phase == paused and not reached.is_set():
            reached.set()
            assert go_on.wait(60)

    def live(db: Any, names: set[str]) -> set[str]:
        found = asked(db, names)
        if paused == "version-transaction":
            go_on.set()  # gc's deletion waits for a transaction that has touched the blob
        return found

    asked = garbage.live
    monkeypatch.setattr(garbage, "live", live)
    monkeypatch.setattr(hooks, "hook", pause)
    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(net.save, old)  # all of its tensors are stored already: garbage
        assert reached.wait(60)
        try:
            done = hub.models.gc(grace=0)
        finally:
            go_on.set()
        version = saved.result(60)
    kernel = next(e["hash"] for e in first.document["tensors"] if e["path"].endswith("kernel"))
    assert kernel in {e["hash"] for e in version.document["tensors"]}
    # In the pause before the transaction gc took it, and the save has sent it again.
    assert (done["deleted"] > 0) == (paused == "version-uploaded")
    for a, b in zip(weights(net.load(version)), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert asked(hub.connection.db, {kernel}) == {kernel}
    assert hub.models.gc(grace=0)["deleted"] == 0


def test_a_model_is_deleted(hub: ktl.Hub, net: Any, model: keras.Model) -> None:
    other = hub.models["other"]
    save(other, model, 0.1)
    save(net, model, 0.5, 0.4)
    net.promote("prod", 1)
    run(hub, net, "running", 2)
    with pytest.raises(ValueError, match="`force`.*run-running"):
        hub.models.delete("net")
    assert len(net) == 2
    hub.models.delete("net", force=True)
    assert "net" not in hub.models and list(hub.models) == ["other"]
    assert len(net) == 0 and net.aliases == {} and net.history() == []
    with pytest.raises(KeyError, match="`key` must be the key of a model"):
        hub.models.delete("net")
    assert hub.models.gc(grace=0)["deleted"] > 0
    other.load()
    # What is saved under the name again is another model.
    (again,) = save(net, model, 0.5)
    assert (again.number, again.parent) == (1, None)


def test_deleting_beside_a_trainer_loses_no_version(
    mongodb: str, project: str, net: Any, model: keras.Model
) -> None:
    """Saving, pruning and collecting at once: what is kept can be read."""
    stop = threading.Event()

    def prune() -> int:
        count = 0
        with ktl.Hub(mongodb, project=project) as hub:
            while not stop.is_set() or not count:
                count += len(hub.models["net"].prune(Keep(last=2)))
                hub.models.gc(grace=0)
        return count

    with ThreadPoolExecutor(1) as pool:
        pruned = pool.submit(prune)
        try:
            save(net, model, *range(12))
        finally:
            stop.set()
        assert pruned.result(60) > 0
    net.prune(Keep(last=2))
    assert kept(net) == [12, 11]
    for version in net:
        net.load(version)
    np.testing.assert_array_equal(weights(net.load())[0], weights(model)[0])

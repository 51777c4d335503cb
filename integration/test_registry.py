"""The registry against a real mongod: what is promoted, found and compared is what there is."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
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
from keras_tl.models import AliasMoved, best
from keras_tl.models.selection import Version
from keras_tl.storage import hooks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture
def net(hub: ktl.Hub) -> Any:
    return hub.models["net"]


def save(net: Any, *losses: float, **tags: Any) -> list[Version]:
    model = network()
    return [net.save(model, {"val_loss": loss}, tags) for loss in losses]


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(w)) for w in model.get_weights()]


def test_versions_are_found(net: Any) -> None:
    save(net, 0.5, math.nan, 0.25, -math.inf, 0.25)
    assert net.best("val_loss").number == 3
    assert net.best("val_loss", mode="max").number == 1
    assert net.version(best("val_loss", mode="min")).number == 3
    third = net.version(3)
    assert net.version(third).number == 3
    save(net, 0.1, kind="head")
    numbers = [v.number for v in net.where(**{"metrics.val_loss__lt": 0.3})]
    assert numbers == [6, 5, 4, 3]
    assert [v.number for v in net.where(**{"tags.kind": "head"})] == [6]
    assert [v.number for v in net.where(number__gte=3, limit=2)] == [6, 5]
    net.save(network(), {"a.b": 0.5, 3: 1.0}, {"data.set": "x"})
    assert [v.number for v in net.where(**{"metrics.a.b__gt": 0.4, "tags.data.set": "x"})] == [7]
    assert net.version(7).metrics == {"a.b": 0.5, "3": 1.0}
    for wrong in ("model", "metrics", "deleted"):
        with pytest.raises(ValueError, match=f"`where` takes number.*'{wrong}'"):
            net.where(**{wrong: "other"})
    with pytest.raises(ValueError, match="`limit`"):
        net.where(-1)
    with pytest.raises(KeyError, match="finite"):
        net.best("val_mae", mode="min")
    for missing in (8, "prod", True, 1.5, Version({**third.document, "model": "other"})):
        with pytest.raises(KeyError, match="`version` must be one of"):
            net.version(missing)


def test_versions_are_followed(net: Any) -> None:
    save(net, 0.5, 0.25)
    found = net.follow(after=0)
    first, second = (next(found) for _ in range(2))
    assert isinstance(first, Version) and (first.number, second.number) == (1, 2)
    save(net, 0.1)
    assert next(found).metrics == {"val_loss": 0.1}


def test_part_of_a_version_is_loaded(net: Any) -> None:
    model = network()
    model.fit(X, Y, epochs=1, verbose=0)
    net.save(model)
    whole = net.load()
    assert int(whole.optimizer.iterations) == int(model.optimizer.iterations) > 0
    head = model.layers[-1].variables[0].path
    part = net.load(roles=("trainable",), match=head)
    assert int(part.optimizer.iterations) == 0
    np.testing.assert_array_equal(weights(part)[-2], weights(model)[-2])
    assert not np.array_equal(weights(part)[0], weights(model)[0])
    other = net.load(roles=("seed",))  # named like the first, with weights of its own
    before = weights(other)
    assert net.restore_into(other, "latest", roles=("trainable",), match=head).number == 1
    np.testing.assert_array_equal(weights(other)[0], before[0])
    np.testing.assert_array_equal(weights(other)[-2], weights(model)[-2])
    with pytest.raises(ValueError, match="`roles`"):
        net.load(roles=("weights",))


def test_what_a_version_would_not_hold_is_refused(net: Any) -> None:
    with pytest.raises(ValueError, match="must be built.* Received: an unbuilt Sequential"):
        net.save(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="`model` must be a `keras.Model`. Received: str"):
        net.save("x")
    kept = keras.layers.IntegerLookup(vocabulary=[3, 5])
    lost = keras.layers.IntegerLookup(name="lost")
    lost.adapt([3, 5])
    for layer, held in ((kept, []), (lost, ["lost"])):
        inputs = keras.Input((1,), dtype="int64")
        model = keras.Model(inputs, layer(inputs))
        if held:
            with pytest.raises(ValueError, match="must hold no assets: .* Received: lost"):
                net.save(model)
        else:
            net.save(model)
    assert net.aliases == {"latest": 1}


def test_promotion_is_compare_and_set(hub: ktl.Hub, net: Any) -> None:
    save(net, 0.5, 0.25, 0.75)
    assert (
        net.promote("prod", 1, expected=None, note="$first mongodb://a:hunter2@db", by="ada").number
        == 1
    )
    with pytest.raises(AliasMoved, match="points to version 1") as moved:
        net.promote("prod", 2, expected=None)
    assert moved.value.found == 1
    net.promote("prod", best("val_loss"), expected=1)
    with pytest.raises(ValueError, match="a finite 'val_loss' that is not worse"):
        net.promote("prod", 3, unless_worse="val_loss")
    assert net.aliases["prod"] == 2
    net.promote("prod", 3, unless_worse=best("val_loss", mode="max"))
    with pytest.raises(ValueError, match="finite 'typo_loss'"):
        net.promote("prod", 1, unless_worse="typo_loss")
    for wrong in (4, "canary"):
        with pytest.raises(KeyError):
            net.promote("prod", wrong)
    with pytest.raises(AliasMoved, match="does not exist"):
        net.demote("canary", expected=1)
    with pytest.raises(KeyError, match="`alias`"):
        net.demote("canary")
    net.demote("prod", expected=3)
    assert "prod" not in net.aliases
    history = net.history("prod")
    assert [(h["from"], h["version"]) for h in history] == [(None, 1), (1, 2), (2, 3), (3, None)]
    assert (history[0]["by"], history[0]["note"]) == ("ada", "$first mongodb://a:***@db")
    assert "@" in history[1]["by"]
    assert all(h["at"].tzinfo is not None for h in history)
    # Nothing that was refused left a trace.
    assert [h["version"] for h in net.history("latest")] == [1, 2, 3]
    assert len(net.history()) == 7


def test_aliases_as_of_a_time(net: Any) -> None:
    first, second = save(net, 0.5, 0.25)
    net.promote("prod", first)
    net.promote("canary", second)
    between = net.history("canary")[-1]["at"]
    net.promote("prod", second)
    net.demote("canary")
    last = net.history()[-1]["at"]
    assert net.aliases_at(last) == net.aliases == {"latest": 2, "prod": 2}
    moves = [h for h in net.history() if h["at"] <= between]
    expected = {h["alias"]: h["version"] for h in moves if h["version"] is not None}
    assert net.aliases_at(between) == expected and expected["canary"] == 2
    assert net.aliases_at(net.history()[0]["at"] - datetime.timedelta(seconds=1)) == {}
    with pytest.raises(ValueError, match="aware"):
        net.aliases_at(datetime.datetime(2026, 1, 1))  # noqa: DTZ001


def test_of_many_promotions_at_once_one_wins(mongodb: str, project: str, net: Any) -> None:
    save(net, *range(8))
    net.promote("prod", 1)
    start = threading.Barrier(7)
    found: list[int | None] = []

    def promote(number: int) -> int | None:
        with ktl.Hub(mongodb, project=project) as hub:  # a client of its own, like a process
            start.wait()
            try:
                hub.models["net"].promote("prod", number, expected=1)
            except AliasMoved as moved:
                found.append(moved.found)
                return None
            return number

    with ThreadPoolExecutor(7) as pool:
        winners = [n for n in pool.map(promote, range(2, 9)) if n is not None]
    assert winners == [net.aliases["prod"]] and set(found) == set(winners)
    assert [h["version"] for h in net.history("prod")] == [1, *winners]


@pytest.mark.parametrize("paused", ["alias-transaction", "version-buried"])
def test_no_alias_points_to_a_deleted_version(
    net: Any, monkeypatch: pytest.MonkeyPatch, paused: str
) -> None:
    """Each act begins while the other is about to commit; whoever is second sees the first."""
    save(net, 0.5, 0.25)
    reached, go_on = threading.Event(), threading.Event()

    def pause(phase: str) -> None:
        if phase == paused and not reached.is_set():
            reached.set()
            assert go_on.wait(60)

    def attempt(act: Any) -> Exception | None:
        try:
            act()
        except (KeyError, ValueError) as error:
            return error
        return None

    acts = [lambda: net.promote("prod", 1), lambda: net.delete(1)]
    if paused == "version-buried":
        acts.reverse()
    monkeypatch.setattr(hooks, "hook", pause)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(attempt, acts[0])
        assert reached.wait(60)
        second = pool.submit(attempt, acts[1])
        # The second is turned away by the server until the first is through.
        assert not second.done() or isinstance(second.result(), Exception)
        go_on.set()
        errors = [first.result(60), second.result(60)]
    assert errors[0] is None and errors[1] is not None
    kept = {v.number for v in net}
    assert set(net.aliases.values()) <= kept
    assert ("prod" in net.aliases) == (paused == "alias-transaction") == (1 in kept)


def test_diff(net: Any) -> None:
    model = network()
    one = net.save(model, {"val_loss": 0.5, "mae": 1.0}, {"kind": "a"})
    same = net.save(model, {"val_loss": 0.5, "mae": 1.0}, {"kind": "a"})
    nothing = net.diff(one, same)
    assert not (nothing.tensors or nothing.config or nothing.metrics or nothing.tags)
    assert nothing.same == sum(e["role"] != "metric" for e in one.document["tensors"])
    kernel = model.layers[0].kernel
    kernel.assign(kernel * 1.5)
    model.optimizer.learning_rate = 0.125
    two = net.save(model, {"val_loss": 0.25}, {"kind": "b"})
    found = net.diff(one, "latest", values=True)
    assert found.metrics == {"val_loss": (0.5, 0.25), "mae": (1.0, "(none)")}
    assert found.tags == {"kind": ("a", "b")}
    changed = {change.path: change for change in found.tensors}
    assert set(changed) == {kernel.path, "adam/learning_rate"} or kernel.path in changed
    assert changed[kernel.path].distance == pytest.approx(0.5, rel=1e-6)
    assert changed[kernel.path].shape == ((4, 6), (4, 6))
    assert any(path.endswith("learning_rate") for path in found.config)
    assert "val_loss: 0.5 -> 0.25" in str(found) and kernel.path in str(found)
    json.dumps(found.to_dict())
    # Another network: its layers are numbered anew, the wider one is another tensor.
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    net.save(wide)
    changes = {change.change for change in net.diff(two).tensors}
    assert {"added", "removed"} <= changes


def test_the_same_network_made_again_has_the_same_tensors(net: Any) -> None:
    first = net.save(network())
    again = net.save(network())  # Keras numbers its layers on, so that no path is the same
    assert first.document["tensors"][0]["path"] != again.document["tensors"][0]["path"]
    found = net.diff(first, again)
    assert {change.role for change in found.tensors} <= {"seed"}


def test_lineage(hub: ktl.Hub, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*args: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *names, *args], check=True, capture_output=True, text=True)
        return done.stdout

    monkeypatch.chdir(tmp_path)  # a work tree with a change that no commit has
    script = tmp_path / "train.py"
    git("init", "-q")
    script.write_text("lr = 0.1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    script.write_text("lr = 0.2\n")
    for _ in range(2):
        logger, checkpoint = hub.callbacks("net", run="first", tags={"who": "me"})
        network().fit(X, Y, epochs=2, verbose=0, callbacks=[logger, checkpoint])
        assert hub.models.flush(60)
    found = net.lineage()
    assert [parent.number for parent in found.parents] == [3]
    assert found.run["_id"] == logger.run.id and found.run["env"]["keras"] == keras.__version__
    assert found.run["git"]["sha"] == git("rev-parse", "HEAD").strip()
    assert found.data == [] and found.patch == git("diff", "HEAD")
    assert "patch" not in found.run["git"]
    assert hub.connection.db["patches"].count_documents({}) == 1  # of two runs
    assert logger.run.id in str(found) and "parents  3" in str(found)
    assert f"changed ({found.run['git']['diff'][:12]})" in str(found)
    by_hand = net.lineage(net.save(network()))
    assert by_hand.run is None and [v.number for v in by_hand.parents] == [4, 3]
    assert (by_hand.made["git"], by_hand.patch) == (found.made["git"], found.patch)
    assert net.diff(2, 4).git == {} and net.diff(4, 5).git == {}
    script.write_text("lr = 0.3\n")
    with hub.run("by hand") as run:
        of_run = net.lineage(net.save(network(), run=run))
    assert of_run.version.run == run.id and list(net.diff(5, 6).git) == ["diff"]


def test_lineage_tells_what_data_a_version_saw(hub: ktl.Hub, net: Any) -> None:
    save(net, 1.0, 0.5)
    db = hub.connection.db

    def at(number: int, *offsets: int) -> None:
        parts = [
            {"partition": p, "topic_id": "i", "offset": o, "row": 0, "checksum": None}
            for p, o in enumerate(offsets)
        ]
        cursor = {"topic": "clicks", "partitions": parts}
        db["versions"].update_one({"model": "net", "version": number}, {"$set": {"cursor": cursor}})

    at(1, 10, 20)
    at(2, 15, 20)
    (part,) = net.lineage().data
    assert (part.partition, part.begin, part.end, part.records) == (0, (10, 0), (15, 0), 5)
    assert net.diff(1, 2).data == [part]
    assert [p.begin for p in net.lineage(1).data] == [None, None]
    assert "clicks[0] 10 to 15, 5 records" in str(net.lineage())

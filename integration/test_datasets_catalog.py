"""What datasets take, what they refuse and say, and what goes when one is deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import keras
import numpy as np
import pytest
from dataset_oracles import rows, told

import keras_tl as ktl
from keras_tl.callbacks import MongoCheckpoint
from keras_tl.datasets import Array, Dataset, Label
from keras_tl.datasets.storing import writing

MOMENT = datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


@pytest.fixture
def ds(hub: ktl.Hub) -> Dataset:
    tags = {"split": str, "q": int, "taken": datetime}
    return hub.datasets.create("d", x=Array((2,), "uint8"), y=Label(5), tags=tags)


# creation


def test_creation_again_behind_declared_tags(hub: ktl.Hub) -> None:
    def made(**tags: Any) -> Dataset:
        return hub.datasets.create("c", x=Array((1,)), y=Label(2), tags=tags)

    first = made(split=str)
    first.declare(loss=float)
    for tags in ({"split": str}, {}, {"loss": float, "split": str}):
        again = made(**tags)
        assert again.uid == first.uid and again.schema.tags == {"split": "str", "loss": "float"}
    for tags in ({"split": int}, {"split": str, "more": int}):
        with pytest.raises(ValueError, match="must be those that the dataset 'c' has"):
            made(**tags)
    with pytest.raises(ValueError, match="must be those"):
        hub.datasets.create("c", y=Label(2), x=Array((1,)))  # packs have fields in an order


@pytest.mark.parametrize(
    ("about", "rule"),
    [
        ({"index": Array((1,))}, "`index` must be True or False. Received: Array"),
        ({"index": "no", "x": Array((1,))}, "`index` must be True or False"),
        ({"tags": Array((1,)), "x": Array((1,))}, "`tags` must be a mapping"),
        ({"key": Array((1,))}, "must be other than key, .* Received: 'key'"),
        ({"x": Array((1,)), "tags": {"self": str}}, "Received: 'self'"),
    ],
)
def test_creations_that_are_refused(hub: ktl.Hub, about: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        hub.datasets.create("n", **about)
    assert list(hub.datasets) == []


def test_what_is_no_key_is_not_there(hub: ktl.Hub, ds: Dataset) -> None:
    for key in ({"$gt": ""}, {"$exists": True}, None, 3, "", "a\0", "\udc00", ["d"]):
        assert key not in hub.datasets
    assert "d" in hub.datasets
    for ask in (hub.datasets.__getitem__, hub.datasets.delete):
        with pytest.raises(KeyError, match="`key` must be the key of a dataset .* Received: 'e'"):
            ask("e")


def test_what_is_gone_is_said_to_be(hub: ktl.Hub, ds: Dataset) -> None:
    for change in (ds.update, ds.add_predictions):
        with pytest.raises(KeyError, match="`samples` must have keys .* Received: 'nobody'"):
            change("nobody", **({"q": 1} if change == ds.update else PREDICTION))
    hub.datasets.delete("d")
    for act in (ds.refresh, lambda: ds.insert({"x": [1, 2]}), lambda: ds.reserve(1)):
        with pytest.raises(KeyError, match="`dataset` must be one .* Received: 'd', which was del"):
            act()


PREDICTION: dict[str, Any] = {"model": "m", "version": 1, "label": 1}


# insertion


def test_a_moment_is_kept_to_the_millisecond(ds: Dataset) -> None:
    for replace in (False, True):
        ds.insert({"x": [1, 2]}, key="a", tags={"taken": MOMENT}, replace=replace)
        ds.insert_many({"x": [[1, 2]]}, ["a"], {"taken": [MOMENT]}, replace=replace)
    assert told(ds) == {"inserted": 1}
    assert rows(ds)["a"]["tags"] == {"taken": MOMENT.replace(microsecond=123000)}
    assert ds.where(taken=MOMENT).keys() == ["a"]


def test_key_and_tags_inside_a_sample(ds: Dataset) -> None:
    sample = {"x": [1, 2], "key": "a", "tags": {"split": "train"}}
    assert ds.insert(sample) == ds.insert(sample, key="a") == "a"
    assert rows(ds)["a"]["tags"] == {"split": "train"}
    assert ds.insert({**sample, "key": "b"}, tags={"q": 3, "split": "test"}) == "b"
    assert rows(ds)["b"]["tags"] == {"split": "train", "q": 3}
    assert ds.insert({"x": [1, 2], "key": None}, key="c") == "c"
    with pytest.raises(ValueError, match="`key` must be the one in `sample`: 'a'. Received: 'z'"):
        ds.insert(sample, key="z")
    for bad, rule in (
        ([1, 2], "`sample` must be a mapping"),
        ({"x": [1, 2], "tags": 3}, "mapping"),
    ):
        with pytest.raises(ValueError, match=rule):
            ds.insert(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`tags` must be a mapping"):
        ds.insert_many({"x": [[1, 2]]}, tags=["split"])  # type: ignore[arg-type]
    assert sorted(rows(ds)) == ["a", "b", "c"]


def test_tags_that_another_process_declared(mongodb: str, project: str, ds: Dataset) -> None:
    with ktl.Hub(mongodb, project=project) as hub:
        for key, way in (("a", "argument"), ("b", "inside"), ("c", "iterable")):
            other = hub.datasets["d"]
            ds.declare(**{key: float})
            if way == "argument":
                other.insert({"x": [1, 2]}, key=key, tags={key: 0.5})
            elif way == "inside":
                other.insert({"x": [1, 2], "key": key, "tags": {key: 0.5}})
            else:
                first = {"x": [1, 2], "key": "first"}
                other.insert_many([first, {"x": [1, 2], "key": key, "tags": {key: 0.5}}])
            assert rows(ds)[key]["tags"] == {key: 0.5}
        with pytest.raises(ValueError, match="'z' must have tags that the dataset has"):
            other.insert_many([{"x": [1, 2], "key": "z", "tags": {"nothing": 1}}])


@pytest.mark.parametrize("gap", [1, 300, 600])
def test_the_last_one_of_a_key_stays(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch, gap: int
) -> None:
    """Wherever the two stand, and though the thread with the first one is the slower one."""
    monkeypatch.setattr(writing, "_GROUP_ROWS", 256)
    write, later = writing.Writer.write, threading.Event()

    def slow(self: Any, group: Any, first: int) -> int:
        if group[0].keys[0] == "dup" and group[0].columns["x"][0][0] == 1:
            later.wait(0.3)  # nobody may write the other one meanwhile
        written = write(self, group, first)
        if any("dup" in block.keys for block in group):
            later.set()
        return written

    monkeypatch.setattr(writing.Writer, "write", slow)
    others = [{"x": [0, 0], "key": f"f{i}"} for i in range(gap)]
    same = {"x": [1, 1], "key": "dup"}
    assert ds.insert_many([same, *others, same]) == gap + 1
    ds.delete([*ds.keys()])
    later.clear()
    both = [same, *others, {"x": [2, 2], "key": "dup"}]
    assert ds.insert_many(both, replace=True) == gap + 2
    assert rows(ds)["dup"]["x"].tolist() == [2, 2] and len(rows(ds)) == gap + 1
    with pytest.raises(ValueError, match="Received: 'dup' with another x"):
        ds.insert_many(both)


# edits


def test_views_of_another_dataset_are_refused(hub: ktl.Hub, ds: Dataset) -> None:
    other = hub.datasets.create("other", x=Array((2,), "uint8"), tags={"q": int})
    for one in (ds, other):
        one.insert_many({"x": [[1, 2]] * 4}, list("abcd"), {"q": [1, 2, 3, 4]})
    for view in (other, other.where(q=1), other.freeze("v1")):
        for change in (
            lambda view: ds.update(view, q=9),
            lambda view: ds.add_predictions(view, **PREDICTION),
            ds.delete,
        ):
            with pytest.raises(ValueError, match="of the same dataset, 'd'. Received: .* 'other'"):
                change(view)
    assert [row["tags"]["q"] for row in rows(ds).values()] == [1, 2, 3, 4]
    assert told(ds) == {"inserted": 4}
    again = hub.datasets["d"]  # another object of the same one
    assert ds.update(again.where(q=1), q=5) == 1 and ds.delete(again.freeze("v1")) == 4


def test_predictions_have_an_end(ds: Dataset) -> None:
    ds.insert_many({"x": [[1, 2]] * 2}, ["a", "b"])
    half, about = "y" * (9 << 20), {"model": "m", "version": 1}
    for values in (
        {"text": ["", "x" * (16 << 20)]},
        {"text": ["", [0.5] * 1_500_000]},
        {"z": 1, "text": half, "more": ["", half[1:]]},
    ):
        with pytest.raises(ValueError, match="`text` of sample 'b' must fit into 15 MB"):
            ds.add_predictions(["a", "b"], **about, **values)
    assert ds.predictions.count_documents({}) == 0
    ds.add_predictions("b", **about, text=half)
    with pytest.raises(ValueError, match="`more` of sample 'b' must fit into 15 MB"):
        ds.add_predictions(["a", "b"], **about, z=1, more=["", half])
    assert ds.predictions.count_documents({}) == 1


# what is told of datasets, and their end


def test_descriptions_are_of_any_number_of_values(hub: ktl.Hub, ds: Dataset) -> None:
    n = 200
    paths = [f"{'p' * 100}/{i:04d}" for i in range(n)]
    ds.insert_many({"x": np.zeros((n + 1, 2), "uint8")}, tags={"split": [*paths, paths[7]]})
    admin = hub.connection.client.admin
    limit = {"setParameter": 1, "internalQueryMaxPushBytes": 10_000}  # 100 MB are the default
    was = admin.command(limit)["was"]
    try:
        found = ds.describe()["tags"]["split"]
    finally:
        admin.command({**limit, "internalQueryMaxPushBytes": int(was)})
    assert list(found["values"].items())[:2] == [(paths[7], 2), (paths[0], 1)]
    assert (len(found["values"]), found["distinct"], found["missing"]) == (20, n, 0)


def test_what_versions_were_trained_on_stays(hub: ktl.Hub, ds: Dataset) -> None:
    ds.insert_many({"x": [[1, 2]] * 4}, list("abcd"), {"q": [1, 2, 3, 4]})
    snapshot = ds.where(q__gte=2).freeze("v1")
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for key, view in (("m", ds), ("m", snapshot), ("other", snapshot.where(q=3))):
        save = MongoCheckpoint(hub, key, monitor="loss")
        model.fit(view.batches(4, x="x", y="q"), verbose=0, callbacks=[save])
    with pytest.raises(ValueError, match="`force=True`: version 2 of 'm' was, and 1 more"):
        hub.datasets.delete("d")
    assert len(hub.datasets.saw("d", "c")) == 2 and len(rows(ds)) == 4
    hub.datasets.delete("d", force=True)
    assert "d" not in hub.datasets
    again = hub.datasets.create("d", x=Array((2,), "uint8"))  # has nothing to do with it
    again.freeze("v1")
    hub.datasets.delete("d")

"""Indexes that views get by themselves: made, used, few, dropped, shown; and the warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from keras_tl import Hub
from keras_tl import datasets as d
from keras_tl.datasets.views import indexes


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[Hub]:
    made = Hub(mongodb, project=project)
    yield made
    made.close()


def filled(hub: Hub, count: int = 1500, name: str = "ds", **options: Any) -> d.Dataset:
    tags = {f"t{i}": int for i in range(10)}
    ds = hub.datasets.create(
        name,
        x=d.Array((1,), "uint8"),
        y=d.Label(),
        tags={"split": str, "q": int, **tags},
        **options,
    )
    ds.insert_many(
        {"x": np.zeros((count, 1), "uint8"), "y": np.arange(count) % 9},
        keys=[f"k{i}" for i in range(count)],
        tags={
            "split": ["test" if i % 10 else "train" for i in range(count)],
            "q": [i % 100 for i in range(count)],
            **dict.fromkeys(tags, 0),
        },
    )
    return ds


def names(ds: d.Dataset) -> dict[str, bool]:
    """Fields of the indexes, and whether each is automatic; all of them are there."""
    listed = ds.indexes
    assert all(index["ready"] for index in listed)
    there = {name for name in ds.samples.index_information() if name.startswith("ktl ")}
    assert there == {"ktl " + "+".join(index["fields"]) for index in listed}
    return {"+".join(index["fields"]): index["auto"] for index in listed}


def test_a_view_gets_an_index_for_what_it_asks(hub: Hub) -> None:
    ds = filled(hub)
    view = ds.where(split="train", y=3, q__gte=50)
    assert view.explain() | {"docs": 0} == {
        "steps": "where(split='train', y=3, q__gte=50)",
        "filter": {
            "tags.split": {"$eq": "train"},
            "labels.y": {"$eq": 3},
            "tags.q": {"$gte": 50},
        },
        **{"index": None, "scan": True, "docs": 0, "keys": 0},
    }
    before = view.keys(), view.count
    indexes.wait(ds)
    assert names(ds) == {"y+split+q": True}
    found = view.explain()
    assert (found["index"], found["scan"], found["docs"]) == ("y+split+q", False, 0)
    assert (view.keys(), view.count) == before
    assert ds.indexes[0]["used"] is not None
    # Fewer conditions, and another order of them: the same index serves.
    assert ds.where(y=1, split="train").explain()["index"] == "y+split+q"
    ds.where(q__gte=1, split="test").where(y=2).resolve()
    indexes.wait(ds)
    assert names(ds) == {"y+split+q": True}


def test_an_order_gets_one_too(hub: Hub) -> None:
    ds = filled(hub)
    for view in (ds.where(split="train").sort("q"), ds.where(split="train").sort("-q").limit(3)):
        view.resolve()
        indexes.wait(ds)
        found = view.explain()
        assert (found["index"], found["docs"]) == ("split+q", 0)
    assert names(ds) == {"split+q": True}
    assert ds.where(split="train").sort("-q").limit(3).explain()["keys"] == 3


def test_small_datasets_and_keys_need_none(hub: Hub) -> None:
    small = filled(hub, 900, "small")
    small.where(split="train").resolve()
    ds = filled(hub)
    for view in (ds, ds.where(key="k1"), ds.where(key__in=["k1"], y=3), ds.where(y__ne=3)):
        view.resolve()
    ds["k1"], "k2" in ds.where(split="train")  # noqa: B018
    for one in (small, ds):
        indexes.wait(one)
        assert names(one) == {}


def test_index_false_and_explicit_ones(hub: Hub) -> None:
    ds = filled(hub, index=False)
    ds.where(split="train").resolve()
    indexes.wait(ds)
    assert names(ds) == {}
    ds.create_index("split", "q")
    ds.create_index("split", "q")
    assert names(ds) == {"split+q": False}
    assert ds.where(split="train").explain()["index"] == "split+q"
    with pytest.raises(ValueError, match="`names` must name one of"):
        ds.create_index("x")
    with pytest.raises(ValueError, match="none twice"):
        ds.create_index("q", "q")
    with pytest.raises(ValueError, match="one name or more"):
        ds.create_index()
    with pytest.raises(KeyError, match="those of an index"):
        ds.drop_index("q")
    ds.drop_index("split", "q")
    assert names(ds) == {} and ds.where(split="train").explain()["scan"]


def test_there_are_eight_and_the_least_used_gives_way(hub: Hub) -> None:
    ds = filled(hub)
    ds.create_index("split")
    for i in range(8):
        ds.where(**{f"t{i}": 0}).count  # noqa: B018
        indexes.wait(ds)
    assert names(ds) == {"split": False, **{f"t{i}": True for i in range(8)}}
    usage = {f"usage.t{i}": ds.now() - timedelta(hours=9 if i == 5 else i) for i in range(8)}
    hub.connection.db["datasets"].update_one({"_id": "ds"}, {"$set": usage})
    indexes._of(ds).used.clear()  # as if another process had used them
    ds.where(t9=0).count  # noqa: B018
    indexes.wait(ds)
    assert names(ds) == {
        **{"split": False, "t9": True},
        **{f"t{i}": True for i in range(8) if i != 5},
    }


def test_what_nobody_uses_for_a_week_goes(hub: Hub) -> None:
    ds = filled(hub)
    ds.create_index("q")
    for view in (ds.where(t0=0), ds.where(t1=0)):
        view.count  # noqa: B018
        indexes.wait(ds)
    long_ago = {f"usage.{name}": ds.now() - timedelta(days=8) for name in ("q", "t0")}
    hub.connection.db["datasets"].update_one({"_id": "ds"}, {"$set": long_ago})
    indexes.tend(ds)
    assert names(ds) == {"q": False, "t1": True}
    # A view that this process has served by it does not stay without one.
    indexes._of(ds).noted.clear()
    for _ in range(2):
        ds.where(t0=0).count  # noqa: B018
        indexes.wait(ds)
    assert names(ds) == {"q": False, "t0": True, "t1": True}


def test_one_that_is_not_listed_is_dropped(hub: Hub) -> None:
    """As after a kill between the list and the server."""
    ds = filled(hub)
    ds.samples.create_index([("tags.q", 1), ("at", 1)], name="ktl q")
    ds.samples.create_index([("tags.t0", 1)], name="somebody's")
    indexes.tend(ds)
    assert names(ds) == {} and "somebody's" in ds.samples.index_information()


def test_one_that_is_listed_and_not_there_is_made(hub: Hub) -> None:
    """As after a kill the other way round: the next process that asks makes it."""
    ds = filled(hub)
    listed = {"fields": ["tags.q"], "auto": True}
    hub.connection.db["datasets"].update_one({"_id": "ds"}, {"$set": {"indexes.q": listed}})
    assert ds.indexes[0]["ready"] is False
    ds.where(q=3).count  # noqa: B018
    indexes.wait(ds)
    assert names(ds) == {"q": True}


def test_two_processes_make_their_own(hub: Hub) -> None:
    """Both add to one list at once, as two processes do: none of the indexes is lost."""
    ds = filled(hub)
    shapes = [indexes.Shape((f"tags.t{i}",), None) for i in range(8)]
    threads = [threading.Thread(target=indexes._make, args=(ds, shape)) for shape in shapes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(ds) == {f"t{i}": True for i in range(8)}


def test_a_view_that_scans_says_so_once(hub: Hub, caplog: Any) -> None:
    small = filled(hub, 2000, "small")
    ds = filled(hub, 10_500)
    bare = filled(hub, 10_500, "bare", index=False)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        small.where(split="train").resolve()
        for label in (1, 2):
            ds.where(split="train", y=label).resolve()
        bare.where(q__gt=3, split="a").count  # noqa: B018
        bare.where(y__ne=3).resolve()
        bare.where(key="k1").resolve()
        bare.resolve()
    assert [record.getMessage() for record in caplog.records] == [
        "A view of 'ds' looks at all of its 10500 samples, for conditions on split, y. "
        "An index for it is being made.",
        "A view of 'bare' looks at all of its 10500 samples, for conditions on q, split. "
        "`create_index('split', 'q')` would help.",
        "A view of 'bare' looks at all of its 10500 samples, for conditions on y. "
        "No index can help: such conditions leave no range of values.",
    ]
    indexes.wait(ds)
    caplog.clear()
    bare.create_index("split", "q")
    with caplog.at_level(logging.WARNING, "keras_tl"):
        ds.where(split="test", y=2).resolve()
        bare.where(q__gt=3, split="a").resolve()
    assert caplog.records == []


def test_views_are_read_while_indexes_are_made_and_dropped(hub: Hub) -> None:
    ds = filled(hub, 3000)
    done = threading.Event()

    def tend() -> None:
        for i in range(6):
            ds.create_index(f"t{i}", "q")
            ds.drop_index(f"t{i}", "q")
        done.set()

    thread = threading.Thread(target=tend)
    thread.start()
    rounds = 0
    while not done.is_set() or not rounds:
        assert len(ds.where(split="train").sort("q").resolve(["q"]).at) == 300
        assert (ds.where(t0=0) - ds.where(split="test")).count == 300
        rounds += 1
    thread.join()


def test_one_that_was_used_a_moment_ago_stays(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its use is written down once a minute; and those that gave way are made again."""
    monkeypatch.setattr(indexes, "_AGAIN", 0.0)
    ds = filled(hub)
    asked = [ds.where(**{f"t{i}": 0}) for i in range(10)] + [ds.where(q=1)]
    for view in asked:
        for one in (view, asked[0]):
            one.count  # noqa: B018
            indexes.wait(ds)
    assert names(ds) == dict.fromkeys(["t0", *(f"t{i}" for i in range(4, 10)), "q"], True)
    asked[1].count  # noqa: B018
    indexes.wait(ds)
    assert "t1" in names(ds) and not asked[1].explain()["scan"]


def test_each_part_of_a_union_gets_its_own(hub: Hub, caplog: Any) -> None:
    ds = filled(hub, 10_500)
    view = ds.where(q=1) | ds.where(split="train", y__gt=7)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        count = view.count
    indexes.wait(ds)
    assert "conditions on q, split, y. Indexes are being made" in caplog.text
    assert names(ds) == {"q": True, "split+y": True}
    assert not view.explain()["scan"] and view.count == count == len(view.keys())


def test_names_of_indexes_do_not_collide(hub: Hub) -> None:
    tags = {"a": int, "b": int, "a+b": int, "a%2Bb": int}
    ds = hub.datasets.create("names", x=d.Array((1,)), tags=tags)
    ds.create_index("a+b")
    ds.create_index("a", "b")
    ds.create_index("a%2Bb")
    assert [index["fields"] for index in ds.indexes if index["ready"]] == [
        ["a%2Bb"],
        ["a+b"],
        ["a", "b"],
    ]
    ds.drop_index("a+b")
    assert {tuple(index["fields"]) for index in ds.indexes} == {("a%2Bb",), ("a", "b")}
    assert ds.where(a=1, b=1).explain()["index"] == "a+b"


def test_it_is_told_what_is_read(hub: Hub) -> None:
    ds = filled(hub, 1500, index=False)
    heads = ds.heads.count_documents({})
    found = ds.explain()
    assert (found["scan"], found["docs"], found["index"]) == (False, heads, None)
    found = ds.sample(100).where(q=1).explain()  # all keys, and what has this tag
    assert found["scan"] and found["docs"] == heads + 3000
    assert ds.where(q=1).limit(0).explain()["docs"] == 0
    ds.add_predictions(ds.limit(7).keys(), model="m", version=1, p=0.5)
    view = ds.where(key__in=["k1", "k2"]).join_predictions(model="m", version=1)
    found = view.where(**{"prediction.p__gt": 0.1}).explain()
    assert found["scan"] and found["docs"] >= 7

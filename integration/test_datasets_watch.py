"""What views tell of their changes, by a change stream and by looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect, OperationFailure

from keras_tl import Hub
from keras_tl import datasets as d
from keras_tl.datasets.views import watching
from keras_tl.datasets.views.view import View
from keras_tl.datasets.views.watching import Change

COUNT = 20
TAGS = {"split": str, "q": int, "mark": int}


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[Hub]:
    made = Hub(mongodb, project=project)
    yield made
    made.close()


@pytest.fixture
def ds(hub: Hub) -> d.Dataset:
    ds = hub.datasets.create("ds", x=d.Array((1,)), y=d.Label(5), tags=TAGS)
    insert(ds, [f"k{i:02d}" for i in range(COUNT)])
    return ds


def insert(ds: d.Dataset, keys: list[str], **options: Any) -> None:
    numbers = [int(key[1:]) for key in keys]
    ds.insert_many(
        {"x": np.array(numbers, "float32").reshape(-1, 1), "y": [n % 5 for n in numbers]},
        keys,
        {"split": ["train" if n % 2 else "test" for n in numbers], "q": numbers},
        **options,
    )


@pytest.fixture(params=["stream", "poll"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By a change stream, and as where the role has no right to one."""
    if request.param == "poll":
        from pymongo.collection import Collection

        def refuse(*args: Any, **options: Any) -> Any:
            raise OperationFailure("not authorized", 13)

        monkeypatch.setattr(Collection, "watch", refuse)
        monkeypatch.setattr(watching, "_POLL", 0.05)
    return str(request.param)


class Watched:
    """A view that is watched, asked what it tells of what was just done."""

    def __init__(self, view: View) -> None:
        self._ds = view.dataset
        self._changes = (view | self._ds.where(mark=1)).watch()
        self._last = 0

    def tells(self) -> list[Change]:
        """All that is told until marks of the test come: what was told with the first is told."""
        found = []
        for _ in range(2):
            self._last += 1
            mark = f"mark {id(self)} {self._last}"
            self._ds.insert({"x": [0]}, key=mark, tags={"mark": 1})
            for change in self._changes:
                if change.key == mark:
                    break
                found.append(change)
        return [change for change in found if not change.key.startswith("mark")]


def test_what_enters_changes_and_leaves_is_told(ds: d.Dataset, way: str) -> None:
    watched = Watched(ds.where(split="train", y__in=[1, 2, 3, 4]))
    insert(ds, ["k21", "k22", "k25", "k27"])  # train; test; train, but y is 0; train
    assert watched.tells() == [Change("entered", "k21"), Change("entered", "k27")]
    ds.update("k25", y=3)
    ds.update("k21", y=0)
    assert watched.tells() == [Change("entered", "k25"), Change("left", "k21")]
    ds.update("k27", q=99)
    insert(ds, ["k01"])  # there already, the same
    ds.insert({"x": [-1.0]}, key="k01", replace=True)
    ds.update(["k02", "k04"], q=1)  # not in the view
    assert watched.tells() == [Change("changed", "k27"), Change("changed", "k01")]
    ds.delete(["k01", "k02"])
    assert watched.tells() == [Change("left", "k01")]


def test_predictions_are_told_to_whom_they_concern(ds: d.Dataset, way: str) -> None:
    joined = Watched(ds.where(split="train").join_predictions("m", 3))
    bare = Watched(ds.where(split="train"))
    unsure = Watched(ds.join_predictions("m", 3).where(**{"prediction.p__lt": 0.5}) | ds.where(y=1))
    ds.add_predictions(["k01", "k03", "k04"], model="m", version=3, p=[0.1, 0.9, 0.2])
    ds.add_predictions(["k05"], model="m", version=4, p=0.1)
    assert joined.tells() == [Change("changed", "k01"), Change("changed", "k03")]
    assert bare.tells() == []
    # k01 has the label 1: it was in the view before.
    assert unsure.tells() == [Change("changed", "k01"), Change("entered", "k04")]


def test_a_view_with_a_limit_tells_of_those_that_make_room(ds: d.Dataset, way: str) -> None:
    watched = Watched(ds.sort("-q").limit(3))  # k19, k18, k17
    ds.update("k19", q=0)
    assert watched.tells() == [Change("left", "k19"), Change("entered", "k16")]
    ds.delete("k17")
    assert watched.tells() == [Change("left", "k17"), Change("entered", "k15")]


def test_it_ends_when_nothing_happens(ds: d.Dataset, way: str) -> None:
    assert list(ds.watch(timeout=0.0)) == []
    watched = ds.where(split="train").watch(timeout=0.3)
    insert(ds, ["k21"])
    assert list(watched) == [Change("entered", "k21")]


def test_others_datasets_are_not_told(hub: Hub, ds: d.Dataset, way: str) -> None:
    other = hub.datasets.create(
        "other", x=d.Array((1,)), y=d.Label(5), tags={"split": str, "q": int}
    )
    watched = Watched(ds.where(split="train"))
    insert(other, ["k31"])
    assert watched.tells() == []


@pytest.mark.parametrize("error", [OperationFailure("history lost", 286), AutoReconnect("away")])
def test_what_happens_while_a_stream_is_away_is_told(
    ds: d.Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """From the history of the server, or, where that is lost, by looking at all samples."""
    watched = Watched(ds.where(split="train"))
    insert(ds, ["k21"])
    failed = iter([True])
    real = watching.News._next

    def fail(news: watching.News, timeout: float) -> Any:
        if next(failed, False):
            raise error
        return real(news, timeout)

    monkeypatch.setattr(watching.News, "_next", fail)
    assert watched.tells() == [Change("entered", "k21")]


def test_a_server_that_was_away_is_asked_again(stack_factory: Callable[..., Any]) -> None:
    stack = stack_factory(services=("mongodb",))
    hub = Hub(stack.mongodb, project="away")
    try:
        ds = hub.datasets.create("ds", x=d.Array((1,)), y=d.Label(5), tags=TAGS)
        insert(ds, ["k01"])
        watched = Watched(ds.where(split="train"))
        assert watched.tells() == []
        stack.kill("mongodb")
        stack.restart("mongodb")
        insert(ds, ["k03"])
        assert watched.tells() == [Change("entered", "k03")]
    finally:
        hub.close()


edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "label", "tag", "replace", "delete"]),
        st.lists(st.integers(0, 29), min_size=1, max_size=3, unique=True),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=5,
)


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(edits, min_size=1, max_size=3))
def test_the_changes_lead_from_one_state_to_the_next(
    hub: Hub, rounds: list[list[tuple[str, list[int], int]]]
) -> None:
    """Whoever applies what is told to the keys he knows, knows the keys of the view."""
    if "model" in hub.datasets:
        hub.datasets.delete("model")
    ds = hub.datasets.create("model", x=d.Array((1,)), y=d.Label(5), tags=TAGS)
    insert(ds, [f"k{i:02d}" for i in range(10)])
    views = [ds.where(split="train"), ds.where(y__gte=1).sort("q").limit(6) | ds.where(q=3)]
    watches = [Watched(view) for view in views]
    known = [set(view.keys()) for view in views]
    for changes in rounds:
        for kind, numbers, value in changes:
            keys = [f"k{n:02d}" for n in numbers]
            there = [key for key in keys if key in ds]
            if kind in ("insert", "replace"):
                insert(
                    ds, keys if kind == "replace" else sorted(set(keys) - set(there)), replace=True
                )
            elif kind == "label":
                ds.update(there, y=value)
            elif kind == "tag":
                ds.update(there, split=["train", "test", None, "val", ""][value], q=value)
            else:
                ds.delete(there)
        for watched, keys, view in zip(watches, known, views, strict=True):
            for change in watched.tells():
                assert (change.key in keys) is (change.kind != "entered")
                (keys.discard if change.kind == "left" else keys.add)(change.key)
            assert keys == set(view.keys())


def test_the_end_of_a_dataset_is_told(hub: Hub, ds: d.Dataset, way: str) -> None:
    """Nothing is said of it in the outbox, and whoever waits would wait for ever."""
    changes = ds.where(q__gte=0).watch()
    insert(ds, ["k30"])
    assert next(changes) == Change("entered", "k30")
    hub.datasets.delete("ds")
    with pytest.raises(KeyError, match="which was deleted"):
        next(changes)

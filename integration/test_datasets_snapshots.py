"""Frozen views stay what they were, whatever happens to the dataset, and tell who was trained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_tl import Hub
from keras_tl import datasets as d
from keras_tl.callbacks import MongoCheckpoint
from keras_tl.datasets.snapshots.held import Held
from keras_tl.datasets.snapshots.snapshots import Snapshot
from keras_tl.storage import hooks

T0 = datetime(2026, 5, 1, tzinfo=UTC)
COUNT = 40


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[Hub]:
    made = Hub(mongodb, project=project)
    yield made
    made.close()


def filled(hub: Hub, name: str = "ds", order: Any = None, step: int = COUNT) -> d.Dataset:
    """The same forty samples, inserted in another order and so many at a time."""
    ds = hub.datasets.create(
        name,
        x=d.Array((4,), "uint8"),
        t=d.Text(),
        y=d.Label(5),
        tags={"split": str, "at_": datetime},
    )
    places = np.arange(COUNT) if order is None else np.array(order)
    for begin in range(0, COUNT, step):
        cut = places[begin : begin + step]
        ds.insert_many(
            {
                "x": np.arange(COUNT * 4, dtype="uint8").reshape(-1, 4)[cut],
                "t": [f"text {i}" * (i % 3) for i in cut],
                "y": [None if i % 7 == 0 else i % 5 for i in cut],
            },
            keys=[f"k{i:02d}" for i in cut],
            tags={"split": ["train" if i % 4 else "test" for i in cut], "at_": T0},
        )
    return ds


def content(snapshot: Any) -> list[Any]:
    """All that a snapshot gives, bit for bit."""
    return [(s.key, s.labels, s.tags, s.added, s["x"].tobytes(), s["t"]) for s in snapshot]


def test_neither_order_nor_packs_matter(hub: Hub) -> None:
    rng = np.random.default_rng(0)
    first = filled(hub, "a").freeze("v1")
    others = [
        filled(hub, "b", rng.permutation(COUNT), 7).freeze("v1"),
        filled(hub, "c", np.arange(COUNT)[::-1], 3).freeze("v1"),
    ]
    assert {other.id for other in others} == {first.id}
    assert first.diff(others[0]) == first.diff(first)
    assert str(first.diff(others[1])) == "the same samples"


def test_one_change_of_any_kind_is_another_snapshot(hub: Hub) -> None:
    ds = filled(hub)
    found = [ds.freeze("v0")]
    x = ds["k01"]["x"]
    x[3] ^= 1
    changes: list[tuple[Callable[[], Any], str]] = [
        (lambda: ds.insert({"x": x, "t": "text 1"}, key="k01", replace=True), "changed"),
        (lambda: ds.update("k02", y=0), "relabelled"),
        (lambda: ds.update("k02", y=None), "relabelled"),
        (lambda: ds.update("k03", split="val"), "retagged"),
        (lambda: ds.update("k03", split=None), "retagged"),
        (lambda: ds.update("k04", at_=T0.replace(microsecond=1000)), "retagged"),
        (lambda: ds.delete("k05"), "removed"),
        (lambda: ds.insert({"x": x, "t": ""}, key="new"), "added"),
    ]
    for number, (change, kind) in enumerate(changes, 1):
        change()
        found.append(ds.freeze(f"v{number}"))
        differ = found[-2].diff(found[-1])
        told = {name for name, keys in vars(differ).items() if keys}
        assert told == {kind} and sum(map(len, vars(differ).values())) == 1
    assert len({snapshot.id for snapshot in found}) == len(found)
    ds.delete("new")  # the content is what it was: it is the same snapshot
    again = ds.freeze("again")
    assert again.id == found[-2].id and again.names == ("v7", "again")


def test_a_snapshot_is_read_bit_for_bit(hub: Hub) -> None:
    """Its samples are relabelled, edited, deleted and inserted anew; and gc comes."""
    ds = filled(hub, step=8)
    snapshot = ds.where(split="train").freeze("v1")
    before, resolved = content(snapshot), snapshot.resolve(extra=("split",))
    assert len(before) == 30 == snapshot.count
    ds.update(ds, y=4, split="gone")
    ds.insert_many(
        {"x": np.zeros((COUNT, 4), "uint8"), "t": ["other"] * COUNT},
        keys=[f"k{i:02d}" for i in range(COUNT)],
        replace=True,
    )
    ds.delete(ds.keys()[:25])
    ds.gc(grace=0)
    hub.models.gc(grace=0)
    for name in ("v1", snapshot.id):
        again = hub.datasets["ds"].snapshots[name]
        assert content(again) == before
        now = again.resolve(extra=("split",))
        assert now.at.tolist() == resolved.at.tolist()
        assert now.columns["y"].tolist() == resolved.columns["y"].tolist()
        assert now.columns["split"].tolist() == ["train"] * 30
    assert again.keys() == [row[0] for row in before]
    assert again["k01"].labels == {"y": 1} and "k04" not in again
    ds.delete(ds)
    ds.gc(grace=0)
    assert content(hub.datasets["ds"].snapshots["v1"]) == before
    rest = ds.packs.estimated_document_count()
    ds.snapshots.delete("v1")
    ds.gc(grace=0)
    assert rest > 0 == ds.packs.estimated_document_count()


def test_a_snapshot_is_a_view(hub: Hub) -> None:
    ds = filled(hub)
    snapshot = ds.freeze("all")
    want = ds.where(y__in=[1, 2], split="train").sort("-key").limit(7).keys()
    ds.update(ds, y=0, split="x")
    ds.delete(["k01", "k02"])
    view = snapshot.where(y__in=[1, 2], split="train").sort("-key").limit(7)
    assert view.keys() == want and repr(view).startswith("View('ds', snapshot=")
    explained = view.explain()
    assert explained["filter"] == {"labels.y": {"$in": [1, 2]}, "tags.split": {"$eq": "train"}}
    assert (explained["index"], explained["scan"]) == (None, False)
    folds = snapshot.folds(3, stratify="y")
    assert sorted(sum((test.keys() for _, test in folds), [])) == sorted(snapshot.keys())
    assert (snapshot.where(y=1) | snapshot.where(y=2)).count == snapshot.where(y__in=[1, 2]).count
    part = snapshot.where(y=1).freeze("part")
    assert isinstance(part, Snapshot) and set(part.keys()) == set(snapshot.where(y=1).keys())
    assert part.query == "where(y=1)" and list(ds.snapshots) == ["all", "part"]
    with pytest.raises(ValueError, match="does not change"):
        snapshot.watch()


def test_names_are_of_one_snapshot(hub: Hub) -> None:
    ds = filled(hub)
    first = ds.freeze("v1")
    assert ds.freeze("v1").id == first.id and "v1" in ds.snapshots and first.id in ds.snapshots
    ds.update("k01", y=4)
    with pytest.raises(ValueError, match="no other snapshot of 'ds' has"):
        ds.freeze("v1")
    with pytest.raises(KeyError, match="v1. Received: 'v2'"):
        ds.snapshots["v2"]
    with pytest.raises(KeyError):
        ds.snapshots.delete(first.id)
    assert "v2" not in ds.snapshots and 3 not in ds.snapshots
    empty = ds.where(key="nobody").freeze("empty")
    assert empty.count == 0 and empty.keys() == [] and empty.id[:8] == "e3b0c442"
    hub.datasets.delete("ds")
    assert hub.connection.db["snapshots"].count_documents({}) == 0


def test_an_id_is_never_a_name(hub: Hub) -> None:
    """A name that is the id of another snapshot would take its place in views and lineage."""
    ds = filled(hub)
    first = ds.where(split="train").freeze("v1")
    with pytest.raises(ValueError, match="`name` must be other than 64 hex digits"):
        ds.where(split="test").freeze(first.id)
    first.where(y=1).save("ones")
    assert ds.snapshots[first.id].id == ds.views["ones"].base.id == first.id
    assert ds.snapshots["v1"].id == first.id
    with pytest.raises(ValueError, match="`other` must be a snapshot"):
        first.diff(ds)  # type: ignore[arg-type]


def test_a_part_of_a_frozen_part_is_as_random(hub: Hub) -> None:
    ds = hub.datasets.create("many", x=d.Array((1,), "uint8"))
    ds.insert_many({"x": np.zeros((2000, 1), "uint8")}, keys=[f"k{i}" for i in range(2000)])
    shares = {"train": 0.8, "val": 0.2}
    train = ds.split(shares)["train"]
    parts = train.freeze("train").split(shares)
    assert abs(parts["val"].count - 0.2 * train.count) < 80  # five standard deviations
    # Frozen or not, and again frozen, they are the same; also after samples have come.
    assert parts["val"].keys() == train.split(shares)["val"].keys()
    again = parts["train"].freeze("again")
    before = set(again.split(shares)["val"].keys())
    assert before == set(parts["train"].split(shares)["val"].keys())
    assert again.query.count("part 0 of [0.8, 0.2]") == 2
    ds.insert_many({"x": np.zeros((500, 1), "uint8")}, keys=[f"n{i}" for i in range(500)])
    later = ds.split(shares)["train"].freeze("later").split(shares)["train"].freeze("most")
    now = set(later.split(shares)["val"].keys())
    assert {key for key in now if key.startswith("k")} == before
    parts["val"].save("val")
    assert ds.views["val"].keys() == parts["val"].keys()


def test_a_snapshot_streams_what_was_deleted(hub: Hub) -> None:
    ds = hub.datasets.create("clips", clip=d.Bytes("video/mp4"), y=d.Label(2))
    clip = np.random.default_rng(0).bytes((9 << 20) + 5)
    ds.insert({"clip": clip, "y": 0}, key="a")
    ds.insert({"clip": clip[::-1], "y": 1}, key="b")
    ds.where(y=0).freeze("v1")
    ds.delete(ds)

    def collect() -> int:
        ds.gc(0)
        hub.models.gc(0)
        return hub.connection.db["blobs.files"].count_documents({"length": {"$gte": len(clip)}})

    assert collect() == 1  # of "b" nothing is left
    sample = hub.datasets["clips"].snapshots["v1"]["a"]
    with sample.open("clip") as file:
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == clip
        file.seek(-7, 2)
        assert file.read() == clip[-7:]
    begun = sample.open("clip")
    assert begun.read(10) == clip[:10]
    ds.snapshots.delete("v1")
    assert collect() == 0 == hub.connection.db["blobs.chunks"].count_documents({})
    with pytest.raises(ValueError, match="`gc` took it"), begun:
        begun.read()


def test_a_snapshot_that_goes_leaves_a_grace(hub: Hub) -> None:
    """Whoever reads it as it is deleted is as safe as somebody who reads a sample that is."""
    ds = filled(hub, step=8)
    snapshot = ds.freeze("v1")
    ds.delete(ds.where(y__exists=True))
    old = timedelta(hours=3)
    for head in ds.heads.find():
        times = {name: head[name] - old for name in ("died", "added") if name in head}
        ds.heads.update_one({"_id": head["_id"]}, {"$set": times})
    ds.snapshots.delete("v1")
    assert ds.gc()["packs"] == 0
    assert content(snapshot)
    dead = ds.heads.count_documents({"live": 0})
    assert ds.gc(grace=0)["packs"] == dead


def test_a_pack_that_is_spared_meanwhile_is_not_collected(hub: Hub, monkeypatch: Any) -> None:
    """The snapshot goes between the look of `gc` at dead packs and its transaction."""
    ds = filled(hub)
    snapshot = ds.freeze("v1")
    ds.delete(ds)
    ds.heads.update_many({}, [{"$set": {"died": {"$subtract": ["$died", 3 * 3600_000]}}}])
    real = Held.among

    def among(held: Held, packs: list[int], session: Any = None) -> set[int]:
        if session is None:
            ds.snapshots.delete("v1")
        return real(held, packs, session)

    monkeypatch.setattr(Held, "among", among)
    assert ds.gc()["packs"] == 0 and content(snapshot)


def test_a_plan_that_no_document_holds_is_refused(hub: Hub) -> None:
    ds = filled(hub)
    view = ds.where(key__in=[f"{i}".zfill(1000) for i in range(9_000)])
    for keep in (view.freeze, view.save):
        with pytest.raises(ValueError, match="`view` must be one whose steps"):
            keep("long")
    assert list(ds.snapshots) == list(ds.views) == []


def test_a_freeze_that_is_killed_leaves_nothing(hub: Hub, monkeypatch: Any) -> None:
    ds = filled(hub)

    def die(name: str) -> None:
        if name == "snapshot-uploaded":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hooks, "hook", die)
        with pytest.raises(KeyboardInterrupt):
            ds.freeze("v1")
    assert list(ds.snapshots) == []
    assert hub.models.gc(grace=0)["deleted"] == 1
    assert ds.freeze("v1").count == COUNT


def test_rows_that_gc_takes_first_are_not_frozen(hub: Hub, monkeypatch: Any) -> None:
    """All samples are replaced, and the old packs removed, between a look and its transaction."""
    ds = filled(hub)
    once = threading.Event()

    def meddle(name: str) -> None:
        if name == "snapshot-uploaded" and not once.is_set():
            once.set()
            ds.insert_many(
                {"x": np.zeros((COUNT, 4), "uint8"), "t": ["new"] * COUNT},
                keys=[f"k{i:02d}" for i in range(COUNT)],
                replace=True,
            )
            assert ds.gc(grace=0)["packs"] == 1

    monkeypatch.setattr(hooks, "hook", meddle)
    snapshot = ds.freeze("v1")
    assert {sample["t"] for sample in snapshot} == {"new"} and snapshot.count == COUNT


class Other(keras.utils.PyDataset):
    """Data that say nothing of where they are from."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return np.ones((2, 3), "float32"), np.ones((2, 1), "float32")


class Batches(Other):
    """What `fit` gets of a view, as far as lineage sees it."""

    def __init__(self, view: Any) -> None:
        super().__init__()
        self.provenance = view.provenance


@pytest.fixture(scope="module")
def model() -> keras.Model:
    made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def train(hub: Hub, model: keras.Model, data: Other, name: str = "m") -> int:
    model.fit(data, verbose=0, callbacks=[MongoCheckpoint(hub, name, monitor="loss")])
    return hub.models[name].version().number


def test_versions_tell_what_they_were_trained_on(hub: Hub, model: keras.Model) -> None:
    ds = filled(hub)
    old = ds.where(split="train").freeze("old")
    v1 = train(hub, model, Batches(old))
    ds.update("k01", y=3)
    ds.insert({"x": [0] * 4, "t": "", "y": 0}, key="k02", replace=True)
    ds.delete("k03")
    new = ds.where(split="train").freeze("new")
    v2 = train(hub, model, Batches(new.where(y__exists=True)))
    v3 = train(hub, model, Batches(ds.where(y=1)))
    v4 = train(hub, model, Other())
    other = train(hub, model, Batches(new), "other")

    versions = hub.models["m"]
    lineage = versions.lineage(v1)
    assert f"data     ds: all of the snapshot {old.id[:12]}" in str(lineage)
    assert versions.lineage(v2).to_dict()["data"] == [
        {"dataset": "ds", "query": "where(y__exists=True)", "snapshot": new.id}
    ]
    assert versions.lineage(v3).data[0].snapshot is None and not versions.lineage(v4).data

    (change,) = versions.diff(v1, v2).data
    assert change.rows.added == [] and change.rows.removed == ["k03"]
    assert change.rows.changed == ["k02"] and change.rows.relabelled == ["k01", "k02"]
    told = "between the whole snapshots, and not the parts: 1 removed, 1 changed, 2 relabelled"
    assert told in str(versions.diff(v1, v2))
    assert versions.diff(v2, v3).to_dict()["data"][0]["rows"] is None
    assert versions.diff(v1, v1).data == []

    def saw(key: str) -> list[tuple[str, int]]:
        return [(seen.model, seen.version) for seen in hub.datasets.saw("ds", key)]

    both = [("m", v1), ("m", v2), ("other", other)]
    assert saw("k01") == both  # relabelled
    assert saw("k02") == both  # another row by now
    assert saw("k03") == [("m", v1)]  # deleted
    assert saw("k07") == [("m", v1), ("other", other)]  # no label: not in the part of v2
    assert saw("k04") == saw("nobody") == []  # in the test split
    with pytest.raises(KeyError):
        hub.datasets.saw("nothing", "k01")
    with pytest.raises(ValueError, match="that no version was trained on: version 1 of 'm'"):
        ds.snapshots.delete("old")


def test_what_is_told_of_data_is_what_was_compared(hub: Hub, model: keras.Model) -> None:
    ds = filled(hub)
    old = ds.freeze("old")
    (first, _), (second, _) = old.folds(2)
    ds.update("k01", y=3)
    for view in (old, ds.freeze("new"), first, second):
        train(hub, model, Batches(view))
    versions = hub.models["m"]
    assert str(versions.diff(1, 2).data[0]).endswith(": 1 relabelled")
    assert str(versions.diff(3, 4).data[0]).endswith(": other parts of one snapshot")


def test_fit_on_batches_of_a_snapshot_is_recorded(hub: Hub) -> None:
    ds = filled(hub)
    snapshot = ds.where(y__exists=True).freeze("v1")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(5)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts = snapshot.split({"train": 0.5, "test": 0.5})
    save = MongoCheckpoint(hub, "m", monitor="loss", save_freq=2)
    model.fit(parts["train"].batches(4, x="x", shuffle=True), verbose=0, callbacks=[save])
    assert len(hub.models["m"]) >= 2
    assert {v.document["data"]["snapshot"] for v in hub.models["m"]} == {snapshot.id}
    key, other = parts["train"].keys()[0], parts["test"].keys()[0]
    assert hub.datasets.saw("ds", key) and not hub.datasets.saw("ds", other)


def test_who_saw_a_sample_is_looked_up_in_indexes(hub: Hub, model: keras.Model) -> None:
    ds = filled(hub)
    snapshot = ds.freeze("v1")
    train(hub, model, Batches(snapshot))
    db = hub.connection.db
    db.command("profile", 2)
    try:
        assert hub.datasets.saw("ds", "k01")
    finally:
        db.command("profile", 0)
    plans = [
        (entry["ns"], entry["planSummary"])
        for entry in db["system.profile"].find({"ns": {"$not": {"$regex": "system"}}})
        if "planSummary" in entry
    ]
    assert any("snapshots" in name for name, _ in plans)
    assert [plan for plan in plans if "COLLSCAN" in plan[1]] == []


edits = st.lists(
    st.tuples(
        st.sampled_from(["label", "tag", "replace", "delete", "insert"]),
        st.integers(0, 9),
        st.integers(0, 4),
    ),
    max_size=6,
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits)
def test_ids_and_differences_are_those_of_a_plain_model(
    hub: Hub, changes: list[tuple[str, int, int]]
) -> None:
    """Snapshots have one id if and only if a plain dictionary says that the content is the same."""
    if "model" in hub.datasets:
        hub.datasets.delete("model")
    ds = hub.datasets.create("model", x=d.Array((1,), "int64"), y=d.Label(5), tags={"n": int})
    model: dict[str, tuple[int, Any, Any]] = {f"s{i}": (i, i % 5, None) for i in range(6)}
    ds.insert_many({"x": [[i] for i in range(6)], "y": [i % 5 for i in range(6)]}, list(model))
    states = [(dict(model), ds.freeze("0"))]
    for number, (kind, place, value) in enumerate(changes, 1):
        key = f"s{place}"
        x, y, n = model.get(key, (None, None, None))
        if kind == "insert" or (kind == "replace" and key in model):
            ds.insert({"x": [value], "y": value}, key=key, replace=True)
            model[key] = (value, value, n)
        elif key in model and kind == "label":
            ds.update(key, y=value)
            model[key] = (x, value, n)
        elif key in model and kind == "tag":
            ds.update(key, n=value)
            model[key] = (x, y, value)
        elif kind == "delete":
            ds.delete(key)
            model.pop(key, None)
        states.append((dict(model), ds.freeze(str(number))))
    for before, old in states:
        for after, new in states:
            assert (old.id == new.id) is (before == after)
            differ = old.diff(new)
            both = before.keys() & after.keys()
            assert differ.added == sorted(after.keys() - before.keys())
            assert differ.removed == sorted(before.keys() - after.keys())
            for place, told in enumerate((differ.changed, differ.relabelled, differ.retagged)):
                assert told == sorted(k for k in both if before[k][place] != after[k][place])

"""Views on a real mongod select what the same words select from a plain list in Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_tl import Hub
from keras_tl import datasets as d
from keras_tl.datasets.views.folds import drawn, part, salt
from keras_tl.datasets.views.live import Live
from keras_tl.datasets.views.plan import Draw, Part
from keras_tl.datasets.views.view import View

T0 = datetime(2026, 5, 1, tzinfo=UTC)
TAGS: dict[str, Any] = {"split": str, "q": int, "w": float, "ok": bool, "when": datetime}
COUNT = 60


@dataclass(frozen=True)
class Row:
    """A sample as the model of the tests has it."""

    key: str
    at: int
    y: int | None
    r: float | None
    tags: dict[str, Any]
    p: Any = None

    def value(self, name: str) -> Any:
        if name in ("key", "y", "r"):
            return getattr(self, name)
        return self.p if name == "prediction.p" else self.tags.get(name)


def made(count: int, seed: int = 0) -> tuple[dict[str, Any], list[str], dict[str, list[Any]]]:
    rng = np.random.default_rng(seed)

    def some(values: list[Any]) -> list[Any]:
        return [values[i] for i in rng.integers(0, len(values), count)]

    columns = {
        "x": rng.integers(0, 255, (count, 3), dtype="uint8"),
        "y": some([0, 1, 2, None]),
        "r": some([0.5, -1.0, 2.0, None]),
    }
    tags = {
        "split": some(["train", "test", "val", None, "ä", ""]),
        "q": some([0, 1, 2, 3, None]),
        "w": some([0.0, 0.5, 1.0, -3.25, float("inf"), None]),
        "ok": some([True, False, None]),
        "when": some([T0, T0 + timedelta(hours=1), T0 - timedelta(days=1), None]),
    }
    keys = [f"k{i:03d}" for i in rng.permutation(count)]
    return columns, keys, tags


@pytest.fixture(scope="module")
def hub(mongodb: str) -> Iterator[Hub]:
    made = Hub(mongodb, project="test_views")
    yield made
    made.connection.client.drop_database("test_views")
    made.close()


@pytest.fixture(scope="module")
def ds(hub: Hub) -> d.Dataset:
    # Packs of eight rows, so that samples are in many; some were edited, some are gone.
    ds = hub.datasets.create(
        "views", x=d.Array((3,), "uint8"), y=d.Label(3), r=d.Label(dtype="float32"), tags=TAGS
    )
    columns, keys, tags = made(COUNT)
    for begin in range(0, COUNT, 8):
        cut = slice(begin, begin + 8)
        ds.insert_many(
            {name: values[cut] for name, values in columns.items()},
            keys=keys[cut],
            tags={name: values[cut] for name, values in tags.items()},
        )
    ds.insert({"x": [9, 9, 9], "y": 1}, key=keys[3], replace=True)
    ds.update(keys[5], y=2, q=3)
    ds.delete([keys[10], keys[11], keys[40]])
    left = ds.keys()
    chosen = left[::2]
    ds.add_predictions(chosen, model="m", version=3, p=[i % 7 / 7 for i in range(len(chosen))])
    ds.add_predictions(left, model="m", version=4, p=9.0)
    return ds


@pytest.fixture(scope="module")
def rows(ds: d.Dataset) -> list[Row]:
    """All samples, in the order of their storage."""
    predicted = {
        document["sample"]: document["values"]["p"]
        for document in ds.predictions.find({"model": "m", "version": 3})
    }
    return [
        Row(
            s["_id"],
            s["at"],
            s["labels"]["y"],
            s["labels"]["r"],
            s["tags"],
            predicted.get(s["_id"]),
        )
        for s in ds.samples.find().sort("at", 1)
    ]


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "after": operator.gt,
    "before": operator.lt,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(-1, 3),
    "r": st.sampled_from([0.5, -1, 2.0, 0]),
    "split": st.sampled_from(["train", "test", "ä", "", "zz", "$gt"]),
    "q": st.integers(-1, 4) | st.sampled_from([1.5, 2.0]),
    "w": st.sampled_from([0, 0.5, 1, -3.25, float("inf")]),
    "ok": st.booleans(),
    "when": st.integers(-30, 2).map(lambda h: T0 + timedelta(hours=h)),
    "key": st.integers(0, COUNT).map(lambda i: f"k{i:03d}"),
    "prediction.p": st.integers(0, 7).map(lambda i: i / 7),
}


@st.composite
def conditions(draw: Any) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(VALUES)))
    value = VALUES[name]
    kinds = ["", "__eq", "__ne", "__in", "__nin", "__exists"]
    kinds += ["__after", "__before"] if name == "when" else []
    kinds += [] if name == "ok" else ["__gt", "__gte", "__lt", "__lte"]
    kind = draw(st.sampled_from(kinds))
    if kind in ("__in", "__nin"):
        return name + kind, draw(st.lists(st.none() | value, max_size=3))
    if kind == "__exists":
        return name + kind, draw(st.booleans())
    missing = st.none() if kind in ("", "__eq", "__ne") else st.nothing()
    return name + kind, draw(value | missing)


def holds(row: Row, condition: str, wanted: Any) -> bool:
    name, _, kind = condition.partition("__")
    value = row.value(name)
    if kind == "exists":
        return (value is not None) is wanted
    if kind in ("in", "nin"):
        return (value in wanted) is (kind == "in")
    if kind in ("", "eq", "ne"):
        return (value == wanted) is (kind != "ne")
    return value is not None and ORDER[kind](value, wanted)


# A step: what it does to a view, and what it does to the model's list (and whether it was sorted).
Step = tuple[str, Any]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("where"), st.lists(conditions(), min_size=1, max_size=2).map(dict)),
    st.tuples(st.just("where"), st.lists(conditions(), min_size=1, max_size=2).map(dict)),
    st.tuples(
        st.just("sort"), st.tuples(st.sampled_from(["", "-"]), st.sampled_from(sorted(VALUES)))
    ),
    st.tuples(st.just("limit"), st.integers(0, COUNT)),
    st.tuples(st.just("sample"), st.tuples(st.integers(0, COUNT), st.integers(-2, 2))),
    st.tuples(
        st.just("fold"),
        st.tuples(st.integers(2, 4), st.sampled_from([None, "y", "split"]), st.booleans()),
    ),
)
chains = st.recursive(
    st.lists(steps, max_size=3),
    lambda inner: st.lists(
        steps | st.tuples(st.sampled_from(["|", "&", "-"]), inner), min_size=1, max_size=3
    ),
    max_leaves=5,
)

COMBINE = {"|": operator.or_, "&": operator.and_, "-": operator.sub}


def applied(view: View, chain: list[Step], source: View) -> View:
    for kind, about in chain:
        if kind == "where":
            view = view.where(**about)
        elif kind == "sort":
            view = view.sort("".join(about))
        elif kind == "limit":
            view = view.limit(about)
        elif kind == "sample":
            view = view.sample(*about)
        elif kind == "fold":
            k, stratify, train = about
            view = view.folds(k, stratify=stratify)[1][0 if train else 1]
        else:
            view = COMBINE[kind](view, applied(source, about, source))
    return view


def rank(name: str) -> Callable[[Row], Any]:
    """The order of MongoDB: what is missing comes first."""

    def of(row: Row) -> tuple[Any, ...]:
        value = row.value(name)
        return (False,) if value is None else (True, value)

    return of


def expected(chain: list[Step], rows: list[Row], source: View) -> tuple[list[Row], bool]:
    found, ordered = list(rows), False
    for i, (kind, about) in enumerate(chain):
        before = applied(source, chain[:i], source).plan
        if kind == "where":
            found = [r for r in found if all(holds(r, c, v) for c, v in about.items())]
        elif kind == "sort":
            sign, name = about
            found = sorted(sorted(found, key=lambda r: r.at), key=rank(name))
            found, ordered = (found[::-1] if sign else found), True
        elif kind == "limit":
            found = found[:about]
        elif kind == "sample":
            count, seed = about
            mask = drawn([r.key for r in found], count, salt(before, Draw(count, seed)))
            found = [r for r, inside in zip(found, mask, strict=True) if inside]
        elif kind == "fold":
            k, stratify, train = about
            values = None if stratify is None else [r.value(stratify) for r in found]
            shares = (1 / k,) * k
            own = salt(before, Part(shares, 0, stratify=stratify))
            mask = part([r.key for r in found], shares, 1, own, values)
            found = [r for r, tested in zip(found, mask, strict=True) if bool(tested) is not train]
        else:
            other, sorted_too = expected(about, rows, source)
            ours, theirs = {r.key for r in found}, {r.key for r in other}
            if kind == "|":
                found += [r for r in other if r.key not in ours]
                ordered |= sorted_too
                if not ordered:
                    found.sort(key=lambda r: r.at)
            else:
                found = [r for r in found if (r.key in theirs) is (kind == "&")]
    return found, ordered


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(chain=chains)
@pytest.mark.parametrize("frozen", [False, True], ids=["live", "snapshot"])
def test_a_view_selects_what_it_says(
    ds: d.Dataset, rows: list[Row], frozen: bool, chain: list[Step]
) -> None:
    source: View = ds.freeze("all") if frozen else ds
    source = source.join_predictions(model="m", version=3)
    view = applied(source, chain, source)
    wanted, _ = expected(chain, rows, source)
    assert view.keys() == [row.key for row in wanted]
    assert view.count == len(wanted)
    resolved = view.resolve(extra=("q", "prediction.p"))
    assert resolved.at.tolist() == [row.at for row in wanted]
    assert resolved.columns["y"].tolist() == [-1 if r.y is None else r.y for r in wanted]
    for name in ("q", "prediction.p"):
        values = [np.nan if r.value(name) is None else r.value(name) for r in wanted]
        np.testing.assert_array_equal(resolved.columns[name].astype(float), values)
    among = ["k000", "k007", "k021", "none"]
    assert view.among(among) == {row.key for row in wanted} & set(among)


def test_what_is_combined_has_an_order(ds: d.Dataset, rows: list[Row]) -> None:
    """That of storage; behind a sort, the one of the first view, and then the rest of the other."""
    for source in (ds, ds.freeze("all")):
        storage = source.keys()
        drawn = (source.sample(9) | source.sample(9, seed=1)).keys()
        assert 9 < len(drawn) < 19 and drawn == [key for key in storage if key in drawn]
        first, other = source.sort("-q").where(y=1), source.where(y__in=[1, 2])
        rest = [key for key in other.keys() if key not in first.keys()]
        assert (first | other).keys() == first.keys() + rest
        assert (source.sort("-q") | other).keys() == source.sort("-q").keys()
        rest = [key for key in first.keys() if key not in source.where(split="val").keys()]
        assert (source.where(split="val") | first).keys() == source.where(split="val").keys() + rest
        assert (first & other).keys() == (first - source.where(y=2)).keys() == first.keys()


def test_a_view_is_a_question(ds: d.Dataset) -> None:
    view = ds.where(split="train")
    before = view.count
    ds.insert({"x": [1, 2, 3]}, key="late", tags={"split": "train"})
    assert view.count == before + 1 and "late" in view and view.keys()[-1] == "late"
    ds.update("late", split="test")
    assert "late" not in view
    ds.delete("late")
    assert view.count == before


def test_views_of_other_samples_are_not_combined(hub: Hub, ds: d.Dataset) -> None:
    other = hub.datasets.create("other", x=d.Array((1,)))
    with pytest.raises(ValueError, match="same dataset"):
        ds.where(y=1) | other  # noqa: B018
    with pytest.raises(ValueError, match="same snapshot"):
        ds & ds.freeze("all")  # noqa: B018
    with pytest.raises(TypeError):
        ds | [1]  # type: ignore[operator]  # noqa: B018


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda ds: ds.where(nope=1), "must name one of `key`, `added`, the labels `y`, `r`"),
        (lambda ds: ds.where(**{"$where": "1"}), "must name one of"),
        (lambda ds: ds.where(**{"tags.split": "train"}), "must name one of"),
        (lambda ds: ds.where(**{"split\0": "train"}), "must name one of"),
        (lambda ds: ds.where(split={"$gt": ""}), "must be None, a bool"),
        (lambda ds: ds.where(split__in=[{"$gt": ""}]), "must be None, a bool"),
        (lambda ds: ds.where(split=["train"]), "must be None, a bool"),
        (lambda ds: ds.where(**{"prediction.p": 1}), "join_predictions"),
        (lambda ds: ds.join_predictions("m", 3).where(**{"prediction.$p": 1}), r"\$"),
        (lambda ds: ds.sort("x"), "`by` must name"),
        (lambda ds: ds.sort("prediction.p"), "`by` must name"),
        (lambda ds: ds.sort("labels.y"), "`by` must name"),
        (lambda ds: ds.sort(3), "`by` must be a name"),
        (lambda ds: ds.limit(-1), "`n` must be an integer from 0 up"),
        (lambda ds: ds.limit(True), "`n` must be"),
        (lambda ds: ds.sample(1.5), "`n` must be"),
        (lambda ds: ds.limit(2**70), "`n` must be"),
        (lambda ds: ds.watch(timeout="1"), "`timeout` must be"),
        (lambda ds: ds.sample(1, seed="x"), "`seed` must be"),
        (lambda ds: ds.fields(), "one name or more"),
        (lambda ds: ds.fields("x", "x"), "none twice"),
        (lambda ds: ds.fields(["x"]), "must be texts"),
        (lambda ds: ds.fields("packs"), "`names` must name"),
        (lambda ds: ds.folds(1), "`k` must be 2 or more"),
        (lambda ds: ds.folds(3, stratify="x"), "`stratify` must be a label or a tag"),
        (lambda ds: ds.split({"a": 0.5}), "whose sum is 1"),
        (lambda ds: ds.class_weights("r"), "integer label"),
        (lambda ds: ds.class_weights("split"), "integer label"),
        (lambda ds: ds.resolve(extra=("nope",)), "`extra` must name"),
        (lambda ds: ds.join_predictions("", 1), "`model` must be"),
        (lambda ds: ds.join_predictions("m", "3"), "`version` must be"),
        (lambda ds: ds.join_predictions({"$gt": ""}, 3), "`model` must be"),
        (lambda ds: ds.among([{"$gt": ""}]), "must be text"),
        (lambda ds: ds["a\0"], "must be text"),
        (lambda ds: ds.save("a\0"), "must be text"),
        (lambda ds: ds.freeze({"$gt": ""}), "must be text"),
        (lambda ds: ds.watch(timeout=-1), "`timeout` must be"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ds: d.Dataset, ask: Callable[[d.Dataset], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(ds)


def test_a_sample_is_read_when_it_is_asked_for(ds: d.Dataset, rows: list[Row]) -> None:
    row = next(row for row in rows if row.y is not None and row.tags.get("q") is not None)
    sample = ds.join_predictions("m", 4)[row.key]
    assert (sample.key, sample["y"], sample["q"]) == (row.key, row.y, row.tags["q"])
    assert sample.tags == {name: v for name, v in row.tags.items() if v is not None}
    assert sample.labels == {"y": row.y, "r": row.r} and sample.predictions == {"p": 9.0}
    assert sample.added is not None and sample.added.tzinfo is not None
    assert sample["x"].shape == (3,) and sample["x"].flags.writeable
    with pytest.raises(KeyError, match="`name` must be one of x, y, r, split"):
        sample["nope"]
    with pytest.raises(ValueError, match="holds bytes"):
        sample.open("x")
    assert ds.where(y=row.y)[row.key].key == row.key
    with pytest.raises(KeyError, match="`key` must be one of a sample"):
        ds.where(y__ne=row.y)[row.key]
    assert row.key in ds and "none" not in ds and row.key not in ds.where(y__ne=row.y).limit(5)


def test_files_and_what_is_large_are_read_as_files(hub: Hub) -> None:
    ds = hub.datasets.create("files", clip=d.Bytes(), big=d.Array((None,), "float32"), y=d.Label())
    clip, big = bytes(range(256)) * 5000, np.arange(400_000, dtype="float32")
    ds.insert({"clip": clip, "big": big}, key="large")
    ds.insert({"clip": b"small", "big": [1.5]}, key="small")
    for view in (ds, ds.freeze("files")):
        with view["large"].open("clip") as file:
            assert file.read(300) == clip[:300]
            file.seek(-4, 2)
            assert file.read() == clip[-4:]
        assert view["large"]["clip"] == clip and (view["large"]["big"] == big).all()
        assert view["small"].open("clip").read() == view["small"]["clip"] == b"small"
        assert view["small"]["big"].tolist() == [1.5]
        assert [sample["y"] for sample in view] == [None, None]


def test_samples_are_listed_in_the_order_of_the_view(ds: d.Dataset, rows: list[Row]) -> None:
    view = ds.where(y__exists=True).sort("-q")
    assert [sample.key for sample in view] == view.keys()
    assert [s.key for s in ds] == [row.key for row in rows] and ds.first().key == rows[0].key
    with pytest.raises(KeyError, match="has no samples"):
        ds.where(split="nobody").first()


def test_a_list_goes_on_while_samples_go(hub: Hub) -> None:
    ds = hub.datasets.create("going", x=d.Array((1,)))
    ds.insert_many({"x": np.zeros((1500, 1))}, keys=[f"{i:04d}" for i in range(1500)])
    listed = iter(ds)
    first = next(listed).key
    ds.delete(["0010", "1400"])
    rest = [sample.key for sample in listed]
    assert first == "0000" and "1400" not in rest and len(rest) == 1498  # 0010 was read already


def test_class_weights_balance(ds: d.Dataset, rows: list[Row]) -> None:
    counts = [sum(row.y == label for row in rows) for label in range(3)]
    expected = {label: sum(counts) / (3 * count) for label, count in enumerate(counts)}
    assert ds.class_weights("y") == pytest.approx(expected)


def test_splits_are_disjoint_complete_and_stay_where_samples_are_edited(hub: Hub) -> None:
    ds = hub.datasets.create("split", x=d.Array((1,)), y=d.Label(4))
    keys = [f"k{i}" for i in range(200)]
    ds.insert_many({"x": np.zeros((200, 1)), "y": np.arange(200) % 4}, keys=keys)
    parts = ds.split({"train": 0.7, "val": 0.2, "test": 0.1}, seed=1, stratify="y")
    found = {name: view.keys() for name, view in parts.items()}
    assert sorted(sum(found.values(), [])) == sorted(keys)
    for name, fraction in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        counts = np.bincount(parts[name].resolve().columns["y"], minlength=4)
        assert (abs(counts - 50 * fraction) < 1).all()
    ds.insert_many({"x": np.ones((20, 1)), "y": np.arange(20) % 4}, keys[:20], replace=True)
    assert {name: sorted(view.keys()) for name, view in parts.items()} == {
        name: sorted(keys) for name, keys in found.items()
    }


def test_saved_views_are_small_questions(hub: Hub, ds: d.Dataset) -> None:
    from bson import encode

    view = (
        (ds.where(split="train", q__in=[1, 2], when__after=T0) | ds.where(y=None))
        .join_predictions("m", 3)
        .where(**{"prediction.p__lt": 0.5})
        .fields("x", "y", "prediction.p")
        .sort("-w")
    )
    before = ds.samples.estimated_document_count()
    assert view.save("good") is view and view.save("good") is view
    assert list(ds.views) == ["good"] and "good" in ds.views
    again = hub.datasets["views"].views["good"]
    assert again.plan == view.plan and again.keys() == view.keys()
    assert (again.chosen, again.join) == (("x", "y", "prediction.p"), ("m", 3))
    document = hub.connection.db["views"].find_one({"name": "good"})
    assert len(encode(document or {})) <= 1024
    assert ds.samples.estimated_document_count() == before
    with pytest.raises(ValueError, match="no other view"):
        ds.where(y=1).save("good")
    ds.views.delete("good")
    assert not list(ds.views)
    with pytest.raises(KeyError, match="there are none"):
        ds.views["good"]
    frozen = ds.freeze("all").where(y=1)
    frozen.save("frozen")
    assert ds.views["frozen"].source == frozen.source
    ds.views.delete("frozen")


def test_a_stored_view_is_no_code(hub: Hub, ds: d.Dataset) -> None:
    """What others wrote into the store is checked as what a user writes."""
    ds.where(y=1).save("planted")
    for planted in (
        [{"step": "where", "conditions": [["$where", "sleep(1)"]]}],
        [{"step": "where", "conditions": [["y", {"$gt": 1}]]}],
        [{"step": "aggregate", "pipeline": [{"$out": "x"}]}],
    ):
        hub.connection.db["views"].update_one({"name": "planted"}, {"$set": {"plan": planted}})
        with pytest.raises(ValueError, match="must"):
            ds.views["planted"].keys()
    ds.views.delete("planted")


def test_tags_that_others_declared_are_known(hub: Hub) -> None:
    ds = hub.datasets.create("declared", x=d.Array((1,)))
    other = hub.datasets["declared"]
    other.declare(loss=float)
    other.insert({"x": [0]}, key="a", tags={"loss": 2.0})
    assert ds.where(loss__gt=1).keys() == ["a"] and ds.sort("loss").count == 1


def test_all_that_a_view_asks_is_of_one_moment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples come between two of its questions, and between its rows and their labels."""
    ds = hub.datasets.create("between", x=d.Array((1,)), y=d.Label(), tags={"half": int})

    def insert() -> None:
        ds.insert_many({"x": np.zeros((8, 1)), "y": np.arange(8)}, tags={"half": [0, 1] * 4})

    insert()
    select, more = Live.select, iter([True, True])

    def meddle(store: Live, *about: Any) -> Any:
        found = select(store, *about)
        if next(more, False):
            insert()
            ds.update(ds.where(half=1), y=0)
        return found

    monkeypatch.setattr(Live, "select", meddle)
    view = ds.where(half=0).limit(10**6) | ds.where(half=1).limit(10**6)
    resolved = view.resolve(extra=["half"])
    assert resolved.columns["half"].tolist() == [0, 1] * 4
    assert resolved.columns["y"].tolist() == list(range(8))
    assert ds.count == 24 and view.count == 24


def test_a_view_is_of_one_moment(hub: Hub) -> None:
    """Packs of a hundred are inserted meanwhile: whole blocks are seen, and what was there is."""
    import threading

    ds = hub.datasets.create("moment", x=d.Array((1,)), y=d.Label(), tags={"half": int})
    ds.insert_many({"x": np.zeros((100, 1)), "y": np.zeros(100, int)}, tags={"half": 0})
    done = threading.Event()

    def insert() -> None:
        for _ in range(15):
            ds.insert_many(
                {"x": np.zeros((100, 1)), "y": np.arange(100)},
                tags={"half": [i % 2 for i in range(100)]},
            )
        done.set()

    writer = threading.Thread(target=insert)
    writer.start()
    counts = []
    while not done.is_set():
        # The limits, which let all through, make two questions of it.
        view = ds.where(half=0).limit(10**6) | ds.where(half=1).limit(10**6)
        resolved = view.resolve(extra=["half"])
        counts.append(len(resolved.at))
        assert len(set(resolved.at.tolist())) == len(resolved.at)
        assert len(resolved.at) % 100 == 0
        assert resolved.columns["half"].sum() == 50 * (len(resolved.at) // 100 - 1)
        whole = ds.resolve()
        assert len(whole.at) % 100 == 0 and len(whole.at) >= counts[-1]
    writer.join()
    assert counts == sorted(counts) and ds.count == 1600


def test_a_dataset_that_is_deleted_is_not_read_as_empty(hub: Hub) -> None:
    ds = hub.datasets.create("gone", x=d.Array((1,)), y=d.Label(), tags={"q": int})
    ds.insert_many({"x": np.zeros((9, 1)), "y": [0] * 9}, keys=list("abcdefghi"), tags={"q": 1})
    snapshot, held = ds.freeze("v1"), ds.where(q=1).freeze("v2")
    listed = [iter(ds), iter(snapshot)]
    for samples in listed:
        next(samples)
    hub.datasets.delete("gone")
    view = ds.where(q=1)
    reads: list[Callable[[], Any]] = [
        lambda: ds.count,
        lambda: view.count,
        view.keys,
        view.first,
        view.resolve,
        view.explain,
        lambda: ds["a"],
        lambda: "a" in view,
        lambda: list(view),
        lambda: ds.indexes,
        lambda: ds.create_index("q"),
        lambda: ds.drop_index("q"),
        lambda: view.save("v"),
        lambda: view.freeze("v"),
        lambda: ds.snapshots["v1"],
        lambda: ds.views["v"],
        lambda: held.keys(),
        lambda: [sample["x"] for sample in listed[1]],
        lambda: list(view.watch(timeout=60)),
    ]
    for read in reads:
        with pytest.raises(KeyError, match="which was deleted"):
            read()
    left = hub.connection.db.list_collection_names(filter={"name": {"$regex": r"\.gone-"}})
    assert left == [] and not hub.connection.db["views"].count_documents({"uid": ds.uid})


def test_a_deletion_between_two_reads_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of one moment do not hold against it: half of what is asked for is there."""
    ds = hub.datasets.create("vanishing", x=d.Array((1,)), y=d.Label(), tags={"q": int})
    ds.insert_many({"x": np.zeros((9, 1)), "y": [0] * 9}, keys=list("abcdefghi"), tags={"q": 1})
    view, real = ds.where(q=1), Live.labels

    def labels(store: Live, *about: Any) -> Any:
        hub.datasets.delete("vanishing")
        return real(store, *about)

    monkeypatch.setattr(Live, "labels", labels)
    with pytest.raises(KeyError, match="which was deleted"):
        view.resolve()


def test_a_float_label_is_found_by_the_value_that_was_given(hub: Hub) -> None:
    ds = hub.datasets.create("floats", x=d.Array((1,)), y=d.Label(dtype="float32"))
    ds.insert_many({"x": np.zeros((2, 1)), "y": [0.1, 0.7]}, keys=["a", "b"])
    for source in (ds, ds.freeze("v1")):
        assert source.where(y=0.1).keys() == source.where(y__lte=0.1).keys() == ["a"]
        assert source.where(y__in=[0.7]).keys() == source.where(y__gt=0.1).keys() == ["b"]

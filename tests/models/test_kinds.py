"""Kinds of events and their values, as they are journalled: without a server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_tl.models import buckets, current, kinds, outbox, runs
from keras_tl.storage.connection import Connection
from keras_tl.storage.journal import DATA, Kind

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_TL_HOME", str(tmp_path_factory.mktemp("home")))
        made = Connection("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
        yield made
        current.close(made, 0.0)


@pytest.fixture
def run(connection: Connection) -> runs.Run:
    return runs.Run(connection)


def documents(run: runs.Run) -> list[dict[str, Any]]:
    """The buckets of what the run has logged."""
    columns, records = {}, []
    for number, record in enumerate(run.outbox.journal.read()):
        if record.kind == Kind.COLUMNS:
            columns[record.json()["id"]] = record.json()
        elif record.kind in DATA:
            records.append((number, record.kind, record.payload))
    return [d for d in buckets.buckets(records, columns) if d["run"] == run.id]


def updates(run: runs.Run) -> list[dict[str, Any]]:
    """What was journalled of the run's document."""
    records = run.outbox.journal.read()
    found = [json.loads(record.payload) for record in records if record.kind == Kind.DOC]
    return [d for d in found if d["id"] == run.id]


def logged(run: runs.Run, kind: str) -> dict[str, list[Any]]:
    (document,) = (d for d in documents(run) if d["kind"] == kind)
    found = buckets.unpack(document).items()
    return {k.removeprefix("value:"): list(v) for k, v in found if ":" in k or k == "step"}


def same(found: Any, expected: np.ndarray) -> None:
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


# Arrays, images, texts.


@pytest.mark.parametrize(
    "array",
    [
        np.array([math.nan, math.inf, -math.inf, -0.0]),
        np.arange(24, dtype="int16").reshape(2, 3, 4)[:, ::2],
        np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
        np.array(3.0, "float16"),
        np.zeros((0, 4), "uint64"),
        np.array([True, False]),
        np.zeros((300, 400), "float64"),  # small once compressed
        np.random.default_rng(0).integers(0, 256, 100_000, "uint8"),  # not smaller compressed
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_comes_back_as_it_was(run: runs.Run, array: np.ndarray) -> None:
    run.array("weights", array, 7)
    run.array("other", np.ones(2), 8)
    found = logged(run, "array")
    assert (found["step"], found["name"]) == ([7, 8], ["weights", "other"])
    same(found["array"][0], np.ascontiguousarray(array).reshape(array.shape))
    same(found["array"][1], np.ones(2))


def test_arrays_of_one_shape_stay_apart(run: runs.Run) -> None:
    for i in range(3):
        run.array("a", np.full(4, i), i)
    assert [a.tolist() for a in logged(run, "array")["array"]] == [[0] * 4, [1] * 4, [2] * 4]


def test_a_tensor_of_the_backend_is_an_array(run: runs.Run) -> None:
    run.array("a", keras.ops.ones((2, 3), "float32"), 1)
    run.histogram("b", keras.ops.cast([1.0, 2.0], "bfloat16"), 1, bins=2)
    same(logged(run, "array")["array"][0], np.ones((2, 3), "float32"))
    assert logged(run, "histogram")["counts"][0].tolist() == [1, 1]


def test_what_compresses_is_compressed(run: runs.Run) -> None:
    run.array("a", np.zeros(200_000), 1)  # 1.6 MB
    (document,) = documents(run)
    binary = document["values"][0]["array"]
    assert (binary.subtype, len(binary) < 10_000) == (buckets.COMPRESSED, True)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.arange(6, dtype="uint8").reshape(2, 3), None),
        (np.arange(24, dtype="uint8").reshape(2, 3, 4), None),
        (np.array([[0.0, 0.5, 1.0]], "float32"), np.array([[0, 128, 255]], "uint8")),
        (np.ones((1, 1, 1), "float16"), np.full((1, 1, 1), 255, "uint8")),
    ],
)
def test_an_image_is_uint8(run: runs.Run, image: np.ndarray, expected: np.ndarray | None) -> None:
    run.image("digit", image, 3)
    same(logged(run, "image")["image"][0], image if expected is None else expected)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 2, 2), "uint8"), r"`image` must have the shape .*shape=\(2, 2, 2\)"),
        (np.zeros(4, "uint8"), r"`image` must have the shape"),
        (np.zeros((0, 4), "uint8"), r"`image` must have the shape"),
        (np.zeros((2, 2), "int32"), "`image` must be uint8, or floats from 0 to 1.*int32"),
        (np.full((2, 2), 1.5), "`image` must be uint8, or floats from 0 to 1.*1.5"),
        (np.full((2, 2), np.nan), "`image` must be uint8, or floats from 0 to 1"),
        ("cat.png", "`image` must be an array of numbers, real ones. Received: 'cat.png'"),
    ],
)
def test_what_is_no_image_is_refused(run: runs.Run, image: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run.image("a", image, 1)
    assert documents(run) == []


def test_more_than_a_megabyte_is_refused_with_what_to_do(run: runs.Run) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1000), "uint8")
    with pytest.raises(ValueError, match="`image` must be at most 1048576 bytes: .* Received: 11"):
        run.image("a", noise, 1)
    with pytest.raises(ValueError, match="`values` must be at most 1048576 bytes"):
        run.text("a", "x" * (1 << 20), 1)
    assert documents(run) == []


def test_a_text(run: runs.Run) -> None:
    run.text("sample", "Grüße \ud800 mongodb://ada:hunter2@db", 5)
    assert logged(run, "text")["text"] == ["Grüße ? mongodb://ada:***@db"]
    with pytest.raises(ValueError, match="`text` must be a string. Received: 3"):
        run.text("sample", 3, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`name` must be a string. Received: 3"):
        run.text(3, "a", 5)  # type: ignore[arg-type]


# Histograms and confusion matrices.


def test_a_histogram_is_numpys_and_counts_what_is_not_finite(run: runs.Run) -> None:
    values = np.random.default_rng(0).normal(size=(20, 10)).astype("float32")
    values[0, :6] = [math.nan, math.nan, math.nan, math.inf, math.inf, -math.inf]
    run.histogram("kernel", values, 9, bins=16)
    found = {name: column[0] for name, column in logged(run, "histogram").items()}
    finite = values.astype("float64")[np.isfinite(values)]
    counts, edges = np.histogram(finite, 16)
    same(found["counts"], counts)
    same(found["edges"], edges)
    assert (found["nan"], found["posinf"], found["neginf"], found["name"]) == (3, 2, 1, "kernel")
    run.histogram("nothing", [math.nan], 10)  # does not raise in the middle of a training
    with pytest.raises(ValueError, match="`bins` must be an integer from 1 to 10,000. Received: 0"):
        run.histogram("kernel", values, 9, bins=0)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, math.nextafter(1, 2)],
        [-1e308, 1e308],
        [1.7976931348623157e308] * 2,
        [1e17, 1e17],
        [-1.7976931348623157e308, -1.7e308, math.nan],
        [0.0, 5e-324],
    ],
)
def test_a_histogram_of_any_range(run: runs.Run, values: list[float]) -> None:
    run.histogram("extreme", values, 1, bins=64)
    found = {name: column[0] for name, column in logged(run, "histogram").items()}
    edges, finite = found["edges"], [v for v in values if math.isfinite(v)]
    assert len(found["counts"]) == 64 and found["counts"].sum() == len(finite)
    assert np.isfinite(edges).all() and (edges[1:] > edges[:-1]).all()
    assert edges[0] <= min(finite) and max(finite) <= edges[-1]


def test_complex_numbers_have_no_histogram_and_no_image(run: runs.Run) -> None:
    with pytest.raises(ValueError, match="`values` must be .*real.* Received: "):
        run.histogram("kernel", np.array([1 + 2j]), 1)
    with pytest.raises(ValueError, match="`image` must be .*real.* Received: "):
        run.image("kernel", np.zeros((2, 2), "complex64"), 1)
    assert documents(run) == []


def test_an_event_takes_scalars_of_numpy_and_of_the_backend(run: runs.Run) -> None:
    values = {
        **{"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array(2.5)},
        **{"e": keras.ops.convert_to_tensor(0.25), "f": ml_dtypes.bfloat16(1.5)},
        **{"g": [{"deep": np.uint8(7)}], "h": np.longdouble(0.125), "i": np.float16(math.nan)},
    }
    run.event("drift", step=1, **values)
    found = {name: column[0] for name, column in logged(run, "drift").items()}
    assert math.isnan(found.pop("i"))
    expected = [1, 0.5, 3, True, 2.5, 0.25, 1.5, [{"deep": 7}], 0.125]
    assert list(found.values()) == expected
    assert [type(v) for v in found.values()][1:4] == [float, int, bool]
    for refused in (np.zeros(2), 1 + 2j, np.complex64(1), object(), np.datetime64("2026")):
        with pytest.raises(ValueError, match="`values` must be .* Received: an object of type"):
            run.event("drift", step=1, score=refused)


def test_a_confusion_matrix_is_scikit_learns(run: runs.Run) -> None:
    # sklearn.metrics.confusion_matrix([2, 0, 2, 2, 0, 1], [0, 0, 2, 2, 0, 2]), from its docs
    expected = np.array([[2, 0, 0], [0, 0, 1], [1, 0, 2]])
    run.confusion_matrix("v", step=1, y_true=[2, 0, 2, 2, 0, 1], y_pred=[0, 0, 2, 2, 0, 2])
    run.confusion_matrix("v", expected, step=2, labels=["ant", "bird", "cat"])
    found = logged(run, "confusion_matrix")
    for matrix in found["matrix"]:
        same(matrix, expected)
    assert found["labels"] == [None, ["ant", "bird", "cat"]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "`matrix` must be given, or .* Received: none of them"),
        ({"y_true": [1]}, "`matrix` must be given, or .* Received: none of them"),
        ({"matrix": [[1]], "y_true": [1], "y_pred": [1]}, "`matrix` .* Received: all of them"),
        ({"matrix": [[1, 2]]}, r"`matrix` must be square. Received: shape=\(1, 2\)"),
        ({"y_true": [1], "y_pred": [1, 2]}, "must have the same length. Received: 1 and 2"),
        ({"y_true": [1], "y_pred": [0.3]}, "`y_pred` must be the numbers of classes"),
        ({"y_true": [-1], "y_pred": [0]}, "`y_true` must be the numbers of classes"),
        ({"y_true": [2], "y_pred": [0], "labels": ["a"]}, "`labels` must name .* 3 classes"),
        ({"matrix": [[1]], "labels": ["a", "b"]}, "`labels` must name .* 1 classes"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(
    run: runs.Run, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run.confusion_matrix("v", step=1, **given)


# Kinds of a user's own.


def test_a_kind_of_numbers_is_packed(run: runs.Run) -> None:
    run.define("drift", score="float", n="int")
    run.event("drift", step=2, n=np.int32(512), score=math.nan)
    run.event("drift", step=3, epoch=1, score=keras.ops.convert_to_tensor(0.5), n=2**53)
    run.event("drift", step=4, score=-math.inf, n=-(2**53))
    (document,) = documents(run)
    assert "values" not in document
    found = buckets.unpack(document)
    np.testing.assert_array_equal(found["value:score"], [math.nan, 0.5, -math.inf])
    assert found["value:n"].tolist() == [512, 2**53, -(2**53)]
    assert (found["epoch"].tolist(), found["batch"].tolist()) == ([0, 1, 0], [-1] * 3)


def test_a_kind_of_everything(run: runs.Run) -> None:
    run.define("probe", where="str", ok="bool", scores="array", n="int", x="float", token="str")
    run.event(
        "probe",
        step=1,
        where="a.b",
        ok=np.bool_(True),
        scores=np.arange(3),
        n=2**63 - 1,
        x=math.inf,
        token="hunter2",
    )
    found = {name: column[0] for name, column in logged(run, "probe").items()}
    same(found.pop("scores"), np.arange(3))
    assert found == {
        **{"step": 1, "where": "a.b", "ok": True, "n": 2**63 - 1, "x": math.inf, "token": "***"}
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": 1}, "`x` of 'drift' must be a number. Received: nothing"),
        ({"n": 1, "x": 1, "y": 2}, "`y` must be a field of 'drift', which has x, n. Received: y=2"),
        ({"n": 1.5, "x": 1}, "`n` of 'drift' must be an integer of at most 2.*Received: 1.5"),
        ({"n": True, "x": 1}, "`n` of 'drift' must be an integer"),
        ({"n": 2**53 + 1, "x": 1}, "`n` of 'drift' must be an integer of at most 2"),
        ({"n": 1, "x": "1"}, "`x` of 'drift' must be a number. Received: '1'"),
        ({"n": 1, "x": None}, "`x` of 'drift' must be a number. Received: None"),
        ({"n": 1, "x": [1.0, 2.0]}, "`x` of 'drift' must be a number"),
        ({"n": 1, "x": False}, "`x` of 'drift' must be a number. Received: False"),
    ],
)
def test_an_event_against_its_schema_is_refused(
    run: runs.Run, values: dict[str, Any], words: str
) -> None:
    run.define("drift", x="float", n="int")
    with pytest.raises(ValueError, match=words):
        run.event("drift", **values)
    assert documents(run) == []


@pytest.mark.parametrize(
    ("rule", "value", "words"),
    [
        ("str", 3, "`f` of 'k' must be a string of valid Unicode. Received: 3"),
        ("str", "\ud800", "`f` of 'k' must be a string of valid Unicode"),
        ("bool", 1, "`f` of 'k' must be a boolean. Received: 1"),
        ("int", 2**63, "`f` of 'k' must be an integer of 64 bits"),
        ("array", ["a"], "`f` of 'k' must be an array of numbers or booleans. Received: "),
        ("array", np.zeros(2, "complex128"), "`f` must have a dtype that safetensors knows"),
    ],
)
def test_a_field_that_is_not_of_its_type_is_refused(
    run: runs.Run, rule: str, value: Any, words: str
) -> None:
    run.define("k", f=rule, g="str")
    with pytest.raises(ValueError, match=words):
        run.event("k", f=value, g="")
    assert documents(run) == []


def test_an_error_tells_no_secret() -> None:
    with pytest.raises(ValueError, match="Received: '\\*\\*\\*'"):
        kinds.checked("k", {"api_key": "int"}, {"api_key": "hunter2"})
    with pytest.raises(ValueError, match=r"Received: token='\*\*\*'"):
        kinds.checked("k", {"a": "int"}, {"token": "hunter2"})


def test_a_definition_is_checked(run: runs.Run) -> None:
    for kind in ("epoch", "system", "image"):
        with pytest.raises(ValueError, match=f"`kind` must not be one of .* Received: {kind}"):
            run.define(kind, x="float")
        with pytest.raises(ValueError, match=f"`kind` must not be one of .* Received: {kind}"):
            run.event(kind, x=1.0)
    with pytest.raises(ValueError, match="`fields` must name at least one .* Received: none"):
        run.define("k")
    with pytest.raises(ValueError, match="`x` must be one of the types 'float', .*: 'number'"):
        run.define("k", x="number")
    with pytest.raises(ValueError, match="`step` must not be a field"):
        run.define("k", step="int")
    run.define("k", x="float")
    run.define("k", x="float")
    with pytest.raises(ValueError, match="`kind` must not be defined twice"):
        run.define("k", x="int")
    run.event("k", x=1)


def test_a_definition_is_on_the_runs_document(run: runs.Run) -> None:
    """Also one that is made before the run starts."""
    run.define("before", **{"a.b": "float"})
    run.start()
    run.define("after.wards", x="str")
    found = updates(run)
    sets = [d for d in found if any("kinds" in k for k in d["update"].get("set", {}))]
    assert [d["update"]["set"] for d in sets] == [
        {"kinds.before": {"a%2Eb": "float"}},
        {"kinds.after%2Ewards": {"x": "str"}},
    ]
    assert [d["only"] for d in sets] == [{}, {}]
    assert found[0]["only"] is None  # what makes the document comes before what changes it


# Runs without `fit`.


def test_a_with_block_is_a_run(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def last(made: runs.Run) -> dict[str, Any]:
        update = updates(made)[-1]["update"]["set"]
        return {k: update[k] for k in ("state", "error") if k in update}

    connection = run.connection
    monkeypatch.setattr(outbox.Outbox, "flush", lambda self: True)  # no server to wait for
    with runs.Run(connection, "eval", parent=run) as good:
        good.log(step=3, logs={"accuracy": 0.5})
    assert last(good) == {"state": "finished"}
    with pytest.raises(ZeroDivisionError):
        with runs.Run(connection, "eval", parent=run.id) as bad:
            _ = 1 / 0
    assert last(bad) == {"state": "failed", "error": "ZeroDivisionError"}
    assert good.parent == bad.parent == run.id
    assert logged(good, "batch") == {"step": [3], "accuracy": [0.5]}
    with pytest.raises(ValueError, match="`parent` must be a run or the id of one. Received: 3"):
        runs.Run(connection, parent=3)

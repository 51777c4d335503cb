"""Runs in Parquet files and in an MLflow store: the numbers are ours, however often it is done."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from test_cli import Command

import keras_tl as ktl
from keras_tl.models import Run, RunRecord, buckets
from keras_tl.models.outbox import outbox
from keras_tl.storage.journal import Kind

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
INF, NAN = math.inf, math.nan


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as found:
        yield found


def add_run(hub: ktl.Hub, name: str, number: int, **about: Any) -> RunRecord:
    """Six batches and two epochs; an attempt that resumed at 4 has done two batches again."""
    began = NOW + datetime.timedelta(seconds=number, microseconds=123000)
    attempts = {"a": {"number": 0, "start_step": 0, "started": began, "host": "h", "pid": 1}}
    attempts["b"] = {**attempts["a"], "number": 1, "start_step": 4}
    hub.connection.db["runs"].insert_one(
        {
            **{"_id": name, "name": f"n {name}", "state": "finished", "model": "net"},
            **{"started": began, "ended": began + datetime.timedelta(seconds=60)},
            **{"attempt": "b", "attempts": attempts, "last_step": 6},
            **{"params": {"lr": 0.1, "opt": {"name": "adam"}, "layers": [3, 4]}},
            **{"tags": {"who": "me"}, "git": {"sha": "abc123"}, "best": {}},
            **about,
        }
    )
    add_rows(hub, name, "a", "batch", [1, 2, 3, 4, 5, 6], loss=[0.1, NAN, INF, -INF, 50.0, 60.0])
    add_rows(hub, name, "b", "batch", [5, 6], loss=[0.5, 1e-300], acc=[0.25, 1.0])
    add_rows(hub, name, "a", "epoch", [3], loss=[0.3])
    add_rows(hub, name, "b", "epoch", [6], loss=[0.6], **{"val[loss]": [1 / 3]})
    return hub.runs[name]


def add_rows(
    hub: ktl.Hub, run: str, attempt: str, kind: str, steps: list[int], **values: list[float]
) -> None:
    about = {"run": run, "attempt": attempt, "rank": 0, "kind": kind, "names": list(values)}
    pack = buckets.row_struct(len(values)).pack
    records = [
        (100 * step, Kind.ROW, pack(0, step, step // 3, step % 3, 1e9 + step / 8, *row))
        for step, *row in zip(steps, *values.values(), strict=True)
    ]
    hub.connection.db["events"].insert_many(buckets.buckets(records, {0: about}))


# Parquet.


def test_parquet_holds_exactly_what_was_logged(hub: ktl.Hub, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = add_run(hub, "one", 1)
    paths = run.to_parquet(tmp_path)
    assert sorted(paths) == [
        str(tmp_path / f"kind={k}" / "one.parquet") for k in ("batch", "epoch")
    ]
    table = parquet.ParquetFile(tmp_path / "kind=batch" / "one.parquet").read()
    expected = run.events(kind="batch", superseded=True)
    assert set(table.column_names) == {"run", *expected}
    for name in ("step", "epoch", "batch", "rank", "attempt", "superseded"):
        assert table[name].to_pylist() == expected[name].tolist()
    loss = table["loss"].to_numpy()
    assert loss.tobytes() == expected["loss"].tobytes()  # bit for bit, NaN and Inf too
    assert sorted(table["superseded"].to_pylist()) == [False] * 6 + [True] * 2
    # No value is null, and NaN is a value.
    assert table["loss"].null_count == 0 and table["acc"].null_count == 6
    assert table["time"].to_pylist()[0] == datetime.datetime.fromtimestamp(
        1e9 + 1 / 8, datetime.UTC
    )
    assert set(table["run"].to_pylist()) == {"one"}


def test_parquet_of_events_of_all_kinds(hub: ktl.Hub, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = Run(hub.connection, "notes")
    run.start()
    for step, value in enumerate([1, "text", None, [1, {"k": True}]]):
        run.event("mixed/kind", step=step, value=value, text="ä", whole=step, half=step / 2)
    run.end()
    assert outbox(hub.connection).flush(60)
    (path,) = hub.runs[run.id].to_parquet(tmp_path)
    rows = parquet.ParquetFile(path).read().to_pylist()
    assert [row["text"] for row in rows] == ["ä"] * 4
    assert [row["whole"] for row in rows] == [0, 1, 2, 3]
    assert [row["half"] for row in rows] == [0.0, 0.5, 1.0, 1.5]
    decoded = [None if row["value"] is None else json.loads(row["value"]) for row in rows]
    assert decoded == [1, "text", None, [1, {"k": True}]]


def test_parquet_of_arrays(hub: ktl.Hub) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from keras_tl.models import parquet

    array = np.arange(6, dtype="int16").reshape(2, 3)
    found = parquet._array(pyarrow, [None, array]).to_pylist()
    assert found[0] is None and (found[1]["dtype"], found[1]["shape"]) == ("int16", [2, 3])
    np.testing.assert_array_equal(np.frombuffer(found[1]["data"], "int16").reshape(2, 3), array)


def test_parquet_of_kinds_with_long_names(hub: ktl.Hub, tmp_path: Path) -> None:
    kinds = ["\u4e16" * 40 + "a", "\u4e16" * 40 + "b"]
    run = Run(hub.connection, "long")
    run.start()
    for kind in kinds:
        run.log(1, logs={"x": 1.0}, kind=kind)
    run.end()
    assert outbox(hub.connection).flush(60)
    paths = hub.runs[run.id].to_parquet(tmp_path)
    assert len(set(paths)) == 2 and all(Path(path).is_file() for path in paths)


def test_a_folder_of_runs_is_one_table_to_other_tools(hub: ktl.Hub, tmp_path: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    for number, name in enumerate(["one", "two", "three"]):
        add_run(hub, name, number, model="other" if name == "three" else "net")
    for _ in range(2):  # again changes nothing
        hub.runs.to_parquet(tmp_path, model="net")
    runs = dataset.dataset(tmp_path / "runs.parquet").to_table().to_pylist()
    assert [(run["id"], run["params.lr"], run["params.opt.name"]) for run in runs] == [
        ("two", 0.1, "adam"),
        ("one", 0.1, "adam"),
    ]
    assert json.loads(runs[0]["params.layers"]) == [3, 4]
    assert runs[1]["started"] == hub.runs["one"].document["started"]
    events = dataset.dataset(tmp_path / "events", partitioning="hive").to_table()
    kept = [row for row in events.to_pylist() if not row["superseded"]]
    assert sorted({(row["run"], row["kind"]) for row in kept}) == [
        (run, kind) for run in ("one", "two") for kind in ("batch", "epoch")
    ]
    assert len(kept) == 2 * (6 + 2)
    assert not list(tmp_path.rglob("*.part"))


# MLflow.


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A store on SQLite; MLflow's own telemetry and its lines for each table are off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DO_NOT_TRACK", "true")
        patch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
        client = pytest.importorskip("mlflow").MlflowClient
        folder = tmp_path_factory.mktemp("mlflow")

        class Store:
            uri = f"sqlite:///{folder}/mlflow.db"

            def __init__(self, name: str) -> None:
                self.name, self.client = name, client(self.uri)
                place = (folder / name).as_uri()
                self.id = self.client.create_experiment(name, artifact_location=place)

            def runs(self) -> dict[str, Any]:
                found = self.client.search_runs([self.id])
                assert len({run.data.tags["keras_tl.run"] for run in found}) == len(found)
                return {run.data.tags["keras_tl.run"]: run for run in found}

            def history(self, run: Any, key: str) -> list[tuple[int, float, int]]:
                history = self.client.get_metric_history(run.info.run_id, key)
                return sorted((m.step, m.value, m.timestamp) for m in history)

        yield Store


ignore = pytest.mark.filterwarnings("ignore")  # MLflow's dependencies are not ours to mend


@ignore
def test_mlflow_holds_our_numbers(hub: ktl.Hub, mlflow: Any, project: str) -> None:
    run = add_run(hub, "one", 1, params={"lr": 0.1, "opt": {"name": "adam"}, "long": "x" * 7000})
    store = mlflow(project)
    copies = hub.runs.to_mlflow(store.uri)
    copy = store.runs()["one"]
    assert copies == {"one": copy.info.run_id} and copy.info.run_name == "n one"
    assert (copy.info.status, copy.info.start_time) == ("FINISHED", 1767225601123)
    assert copy.info.end_time == 1767225661123
    assert copy.data.params == {"lr": "0.1", "opt.name": "adam", "long": "x" * 5997 + "..."}
    tags = copy.data.tags
    assert (tags["tags.who"], tags["keras_tl.state"]) == ("me", "finished")
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert set(copy.data.metrics) == {"loss", "val_5bloss_5d", "batch/loss", "batch/acc"}
    epochs = run.events()
    times = [int(1000 * moment) for moment in epochs["time"]]
    expected = list(zip(epochs["step"].tolist(), epochs["loss"].tolist(), times, strict=True))
    assert store.history(copy, "loss") == expected
    assert store.history(copy, "val_5bloss_5d") == [(6, 1 / 3, times[1])]
    # What a later attempt has done again is not there; what no attempt has logged is not, either.
    rows = store.history(copy, "batch/loss")
    assert [step for step, _, _ in rows] == [1, 2, 3, 4, 5, 6]
    largest = float(np.finfo("float64").max)  # is what MLflow makes of infinity
    np.testing.assert_array_equal(
        [value for _, value, _ in rows], [0.1, NAN, largest, -largest, 0.5, 1e-300]
    )
    assert [row[:2] for row in store.history(copy, "batch/acc")] == [(5, 0.25), (6, 1.0)]


@ignore
def test_mlflow_gets_what_is_new_and_nothing_twice(hub: ktl.Hub, mlflow: Any, project: str) -> None:
    add_run(hub, "one", 1, state="failed")
    store = mlflow(project)
    first = hub.runs.to_mlflow(store.uri, project)

    def all_of_it() -> dict[str, Any]:
        copy = store.runs()["one"]
        return {key: store.history(copy, key) for key in copy.data.metrics}

    before = all_of_it()
    # A copy that was killed before it said how far it came is repeated.
    store.client.delete_tag(first["one"], "keras_tl.copied")
    assert hub.runs.to_mlflow(store.uri, project) == first
    np.testing.assert_equal(all_of_it(), before)
    # The run goes on: one more epoch, another state, a param that MLflow will not change.
    add_rows(hub, "one", "b", "epoch", [9], loss=[0.9])
    change = {"state": "running", "params.lr": 0.2, "params.new": 1}
    hub.connection.db["runs"].update_one({"_id": "one"}, {"$set": change})
    hub.connection.db["runs"].update_one({"_id": "one"}, [{"$set": {"heartbeat": "$$NOW"}}])
    assert hub.runs.to_mlflow(store.uri, project) == first
    copy = store.runs()["one"]
    assert copy.info.status == "RUNNING"
    assert (copy.data.params["lr"], copy.data.params["new"]) == ("0.1", "1")
    assert copy.data.tags["keras_tl.params_changed"] == '["lr"]'
    after = all_of_it()
    assert [row[:2] for row in after.pop("loss")] == [(3, 0.3), (6, 0.6), (9, 0.9)]
    before.pop("loss")
    np.testing.assert_equal(after, before)


@ignore
def test_mlflow_knows_parents_states_and_many_names(
    hub: ktl.Hub, mlflow: Any, project: str
) -> None:
    many = {f"p{i}": i for i in range(250)}
    add_run(hub, "child", 2, parent="parent", state="lost", params=many)
    add_run(hub, "parent", 1, state="stopped")
    add_run(hub, "other", 3, parent="gone", model="x")
    store = mlflow(project)
    wide = {f"m{i:04d}": [i / 7] for i in range(2500)}
    add_rows(hub, "child", "b", "wide", [7], **wide)
    hub.runs.to_mlflow(store.uri, project, model="net")
    found = store.runs()
    assert set(found) == {"child", "parent"}
    parent, child = found["parent"], found["child"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.status, parent.info.status) == ("FAILED", "KILLED")
    assert len(child.data.params) == 250
    kept = {k: v for k, v in child.data.metrics.items() if k.startswith("wide/")}
    assert kept == {f"wide/{name}": value for name, (value,) in wide.items()}
    # The parent is known from the copy before.
    hub.connection.db["runs"].update_one({"_id": "other"}, {"$set": {"parent": "parent"}})
    hub.runs.to_mlflow(store.uri, project, id="other")
    assert store.runs()["other"].data.tags["mlflow.parentRunId"] == parent.info.run_id


@ignore
def test_mlflow_gets_the_versions(hub: ktl.Hub, mlflow: Any, project: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    version = hub.models["net/é"].save(model, metrics={"loss": 0.5}, tags={"a": "b"})
    run = version.run
    add_run(hub, run, 1)
    store = mlflow(project)
    for _ in range(2):
        copies = hub.runs.to_mlflow(store.uri, project, versions=True)
    listed = [file.path for file in store.client.list_artifacts(copies[run], "versions")]
    name = "versions/net_2fé-1"
    assert sorted(listed) == [f"{name}.json", f"{name}.safetensors"]
    folder = store.client.download_artifacts(copies[run], "versions", str(tmp_path))
    stored = load_file(Path(folder) / f"{Path(name).name}.safetensors")
    for variable in model.variables:
        np.testing.assert_array_equal(
            stored[variable.path], keras.ops.convert_to_numpy(variable.value)
        )
    about = json.loads((Path(folder) / f"{Path(name).name}.json").read_text())
    assert (about["version"], about["metrics"], about["tags"]) == (1, {"loss": 0.5}, {"a": "b"})
    assert {entry["name"] for entry in about["tensors"]} == set(stored)
    kernel = next(e for e in about["tensors"] if e["name"] == model.layers[0].kernel.path)
    assert (kernel["role"], kernel["shape"], kernel["dtype"]) == ("trainable", [4, 3], "float32")


@ignore
def test_the_command_copies_and_says_nothing_else(
    mongodb: str, hub: ktl.Hub, mlflow: Any, project: str, tmp_path: Path
) -> None:
    add_run(hub, "one", 1)
    add_run(hub, "two", 2)
    store, command = mlflow(project), Command(mongodb, project, tmp_path)
    result = command("runs", "export", "one", "--mlflow", store.uri)
    assert (result.stdout, result.stderr) == ("Copied 1 runs.\n", "")
    assert set(store.runs()) == {"one"}
    chosen = ("--where", "name=n two", "--experiment", project)
    copies = command.json("runs", "export", "--mlflow", store.uri, *chosen)
    assert copies == {"two": store.runs()["two"].info.run_id}
    wrong = command("runs", "export", "--mlflow", "nowhere://x", code=1)
    assert wrong.stderr.startswith("Error: ") and wrong.stderr.count("\n") == 1


@ignore
def test_names_are_what_mlflow_takes() -> None:
    validation = pytest.importorskip("mlflow.utils.validation")
    from keras_tl.models.exports import _name

    hostile = ["a.b", "../x", "/a", "a//b", "a/", ".", "..", "x" * 400, "a:b", "ä b", "%", "a\0b"]
    names = [_name(name) for name in hostile]
    for name in names:
        validation._validate_metric_name(name)
    assert len(set(names)) == len(names)
    assert names[0] == "a.b"

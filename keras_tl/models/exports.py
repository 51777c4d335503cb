"""Runs copied into an MLflow tracking store, by MLflow's own client; needs the extra `mlflow`."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_tl.models import reading
from keras_tl.models.liveness import LIVE
from keras_tl.models.record import RunRecord

# MLflow's own limits of one request and of its entities.
_METRICS, _OTHERS = 1000, 100
_KEY, _PARAM, _TAG = 250, 6000, 5000
_STATES = {"finished": "FINISHED", "failed": "FAILED", "lost": "FAILED", "stopped": "KILLED"}
#: Which of our runs an MLflow run is a copy of, and how far it was copied.
_RUN, _COPIED = "keras_tl.run", "keras_tl.copied"


def to_mlflow(
    runs: Sequence[RunRecord], tracking_uri: str, experiment: str, versions: bool = False
) -> dict[str, str]:
    """Copy runs; see `Runs.to_mlflow`."""
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise ImportError(
            "A copy in MLflow needs MLflow: `pip install 'keras_tl[mlflow]'`."
        ) from error
    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    store = client.create_experiment(experiment) if found is None else found.experiment_id
    copies: dict[str, str] = {}
    # A parent starts before the runs in it, so that its copy is there when theirs are made.
    for run in sorted(runs, key=lambda run: run.document["started"]):
        copies[run.id] = _copy(client, store, run, copies)
        if versions:
            _attach_versions(client, copies[run.id], run)
    return copies


def _copy(client: Any, store: str, run: RunRecord, copies: Mapping[str, str]) -> str:
    document = run.document
    there = _find(client, store, run.id)
    if there is None:
        there = client.create_run(
            store, _milliseconds(document["started"]), tags={_RUN: run.id}, run_name=run.name
        )
    identity, known = there.info.run_id, there.data
    # Read before the rows: what comes later is copied again rather than missed.
    buckets = run.connection.db["events"].count_documents({"run": run.id})
    copied = f"{document['attempt']} {run.state} {buckets}"
    tags = {f"tags.{name}": _text(value, _TAG) for name, value in run.tags.items()}
    tags |= {_RUN: run.id, "keras_tl.project": run.connection.project, "keras_tl.state": run.state}
    if run.document.get("model"):
        tags["keras_tl.model"] = str(run.document["model"])
    if run.git.get("sha"):
        tags["mlflow.source.git.commit"] = run.git["sha"]
    if run.parent is not None:
        tags["keras_tl.parent"] = run.parent
        parent = copies.get(run.parent) or getattr(
            getattr(_find(client, store, run.parent), "info", None), "run_id", None
        )
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
    params = {_name(name): _text(value, _PARAM) for name, value in run.params.items()}
    new = {name: value for name, value in params.items() if name not in known.params}
    changed = sorted(
        name for name in params if known.params.get(name, params[name]) != params[name]
    )
    if changed:
        tags["keras_tl.params_changed"] = _text(changed, _TAG)  # MLflow never changes a param
    _log(client, identity, params=new, tags={_name(k): v for k, v in tags.items()})
    if known.tags.get(_COPIED) != copied:
        _copy_metrics(client, identity, run, set(known.metrics))
        client.set_tag(identity, _COPIED, copied)
    if run.state in LIVE:
        client.update_run(identity, status="RUNNING")
    else:
        ended = document.get("ended") or document.get("heartbeat") or document["started"]
        client.set_terminated(identity, _STATES.get(run.state, "FINISHED"), _milliseconds(ended))
    return str(identity)


def _find(client: Any, store: str, run: str) -> Any:
    found = client.search_runs([store], f"tags.`{_RUN}` = '{run}'", max_results=1)
    return found[0] if found else None


def _copy_metrics(client: Any, identity: str, run: RunRecord, known: set[str]) -> None:
    """Log the rows that are not there yet: a store need not drop what is logged twice."""
    for kind in run.kinds():
        columns, present = reading.read_present(run.connection.db, run.document, (), kind)
        _log(client, identity, metrics=_rows(client, identity, kind, columns, present, known))


def _rows(
    client: Any,
    identity: str,
    kind: str,
    columns: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    known: set[str],
) -> Iterator[tuple[str, float, int, int]]:
    """Key, value, time in ms and step of each number that is not in MLflow."""
    times = np.rint(columns["time"] * 1000).astype("int64").tolist()
    for name, column in columns.items():
        if name in reading.INDEX or column.dtype != "float64":
            continue
        key = _name(name if kind == "epoch" else f"{kind}/{name}")
        has = present[name].tolist() if name in present else itertools.repeat(True)
        old = set()
        if key in known:
            history = client.get_metric_history(identity, key)
            old = {_same(m.value, m.timestamp, m.step) for m in history}
        for value, moment, step, there in zip(
            column.tolist(), times, columns["step"].tolist(), has, strict=False
        ):
            if there and _same(value, moment, step) not in old:
                yield key, value, moment, step


def _same(value: float, timestamp: int, step: int) -> tuple[Any, ...]:
    """A row as it compares after MLflow had it: NaN is NaN, and what is infinite is the largest."""
    largest = float(np.finfo("float64").max)
    return "nan" if value != value else min(max(value, -largest), largest), timestamp, step


def _log(
    client: Any,
    identity: str,
    metrics: Iterable[tuple[str, float, int, int]] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    for some in _slices(metrics, _METRICS):
        client.log_batch(identity, metrics=[Metric(*row) for row in some])
    for some in _slices([Param(k, v) for k, v in (params or {}).items()], _OTHERS):
        client.log_batch(identity, params=some)
    for some in _slices([RunTag(k, v) for k, v in (tags or {}).items()], _OTHERS):
        client.log_batch(identity, tags=some)


def _slices(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while some := list(itertools.islice(rest, size)):
        yield some


def _name(name: str) -> str:
    """A name that MLflow takes: others get their characters' codes, long ones their hash."""
    name = re.sub(r"[^/\w.\- ]", lambda found: f"_{ord(found[0]):x}", name)
    dots = {"": "_", ".": "_2e", "..": "_2e_2e"}
    name = "/".join(dots.get(part, part) for part in name.split("/"))
    if len(name) > _KEY:
        name = f"{name[: _KEY - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def _text(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _milliseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)


def _attach_versions(client: Any, identity: str, run: RunRecord) -> None:
    """Each version that the run saved: its tensors, and a manifest that says what they are."""
    from keras_tl.models import versions
    from keras_tl.storage import tensors

    db = run.connection.db
    there = {Path(file.path).name for file in client.list_artifacts(identity, "versions")}
    for document in db["versions"].find({"run": run.id, "deleted": None}).sort("version", 1):
        name = f"{_name(document['model']).replace('/', '_2f')}-{document['version']}"
        if f"{name}.json" in there:
            continue
        entries, bundle = [], {}
        for entry, array in versions.read(db, document):
            key = (
                entry["path"] if entry["path"] not in bundle else f"{entry['role']}/{entry['path']}"
            )
            bundle[key] = array
            entries.append({**entry, "name": key})
        about = ("model", "version", "run", "step", "epoch", "metrics", "tags", "created")
        manifest = {**{k: document[k] for k in about}, "tensors": entries}
        with tempfile.TemporaryDirectory() as folder:
            # The manifest comes last: where it is, the tensors are.
            file = Path(folder) / f"{name}.safetensors"
            file.write_bytes(tensors.dumps(bundle))
            client.log_artifact(identity, str(file), "versions")
            file = Path(folder) / f"{name}.json"
            file.write_text(json.dumps(manifest, indent=1, default=str))
            client.log_artifact(identity, str(file), "versions")

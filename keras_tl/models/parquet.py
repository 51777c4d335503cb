"""Runs and events as Parquet files; needs the extra `parquet`."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from keras_tl.models import fields, reading
from keras_tl.models.record import RunRecord


def write_runs(runs: Sequence[RunRecord], folder: str | os.PathLike[str]) -> list[str]:
    """Write runs and their events; see `Runs.to_parquet`."""
    pa = _pyarrow()
    paths = [path for run in runs for path in write_events(run, Path(folder) / "events")]
    rows = [{"id": run.id, **fields.row(run.document)} for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _array(pa, [row.get(name) for row in rows]) for name in names}
    return [*paths, _write(pa, pa.table(columns), Path(folder) / "runs.parquet")]


def write_events(run: RunRecord, folder: str | os.PathLike[str]) -> list[str]:
    """Write a run's events, a file a kind: `folder/kind=KIND/ID.parquet`."""
    pa = _pyarrow()
    paths = []
    for kind in run.kinds():
        db = run.connection.db
        columns, present = reading.read_present(db, run.document, (), kind, superseded=True)
        microseconds = np.rint(columns["time"] * 1e6).astype("int64")
        arrays = {"run": pa.array([run.id] * len(microseconds)).dictionary_encode()}
        for name, column in columns.items():
            if column.dtype == object:
                arrays[name] = _array(pa, column.tolist())
            else:  # NaN is a value, and null is none
                mask = ~present[name] if name in present else None
                arrays[name] = pa.array(column, mask=mask, from_pandas=False)
        arrays["time"] = pa.array(microseconds, pa.timestamp("us", "UTC"))
        arrays["attempt"] = arrays["attempt"].dictionary_encode()
        # As Hive names partitions, which is how other tools read them.
        path = Path(folder) / f"kind={_folder(kind)}" / f"{run.id}.parquet"
        paths.append(_write(pa, pa.table(arrays), path))
    return paths


def _folder(kind: str) -> str:
    name = quote(kind, safe=" ")
    if len(name) <= 200:  # file systems take 255 bytes
        return name
    return f"{name[:180]}~{hashlib.sha256(kind.encode()).hexdigest()[:16]}"


def _array(pa: Any, values: Sequence[Any]) -> Any:
    """Values of one type as they are, arrays as structs, a mixture as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {np.ndarray}:
        fields = {"dtype": pa.string(), "shape": pa.list_(pa.int64()), "data": pa.binary()}
        return pa.array([None if v is None else _struct(v) for v in values], pa.struct(fields))
    if kinds == {int, float} and all(v is None or abs(v) <= 2**53 for v in values):
        values = [None if v is None else float(v) for v in values]
    elif len(kinds) > 1 or kinds & {list, dict}:
        values = [None if v is None else json.dumps(v, default=str) for v in values]
    return pa.array(values, from_pandas=False)


def _struct(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": array.shape, "data": array.tobytes()}


def _write(pa: Any, table: Any, path: Path) -> str:
    """A file is there whole, or as it was."""
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            pyarrow.parquet.write_table(table, file, compression="zstd")
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return str(path)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: `pip install 'keras_tl[parquet]'`."
        ) from error
    return pyarrow

"""Tables of runs, and what says which extra is missing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from keras_tl.models import RunRecord
from keras_tl.models.comparison import Comparison
from keras_tl.storage.connection import Connection

UNUSED = Connection("mongodb://127.0.0.1:1")


def record(identity: str, **about: Any) -> RunRecord:
    document = {"_id": identity, "name": identity, "state": "finished", **about}
    return RunRecord(UNUSED, document)


def test_a_comparison_shows_what_differs() -> None:
    env = {"keras": "3.15", "packages": {"numpy": "1"}}
    runs = [
        record("a", env=env, params={"lr": 0.1, "n": 1}, host="h", git=None),
        record("b", env=env | {"packages": {"numpy": "2"}}, params={"n": 1}, host="h"),
        record("c", env=env, params={"lr": float("nan")}, host="h", last={"x%2Ey": 1 / 3}),
    ]
    found = Comparison(runs)
    assert found.rows["params.n"] == [1, 1, None]
    assert found.rows["params.lr"][:2] == [0.1, None]
    assert found.rows["env.packages.numpy"] == ["1", "2", "1"]
    assert found.rows["last.x.y"] == [None, None, 1 / 3]
    assert not {"env.keras", "env.host"} & set(found.rows)
    lines = str(found).splitlines()
    assert ["last.x.y", "-", "-", "0.333333"] in [line.split() for line in lines]
    assert len({re.match(r"\S+ +", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    one = Comparison(runs[:1])
    assert set(one.rows) == {"name", "model", "state", "step"}


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("pandas", "pandas", lambda run, path: run.frame()),
        ("pyarrow", "parquet", lambda run, path: run.to_parquet(path)),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, extra: str, call: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"pip install 'keras_tl\[{extra}\]'"):
        call(record("a"), tmp_path)


def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from keras_tl import report

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_tl\[plot\]'"):
        report.plot_runs([record("a")], "loss", tmp_path / "x.png")


def test_a_copy_in_mlflow_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_tl.models import exports

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_tl\[mlflow\]'"):
        exports.to_mlflow([record("a")], "sqlite://", "x")

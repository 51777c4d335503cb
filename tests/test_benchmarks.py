"""The benchmarks' common format: what other tools read of it. The figures are not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "integration" / "benchmarks"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import common

    return common


def test_a_report_holds_what_the_design_says(common: ModuleType, tmp_path: Path) -> None:
    report = common.Report({"cores": 2})
    report.add("speed", 60.0, "k/s", "NumPy", 80.0, ">= 50 k/s", lambda v: v >= 50)
    report.add("speed", 40.0, "k/s", "NumPy", 80.0, ">= 50 k/s", lambda v: v >= 50)
    report.add("cost", 3.0, "us", "nothing", 0.0)
    report.missing("cost", 3.0, "us", "MLflow: not installed", "below every peer")
    report.server("mongod", "6.0.5")
    report.write(tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["setting"] == {"cores": 2, "servers": {"mongod": "6.0.5"}}
    names = ["what", "value", "unit", "peer", "peer_value", "ratio", "goal", "met"]
    assert [list(row) for row in written["rows"]] == [names] * 4
    assert [row["met"] for row in written["rows"]] == [True, False, None, None]
    assert [row["ratio"] for row in written["rows"]] == [0.75, 0.5, None, None]


def test_the_table_shows_each_row(common: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = common.Report({"cores": 2})
    report.add("speed", 12345.0, "k/s", "NumPy", 80.0, ">= 50 k/s", lambda v: v < 50)
    report.missing("cost", None, "us", "MLflow: not installed", "below every peer")
    report.show()
    shown = capsys.readouterr().out
    assert "12,345" in shown and "NO" in shown and "not installed" in shown


SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_benchmark_takes_the_same_arguments(script: str) -> None:
    command = [sys.executable, str(FOLDER / script), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(option in said for option in ("--quick", "--backend", "--json"))

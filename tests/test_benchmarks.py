"""The benchmarks' common format: what other tools read of it. The figures are not for tests."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
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


def test_the_table_shows_brackets(common: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = common.Report({"cores": 2})
    report.missing("cost", None, "us", "pip install keras_tl[bench]", "any")
    report.show()
    assert "[bench]" in "".join(capsys.readouterr().out.split())


def test_what_no_backend_changes_is_measured_once(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(command: list[str], **_: object) -> None:
        result = Path(command[command.index("--json") + 1])
        result.write_text(json.dumps({"setting": {}, "rows": []}))
        asked.append((command[command.index("--backend") + 1], "--only-backend-rows" in command))

    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: name != "tensorflow")
    monkeypatch.setattr(common.subprocess, "run", run)
    common._each(argparse.Namespace(quick=True))
    assert asked == [("jax", False), ("torch", True)]


def test_a_peer_is_not_the_benchmark_of_the_same_name(common: ModuleType) -> None:
    from dataset_peers import files

    why = files.why_missing("datasets")  # Hugging Face's, and not the script `datasets.py`
    if why is None:
        assert FOLDER not in Path(sys.modules["datasets"].__file__ or "").parents
    else:
        assert "not installed" in why


@pytest.mark.parametrize("fault", ["lost", "twice", "label", "pixel", "dtype", None])
def test_readers_are_compared_with_the_samples(common: ModuleType, fault: str | None) -> None:
    from dataset_peers.clock import Reader, checked

    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(50, 4, 4, 3), dtype="uint8"), rng.integers(10, size=50)
    rows = rng.permutation(50)
    found_x, found_y = x[rows], y[rows]
    if fault == "lost":
        found_x, found_y = found_x[1:], found_y[1:]
    elif fault == "twice":
        found_x[0], found_y[0] = found_x[1], found_y[1]
    elif fault == "label":
        found_y[0] += 1
    elif fault == "pixel":
        found_x[0, 0, 0, 0] ^= 1
    elif fault == "dtype":
        found_x = found_x.astype("int32")
    parts = [slice(begin, begin + 16) for begin in range(0, 50, 16)]
    reader = Reader("some", lambda: [(found_x[part], found_y[part]) for part in parts])
    if fault is None:
        checked(reader, x, y)
    else:
        with pytest.raises(SystemExit, match="some"):
            checked(reader, x, y)


SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_benchmark_takes_the_same_arguments(script: str) -> None:
    command = [sys.executable, str(FOLDER / script), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(option in said for option in ("--quick", "--backend", "--json"))

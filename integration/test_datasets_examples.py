"""The examples of datasets run as they stand, again after they have run, and without a server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_readme import EXAMPLES, python


def test_image_folder(mongodb: str, project: str, tmp_path: Path) -> None:
    picture, example = tmp_path / "digits.png", EXAMPLES / "image_folder.py"
    for time in (1, 2):  # the second time nothing is added, and the snapshot is the same
        out = python(example, mongodb, "", project, tmp_path, str(picture))
        assert "1797 images of 10 classes" in out and "trained on 1438 images" in out
        snapshot = re.findall(r"snapshot (\w{12})", out)
        assert len(snapshot) == 2 and snapshot[0] == snapshot[1]
        accuracy = re.search(r"test accuracy (.*)", out)
        assert accuracy is not None and float(accuracy[1]) > 0.9
        seen = re.search(r"seen by the versions \[(.*)\]", out)
        assert seen is not None and len(seen[1].split(", ")) >= time
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_active_learning(mongodb: str, project: str, tmp_path: Path) -> None:
    for times in (3, 1):  # the second time it begins anew
        out = python(EXAMPLES / "active_learning.py", mongodb, "", project, tmp_path, str(times))
        rounds = re.findall(r"^(\d+) labels: test accuracy ([\d.]+)$", out, re.MULTILINE)
        assert [int(count) for count, _ in rounds] == [20, 40, 60][:times]
        rates = [float(rate) for _, rate in rounds]
        assert times == 1 or (rates[-1] > rates[0] + 0.05 and rates[-1] > 0.8)


def test_cross_validation(mongodb: str, project: str, tmp_path: Path) -> None:
    out = python(EXAMPLES / "cross_validation.py", mongodb, "", project, tmp_path)
    folds = re.findall(r"^fold \d: (\d+) to train, (\d+) to test, ([\d.]+)$", out, re.MULTILINE)
    assert len(folds) == 5 and sum(int(test) for _, test, _ in folds) == 1797
    assert all(int(train) + int(test) == 1797 for train, test, _ in folds)
    assert all(float(rate) > 0.9 for _, _, rate in folds)
    assert re.search(r"best epoch of all was in fold \d", out)


def test_without_a_server_one_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)  # the broker that comes as a wheel
    out = python(EXAMPLES / "cross_validation.py", "", "", "test_local", tmp_path, "2")
    assert out.count("to test") == 2

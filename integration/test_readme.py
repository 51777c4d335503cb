"""The README's and the examples' code runs as it stands, against real servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PRELUDE = """
import keras
from sklearn.datasets import load_digits
keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
"""
CHECKS = """
assert len(run.events("loss")["step"]) == 2, run.events("loss")
assert found[0].best["loss"].value == best.best["loss"].value
assert digits.aliases["prod"] == digits.aliases["latest"] and len(digits) <= 9
assert keras.models.load_model("digits.keras").count_params() == 650
assert "digits/backup" not in hub.models
assert losses["step"].tolist() == list(range(1, 41))
assert hub.models["digits"].version().cursor["topic"] == "digits"
assert digits.load().optimizer.iterations == 3 * 57 + 2 * 45 + 40
assert hub.models.flush(60) and ds.count == len(x) and train.count + test.count == len(x)
assert {seen.model for seen in hub.datasets.saw("digits", train.first().key)} == {"digits-views"}
assert ds.where(source="unsure").count == 20 and len(folds) == 5
hub.close()
print("ran")
"""


def python(code: Path, mongodb: str, broker: str, project: str, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, code, *arguments],
        cwd=home,
        env={
            **os.environ,
            "KERAS_TL_TEST_HIDE": "tensorflow",
            "KERAS_TL_HOME": str(home),
            "KERAS_TL_MONGODB": mongodb,
            "KERAS_TL_KAFKA": broker,
            "KERAS_TL_PROJECT": project,  # for callbacks that are given a URI, too
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("broker_kind", ["tansu"], indirect=True)
def test_readme(mongodb: str, broker: str, project: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = "\n".join([PRELUDE, *blocks, CHECKS])
    code = code.replace("mongodb://...", mongodb).replace("broker:9092", broker)
    script = tmp_path / "readme.py"
    script.write_text(code)
    assert python(script, mongodb, broker, project, tmp_path).splitlines()[-1] == "ran"


@pytest.mark.parametrize("broker_kind", ["tansu"], indirect=True)
def test_log_and_checkpoint(mongodb: str, broker: str, project: str, tmp_path: Path) -> None:
    example = ROOT / "examples" / "log_and_checkpoint.py"
    first = python(example, mongodb, broker, project, tmp_path)
    accuracy = float(first.splitlines()[-2].split()[-1])
    saved = re.search(r"'latest': (\d+)", first)
    assert accuracy > 0.85 and saved is not None
    second = python(example, mongodb, broker, project, tmp_path)
    again = re.search(r"'latest': (\d+)", second)
    assert "loaded Version('digits-mlp'" in second and again is not None
    # Epochs are short here: a version that waits may give way to a newer one.
    assert int(again[1]) > int(saved[1]) > 1
    begins = [float(re.findall(r"epoch 1: .* accuracy (.*)", out)[0]) for out in (first, second)]
    assert begins[1] > begins[0] + 0.1  # it went on, not from scratch


@pytest.mark.parametrize("broker_kind", ["tansu"], indirect=True)
def test_online_digits(mongodb: str, broker: str, project: str, tmp_path: Path) -> None:
    example = ROOT / "examples" / "online_digits.py"
    first = python(example, mongodb, broker, project, tmp_path)
    assert "step 200, read up to [50, 50]" in first
    again = python(example, mongodb, broker, project, tmp_path)  # nothing is left to train
    assert again.splitlines() == [
        line for line in first.splitlines() if line.startswith("version ")
    ]


def test_fine_tune(mongodb: str, project: str, tmp_path: Path) -> None:
    out = python(EXAMPLES / "fine_tune.py", mongodb, "", project, tmp_path)
    found = re.search(r"20 versions of ([\d.]+) MB take ([\d.]+) MB", out)
    assert found is not None and float(found[2]) < 1.3 * float(found[1])
    assert "head/kernel" in out and "backbone" not in out.partition("tensors")[2]
    best, kept = re.search(r"best: version (\d+)", out), re.search(r"kept \[(.*)\]", out)
    assert best is not None and kept is not None
    numbers = [int(number) for number in kept[1].split(", ")]
    assert {20, 19, 18, 17, 16, 10, int(best[1])} <= set(numbers) and len(numbers) <= 9


def test_resume_after_kill(mongodb: str, project: str, tmp_path: Path) -> None:
    lines = python(EXAMPLES / "resume_after_kill.py", mongodb, "", project, tmp_path).splitlines()
    assert lines[1].endswith("exit code -9")
    assert lines[0].split()[-3:] == lines[2].split()[-3:] and "step 57" in lines[0]


def test_promote_and_serve(mongodb: str, project: str, tmp_path: Path) -> None:
    out = python(EXAMPLES / "promote_and_serve.py", mongodb, "", project, tmp_path)
    saved = [float(rate) for rate in re.findall(r"^version .* accuracy (.*)$", out, re.MULTILINE)]
    served = [float(rate) for rate in re.findall(r"prod is version \d+, (.*?) of", out)]
    assert served == [saved[0], max(saved), saved[0]] and max(saved) > saved[0]
    assert "points to version" in out and out.count("prod: ") == 3


def test_compare_runs(mongodb: str, project: str, tmp_path: Path) -> None:
    picture = tmp_path / "runs.png"
    out = python(EXAMPLES / "compare_runs.py", mongodb, "", project, tmp_path, str(picture))
    assert out.startswith("best: rate 0.01\n")
    assert re.search(r"params.rate +0.0001 +0.001 +0.01 +0.1", out)
    assert picture.read_bytes().startswith(b"\x89PNG")

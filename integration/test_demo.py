"""`keras-tl demo` as a newcomer runs it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from keras_tl import demo
from keras_tl.hub import Hub


@pytest.fixture(autouse=True)
def hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_TEST_HIDE", "tensorflow")  # and not scikit-learn


def keras_tl(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keras_tl", *arguments],
        env={**os.environ, "KERAS_TL_HOME": str(home), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_demo(tmp_path: Path) -> None:
    done = keras_tl("demo", "--broker", "tansu", home=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]  # not 0 if the accuracy is 0.95 or less
    killed = int(re.findall(r"Killed with SIGKILL at step (\d+)", done.stdout)[0])
    starts = [int(step) for step in re.findall(r"│ \d +│ [\d:]{8} +│ (\d+) ", done.stdout)]
    assert len(starts) == 2 and starts[0] == 0  # two attempts of one run
    # The second goes on from a version of the first: not from the start, nor past what it did.
    assert 0 < starts[1] < killed + 60
    assert re.search(r"│ 10 +│ 450 ", done.stdout)  # the last epoch ends at the last step
    status = keras_tl("status", "--json", home=tmp_path)
    assert status.returncode == 1  # it stopped what it had started
    assert not json.loads(status.stdout)["mongodb"]["running"]


def test_without_scikit_learn_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install keras_tl\[demo\]"):
        demo.run(str(tmp_path), "tansu", 1)
    assert not list(tmp_path.iterdir())


def test_a_source_that_fails_ends_the_demo_and_its_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*arguments, **options))
        return children[-1]

    def produce(hub: Hub, topic: str, passes: int) -> None:
        raise OSError("the camera is off")

    monkeypatch.setattr(demo, "produce", produce)
    hub = Hub.local(str(tmp_path), project="keras_tl_demo_test", broker="tansu")
    try:
        source = demo._Source(hub, "nothing", 1)
        source.start()
        source.join()
        monkeypatch.setattr(subprocess, "Popen", recorded)
        with pytest.raises(RuntimeError, match="The source failed: the camera is off"):
            demo._trainer(Console(file=io.StringIO()), hub, source, 1, 45)
    finally:
        hub.close()
    assert [child.poll() for child in children] == [-9]

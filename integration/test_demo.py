"""`keras-tl demo` as a newcomer runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path


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

"""The examples of sequences run as they stand; they need no server."""

from __future__ import annotations

import re
from pathlib import Path

from test_readme import EXAMPLES, python


def run(name: str, home: Path, *arguments: str) -> str:
    return python(EXAMPLES / name, "", "", "test_sequences", home, *arguments)


def test_translate_dates(tmp_path: Path) -> None:
    out = run("translate_dates.py", tmp_path, "1")  # all of it is right after two epochs
    right = re.search(r"^([\d.]+)% of 2000 new dates are exact$", out, re.MULTILINE)
    assert right is not None and float(right[1]) > 60


def test_crf_tagger(tmp_path: Path) -> None:
    out = run("crf_tagger.py", tmp_path)
    whole = dict(re.findall(r"^(softmax|CRF): .* ([\d.]+)% of the lines", out, re.MULTILINE))
    assert float(whole["CRF"]) > float(whole["softmax"])


def test_word2vec(tmp_path: Path) -> None:
    out = run("word2vec.py", tmp_path, "vectors.png")
    near = dict(re.findall(r"^(\w+): (.*)$", out, re.MULTILINE))
    assert "false" in near["true"].split(", ")
    assert (tmp_path / "vectors.png").read_bytes().startswith(b"\x89PNG")

"""Writes the golden files: `KERAS_BACKEND=jax python tests/layers/golden.py [NAME...]`.

Without a name: those that are missing. To be run with the oldest Keras (`.tox/oldest/bin/python`),
whose files the newer ones read. A golden file is a `.keras` file that jax wrote, with one
more member: the inputs, and the outputs in inference. The other backends read it in the harness.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
from harness import GOLDEN, Case, cases, golden_path, run


def write(case: Case, path: Path) -> None:
    keras.utils.set_random_seed(0)
    layer = case.built(name=case.name.split("-")[0].lower())
    case.apply(layer, case.arrays(), training=True)  # state as training leaves it
    members = {f"input{i}": a for i, a in enumerate(case.arrays())}
    outs = run(case, layer, training=False)
    members |= {f"output{i}": o for i, o in enumerate(outs)}
    np.savez(stored := io.BytesIO(), **members)
    with tempfile.TemporaryDirectory() as folder:
        case.model(layer).save(plain := Path(folder) / "model.keras")
        with zipfile.ZipFile(plain) as source:
            contents = {name: source.read(name) for name in source.namelist()}
    contents[GOLDEN] = stored.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name, content in contents.items():
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    if keras.backend.backend() != "jax":
        raise SystemExit("golden files are written with KERAS_BACKEND=jax")
    names = set(sys.argv[1:])
    if unknown := names - {case.name for case in cases()}:
        raise SystemExit(f"no case is named {sorted(unknown)}")
    for case in cases():
        if case.name in names or (not names and not golden_path(case).exists()):
            write(case, golden_path(case))
            print(golden_path(case), golden_path(case).stat().st_size)

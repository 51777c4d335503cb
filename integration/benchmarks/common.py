"""What the benchmarks share: their arguments, their rows, and how they are shown and written.

A benchmark is a script with a function `measure(options, report)`; `main(__doc__, measure)` runs it
once for each backend, since Keras has one backend a process, and shows the rows of all. With
`options.only_backend_rows` it may leave out what another backend's process has measured already.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")
PACKAGES = (
    *("keras_tl", "keras", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch", "safetensors"),
    *("pymongo", "kafka-python", "mlflow", "datasets", "grain", "mosaicml-streaming", "fiftyone"),
)


@dataclass
class Row:
    """One result: ours (`value`) beside a peer's that was measured in the same run.

    `ratio` is ours over the peer's; `goal` is the issue's own wording.
    """

    what: str
    value: float | None
    unit: str
    peer: str
    peer_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


@dataclass
class Report:
    """Collects the rows of a run and the setting in which they were measured."""

    setting: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        peer: str,
        peer_value: float | None = None,
        goal: str | None = None,
        reached: Callable[[float], bool] | None = None,
    ) -> None:
        """Add a result; `reached` says of the value whether it meets the goal."""
        ratio = value / peer_value if peer_value else None
        met = bool(reached(value)) if reached else None
        self.rows.append(Row(what, value, unit, peer, peer_value, ratio, goal, met))

    def missing(self, what: str, value: float | None, unit: str, peer: str, goal: str) -> None:
        """Add the row of a peer that could not be measured; `peer` says why."""
        self.rows.append(Row(what, value, unit, peer, goal=goal))

    def server(self, name: str, version: str) -> None:
        """Note the version of a server that took part."""
        self.setting.setdefault("servers", {})[name] = version

    def write(self, path: str | Path) -> None:
        """Write setting and rows as JSON."""
        rows = [asdict(row) for row in self.rows]
        Path(path).write_text(json.dumps({"setting": self.setting, "rows": rows}, indent=1))

    def show(self) -> None:
        """Print the rows as a table."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table("what", "value", "unit", "peer", "peer's", "ratio", "goal", "met")
        for row in self.rows:
            met = {True: "yes", False: "NO", None: ""}[row.met]
            figures = [_figure(v) for v in (row.value, row.peer_value, row.ratio)]
            table.add_row(
                *(row.what, figures[0], row.unit, escape(row.peer)),
                *(figures[1], figures[2], escape(row.goal or ""), met),
            )
        versions = {**self.setting.get("packages", {}), **self.setting.get("servers", {})}
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(table)
        console.print(
            f"{self.setting.get('cores')} cores, Python {self.setting.get('python')}, "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main(description: str | None, measure: Callable[[argparse.Namespace, Report], None]) -> None:
    """Run a benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--backend", choices=BACKENDS, help="one backend; default: each installed")
    parser.add_argument("--json", metavar="FILE", help="write setting and rows there as well")
    # What `_each` says to all backends but the first one.
    parser.add_argument("--only-backend-rows", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        report = _one(options, measure)
    else:
        report = _each(options)
    report.show()
    if options.json:
        report.write(options.json)


def _one(
    options: argparse.Namespace, measure: Callable[[argparse.Namespace, Report], None]
) -> Report:
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("torch") and options.backend == "torch":
        import torch  # noqa: F401  # loaded after tensorflow, it crashes the interpreter
    import keras

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    report = Report(
        {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "keras": keras.__version__,
            "backend": options.backend,
            "quick": options.quick,
            "packages": versions,
        }
    )
    with tempfile.TemporaryDirectory(prefix="keras_tl-bench-") as home:
        os.environ["KERAS_TL_HOME"] = home  # journals and data of the run, gone with it
        measure(options, report)
    return report


def _each(options: argparse.Namespace) -> Report:
    together = Report()
    backends = [name for name in BACKENDS if importlib.util.find_spec(name)]
    for backend in backends:
        with tempfile.TemporaryDirectory(prefix="keras_tl-bench-") as folder:
            result = Path(folder) / "rows.json"
            command = [sys.executable, sys.argv[0], "--backend", backend, "--json", str(result)]
            command += ["--quick"] * options.quick
            command += ["--only-backend-rows"] * (backend != backends[0])
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found = json.loads(result.read_text())
        together.setting = {**found["setting"], "backend": ", ".join(backends)}
        together.rows += [Row(**row) for row in found["rows"]]
    return together

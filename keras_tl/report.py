"""Runs and versions as tables and curves in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models.reading import INDEX

if TYPE_CHECKING:
    from keras_tl.models import RunRecord, Versions

_BLOCKS = " ▁▂▃▄▅▆▇█"


def curve(values: np.ndarray, width: int = 72, height: int = 8) -> list[str]:
    """A curve as lines of block characters, the highest value on top.

    Args:
        values: finite numbers in order, shape `(n,)`.
        width: columns at most; more values are averaged.
        height: lines.

    Example:

    >>> curve(np.array([0.0, 1.0, 2.0]), width=3, height=1)
    ['       2 ┤ ▄█', '']
    """
    values = np.asarray(values, "float64")
    values = values[np.isfinite(values)]
    if not len(values):
        return []
    pieces = np.array_split(values, min(width, len(values)))
    means = np.array([piece.mean() for piece in pieces])
    low, high = float(means.min()), float(means.max())
    levels = (means - low) / ((high - low) or 1.0) * height * 8
    lines = []
    for line in reversed(range(height)):
        label = f"{high:8.4g}" if line == height - 1 else f"{low:8.4g}" if line == 0 else " " * 8
        filled = np.clip(np.round(levels - line * 8), 0, 8).astype(int)
        lines.append(f"{label} ┤{''.join(_BLOCKS[n] for n in filled)}")
    return [*lines, ""]


def show_run(run: RunRecord, metric: str = "loss") -> None:
    """Print a run: what it is, its attempts, its epochs and the curve of a metric."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    document = run.document
    env = document.get("env", {})
    name = escape(document["name"])
    console.print(f"[bold]run {run.id}[/bold]  {name}  [bold]{run.state}[/bold]", soft_wrap=True)
    console.print(
        f"on {document.get('host', '?')}, Keras {env.get('keras', '?')} with "
        f"{env.get('backend', '?')}, git {(document.get('git') or {}).get('sha', 'none')[:12]}",
        highlight=False,
    )
    for what, found in (("params", run.params), ("tags", run.tags)):
        if found:
            line = "  ".join(f"{key} {value}" for key, value in found.items())
            console.print(f"{what}: {escape(line)}", highlight=False)
    attempts = sorted(document["attempts"].values(), key=lambda a: (a["number"], a["started"]))
    table = Table("attempt", "started (UTC)", "from step", "process", title_justify="left")
    for i, a in enumerate(attempts):
        table.add_row(
            str(i + 1), f"{a['started']:%H:%M:%S}", str(a["start_step"]), f"{a['host']}:{a['pid']}"
        )
    console.print(table)
    epochs = run.events()
    names = [n for n in epochs if n not in INDEX]
    if len(epochs["step"]):
        table = Table("epoch", "step", *map(escape, names))
        for i in range(len(epochs["step"])):
            values = (f"{epochs[name][i]:.4g}" for name in names)
            table.add_row(str(epochs["epoch"][i] + 1), str(epochs["step"][i]), *values)
        console.print(table)
    rows = _rows(run, metric)
    if rows is not None:
        console.print(f"{escape(metric)} by step, to step {rows['step'][-1]}")
        for line in curve(rows[metric]):
            console.print(line, highlight=False)


def plot_runs(runs: Sequence[RunRecord], metric: str, path: str | os.PathLike[str]) -> None:
    """Draw a metric of several runs by step into a file; its suffix says the format.

    Args:
        runs: the runs; those that do not have the metric are left out.
        metric: its name: each batch's, where those were logged, else each epoch's.
        path: where to write, as `"loss.png"`.

    Raises:
        ImportError: without matplotlib (`pip install 'keras_tl[plot]'`).
        ValueError: if no run has the metric.

    Example:

    ```python
    keras_tl.report.plot_runs(hub.runs.where(model="digits"), "val_loss", "val_loss.png")
    ```
    """
    try:
        from matplotlib.figure import Figure  # draws without a display and without a global state
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install 'keras_tl[plot]'`.") from error
    curves = [(run, rows) for run in runs if (rows := _rows(run, metric)) is not None]
    if not curves:
        raise ValueError(f"`metric` must be one that a run has. Received: {metric!r}")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for run, rows in curves:
        marker = "." if len(rows["step"]) < 50 else None  # a single point is no line
        axes.plot(rows["step"], rows[metric], marker=marker, label=f"{run.name}  {run.id}")
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _rows(run: RunRecord, metric: str) -> dict[str, np.ndarray] | None:
    for kind in ("batch", "epoch"):
        try:
            rows = run.events(metric, kind=kind)
        except ValueError:
            continue
        if len(rows["step"]):
            return rows
    return None


def show_versions(model: Versions, limit: int = 20) -> None:
    """Print a model's versions, newest first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    names: dict[int, list[str]] = {}
    for alias, number in model.aliases.items():
        names.setdefault(number, []).append(alias)
    table = Table(
        *("version", "aliases", "from", "epoch", "step", "run", "metrics", "offsets"),
        title=escape(f"model {model.key}"),
        title_justify="left",
    )
    for i, version in enumerate(model.where(limit + 1)):
        if i == limit:
            table.add_row("...")
            break
        table.add_row(
            str(version.number),
            escape(", ".join(names.get(version.number, []))),
            "" if version.parent is None else str(version.parent),
            str(version.epoch),
            str(version.step),
            version.run[-12:],
            escape("  ".join(f"{n} {v:.4g}" for n, v in version.metrics.items())),
            _offsets(version.cursor),
        )
    Console().print(table)


def _offsets(cursor: dict[str, Any] | None) -> str:
    if cursor is None:
        return ""
    parts = (f"{p['partition']}:{p['offset']}" for p in cursor["partitions"])
    return f"{cursor['topic']} {' '.join(parts)}"

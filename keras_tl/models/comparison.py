"""Runs side by side: what differs between them, and what they reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_tl.models import fields
from keras_tl.models.record import RunRecord

if TYPE_CHECKING:
    import pandas

_MISSING = "-"


class Comparison:
    """A table of runs: a column each, a row for each thing that differs, and their metrics.

    Rows are `name`, `model`, `state` and `step`; of `params.*`, `tags.*`, `git.*` and `env.*`
    (packages, Python, backend, host) those in which the runs differ; and `last.*` and `best.*`
    of each metric. Printed, it is a table in plain text.

    Args:
        runs: what to compare.
        metric: the only metric to show; `None`: all.

    Attributes:
        runs: the runs.
        rows: values by name, one for each run; `None` where a run has none.
    """

    def __init__(self, runs: Sequence[RunRecord], metric: str | None = None) -> None:
        self.runs = list(runs)
        differing = [_about(run) for run in self.runs]
        names = dict.fromkeys(name for about in differing for name in about)
        self.rows: dict[str, list[Any]] = {
            name: [run.document.get(fields.path(name)) for run in self.runs]
            for name in ("name", "model", "state", "step")
        }
        for name in sorted(names):
            values = [about.get(name) for about in differing]
            if any(value != values[0] for value in values):
                self.rows[name] = values
        metrics = [fields.metrics(run.document) for run in self.runs]
        for name in sorted({name for values in metrics for name in values}):
            if metric is None or name.partition(".")[2] == metric:
                self.rows[name] = [values.get(name) for values in metrics]

    def __repr__(self) -> str:
        return f"Comparison({[run.id for run in self.runs]!r}, {len(self.rows)} rows)"

    def __str__(self) -> str:
        table = [["run", *(run.id for run in self.runs)]]
        table += [[name, *map(_text, values)] for name, values in self.rows.items()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )

    def frame(self) -> pandas.DataFrame:
        """The table as a data frame: rows by name, a column for each run's id.

        Raises:
            ImportError: without pandas (`pip install 'keras_tl[pandas]'`).
        """
        from keras_tl.models import frames

        columns = [run.id for run in self.runs]
        data = list(self.rows.values())
        return frames.module().DataFrame(data, index=list(self.rows), columns=columns)


def _about(run: RunRecord) -> dict[str, Any]:
    document = run.document
    env = {"host": document.get("host"), **(document.get("env") or {})}
    found = fields.flat(document.get("params", {}), "params.")
    found |= fields.flat(document.get("tags", {}), "tags.")
    return found | fields.flat(run.git, "git.") | fields.flat(env, "env.")


def _text(value: Any) -> str:
    if value is None:
        return _MISSING
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

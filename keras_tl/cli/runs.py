"""`keras-tl runs`: look at runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from keras_tl.cli.common import Commands, echo_json, hub_options, table

if TYPE_CHECKING:
    from keras_tl.hub import Hub


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--limit", default=20, show_default=True, help="At most so many, newest first.")
@click.pass_context
@hub_options
def runs(hub: Hub, ctx: click.Context, limit: int, as_json: bool) -> None:
    """List runs; `runs show ID` for one."""
    if ctx.invoked_subcommand:
        return
    found = hub.runs.where(limit=limit)
    if as_json:
        return echo_json([{**run.document, "state": run.state} for run in found])
    table(
        f"runs of {hub.project}",
        ["id", "name", "model", "state", "started (UTC)", "attempts", "step", "last"],
        (
            [
                run.id,
                run.document["name"],
                run.document.get("model"),
                run.state,
                f"{run.document['started']:%Y-%m-%d %H:%M:%S}",
                len(run.document["attempts"]),
                run.document.get("last_step"),
                _metrics(run.last),
            ]
            for run in found
        ),
    )


@runs.command("show")
@click.argument("run")
@click.option("--metric", default="loss", show_default=True, help="What to plot.")
@hub_options
def show_run(hub: Hub, run: str, metric: str, as_json: bool) -> None:
    """One run: its attempts, its epochs and a curve. RUN is an id or its beginning."""
    found = hub.runs[run]
    epochs = found.events()
    if as_json:
        columns = {name: column.tolist() for name, column in epochs.items()}
        return echo_json({**found.document, "state": found.state, "epochs": columns})
    from keras_tl import report

    report.show_run(found, metric)


def _metrics(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())

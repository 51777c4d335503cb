"""`keras-tl runs`: look at runs, find them, compare them and take them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from keras_tl.cli.common import (
    Commands,
    echo_json,
    hub_options,
    parse_conditions,
    table,
    where_option,
)

if TYPE_CHECKING:
    from keras_tl.hub import Hub
    from keras_tl.models import RunRecord

where = where_option("state=failed, params.lr__gt=0.1, started__after=2026-01-31T00:00Z")


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--limit", default=20, show_default=True, help="At most so many.")
@where
@click.option("--order", help="Smallest first, as in params.lr; greatest first with a - before it.")
@click.pass_context
@hub_options
def runs(
    hub: Hub,
    ctx: click.Context,
    limit: int,
    conditions: tuple[str, ...],
    order: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first; `runs show ID` for one."""
    if ctx.invoked_subcommand:
        return
    found = hub.runs.where(limit, order, **parse_conditions(conditions))
    if as_json:
        return echo_json([run.document for run in found])
    table(
        f"runs of {hub.project}",
        ["id", "name", "model", "state", "started (UTC)", "attempts", "step", "last"],
        (
            [
                run.id,
                run.name,
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
    _show(hub.runs[run], metric, as_json)


@runs.command()
@click.argument("metric")
@click.option("--mode", default="auto", type=click.Choice(["auto", "min", "max"]))
@where
@hub_options
def best(hub: Hub, metric: str, mode: str, conditions: tuple[str, ...], as_json: bool) -> None:
    """The run with the best value of METRIC in any epoch."""
    _show(hub.runs.best(metric, mode, **parse_conditions(conditions)), metric, as_json)


@runs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID ID...")
@click.option("--metric", help="The only metric to show, and what to plot (default: loss).")
@click.option("--plot", metavar="FILE.png", help="Draw the curves of all into this file.")
@hub_options
def compare(
    hub: Hub, ids: tuple[str, ...], metric: str | None, plot: str | None, as_json: bool
) -> None:
    """What differs between runs, and what they reached."""
    found = hub.runs.compare(ids, metric)
    if plot is not None:
        from keras_tl import report

        report.plot_runs(found.runs, metric or "loss", plot)
    if as_json:
        return echo_json({"runs": [run.id for run in found.runs], "rows": found.rows})
    click.echo(str(found))


@runs.command()
@click.argument("run")
@click.option("--metric", "metrics", multiple=True, help="Only this one; may be repeated.")
@click.option("--kind", default="batch", show_default=True, help="Kind of events.")
@click.option("-n", "rows", default=10, show_default=True, help="Steps to show of those before.")
@hub_options
def tail(hub: Hub, run: str, metrics: tuple[str, ...], kind: str, rows: int, as_json: bool) -> None:
    """Events of a run as they arrive, until it is over."""
    found = hub.runs[run]
    after = (found.document.get("last_step") or 0) - rows
    for row in found.tail(*metrics, kind=kind, after=after):
        if as_json:  # a line each
            echo_json({name: _listed(value) for name, value in row.items()}, indent=None)
            continue
        values = {k: v for k, v in row.items() if k not in _HIDDEN}
        click.echo("  ".join(f"{name} {_figure(value)}" for name, value in values.items()))


@runs.command()
@click.argument("run")
@click.option("--kind", default="epoch", show_default=True, help="Kind of events.")
@click.option("--metric", "metrics", multiple=True, help="Only this one; may be repeated.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@hub_options
def events(
    hub: Hub, run: str, kind: str, metrics: tuple[str, ...], as_csv: bool, as_json: bool
) -> None:
    """Events of a run, ordered by step."""
    found = hub.runs[run]
    columns = {n: list(map(_listed, c)) for n, c in found.events(*metrics, kind=kind).items()}
    if as_json:
        return echo_json(columns)
    rows = zip(*columns.values(), strict=True)
    if as_csv:
        import csv
        import sys

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        return writer.writerows(rows)
    shown = [name for name in columns if name not in _HIDDEN]
    table(
        f"{kind} events of {found.id}",
        shown,
        (map(_figure, row) for row in zip(*(columns[name] for name in shown), strict=True)),
    )


@runs.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@hub_options
def delete(hub: Hub, run: str, yes: bool, as_json: bool) -> None:
    """Delete a run and its events; versions that it saved stay. RUN is the whole id."""
    if not yes:
        click.confirm(f"Delete the run {run} with all its events?", abort=True, err=True)
    hub.runs.delete(run)
    echo_json({"deleted": run}) if as_json else click.echo(f"Deleted {run}.")


@runs.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@where
@click.option("--parquet", metavar="FOLDER", help="As Parquet files in this folder.")
@click.option("--mlflow", metavar="URI", help="Into MLflow's tracking store at this URI.")
@click.option("--experiment", help="MLflow's experiment. Default: the project's name.")
@click.option("--versions", is_flag=True, help="Attach the versions that the runs saved (MLflow).")
@hub_options
def export(
    hub: Hub,
    ids: tuple[str, ...],
    conditions: tuple[str, ...],
    parquet: str | None,
    mlflow: str | None,
    experiment: str | None,
    versions: bool,
    as_json: bool,
) -> None:
    """Copy runs, or all of them, to Parquet files or to MLflow; again adds only what is new."""
    if (parquet is None) == (mlflow is None):
        raise click.UsageError("Give one of --parquet and --mlflow.")
    chosen = parse_conditions(conditions)
    if ids:
        chosen["id__in"] = [hub.runs[run].id for run in ids]
    if parquet is not None:
        paths = hub.runs.to_parquet(parquet, **chosen)
        return echo_json(paths) if as_json else click.echo(f"Wrote {len(paths)} files.")
    import os

    assert mlflow is not None
    # MLflow tells its makers of each use, and the terminal of each table that it makes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    copies = hub.runs.to_mlflow(mlflow, experiment, versions=versions, **chosen)
    echo_json(copies) if as_json else click.echo(f"Copied {len(copies)} runs.")


_HIDDEN = ("time", "attempt", "rank")


def _show(run: RunRecord, metric: str, as_json: bool) -> None:
    if as_json:
        columns = {name: column.tolist() for name, column in run.events().items()}
        return echo_json({**run.document, "epochs": columns})
    from keras_tl import report

    report.show_run(run, metric)


def _metrics(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _listed(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(_listed(value))

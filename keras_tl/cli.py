"""The command `keras-tl`.

Exit codes: 0 done, 1 it failed (the reason is on stderr), 2 wrong usage.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keras_tl.hub import Hub


class _Commands(click.Group):
    """Turns the errors that a user can mend into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, KeyError, ImportError, RuntimeError, OSError) as error:
            if isinstance(error, click.exceptions.Exit | click.Abort):
                raise
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise _one_line(str(message)) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("pymongo", "kafka"):
                raise
            raise _one_line(f"{type(error).__name__}: {error}") from error


def _one_line(message: str) -> click.ClickException:
    from keras_tl.storage.connection import redact

    return click.ClickException(" ".join(redact(message).split()))


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json` and the options that say which servers, and passes a hub on."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
    @click.option("--mongodb", help="URI. Default: KERAS_TL_MONGODB, the config file, `up`.")
    @click.option("--kafka", help="Bootstrap servers. Default: KERAS_TL_KAFKA, ...")
    @click.option("--project", help="Project. Default: KERAS_TL_PROJECT, else keras_tl.")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        mongodb: str | None,
        kafka: str | None,
        project: str | None,
        as_json: bool,
        **options: Any,
    ) -> Any:
        # As in `keras-tl runs --project p show ID`: the group's options hold for its commands.
        parent = click.get_current_context().parent
        above = parent.params if parent is not None else {}
        mongodb, kafka = mongodb or above.get("mongodb"), kafka or above.get("kafka")
        with _hub(mongodb, kafka, project or above.get("project")) as hub:
            return function(hub, *args, as_json=as_json or above.get("as_json", False), **options)

    return wrapper


def _hub(mongodb: str | None, kafka: str | None, project: str | None) -> Hub:
    from keras_tl.hub import Hub
    from keras_tl.storage.settings import configured

    if not mongodb and "mongodb" not in configured():
        from keras_tl import services

        local = services.status()
        if local["mongodb"]["running"]:
            mongodb = local["mongodb"]["uri"]
            kafka = kafka or (local["kafka"]["uri"] if local["kafka"]["running"] else None)
    return Hub(mongodb, kafka, project)


def _echo_json(value: Any) -> None:
    from bson import json_util

    options = json_util.RELAXED_JSON_OPTIONS
    click.echo(
        json.dumps(_finite(json.loads(json_util.dumps(value, json_options=options))), indent=2)
    )


def _finite(value: Any) -> Any:
    """JSON has no NaN: `null` for those."""
    if isinstance(value, Mapping):
        if set(value) == {"$numberDouble"}:  # how MongoDB's extended JSON writes NaN
            return None
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0, overflow="fold")  # the first names the row
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    Console().print(table)


@click.group(cls=_Commands)
@click.version_option(package_name="keras_tl")
def main() -> None:
    """Models, runs and streams of Keras in MongoDB and Kafka."""


@main.command()
@click.option("--folder", help="Where the stack's data lives. Default: ~/.keras_tl/local.")
@click.option("--broker", help="kafka, kafka-docker or tansu. Default: the best that is found.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the training digits.")
@click.option("--keep", is_flag=True, help="Leave the servers running.")
@click.option("--no-kill", is_flag=True, help="Let the trainer live.")
def demo(folder: str | None, broker: str | None, epochs: int, keep: bool, no_kill: bool) -> None:
    """The main job on real digits: stream, train, kill, resume, look."""
    from keras_tl.demo import run

    run(folder, broker, epochs, keep=keep, kill=not no_kill)


@main.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--broker", help="kafka, kafka-docker or tansu. Default: the best that is found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def up(folder: str | None, broker: str | None, as_json: bool) -> None:
    """Start MongoDB and Kafka on this machine, or join those that run."""
    from keras_tl import services

    stack = services.up(folder, broker=broker)
    if as_json:
        return _echo_json(services.status(folder))
    click.echo(f"export KERAS_TL_MONGODB='{stack.mongodb}'")
    click.echo(f"export KERAS_TL_KAFKA='{stack.kafka}'")
    for note in stack.notes:
        click.echo(f"# {note}")


@main.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def status(folder: str | None, as_json: bool) -> None:
    """What runs of the local stack; exit code 1 if not all of it does."""
    from keras_tl import services

    found = services.status(folder)
    if as_json:
        _echo_json(found)
    else:
        _table(
            str(found["folder"]),
            ["service", "running", "pid", "address", "version"],
            (
                [
                    name,
                    "yes" if s["running"] else "no",
                    s.get("pid"),
                    s.get("uri"),
                    s.get("version"),
                ]
                for name, s in ((name, found[name]) for name in ("mongodb", "kafka"))
            ),
        )
    if not (found["mongodb"]["running"] and found["kafka"]["running"]):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def down(folder: str | None, as_json: bool) -> None:
    """Stop the local stack; its data stays."""
    from keras_tl import services

    stopped = services.down(folder)
    if as_json:
        return _echo_json({"stopped": stopped})
    click.echo(f"Stopped: {', '.join(stopped) or 'nothing was running'}.")


@main.command()
@_options
def sync(hub: Hub, as_json: bool) -> None:
    """Send what killed or cut-off processes left in their journals on this machine."""
    counts = hub.sync()
    if as_json:
        return _echo_json(counts)
    click.echo(
        f"Sent {counts['versions']} versions and {counts['events']} events from "
        f"{counts['journals']} journals."
    )
    if counts["others"]:
        click.echo(f"{counts['others']} journals of other servers or projects stay.")


@main.group(cls=_Commands, invoke_without_command=True)
@click.option("--limit", default=20, show_default=True, help="At most so many, newest first.")
@click.pass_context
@_options
def runs(hub: Hub, ctx: click.Context, limit: int, as_json: bool) -> None:
    """List runs; `runs show ID` for one."""
    if ctx.invoked_subcommand:
        return
    found = hub.runs.where(limit=limit)
    if as_json:
        return _echo_json([{**run.document, "state": run.state} for run in found])
    _table(
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
@_options
def show_run(hub: Hub, run: str, metric: str, as_json: bool) -> None:
    """One run: its attempts, its epochs and a curve. RUN is an id or its beginning."""
    found = hub.runs[run]
    epochs = found.events()
    if as_json:
        columns = {name: column.tolist() for name, column in epochs.items()}
        return _echo_json({**found.document, "state": found.state, "epochs": columns})
    from keras_tl import report

    report.show_run(found, metric)


@main.group(cls=_Commands, invoke_without_command=True)
@click.pass_context
@_options
def models(hub: Hub, ctx: click.Context, as_json: bool) -> None:
    """List models; `models show KEY` for one."""
    if ctx.invoked_subcommand:
        return
    found = [(key, hub.models[key]) for key in hub.models]
    if as_json:
        return _echo_json([{"key": k, "versions": len(m), "aliases": m.aliases} for k, m in found])
    _table(
        f"models of {hub.project}",
        ["model", "versions", "aliases"],
        ([k, len(m), ", ".join(f"{a} → {v}" for a, v in m.aliases.items())] for k, m in found),
    )


@models.command("show")
@click.argument("key")
@click.option("--limit", default=20, show_default=True, help="At most so many, newest first.")
@_options
def show_model(hub: Hub, key: str, limit: int, as_json: bool) -> None:
    """One model's versions."""
    model = hub.models[key]
    if not len(model):
        raise KeyError(f"`key` must be the key of a model of {hub.project!r}. Received: {key!r}")
    if as_json:
        return _echo_json(
            {"key": key, "aliases": model.aliases, "versions": [v.document for v in model]}
        )
    from keras_tl import report

    report.show_versions(model, limit)


def _metrics(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())

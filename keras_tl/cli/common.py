"""What the commands share: their errors, their options and how they print."""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keras_tl.hub import Hub


class Commands(click.Group):
    """Turns the errors that a user can mend into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, KeyError, ImportError, RuntimeError, OSError) as error:
            if isinstance(error, click.exceptions.Exit | click.Abort | BrokenPipeError):
                raise
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise _one_line(str(message)) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("pymongo", "kafka", "mlflow"):
                raise
            raise _one_line(f"{type(error).__name__}: {error}") from error


def _one_line(message: str) -> click.ClickException:
    from keras_tl.storage.connection import redact

    return click.ClickException(printable(" ".join(redact(message).split())))


def hub_options(function: Callable[..., Any]) -> Callable[..., Any]:
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


def where_option(examples: str) -> Callable[..., Any]:
    """The option `--where`, whose values come as `conditions`."""
    return click.option(
        "--where",
        "conditions",
        multiple=True,
        metavar="NAME__OPERATOR=VALUE",
        help=f"As in {examples}.",
    )


def parse_conditions(conditions: Iterable[str]) -> dict[str, Any]:
    """`params.lr__gt=0.1` as a condition of `where`: JSON, a time, else text."""
    found: dict[str, Any] = {}
    for condition in conditions:
        name, separator, text = condition.partition("=")
        if not separator or not name:
            raise ValueError(f"`--where` must be NAME=VALUE. Received: {condition!r}")
        time = name.endswith(("__after", "__before"))
        read: Callable[[str], Any] = datetime.datetime.fromisoformat if time else json.loads
        try:
            found[name] = read(text)
        except ValueError:
            found[name] = text
    return found


def printable(text: str) -> str:
    """Text of the data for a terminal: what would steer it is spelled out; lines stay lines.

    Example:

    >>> printable("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def echo_json(value: Any, indent: int | None = 2) -> None:
    """Print what documents hold as JSON."""
    from bson import json_util

    options = json_util.RELAXED_JSON_OPTIONS
    click.echo(
        json.dumps(_finite(json.loads(json_util.dumps(value, json_options=options))), indent=indent)
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


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows of cells."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(printable(title)), title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, no_wrap=i == 0, overflow="fold")  # the first names the row
    for row in rows:
        made.add_row(*("" if cell is None else escape(printable(str(cell))) for cell in row))
    Console().print(made)

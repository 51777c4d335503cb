"""`keras-tl runs set|pause|resume|stop`: orders to a run that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from keras_tl.cli.common import echo_json, hub_options
from keras_tl.cli.runs import runs

if TYPE_CHECKING:
    from keras_tl.hub import Hub

_wait = click.option(
    "--wait",
    "timeout",
    default=3.0,
    show_default=True,
    help="How long to wait until the run says what it did, in s.",
)


@runs.command("set")
@click.argument("run")
@click.argument("values", nargs=-1, required=True, metavar="NAME=NUMBER...")
@_wait
@hub_options
def set_values(hub: Hub, run: str, values: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Set the learning rate, or a control variable, of a run that trains.

    As in `keras-tl runs set 2026 learning_rate=1e-4 gate/alpha=0.5`. RUN is an id or its beginning.
    """
    _send(hub, run, "set", dict(map(_parse, values)), timeout, as_json)


def _command(action: str, text: str) -> click.Command:
    @click.argument("run")
    @_wait
    @hub_options
    def command(hub: Hub, run: str, timeout: float, as_json: bool) -> None:
        _send(hub, run, action, {}, timeout, as_json)

    made: Callable[..., click.Command] = runs.command(action, help=text)
    return made(command)


pause = _command("pause", "Let a run wait between two steps. RUN is an id or its beginning.")
resume = _command("resume", "Let a paused run go on. RUN is an id or its beginning.")
stop = _command("stop", "End a run after its next step. RUN is an id or its beginning.")


def _send(
    hub: Hub, run: str, action: str, values: dict[str, Any], timeout: float, as_json: bool
) -> None:
    from keras_tl.models import orders

    found = hub.runs[run]
    order = orders.send(hub.connection, found.id, action, values)
    document = orders.wait(hub.connection, order, timeout)
    if document["state"] == "refused":
        raise ValueError(document["reason"])
    if as_json:
        return echo_json({**document, "_id": order})
    if document["state"] == "pending":
        return click.echo(f"{order}: sent, and not applied yet")
    click.echo(f"{order}: applied before step {document['applied']['step']}")


def _parse(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if not sign or not isinstance(parsed, (bool, int, float)):
        raise click.UsageError(f"NAME=NUMBER must be as in learning_rate=0.001. Received: {text}")
    return name, parsed

"""`keras-tl demo, up, status, down, sync`: the local stack and what was left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keras_tl.cli.common import echo_json, hub_options, table

if TYPE_CHECKING:
    from keras_tl.hub import Hub


@click.command()
@click.option("--folder", help="Where the stack's data lives. Default: ~/.keras_tl/local.")
@click.option("--broker", help="kafka, kafka-docker or tansu. Default: the best that is found.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the training digits.")
@click.option("--keep", is_flag=True, help="Leave the servers running.")
@click.option("--no-kill", is_flag=True, help="Let the trainer live.")
def demo(folder: str | None, broker: str | None, epochs: int, keep: bool, no_kill: bool) -> None:
    """The main job on real digits: stream, train, kill, resume, look."""
    from keras_tl.demo import run

    run(folder, broker, epochs, keep=keep, kill=not no_kill)


@click.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--broker", help="kafka, kafka-docker or tansu. Default: the best that is found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def up(folder: str | None, broker: str | None, as_json: bool) -> None:
    """Start MongoDB and Kafka on this machine, or join those that run."""
    from keras_tl import services

    stack = services.up(folder, broker=broker)
    if as_json:
        return echo_json(services.status(folder))
    click.echo(f"export KERAS_TL_MONGODB='{stack.mongodb}'")
    click.echo(f"export KERAS_TL_KAFKA='{stack.kafka}'")
    for note in stack.notes:
        click.echo(f"# {note}")


@click.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def status(folder: str | None, as_json: bool) -> None:
    """What runs of the local stack; exit code 1 if not all of it does."""
    from keras_tl import services

    found = services.status(folder)
    if as_json:
        echo_json(found)
    else:
        table(
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


@click.command()
@click.option("--folder", help="Where the data lives. Default: ~/.keras_tl/local.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def down(folder: str | None, as_json: bool) -> None:
    """Stop the local stack; its data stays."""
    from keras_tl import services

    stopped = services.down(folder)
    if as_json:
        return echo_json({"stopped": stopped})
    click.echo(f"Stopped: {', '.join(stopped) or 'nothing was running'}.")


@click.command()
@hub_options
def sync(hub: Hub, as_json: bool) -> None:
    """Send what killed or cut-off processes left in their journals on this machine."""
    counts = hub.sync()
    if as_json:
        return echo_json(counts)
    click.echo(
        f"Sent {counts['versions']} versions and {counts['events']} events from "
        f"{counts['journals']} journals."
    )
    if counts["others"]:
        click.echo(f"{counts['others']} journals of other servers or projects stay.")

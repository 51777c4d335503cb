"""`keras-tl models`: look at models and their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keras_tl.cli.common import Commands, echo_json, hub_options, table

if TYPE_CHECKING:
    from keras_tl.hub import Hub


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
@hub_options
def models(hub: Hub, ctx: click.Context, as_json: bool) -> None:
    """List models; `models show KEY` for one."""
    if ctx.invoked_subcommand:
        return
    found = [(key, hub.models[key]) for key in hub.models]
    if as_json:
        return echo_json([{"key": k, "versions": len(m), "aliases": m.aliases} for k, m in found])
    table(
        f"models of {hub.project}",
        ["model", "versions", "aliases"],
        ([k, len(m), ", ".join(f"{a} → {v}" for a, v in m.aliases.items())] for k, m in found),
    )


@models.command("show")
@click.argument("key")
@click.option("--limit", default=20, show_default=True, help="At most so many, newest first.")
@hub_options
def show_model(hub: Hub, key: str, limit: int, as_json: bool) -> None:
    """One model's versions."""
    model = hub.models[key]
    if not len(model):
        raise KeyError(f"`key` must be the key of a model of {hub.project!r}. Received: {key!r}")
    if as_json:
        return echo_json(
            {"key": key, "aliases": model.aliases, "versions": [v.document for v in model]}
        )
    from keras_tl import report

    report.show_versions(model, limit)

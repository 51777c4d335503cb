"""`keras-tl models`: look at versions, promote, compare, export and delete them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_tl.cli.common import Commands, echo_json, hub_options, table

if TYPE_CHECKING:
    from keras_tl.hub import Hub
    from keras_tl.models import Versions


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
@hub_options
def models(hub: Hub, ctx: click.Context, as_json: bool) -> None:
    """List models; `models show KEY` for one. VERSION is a number or an alias."""
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
    """One model's versions, without those that were deleted."""
    model = _model(hub, key)
    if as_json:
        found = [v.document for v in model]
        return echo_json({"key": key, "aliases": model.aliases, "versions": found})
    from keras_tl import report

    report.show_versions(model, limit)


@models.command()
@click.argument("key")
@click.argument("version")
@click.argument("alias")
@click.option("--expect", type=int, help="Only if ALIAS points to this version; 0: to none.")
@click.option("--unless-worse", metavar="METRIC", help="Only if it is not worse than that one.")
@click.option("--note", default="", help="Why, for people.")
@hub_options
def promote(
    hub: Hub,
    key: str,
    version: str,
    alias: str,
    expect: int | None,
    unless_worse: str | None,
    note: str,
    as_json: bool,
) -> None:
    """Let ALIAS point to VERSION, and record who did it."""
    model = _model(hub, key)
    options: dict[str, Any] = {"note": note, "unless_worse": unless_worse}
    if expect is not None:
        options["expected"] = expect or None
    found = model.promote(alias, _version(version), **options)
    if as_json:
        return echo_json({"key": key, "alias": alias, "version": found.number})
    click.echo(f"{alias} of {key} is version {found.number}.")


@models.command()
@click.argument("key")
@click.argument("alias")
@click.option("--note", default="", help="Why, for people.")
@hub_options
def demote(hub: Hub, key: str, alias: str, note: str, as_json: bool) -> None:
    """Remove ALIAS, and record who did it; the version stays."""
    _model(hub, key).demote(alias, note=note)
    if as_json:
        return echo_json({"key": key, "alias": alias, "version": None})
    click.echo(f"{alias} of {key} is removed.")


@models.command()
@click.argument("key")
@click.argument("alias", required=False)
@hub_options
def history(hub: Hub, key: str, alias: str | None, as_json: bool) -> None:
    """Every move of ALIAS, or of all aliases, oldest first."""
    found = _model(hub, key).history(alias)
    if alias is not None and not found:
        raise KeyError(f"`alias` must be one that {key!r} has or had. Received: {alias!r}")
    if as_json:
        return echo_json(found)
    columns = ["alias", "from", "to", "at (UTC)", "by", "note"]
    rows = (
        [m["alias"], m["from"], m["version"], f"{m['at']:%Y-%m-%d %H:%M:%S}", *_who(m)]
        for m in found
    )
    table(f"aliases of {key}", columns, rows)


@models.command()
@click.argument("key")
@click.argument("old")
@click.argument("new", default="latest")
@click.option("--values", is_flag=True, help="Read the tensors: how far did they move?")
@hub_options
def diff(hub: Hub, key: str, old: str, new: str, values: bool, as_json: bool) -> None:
    """What changed from version OLD to NEW: config, tensors, metrics, data, code."""
    found = _model(hub, key).diff(_version(old), _version(new), values=values)
    echo_json(found.to_dict()) if as_json else click.echo(str(found))


@models.command()
@click.argument("key")
@click.argument("version", default="latest")
@click.option("--patch", is_flag=True, help="Print what was changed over the commit, as a patch.")
@hub_options
def lineage(hub: Hub, key: str, version: str, patch: bool, as_json: bool) -> None:
    """What VERSION was made from: run, code, environment, parents, data."""
    found = _model(hub, key).lineage(_version(version))
    if as_json:
        return echo_json(found.to_dict())
    click.echo((found.patch or "") if patch else str(found), nl=not patch)


@models.command()
@click.argument("key")
@click.argument("version")
@hub_options
def delete(hub: Hub, key: str, version: str, as_json: bool) -> None:
    """Delete VERSION; `models gc` then frees its room."""
    model = _model(hub, key)
    found = model.version(_version(version))
    model.delete(found)
    if as_json:
        return echo_json({"key": key, "deleted": [found.number]})
    click.echo(f"Version {found.number} of {key} is deleted.")


@models.command()
@click.argument("key")
@click.option("--last", type=int, help="Keep so many of the newest.")
@click.option("--best", type=int, help="Keep so many of the best.")
@click.option("--monitor", default="val_loss", show_default=True, help="Best by this metric.")
@click.option("--mode", default="auto", type=click.Choice(["auto", "min", "max"]))
@click.option("--every", type=int, help="Keep those whose number is a multiple of it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@hub_options
def prune(hub: Hub, key: str, dry_run: bool, as_json: bool, **policy: Any) -> None:
    """Delete the versions that no option keeps; without options, by the model's own policy.

    Versions with an alias, and those that a run may be resumed from, always stay.
    """
    from keras_tl.models import Keep

    model = _model(hub, key)
    given = any(policy[name] is not None for name in ("last", "best", "every"))
    if not given and model.retention is None:
        raise click.UsageError("Give --last, --best or --every: the model has no policy.")
    numbers = model.prune(Keep(**policy) if given else None, dry_run)
    if as_json:
        return echo_json({"key": key, "deleted": numbers, "dry_run": dry_run})
    would = "would be" if dry_run else "are"
    listed = f": {', '.join(map(str, numbers))}" if numbers else ""
    click.echo(f"{len(numbers)} versions of {key} {would} deleted{listed}.")


@models.command()
@click.option(
    "--grace",
    default=7200.0,
    show_default=True,
    help="Spare what was uploaded, or whose version was deleted, in the last so many seconds.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@hub_options
def gc(hub: Hub, grace: float, dry_run: bool, as_json: bool) -> None:
    """Delete tensors that no version refers to, and what killed uploads left."""
    found = hub.models.gc(grace, dry_run)
    if as_json:
        return echo_json({**found, "dry_run": dry_run})
    would = "would be" if dry_run else "are"
    click.echo(
        f"{found['deleted']} blobs ({found['bytes'] / 1e6:.1f} MB) and {found['orphans']} "
        f"unfinished uploads {would} deleted."
    )


@models.command()
@click.argument("key")
@click.argument("version")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@hub_options
def export(hub: Hub, key: str, version: str, path: Path, as_json: bool) -> None:
    """Write VERSION to PATH, which ends in .keras or .safetensors."""
    model = _model(hub, key)
    writers = {".keras": model.to_keras, ".safetensors": model.to_safetensors}
    if path.suffix not in writers:
        raise ValueError(f"`PATH` must end in {' or '.join(writers)}. Received: {path}")
    found = model.version(_version(version))
    writers[path.suffix](path, found)
    if as_json:
        return echo_json({"key": key, "version": found.number, "path": str(path)})
    click.echo(f"Version {found.number} of {key} is in {path}.")


def _model(hub: Hub, key: str) -> Versions:
    model = hub.models[key]
    if not len(model):
        raise KeyError(f"`key` must be the key of a model of {hub.project!r}. Received: {key!r}")
    return model


def _version(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _who(move: dict[str, Any]) -> list[str]:
    return [move.get("by", ""), move.get("note", "")]

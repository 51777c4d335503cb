"""`keras-tl datasets`: look at datasets, draw previews of them, delete them, free their room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_tl.cli.common import (
    Commands,
    echo_json,
    hub_options,
    parse_conditions,
    printable,
    table,
    where_option,
)

if TYPE_CHECKING:
    from keras_tl.datasets import Dataset
    from keras_tl.hub import Hub


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
@hub_options
def datasets(hub: Hub, ctx: click.Context, as_json: bool) -> None:
    """List datasets; `datasets show KEY` for one."""
    if ctx.invoked_subcommand:
        return
    found = [hub.datasets[key] for key in hub.datasets]
    if as_json:
        return echo_json([{"key": d.key, "count": d.count, **d.schema.config()} for d in found])
    table(
        f"datasets of {hub.project}",
        ["dataset", "samples", "fields", "tags", "created (UTC)"],
        (
            [
                d.key,
                d.count,
                ", ".join(f"{n} {type(f).__name__}" for n, f in d.schema.fields.items()),
                ", ".join(d.schema.tags),
                f"{d.document['created']:%Y-%m-%d %H:%M:%S}",
            ]
            for d in found
        ),
    )


@datasets.command()
@click.argument("key")
@hub_options
def show(hub: Hub, key: str, as_json: bool) -> None:
    """One dataset: its fields, how many samples have which label and tag, bytes, indexes, views."""
    dataset = _dataset(hub, key)
    about = dataset.describe()
    about |= {"indexes": dataset.indexes, "views": list(dataset.views)}
    snapshots = {name: dataset.snapshots[name] for name in dataset.snapshots}
    about["snapshots"] = {
        name: {"id": s.id, "count": s.count, "created": s.created.isoformat()}
        for name, s in snapshots.items()
    }
    if as_json:
        return echo_json(about)
    _show(key, about)


@datasets.command()
@click.argument("key")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("-n", "n", default=16, show_default=True, help="How many samples.")
@click.option("--field", help="The field to show. Default: the first that holds pictures.")
@click.option("--sample", "seed", type=int, metavar="SEED", help="Let chance choose them.")
@where_option("split=train, quality__gte=3, added__after=2026-01-31T00:00Z")
@hub_options
def preview(
    hub: Hub,
    key: str,
    out: Path,
    n: int,
    field: str | None,
    seed: int | None,
    conditions: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw the first samples of KEY, or some of them, into a file, as in `--out grid.png`."""
    view = _dataset(hub, key).where(**parse_conditions(conditions))
    if seed is not None:
        view = view.sample(n, seed)
    shown = len(view.preview(n, field=field, save=out).axes)
    if as_json:
        return echo_json({"key": key, "path": str(out), "samples": shown})
    click.echo(f"{shown} samples of {key} are in {out}.")


@datasets.command()
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    is_flag=True,
    help="Delete it even if versions of models were trained on its snapshots: which samples they "
    "have seen cannot be told any more.",
)
@hub_options
def delete(hub: Hub, key: str, yes: bool, force: bool, as_json: bool) -> None:
    """Delete a dataset with its samples, predictions, views and snapshots.

    One on whose snapshots versions of models were trained stays, unless with `--force`.
    """
    count = _dataset(hub, key).count
    if not yes:
        what = f"with its {count} samples, predictions, views and snapshots"
        click.confirm(f"Delete the dataset {key} {what}?", abort=True, err=True)
    hub.datasets.delete(key, force=force)
    if as_json:
        return echo_json({"deleted": key, "samples": count})
    click.echo(f"Deleted {key}.")


@datasets.command()
@click.option(
    "--grace",
    default=7200.0,
    show_default=True,
    help="Spare what was written, or whose samples were deleted, in the last so many seconds.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@hub_options
def gc(hub: Hub, grace: float, dry_run: bool, as_json: bool) -> None:
    """Delete packs that no sample or snapshot refers to, and what killed writers left.

    Large values that nothing refers to any more are freed by `models gc`, as tensors are.
    """
    found = hub.datasets.gc(grace, dry_run)
    if as_json:
        return echo_json({**found, "dry_run": dry_run})
    would = "would be" if dry_run else "are"
    click.echo(
        f"{found['packs']} packs ({found['bytes'] / 1e6:.1f} MB), {found['orphans']} unfinished "
        f"ones and {found['collections']} collections of deleted datasets {would} deleted."
    )


def _show(key: str, about: Mapping[str, Any]) -> None:
    stored = "" if about["stored"] is None else f", {about['stored'] / 1e6:.2f} MB on disk"
    click.echo(
        f"{printable(key)}: {about['count']} samples in {about['packs']} packs, "
        f"{about['bytes'] / 1e6:.2f} MB{stored}, created {about['created'][:19]}"
    )
    fields = [dict(field) for field in about["fields"]]
    table(
        "fields",
        ["field", "kind", "options"],
        ([f.pop("name"), f.pop("kind"), _options(f)] for f in fields),
    )
    counted = [
        *((name, "label", label) for name, label in about["labels"].items()),
        *((name, tag["type"], tag) for name, tag in about["tags"].items()),
    ]
    table(
        "labels and tags",
        ["name", "type", "samples", "missing"],
        ([name, kind, _values(column), column["missing"]] for name, kind, column in counted),
    )
    if about["indexes"]:
        table(
            "indexes",
            ["on", "made", "used"],
            (
                [", ".join(i["fields"]), "by itself" if i["auto"] else "by you", i["used"]]
                for i in about["indexes"]
            ),
        )
    if about["views"] or about["snapshots"]:
        table(
            "views and snapshots",
            ["name", "samples", "snapshot", "created (UTC)"],
            [
                *([name, None, None, None] for name in about["views"]),
                *(
                    [name, s["count"], s["id"][:12], s["created"][:19]]
                    for name, s in about["snapshots"].items()
                ),
            ],
        )


def _options(config: Mapping[str, Any]) -> str:
    """What was chosen of a kind's options."""
    return ", ".join(f"{name} {value}" for name, value in config.items() if value is not None)


def _values(column: Mapping[str, Any], most: int = 10) -> str:
    """The commonest values of a label or a tag, and how many others there are."""
    values = column["values"]
    shown = [f"{value} ({count})" for value, count in list(values.items())[:most]]
    others = column["distinct"] - len(shown)
    return ", ".join(shown) + (f", {others} others" if others else "")


def _dataset(hub: Hub, key: str) -> Dataset:
    if key not in hub.datasets:
        raise KeyError(f"`key` must be the key of a dataset of {hub.project!r}. Received: {key!r}")
    return hub.datasets[key]

"""`keras-tl datasets` against a real mongod: what it prints, as tables and as JSON, and deletes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from test_cli import Command

import keras_tl as ktl
from keras_tl.cli import main
from keras_tl.datasets import Array, Image, Label

X = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
# rich reads brackets as markup, a terminal what begins with ESC as an order
HOSTILE = "[bold]a[/x] \x1b[31mred\x1b]0;title\x07"


@pytest.fixture(scope="module")
def command(mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    made = Command(mongodb, f"test_cli_datasets_{os.getpid()}", tmp_path_factory.mktemp("home"))
    made.environment["COLUMNS"] = "200"
    with ktl.Hub(mongodb, project=made.project) as hub:
        ds = hub.datasets.create(
            "faces", x=Image(6, 5), y=Label(names=["no", HOSTILE]), tags={"site": str, "q": int}
        )
        ds.insert_many(
            {"x": X, "y": [i % 2 for i in range(29)] + [None]},
            keys=[f"{i:02d}" for i in range(30)],
            tags={"site": ["a", "b", HOSTILE] * 10, "q": list(range(30))},
        )
        ds.where(site="a").save("view [a]")
        ds.where(site="b").freeze("frozen \x1b[31m")
        ds.create_index("site", "q")
        hub.datasets.create("empty", x=Array((3,)))
        yield made
        hub.connection.client.drop_database(made.project)


def without_orders(shown: str) -> str:
    """What was printed; it has no control characters."""
    assert all(c.isprintable() or c == "\n" for c in shown), repr(shown)
    return shown


def test_list(command: Command) -> None:
    shown = without_orders(command("datasets").stdout)
    assert "faces" in shown and "30" in shown and "x Image, y Label" in shown
    empty, faces = command.json("datasets")
    assert (empty["key"], empty["count"]) == ("empty", 0)
    assert faces["fields"][0]["kind"] == "Image" and faces["tags"] == {"site": "str", "q": "int"}
    assert command.json("datasets", "--project", "test_cli_none") == []


def test_show(command: Command) -> None:
    shown = without_orders(command("datasets", "show", "faces").stdout)
    for text in (
        *("faces: 30 samples in 1 packs", "height 6", "a (10), b (10)", "20 others", "view [a]"),
        *(
            r"[bold]a[/x] \x1b[31mred\x1b]0;title\x07 (14)",
            "no (15)",
            "frozen \\x1b[31m",
            "site, q",
        ),
    ):
        assert text in shown, text
    found = command.json("datasets", "show", "faces")
    assert found["count"] == 30 and found["labels"]["y"]["missing"] == 1
    assert found["tags"]["site"]["values"]["a"] == 10
    assert found["views"] == ["view [a]"]
    assert found["snapshots"]["frozen \x1b[31m"]["count"] == 10
    assert found["indexes"][0]["fields"] == ["site", "q"] and found["bytes"] > 0
    assert "empty: 0 samples" in command("datasets", "show", "empty").stdout


def test_preview(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    said = command("datasets", "preview", "faces", "--out", str(path), "-n", "4").stdout
    assert said == f"4 samples of faces are in {path}.\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    svg = tmp_path / "grid.svg"
    found = command.json(
        *("datasets", "preview", "faces", "--out", str(svg), "--sample", "7"),
        *("--where", "site=a", "--where", "q__gte=15"),
    )
    assert found == {"key": "faces", "path": str(svg), "samples": 5}
    assert "<svg" in svg.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("show", "nowhere"), "`key` must be the key of a dataset", 1),
        (("delete", "nowhere", "--yes"), "`key` must be the key of a dataset", 1),
        (("preview", "empty", "--out", "x.png"), "`field` must be one that holds pictures", 1),
        (("preview", "faces", "--out", "x.png", "--where", "sight=a"), "sight", 1),
        (("preview", "faces", "--out", "x.png", "--where", "site"), "NAME=VALUE", 1),
        (("preview", "faces", "--out", "x.nothing"), "nothing", 1),
        (("preview", "faces"), "--out", 2),
        (("gc", "--grace", "-1"), "`grace`", 1),
    ],
)
def test_errors_are_a_line(
    command: Command,
    arguments: tuple[str, ...],
    says: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("datasets", *arguments, code=code)
    assert says in result.stderr and "Traceback" not in result.stderr and result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_gc(command: Command) -> None:
    none = {"packs": 0, "bytes": 0, "orphans": 0, "collections": 0}
    assert command.json("datasets", "gc") == {**none, "dry_run": False}
    with ktl.Hub(command.mongodb, project=command.project) as hub:
        hub.datasets["empty"].packs.insert_one({"_id": 7, "added": hub.datasets["empty"].now()})
    found = command.json("datasets", "gc", "--grace", "0", "--dry-run")
    assert found == {**none, "orphans": 1, "dry_run": True}
    said = command("datasets", "gc", "--grace", "0").stdout
    assert said.startswith("0 packs (0.0 MB), 1 unfinished ones") and "are deleted" in said
    assert command.json("datasets", "gc", "--grace", "0") == {**none, "dry_run": False}


def test_delete(command: Command) -> None:
    """Last of the file: it deletes what the others look at."""

    def answer(text: str) -> Any:
        arguments = ["datasets", "delete", "faces"]
        return CliRunner().invoke(main, arguments, input=text, env=command.environment)

    refused = answer("n\n")
    assert refused.exit_code == 1 and "with its 30 samples" in refused.stderr
    assert "samples, predictions, views and snapshots?" in refused.stderr
    assert len(command.json("datasets")) == 2
    with ktl.Hub(command.mongodb, project=command.project) as hub:
        data = {"uid": hub.datasets["faces"].uid, "snapshot": "5" * 64}
        trained = {"_id": "m/7", "model": "m", "version": 7, "data": data}
        hub.connection.db["versions"].insert_one(trained, bypass_document_validation=True)
    refused = command("datasets", "delete", "faces", "--yes", code=1)
    assert "was trained, unless `force=True`: version 7 of 'm' was" in refused.stderr
    assert len(command.json("datasets")) == 2
    assert command("datasets", "delete", "faces", "--yes", "--force").stdout == "Deleted faces.\n"
    assert [d["key"] for d in command.json("datasets")] == ["empty"]
    deleted = command("datasets", "delete", "empty", "--yes", "--json").stdout
    assert json.loads(deleted) == {"deleted": "empty", "samples": 0}

"""`keras-tl models` against a real mongod: it does what the registry does, and says so."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
import test_cli
from test_cli import Command

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
command = test_cli.command  # the fixture, made anew for this file


def test_models_promote_and_history(command: Command) -> None:
    promoted = command.json(
        "models", "promote", "net", "1", "prod", "--expect", "0", "--note", "[go]"
    )
    assert promoted == {"key": "net", "alias": "prod", "version": 1}
    refused = command("models", "promote", "net", "2", "prod", "--expect", "7", code=1).stderr
    assert "points to version 1" in refused and refused.count("\n") == 1
    assert "version 2" in command("models", "promote", "net", "latest", "prod").stdout
    assert [m["version"] for m in command.json("models", "history", "net", "prod")] == [1, 2]
    shown = command("models", "history", "net", COLUMNS="200").stdout
    assert "[go]" in shown and "latest" in shown
    assert "prod" in command("models", "show", "net").stdout
    assert "prod of net is removed" in command("models", "demote", "net", "prod").stdout
    assert [m["version"] for m in command.json("models", "history", "net", "prod")] == [1, 2, None]
    for act in ("demote", "history"):
        assert "`alias` must be one" in command("models", act, "net", "prdo", code=1).stderr


def test_models_diff_and_lineage(command: Command) -> None:
    found = command.json("models", "diff", "net", "1", "2", "--values")
    assert found["metrics"]["score"] == [1.0, None] and found["tensors"][0]["distance"] > 0
    assert "version 1 -> 2" in command("models", "diff", "net", "1").stdout
    found = command.json("models", "lineage", "net", "2")
    assert found["parents"] == [1] and found["run"]["_id"] == command.run  # type: ignore[attr-defined]
    assert command.run in command("models", "lineage", "net").stdout  # type: ignore[attr-defined]
    command("models", "lineage", "net", "--patch")


def test_models_export(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    assert command.json("models", "export", "net", "latest", str(path))["version"] == 2
    assert keras.models.load_model(path).name
    assert (
        str(tmp_path)
        in command(
            "models", "export", "net", "1", str(tmp_path / "n.safetensors"), COLUMNS="200"
        ).stdout
    )
    assert "must end in" in command("models", "export", "net", "1", "x.h5", code=1).stderr


def test_models_deleted(command: Command) -> None:
    """Last of the file: it deletes what the others look at."""
    would = command.json("models", "prune", "net", "--last", "1", "--dry-run")
    assert would == {"key": "net", "deleted": [1], "dry_run": True}
    assert "--last" in command("models", "prune", "net", code=2).stderr
    assert command.json("models", "delete", "net", "1")["deleted"] == [1]
    assert [v["version"] for v in command.json("models", "show", "net")["versions"]] == [2]
    assert "move" in command("models", "delete", "net", "2", code=1).stderr
    assert "was deleted" in command("models", "delete", "net", "1", code=1).stderr
    assert "0 versions" in command("models", "prune", "net", "--every", "2").stdout
    counted = command.json("models", "gc", "--grace", "0", "--dry-run")
    assert counted["deleted"] > 0 and counted["bytes"] > 0
    assert f"{counted['deleted']} blobs" in command("models", "gc", "--grace", "0").stdout

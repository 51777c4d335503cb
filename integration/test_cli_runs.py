"""`keras-tl runs`: finding, comparing, following, deleting and exporting runs."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from test_cli import Command

import keras_tl as ktl
from keras_tl.models import buckets
from keras_tl.storage.journal import Kind

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LOSSES = {"first": [0.5, math.nan, 0.25], "second": [0.75, 0.5, 0.125]}


@pytest.fixture(scope="module")
def command(mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Two runs of three epochs, the second one with another learning rate."""
    made = Command(mongodb, f"test_cli_runs_{os.getpid()}", tmp_path_factory.mktemp("home"))
    with ktl.Hub(mongodb, project=made.project) as hub:
        for number, (name, losses) in enumerate(LOSSES.items()):
            add(hub, name, number, losses)
        yield made
        hub.connection.client.drop_database(made.project)


def add(hub: ktl.Hub, name: str, number: int, losses: list[float]) -> None:
    began = NOW + datetime.timedelta(days=number)
    attempt = {"number": 0, "start_step": 0, "started": began, "host": "h", "pid": 1}
    hub.connection.db["runs"].insert_one(
        {
            **{"_id": name, "name": f"[b]{name}", "model": "net", "state": "finished"},
            **{"started": began, "attempt": "a", "attempts": {"a": attempt}, "last_step": 3},
            **{"params": {"lr": 0.1 * (number + 1)}, "last": {"loss": losses[-1]}},
            "best": {"loss": {"v": float(np.nanmin(losses)), "step": 3}},
            **{"min": {"loss": float(np.nanmin(losses))}, "max": {"loss": max(losses)}},
        }
    )
    about = {"run": name, "attempt": "a", "rank": 0, "kind": "epoch", "names": ["loss"]}
    pack = buckets.row_struct(1).pack
    rows = [(i, Kind.ROW, pack(0, i + 1, i, -1, 1.5e9, loss)) for i, loss in enumerate(losses)]
    hub.connection.db["events"].insert_many(buckets.buckets(rows, {0: about}))


@pytest.fixture
def hub(command: Command) -> Iterator[ktl.Hub]:
    with ktl.Hub(command.mongodb, project=command.project) as found:
        yield found


def names(documents: list[dict[str, Any]]) -> list[str]:
    return [document["_id"] for document in documents]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ["second", "first"]),
        (["--where", "params.lr__gt=0.15"], ["second"]),
        (["--where", "best.loss__lt=0.2", "--where", "state=finished"], ["second"]),
        (["--where", 'id__in=["first", "x"]'], ["first"]),
        (["--where", "name=[b]first"], ["first"]),
        (["--where", "started__after=2026-01-01T12:00:00Z"], ["second"]),
        (["--order", "params.lr"], ["first", "second"]),
        (["--order", "-last.loss", "--limit", "1"], ["first"]),
    ],
)
def test_runs_are_found(command: Command, arguments: list[str], found: list[str]) -> None:
    assert names(command.json("runs", *arguments)) == found
    shown = command("runs", *arguments).stdout
    assert [name for name in ("first", "second") if f"{name} " in shown] == sorted(found)


def test_best(command: Command) -> None:
    assert command.json("runs", "best", "loss")["_id"] == "second"
    assert command.json("runs", "best", "loss", "--mode", "max")["_id"] == "second"
    only = command.json("runs", "best", "loss", "--where", "params.lr__lt=0.15")
    assert (only["_id"], only["epochs"]["loss"]) == ("first", [0.5, None, 0.25])
    shown = command("runs", "best", "loss").stdout
    assert "run second" in shown and "params: lr 0.2" in shown


def test_compare(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "loss.png"
    shown = command("runs", "compare", "first", "sec", "--plot", str(plot)).stdout
    assert ["params.lr", "0.1", "0.2"] in [line.split() for line in shown.splitlines()]
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and plot.stat().st_size > 5000
    found = command.json("runs", "compare", "first", "second", "--metric", "loss")
    assert found["runs"] == ["first", "second"]
    assert found["rows"]["best.loss"] == [0.25, 0.125] and "model" in found["rows"]


def test_events(command: Command) -> None:
    printed = command("runs", "events", "first", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [float(row["loss"]) for row in rows][::2] == [0.5, 0.25]
    assert (rows[1]["loss"], rows[2]["step"], rows[2]["attempt"]) == ("nan", "3", "a")
    found = command.json("runs", "events", "second", "--metric", "loss")
    assert (found["loss"], found["step"]) == (LOSSES["second"], [1, 2, 3])
    assert "0.125" in command("runs", "events", "second").stdout


def test_tail(command: Command) -> None:
    lines = command("runs", "tail", "second", "--kind", "epoch").stdout.splitlines()
    assert [line.split()[-2:] for line in lines] == [["loss", f"{v:g}"] for v in (0.75, 0.5, 0.125)]
    last = command("runs", "tail", "first", "--kind", "epoch", "-n", "2", "--json").stdout
    rows = [json.loads(line) for line in last.splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, None), (3, 0.25)]


def test_delete(command: Command, hub: ktl.Hub) -> None:
    add(hub, "third", 2, [1.0])
    assert "Aborted" in command("runs", "delete", "third", code=1).stderr
    assert command.json("runs", "delete", "third", "--yes") == {"deleted": "third"}
    assert hub.connection.db["events"].count_documents({"run": "third"}) == 0
    assert names(command.json("runs")) == ["second", "first"]


def test_export_to_parquet(command: Command, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "runs"
    assert "Wrote 2 files" in command("runs", "export", "fir", "--parquet", str(folder)).stdout
    assert len(command.json("runs", "export", "--parquet", str(folder))) == 3
    assert parquet.read_table(folder / "runs.parquet").num_rows == 2


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("--where", "nothing"), "`--where` must be NAME=VALUE", 1),
        (("--where", "params.lr__near=1"), "must end in one of the operators", 1),
        (("--where", "started__after=2026-01-01"), "must be an aware datetime", 1),
        (("best", "nothing", "--mode", "min"), "`metric` must be", 1),
        (("compare", "first", "nowhere"), "`run` must be the id", 1),
        (("compare", "first", "--metric", "x", "--plot", "x.png"), "`metric` must be", 1),
        (("events", "first", "--metric", "accuracy"), "Received: ['accuracy']", 1),
        (("delete", "fir", "--yes"), "whole id", 1),
        (("export",), "Give one of", 2),
    ],
)
def test_errors_are_a_line(
    command: Command, arguments: tuple[str, ...], says: str, code: int
) -> None:
    result: Result = command("runs", *arguments, code=code)
    assert result.stdout == "" and says in result.stderr and "Traceback" not in result.stderr

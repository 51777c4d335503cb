"""`keras-tl` against real servers: what it prints, as tables and as JSON, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest
from click.testing import CliRunner, Result
from runner import X, Y, network

import keras_tl as ktl
from keras_tl.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAME = "run [/bold] 1"  # rich reads brackets as markup


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


class Command:
    """The command on one project, with a home of its own."""

    def __init__(self, mongodb: str, project: str, home: Path) -> None:
        self.mongodb, self.project = mongodb, project
        self.environment = {
            **{"KERAS_TL_MONGODB": mongodb, "KERAS_TL_PROJECT": project},
            **{"KERAS_TL_HOME": str(home), "KERAS_TL_KAFKA": "", "COLUMNS": "80"},
        }

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> Result:
        result = CliRunner().invoke(main, list(arguments), env={**self.environment, **environment})
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self(*arguments, "--json", **options).stdout, parse_constant=refuse)


@pytest.fixture(scope="module")
def command(mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A project with one run, whose second epoch has a NaN, and two versions."""

    class Scores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = [1.0, float("nan")][epoch]

    made = Command(mongodb, f"test_cli_{os.getpid()}", tmp_path_factory.mktemp("home"))
    with ktl.Hub(mongodb, project=made.project) as hub:
        logger, checkpoint = hub.callbacks("net", run=NAME)
        network().fit(X, Y, epochs=2, verbose=0, callbacks=[Scores(), logger, checkpoint])
        made.run = logger.run.id  # type: ignore[attr-defined]
        assert hub.models.flush(60)
        yield made
        hub.connection.client.drop_database(made.project)


def test_runs(command: Command) -> None:
    shown = command("runs").stdout
    assert command.run in shown  # type: ignore[attr-defined]  # whole, to be copied
    (run,) = command.json("runs")
    assert (run["name"], run["state"], run["model"]) == (NAME, "finished", "net")
    assert run["last"]["score"] is None
    assert command.json("runs", "--limit", "1") == [run]
    assert command.json("runs", "--project", "test_cli_none") == []


def test_runs_show(command: Command) -> None:
    identity: str = command.run  # type: ignore[attr-defined]
    shown = command("runs", "show", identity[:-6]).stdout
    assert identity in shown and NAME in shown and "┤" in shown
    found = command.json("runs", "show", identity)
    assert found["epochs"]["score"] == [1.0, None]
    assert found["epochs"]["step"] == [2, 4]
    # Options of the group hold for its commands.
    above = command(
        "runs", "--project", command.project, "--json", "show", identity, KERAS_TL_PROJECT="x"
    )
    assert json.loads(above.stdout)["_id"] == identity


def test_models(command: Command) -> None:
    assert "net" in command("models").stdout
    (model,) = command.json("models")
    assert model["key"] == "net" and model["aliases"]["latest"] == model["versions"]
    shown = command("models", "show", "net").stdout
    assert "latest" in shown
    found = command.json("models", "show", "net")
    assert [v["version"] for v in found["versions"]] == list(range(model["versions"], 0, -1))
    assert found["versions"][0]["metrics"]["score"] is None


def test_sync(command: Command) -> None:
    assert command.json("sync")["events"] == 0
    assert "Sent 0 versions and 0 events" in command("sync").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("runs", "show", "nowhere"), "`run` must be the id of one run"),
        (("models", "show", "nowhere"), "`key` must be the key of a model"),
        (("runs", "--project", "a.b"), "`project` must be"),
        (("runs", "--mongodb", "mongodb://ada:hunter2@[db"), "IPv6"),
        (("runs", "--mongodb", "mongodb://ada:hun@ter2@db"), "must be escaped"),
        (
            ("runs", "--mongodb", "mongodb://ada:hunter2@127.0.0.1:1/?timeoutMS=100"),
            "127.0.0.1:1",
        ),
    ],
)
def test_errors_are_a_line(command: Command, arguments: tuple[str, ...], says: str) -> None:
    result = command(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ") and says in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr and "ter2" not in result.stderr


def test_wrong_usage(command: Command) -> None:
    assert "No such command" in command("nothing", code=2).stderr


def test_up_status_down(tmp_path: Path) -> None:
    command = Command("", "keras_tl", tmp_path)
    folder = ("--folder", str(tmp_path / "stack"))
    assert command.json("status", *folder, code=1)["mongodb"]["running"] is False
    try:
        up = command.json("up", *folder, "--broker", "tansu")
        assert up["mongodb"]["running"] and up["kafka"]["running"]
        assert command.json("status", *folder)["mongodb"]["uri"] == up["mongodb"]["uri"]
        assert "yes" in command("status", *folder).stdout
        again = command("up", *folder).stdout
        assert f"export KERAS_TL_MONGODB='{up['mongodb']['uri']}'" in again
    finally:
        down = command.json("down", *folder)
    assert sorted(down["stopped"]) == ["kafka", "mongodb"]
    assert command.json("down", *folder) == {"stopped": []}
    assert "nothing was running" in command("down", *folder).stdout


def test_the_module_is_the_command(command: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "keras_tl", "runs", "--json"],
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout, parse_constant=refuse)[0]["name"] == NAME

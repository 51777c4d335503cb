"""A service whose server is a sleeping child of the test: everything but the servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keras_tl.services.folder import Folder
from keras_tl.services.service import Service, stop


class Sleeper(Service):
    name = "kafka"
    title = "the sleeper"
    program = "import time; time.sleep(600)"

    @property
    def marker(self) -> str:
        return f"sleeper:{self.folder.path}"

    def prepare(self) -> None:
        pass

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program, self.marker]

    def ready(self) -> bool:
        return True


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Callable[..., Sleeper]]:
    made: list[Sleeper] = []

    def make(path: Path = tmp_path) -> Sleeper:
        folder = Folder(path)
        with folder.locked():
            pass
        made.append(Sleeper(folder))
        return made[-1]

    yield make
    stop(list(made))

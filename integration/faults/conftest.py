"""Servers and histories for the tests that kill; the last lines say how many kills there were.

`KERAS_TL_TEST_KILLS` is the number of kills of the whole folder (20 unless told),
`KERAS_TL_TEST_SEED` chooses the random ones.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import history
import inputs
import oracles
import pytest
from children import Place

import keras_tl as ktl
from keras_tl import services


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python drops the sockets to a broker that died without closing them.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    after = sum(bool(kill.versions) for kill in history.kills)
    terminalreporter.section("kills")
    for kill in history.kills:
        terminalreporter.write_line(str(kill))
    seed = f"KERAS_TL_TEST_SEED={inputs.SEED}"
    terminalreporter.write_line(
        f"{len(history.kills)} kills, {after} after the first version; {seed}"
    )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Stack]:
    """A mongod and the best broker; whoever kills one starts it again."""
    folder = tmp_path_factory.mktemp("stack")
    with services.up(folder, broker=inputs.BEST) as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mongodb(stack: services.Stack) -> Iterator[str]:
    """A transaction of a process that was killed in it holds its locks for a short time only."""
    import pymongo

    with pymongo.MongoClient(stack.mongodb) as client:
        for seconds in (2, 60):  # the latter is MongoDB's own
            client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=seconds)
            if seconds == 2:
                yield stack.mongodb


@pytest.fixture
def place(mongodb: str, tmp_path: Path) -> Iterator[Place]:
    made = Place(mongodb, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def brokers(
    stack: services.Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """Address of a broker of a kind; `kafka` is Tansu where no Apache Kafka is found."""
    started: dict[str, services.Stack] = {inputs.BEST: stack}

    def address(kind: str) -> str:
        kind = inputs.BEST if kind == "kafka" else kind
        if kind not in started:
            folder = tmp_path_factory.mktemp(kind)
            started[kind] = services.up(folder, broker=kind, services=("kafka",))
        return started[kind].kafka

    yield address
    for other in started.values():
        if other is not stack:
            other.close()


@pytest.fixture(scope="session")
def topics(stack: services.Stack, brokers: Callable[[str], str]) -> Callable[[str], str]:
    """A topic with all samples on a broker of a kind."""
    made: dict[str, str] = {}

    def topic(kind: str) -> str:
        if kind not in made:
            made[kind] = f"topic-{uuid.uuid4().hex[:8]}"
            hub = ktl.Hub(stack.mongodb, brokers(kind))
            with hub.producer(made[kind], block_size=history.BLOCK, partitions=2) as producer:
                producer.send_many(**inputs.samples())
            hub.close()
        return made[kind]

    return topic


@pytest.fixture(scope="session")
def make_history(
    stack: services.Stack,
    brokers: Callable[[str], str],
    topics: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., history.History]]:
    """`make_history("jax", "tansu", **options)`: ended and dropped with the session."""
    made: list[history.History] = []
    folder = tmp_path_factory.mktemp("homes")

    def make(backend: str, kind: str, **options: Any) -> history.History:
        given = {"kafka": brokers(kind), "topic": None, **options}
        given["topic"] = given["topic"] or topics(kind)
        made.append(history.History(stack.mongodb, folder=folder, backend=backend, **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def uninterrupted(make_history: Callable[..., history.History]) -> Callable[..., oracles.Outcome]:
    """`uninterrupted("jax")`: what a history without a kill leaves; on one broker as on another."""
    outcomes: dict[str, oracles.Outcome] = {}

    def outcome(backend: str) -> oracles.Outcome:
        if backend not in outcomes:
            reference = make_history(backend, "tansu")
            found = reference.finish()
            assert found.step == history.BATCHES
            assert not reference.differences(found, found)
            outcomes[backend] = found
        return outcomes[backend]

    return outcome

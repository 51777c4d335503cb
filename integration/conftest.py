"""Real servers for the integration tests: each is started once a session, none is imitated.

Fixtures:
    home: where journals and caches of the tests live, instead of the user's; session, always.
    mongodb: URI of a mongod (replica set); session.
    broker_kind: "tansu", and "kafka" where `KAFKA_HOME` is set; a test that needs a broker that
        outlives its own death says `@pytest.mark.parametrize("broker_kind", ["kafka"],
        indirect=True)`.
    broker: bootstrap address of a broker of that kind; session.
    project: a name of its own for each test; its database is dropped afterwards.
    connection: `keras_tl.storage.connection.Connection` on both servers for that project.
    topic: a topic name of its own for each test; the topic is not made.
    stack_factory: `stack_factory("tansu")` starts a stack of the test's own, for tests that kill
        servers (`stack.kill("mongodb")`, `stack.restart("kafka")`); ended with the test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_tl import services

BROKERS = ["tansu", "kafka"] if os.environ.get("KAFKA_HOME") else ["tansu"]


def pytest_configure(config: pytest.Config) -> None:
    # What one process has compiled the next ones find; a kill may leave half a file.
    compiled = tempfile.mkdtemp(prefix="keras_tl-jax-")
    config.add_cleanup(lambda: shutil.rmtree(compiled, ignore_errors=True))
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")
    here = Path(__file__).parent
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(here / "lean"), str(here.parent)]),
        "KERAS_TL_TEST_HIDE": "tensorflow sklearn matplotlib pandas",
    }
    # kafka-python 3.0 reads its own schemas this way on import.
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is dep:DeprecationWarning")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_TL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import pymongo

    folder = tmp_path_factory.mktemp("mongodb")
    with services.up(folder, services=("mongodb",)) as stack:
        with pymongo.MongoClient(stack.mongodb) as client:
            # Or the files of what was dropped stay for five minutes, which makes ten thousands.
            client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=20)
        yield stack.mongodb
    shutil.rmtree(folder)  # a journal of 100 MB, which pytest would keep for three sessions


@pytest.fixture(scope="session", params=BROKERS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind == "kafka" and not os.environ.get("KAFKA_HOME"):
        pytest.skip("needs Apache Kafka: KAFKA_HOME is not set")
    return kind


@pytest.fixture(scope="session")
def broker(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(broker_kind)
    with services.up(folder, broker=broker_kind, services=("kafka",)) as stack:
        yield stack.kafka
    shutil.rmtree(folder)


@pytest.fixture
def project(mongodb: str) -> Iterator[str]:
    import pymongo

    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    with pymongo.MongoClient(mongodb, w=1) as client:  # `drop_database` waits for 0.1 s
        for collection in client[name].list_collection_names():
            client[name].drop_collection(collection)


@pytest.fixture
def connection(mongodb: str, broker: str, project: str) -> Iterator[Any]:
    from keras_tl.storage.connection import Connection

    made = Connection(mongodb, broker, project=project)
    yield made
    made.close()


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stack_factory(tmp_path: Path) -> Iterator[Callable[..., services.Stack]]:
    folders: list[Path] = []

    def make(kind: str = "tansu", **options: Any) -> services.Stack:
        folders.append(tmp_path / f"stack{len(folders)}")
        return services.up(folders[-1], broker=kind, **options)

    yield make
    for folder in folders:
        services.down(folder)
        shutil.rmtree(folder, ignore_errors=True)

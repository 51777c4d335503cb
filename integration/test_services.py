"""The local stack with real servers: join, crash, restart, refuse."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kafka
import pymongo
import pytest

from keras_tl import services
from keras_tl.services import ServiceError, Stack

Make = Callable[..., Stack]
OPTIONS = {"broker": "tansu"}  # the cheap one, where the broker does not matter


def pids(folder: str | os.PathLike[str]) -> dict[str, int | None]:
    report = services.status(folder)
    return {name: report[name]["pid"] for name in ("mongodb", "kafka")}


def insert(stack: Stack, key: int) -> None:
    with pymongo.MongoClient(stack.mongodb, w="majority") as client:
        client.test.rows.insert_one({"_id": key})


def rows(stack: Stack) -> list[int]:
    with pymongo.MongoClient(stack.mongodb) as client:
        return sorted(row["_id"] for row in client.test.rows.find())


def send(stack: Stack, topic: str, values: list[bytes]) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=stack.kafka, acks="all")
    for value in values:
        producer.send(topic, value, partition=0)
    producer.flush(30)
    producer.close()


def read(stack: Stack, topic: str, n: int) -> list[bytes]:
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=stack.kafka, consumer_timeout_ms=20_000, fetch_max_wait_ms=20
    )
    place = kafka.TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    got = [record.value for _, record in zip(range(n), consumer, strict=False)]
    consumer.close()
    return got


def elsewhere(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in another Python; `services` is imported."""
    return subprocess.run(
        [sys.executable, "-c", f"from keras_tl import services\n{program}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "a stack, ümlaut"
    yield place
    services.down(place)


def test_both_servers_serve(stack_factory: Make, broker_kind: str, topic: str) -> None:
    with stack_factory(broker_kind) as stack:
        assert stack.broker == broker_kind
        assert stack.started == ["mongodb", "kafka"]
        assert stack.volatile is (broker_kind == "tansu")
        assert any("topics are lost" in note for note in stack.notes) is stack.volatile
        with pymongo.MongoClient(stack.mongodb) as client, client.start_session() as session:
            # What a standalone mongod refuses.
            session.with_transaction(lambda s: client.test.rows.insert_one({"_id": 1}, session=s))
            with client.test.rows.watch() as changes:
                client.test.rows.insert_one({"_id": 2})
                assert next(changes)["documentKey"] == {"_id": 2}
        send(stack, topic, [b"a", b"b"])
        assert read(stack, topic, 2) == [b"a", b"b"]
        report = services.status(stack.folder)
        for name, uri in (("mongodb", stack.mongodb), ("kafka", stack.kafka)):
            assert report[name]["running"] and report[name]["uri"] == uri
            assert report[name]["version"]
    assert pids(stack.folder) == {"mongodb": None, "kafka": None}


def test_settings_of_mongod(stack_factory: Make) -> None:
    with stack_factory(services=("mongodb",)) as stack:
        with pymongo.MongoClient(stack.mongodb) as client:
            parsed = client.admin.command("getCmdLineOpts")["parsed"]
        assert parsed["net"]["bindIp"] == "127.0.0.1"
        assert parsed["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 0.5
        assert parsed["storage"]["wiredTiger"]["engineConfig"]["journalCompressor"] == "none"
        assert parsed["replication"]["oplogSizeMB"] == 1024
        assert parsed["storage"]["oplogMinRetentionHours"] == 0.25
        with pytest.raises(ServiceError, match="`service`.*'kafka'"):
            _ = stack.kafka


def test_a_journal_that_was_compressed_stays_so(stack_factory: Make, tmp_path: Path) -> None:
    (tmp_path / "stack0" / "mongodb").mkdir(parents=True)  # as an older release made it
    with stack_factory(services=("mongodb",)) as stack:
        with pymongo.MongoClient(stack.mongodb) as client:
            parsed = client.admin.command("getCmdLineOpts")["parsed"]
            assert "journalCompressor" not in parsed["storage"]["wiredTiger"]["engineConfig"]
            client.test.rows.insert_one({"_id": 1})
            stack.kill("mongodb")
            stack.restart("mongodb")
            assert client.test.rows.find_one() == {"_id": 1}


def test_second_up_joins_and_stops_nothing(folder: Path) -> None:
    with services.up(folder, **OPTIONS) as first:
        before = pids(folder)
        with services.up(folder) as second:
            assert second.started == []
            assert (second.mongodb, second.kafka) == (first.mongodb, first.kafka)
        assert pids(folder) == before and None not in before.values()
        done = elsewhere(
            "import sys\nwith services.up(sys.argv[1]) as s: print(s.started, s.kafka)", folder
        )
        assert done.stdout.strip() == f"[] {first.kafka}", done.stderr
        assert pids(folder) == before
        with pytest.raises(ServiceError, match="`broker` must be 'tansu'.*'kafka'"):
            services.up(folder, broker="kafka")
    assert pids(folder) == {"mongodb": None, "kafka": None}
    first.close()  # twice does no harm


def test_up_starts_only_what_is_missing(folder: Path) -> None:
    with services.up(folder, services=("mongodb",), **OPTIONS):
        kept = pids(folder)["mongodb"]
        with services.up(folder, **OPTIONS) as second:
            assert second.started == ["kafka"]
        assert pids(folder) == {"mongodb": kept, "kafka": None}


def test_close_spares_a_successor(folder: Path) -> None:
    """What was started after a `down` is not what the first object started."""
    first = services.up(folder, **OPTIONS)
    assert services.down(folder) == ["mongodb", "kafka"]
    with services.up(folder, **OPTIONS):
        before = pids(folder)
        first.close()
        assert pids(folder) == before and None not in before.values()


def test_two_ups_at_once(folder: Path) -> None:
    program = (
        "import sys\nfrom keras_tl import services\n"
        "stack = services.up(sys.argv[1], broker='tansu')\n"
        "print(*stack.started, flush=True)\nsys.stdin.read()"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.stdout.readline().split() for one in both if one.stdout]
    assert sorted(said) == [[], ["mongodb", "kafka"]]
    for one in both:
        one.communicate("")
    assert services.down(folder) == ["mongodb", "kafka"], "no `with`: they outlive their parents"


def test_down_from_another_process(folder: Path) -> None:
    services.up(folder, **OPTIONS)
    done = elsewhere("import sys; print(services.down(sys.argv[1]))", folder)
    assert done.stdout.strip() == "['mongodb', 'kafka']", done.stderr
    assert pids(folder) == {"mongodb": None, "kafka": None}
    assert services.down(folder) == []


@pytest.mark.parametrize("moment", ["while they start", "when all is up"])
def test_crash_of_the_parent(folder: Path, moment: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from keras_tl.services.service import Service\n"
        "die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if 'while' in sys.argv[2]: Service.wait_ready = die\n"
        "services.up(sys.argv[1], broker='tansu'); die()"
    )
    done = elsewhere(program, folder, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with services.up(folder) as joined:  # also finishes what the dead one began
        assert joined.started == []
        insert(joined, 1)
    assert services.down(folder) == ["mongodb", "kafka"]
    assert pids(folder) == {"mongodb": None, "kafka": None}


def test_deleted_state_still_ends(folder: Path) -> None:
    services.up(folder, **OPTIONS)
    (folder / "stack.json").unlink()
    with pytest.raises(ServiceError, match="`down`"):
        services.up(folder)
    assert services.down(folder) == ["mongodb", "kafka"]


def test_kill_of_mongod(folder: Path) -> None:
    with services.up(folder, **OPTIONS) as stack:
        insert(stack, 1)
        before = pids(folder)
        os.kill(before["mongodb"] or 0, signal.SIGKILL)
        with services.up(folder) as again:
            assert again.started == ["mongodb"]
            assert again.mongodb == stack.mongodb, "the port is kept"
            assert pids(folder)["kafka"] == before["kafka"]
            assert rows(again) == [1]


def test_kill_and_restart_by_the_stack(stack_factory: Make, broker_kind: str, topic: str) -> None:
    with stack_factory(broker_kind) as stack:
        addresses = stack.mongodb, stack.kafka
        insert(stack, 1)
        send(stack, topic, [b"%d" % i for i in range(100)])
        for name in ("mongodb", "kafka"):
            before = pids(stack.folder)[name]
            stack.kill(name)
            assert pids(stack.folder)[name] is None
            stack.restart(name)
            assert pids(stack.folder)[name] not in (None, before)
        assert (stack.mongodb, stack.kafka) == addresses
        assert rows(stack) == [1]
        if stack.volatile:
            admin = kafka.KafkaAdminClient(bootstrap_servers=stack.kafka)
            assert topic not in admin.list_topics()
            admin.close()
        else:
            assert read(stack, topic, 100) == [b"%d" % i for i in range(100)]
    assert pids(stack.folder) == {"mongodb": None, "kafka": None}, "it still was its own"


@pytest.mark.parametrize("broker_kind", ["kafka"], indirect=True)
def test_topics_survive_a_restart(
    broker_kind: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ümlaut and space"  # no comma, which Kafka would take for a second folder
    try:
        with services.up(folder, broker=broker_kind, services=("kafka",)) as stack:
            send(stack, topic, [b"kept"])
        monkeypatch.delenv("KAFKA_HOME")  # a shell that lacks it: the folder remembers
        with services.up(folder, services=("kafka",)) as stack:
            assert stack.broker == "kafka"
            assert read(stack, topic, 1) == [b"kept"]
    finally:
        services.down(folder)


def test_port_taken(folder: Path) -> None:
    services.up(folder, services=("mongodb",)).close()
    port = services.status(folder)["mongodb"]["port"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ServiceError, match=f"Port {port}.*taken"):
            services.up(folder, **OPTIONS)
        assert pids(folder) == {"mongodb": None, "kafka": None}


def test_another_port_keeps_the_data(folder: Path) -> None:
    """A replica set that knows itself under its old port would never become primary."""
    with services.up(folder, services=("mongodb",)) as stack:
        insert(stack, 1)
        old = stack.mongodb
    (folder / "stack.json").unlink()
    with services.up(folder, services=("mongodb",)) as stack:
        assert stack.mongodb != old
        assert rows(stack) == [1]
        insert(stack, 2)


def test_folder_of_a_newer_version(folder: Path) -> None:
    services.up(folder, services=("mongodb",)).close()
    state = json.loads((folder / "stack.json").read_text())
    (folder / "stack.json").write_text(json.dumps({**state, "schema": 2}))
    for call in (services.up, services.down, services.status):
        with pytest.raises(ServiceError, match="newer keras_tl"):
            call(folder)
    (folder / "stack.json").write_text(json.dumps(state))  # for the fixture's `down`


def test_data_that_mongod_refuses(folder: Path) -> None:
    """Its own words are shown, and the broker that started beside it does not stay."""
    import bson

    services.up(folder, services=("mongodb",)).close()
    data = folder / "mongodb" / "storage.bson"
    document = bson.decode(data.read_bytes())
    document["storage"]["engine"] = "wiredTiger99"
    data.write_bytes(bson.encode(document))
    with pytest.raises(ServiceError, match="exit code 100[\\s\\S]*wiredTiger99"):
        services.up(folder, **OPTIONS)
    assert pids(folder) == {"mongodb": None, "kafka": None}


def test_failed_up_leaves_what_it_joined(folder: Path) -> None:
    with services.up(folder, services=("kafka",), **OPTIONS):
        joined = pids(folder)["kafka"]
        (folder / "mongodb").write_text("not a folder")
        with pytest.raises((ServiceError, OSError)):
            services.up(folder)
        assert pids(folder) == {"mongodb": None, "kafka": joined}


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # jax says so, if it was loaded
def test_forked_child_stops_nothing(folder: Path) -> None:
    with services.up(folder, **OPTIONS) as stack:
        before = pids(folder)
        child = os.fork()
        if child == 0:
            stack.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert pids(folder) == before and None not in before.values()

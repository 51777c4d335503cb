"""Following a model: every version, once, in order, whatever is away meanwhile."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner import X, Y, digest, network

import keras_tl as ktl
from keras_tl.callbacks import MongoBroadcast, MongoCheckpoint
from keras_tl.models import follow
from keras_tl.storage import bell
from keras_tl.storage.connection import Connection

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NEVER = 3600.0  # s between looks: only a bell wakes

SAVES = """
import json, sys
sys.path.insert(0, sys.argv[1])
from runner import network
import keras_tl as ktl
with ktl.Hub(sys.argv[2], project=sys.argv[3]) as hub:
    model = network()
    for _ in range(int(sys.argv[4])):
        print(hub.models["net"].save(model).number, flush=True)
"""

AWAY = """
import itertools, json, sys, threading
sys.path.insert(0, sys.argv[1])
from runner import X, Y, network
from keras_tl.callbacks import MongoBroadcast, MongoCheckpoint
from keras_tl.models import current, follow
from keras_tl.storage import bell
from keras_tl.storage.connection import Connection
made = Connection(sys.argv[2], "127.0.0.1:1", project=sys.argv[3])
following = follow.follow(made, "net", after=0, poll=0.05)
callbacks = [MongoCheckpoint(made, "net"), MongoBroadcast(made, "net")]
network().fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
found = [document["version"] for document in itertools.islice(following, 2)]
following.close()
current.close(made, 30)
bell.close(made, 30)
left = [t.name for t in threading.enumerate()]
print(json.dumps([found, [n for n in left if "kafka" in n or "bell" in n or "ring" in n]]))
"""


def start(script: str, hub: ktl.Hub, *arguments: str) -> subprocess.Popen[str]:
    here = Path(__file__)
    given = [str(here.parent), hub.connection._uri or "", hub.project, *arguments]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def hub(mongodb: str, project: str) -> Iterator[ktl.Hub]:
    with ktl.Hub(mongodb, project=project) as made:
        yield made


def numbers(found: Iterator[Any], count: int) -> list[int]:
    return [document["version"] for document in itertools.islice(found, count)]


def test_another_process_saves_and_each_version_comes_once(hub: ktl.Hub) -> None:
    following = follow.follow(hub.connection, "net", poll=0.05)  # before there is a model
    process = start(SAVES, hub, "6")
    assert numbers(following, 6) == [1, 2, 3, 4, 5, 6]
    out, _ = process.communicate(timeout=60)
    assert [int(line) for line in out.split()] == [1, 2, 3, 4, 5, 6]
    # Who comes later begins with the latest one, or after the one that it knows.
    following = follow.follow(hub.connection, "net", poll=0.05)
    assert next(following)["version"] == 6
    hub.models["net"].save(network())
    assert next(following)["version"] == 7
    assert numbers(follow.follow(hub.connection, "net", after=3), 4) == [4, 5, 6, 7]
    hub.connection.db["versions"].update_one({"version": 5}, {"$set": {"deleted": True}})
    assert numbers(follow.follow(hub.connection, "net", after=3), 3) == [4, 6, 7]


def test_two_that_save_at_once_leave_no_gap(hub: ktl.Hub) -> None:
    hub.models["net"].save(network())
    following = follow.follow(hub.connection, "net", after=1, poll=0.001)
    model = network()

    def save() -> None:
        for _ in range(4):
            hub.models["net"].save(model)

    savers = [threading.Thread(target=save) for _ in range(3)]
    for saver in savers:
        saver.start()
    assert numbers(following, 12) == list(range(2, 14))
    for saver in savers:
        saver.join()


def test_an_outage_is_waited_for(
    stack_factory: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    stack = stack_factory(services=("mongodb",))
    with ktl.Hub(stack.mongodb, timeoutMS=300, serverSelectionTimeoutMS=300) as hub:
        hub.models["net"].save(network())
        following = follow.follow(hub.connection, "net", poll=0.01)
        assert next(following)["version"] == 1
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.extend(numbers(following, 2)))
        with caplog.at_level(logging.WARNING, "keras_tl"):
            stack.kill("mongodb")
            waiting.start()
            stack.restart("mongodb")
            with ktl.Hub(stack.mongodb) as other:
                for _ in range(2):
                    other.models["net"].save(network())
            waiting.join(60)
        assert found == [2, 3]
        said = [r.getMessage() for r in caplog.records if "waited for" in r.getMessage()]
        assert len(said) <= 1


def test_a_ring_is_heard_at_once(connection: Connection) -> None:
    with bell.Listener(connection, "news", about="a") as listener:
        assert listener.wait(60)  # it is there: from here on nothing is missed
        bell.ring(connection, "other", about="a")
        bell.ring(connection, "news", about="b")
        bell.ring(connection, "news", about="a", more=[1])
        assert listener.wait(60)
        assert not listener.wait(0.0)  # the other two were not for this one
    bell.close(connection, 30)


def test_a_fit_that_broadcasts_wakes_those_who_follow(connection: Connection) -> None:
    following = follow.follow(connection, "net", poll=NEVER)
    found: list[Any] = []
    model = network()
    callbacks = [MongoCheckpoint(connection, "net"), MongoBroadcast(connection, "net")]

    def train() -> None:
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)

    ktl.models.Versions(connection, "net").save(network())
    assert next(following)["version"] == 1
    waiting = threading.Thread(target=lambda: found.extend(itertools.islice(following, 2)))
    waiting.start()
    train()
    waiting.join(60)
    following.close()  # type: ignore[attr-defined]
    assert [d["version"] for d in found] == [2, 3]
    served = ktl.models.Versions(connection, "net").load(found[-1]["version"])
    assert digest(served) == digest(model)
    close(connection)


def test_without_kafka_a_broadcast_costs_nothing(hub: ktl.Hub) -> None:
    model = network()
    callbacks = [MongoBroadcast(hub, "net"), *hub.callbacks("net")]
    for _ in range(2):  # told once, however often
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=callbacks)
    assert hub.models.flush(60)
    assert numbers(follow.follow(hub.connection, "net", after=0), 2) == [1, 2]
    from keras_tl.models.outbox import outbox

    assert len(outbox(hub.connection).uploader.on_commit) == 1
    with pytest.warns(UserWarning, match="no `MongoCheckpoint` of this `fit` saves 'other'"):
        model.fit(X, Y, verbose=0, callbacks=[MongoBroadcast(hub, "other")])


def test_a_broker_that_is_away_costs_latency_only(hub: ktl.Hub) -> None:
    # In a process of its own: kafka-python leaves sockets that were refused to the garbage
    # collector, whose warnings would be another test's.
    with start(AWAY, hub) as process:
        out, error = process.communicate(timeout=120)
    assert json.loads(out) == [[1, 2], []], error
    assert error.count("does not carry notifications (KafkaTimeoutError)") == 1


def test_wrong_arguments(hub: ktl.Hub) -> None:
    with pytest.raises(ValueError, match="`poll` must be .* Received: 0"):
        follow.follow(hub.connection, "net", poll=0)


def close(connection: Connection) -> None:
    from keras_tl.models import current

    current.close(connection, 30)
    bell.close(connection, 30)

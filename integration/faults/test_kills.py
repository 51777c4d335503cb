"""Trainers, MongoDB and the broker are killed; what is stored is as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import oracles
import pytest
from history import BATCH, BLOCK, PATIENCE, ROOT, STEPS, History, environment, kills
from inputs import BEST, SEED, Sender, samples

from keras_tl import services

Make = Callable[..., History]
Uninterrupted = Callable[[str], oracles.Outcome]

#: Every phase of sending events and of committing a version, and when: on which backend it is
#: is of no matter, so they are shared out.
PHASES = {
    "jax": [
        ("version-captured", 1),
        ("chunk-named", 2),
        ("version-stored", 2),
        ("version-transaction", 2),
        ("blob-files", 2),
        ("version-committed", 1),
    ],
    "tensorflow": [
        ("chunk-written", 2),
        ("version-journalled", 2),
        ("blob-chunks", 1),
        ("version-uploaded", 2),
        ("version-verified", 2),
        ("version-forgotten", 1),
    ],
}
ALL_PHASES = [phase for phases in PHASES.values() for phase, _ in phases]

# How many kills of each kind: by default 20, the rest is shared out between the random ones.
TOTAL = int(os.environ.get("KERAS_TL_TEST_KILLS", "20"))
AIMED = len(ALL_PHASES) + len(PHASES) + 1 + 1  # the replayed journal, the volatile broker
MONGOD = BROKER = max(2, (TOTAL - AIMED) // 5)
MORE = max(0, TOTAL - AIMED - MONGOD - BROKER)  # of trainers, at random
A_HISTORY = 5


def draw(what: str) -> random.Random:
    return random.Random(f"{SEED}/{what}")


def batches(total: int, size: int) -> list[int]:
    return [min(size, total - i) for i in range(0, total, size)]


def plans() -> Iterator[Any]:
    """Kills of trainers, by history: all phases of a commit first, then what chance says."""
    for backend, kind in (("jax", "tansu"), ("tensorflow", "kafka")):
        aimed = [*PHASES[backend], ("line", draw(backend).randint(1, 30))]
        yield pytest.param(backend, kind, aimed, id=f"{backend}-{kind}-each-phase")
    for number, count in enumerate(batches(MORE, A_HISTORY)):
        backend, kind = ["jax", "tensorflow"][number % 2], ["tansu", "kafka"][number // 2 % 2]
        chance = draw(f"trainer {number}")
        kills = [
            ("line", chance.randint(1, 25))
            if chance.random() < 0.4
            else (chance.choice(ALL_PHASES), chance.randint(1, 2))
            for _ in range(count)
        ]
        yield pytest.param(backend, kind, kills, id=f"{backend}-{kind}-random-{number}")


def check_kills(history: History) -> None:
    after = [kill for kill in history.kills if kill.versions]
    assert 2 * len(after) >= len(history.kills), history.kills


@pytest.mark.parametrize(("backend", "kind", "plan"), list(plans()))
def test_trainer_killed(
    backend: str,
    kind: str,
    plan: list[tuple[str, int]],
    make_history: Make,
    uninterrupted: Uninterrupted,
    request: pytest.FixtureRequest,
) -> None:
    expected = uninterrupted(backend)
    aimed = "random" not in request.node.name
    history = make_history(backend, kind, patience=PATIENCE / 2 if aimed else 0)
    hit = [(at, nth) for at, nth in plan if history.killed(at, nth)]
    found = history.finish()
    assert not history.differences(expected, found)
    if aimed:  # by chance a trainer may be through before
        assert hit == plan
        check_kills(history)


@pytest.mark.parametrize(("number", "count"), list(enumerate(batches(MONGOD, 2))))
def test_mongod_killed_while_the_trainer_runs(
    number: int,
    count: int,
    make_history: Make,
    uninterrupted: Uninterrupted,
    stack: services.Stack,
) -> None:
    backend = ["jax", "tensorflow"][number % 2]
    expected = uninterrupted(backend)
    history = make_history(backend, "tansu", pause=0.1)
    trainer = history.start()
    random = draw(f"mongod {number}")
    for i in range(count):
        line = 8 + i * 35 + random.randint(0, 20)
        trainer.wait_logged(line)
        history.note(f"mongod on line {line}")
        stack.kill("mongodb")
        trainer.wait_logged(line + random.randint(3, 18))  # it goes on without
        stack.restart("mongodb")
    found = history.finish(trainer)
    assert not history.differences(expected, found)
    assert len({line["attempt"] for line in history.lines}) == 1
    check_kills(history)


@pytest.mark.skipif(BEST != "kafka", reason="needs Apache Kafka: KAFKA_HOME is not set")
@pytest.mark.parametrize(("number", "count"), list(enumerate(batches(BROKER, 2))))
def test_broker_killed_while_the_producer_sends(
    number: int, count: int, make_history: Make, stack: services.Stack
) -> None:
    """A broker that is away lets partitions look idle: what was skipped then is in the cursor."""
    backend = ["jax", "tensorflow"][number % 2]
    topic = f"live-{SEED}-{number}"
    history = make_history(backend, "kafka", topic=topic)
    with contextlib.closing(Sender(history.hub, topic, samples())) as sender:
        trainer = history.start()
        sender.follow(trainer)
        random = draw(f"broker {number}")
        for i in range(count):
            line = 8 + i * 30 + random.randint(0, 20)
            trainer.wait_logged(line)
            assert sender.sends
            history.note(f"broker on line {line}")
            stack.kill("kafka")
            stack.restart("kafka")
        found = history.finish(trainer)
        sender.finish()
    cursor = history.hub.models[oracles.MODEL].version().cursor
    replayed = make_history(backend, "kafka", topic=topic, stream={"replay": cursor}, pause=0)
    assert not history.differences(replayed.finish(), found)
    check_kills(history)


def test_volatile_broker_killed_is_another_topic(
    make_history: Make, uninterrupted: Uninterrupted, stack_factory: Callable[..., services.Stack]
) -> None:
    tansu = stack_factory("tansu", services=("kafka",))
    history = make_history("jax", "tansu", kafka=tansu.kafka, topic="volatile", pause=0.1)
    Sender(history.hub, "volatile", samples()).send_all()
    trainer = history.start()
    trainer.wait_logged(draw("tansu").randint(10, 30))
    history.note("tansu")
    tansu.kill("kafka")
    tansu.restart("kafka")
    foreign = {name: column[::-1] * 3 for name, column in samples().items()}
    Sender(history.hub, "volatile", foreign).send_all()

    again = None
    for process in (trainer, again := history.start()):
        assert process.wait() == 1
        (last,) = process.errors.strip().splitlines()[-1:]
        assert "TopicChanged" in last
        assert "'volatile'" in last
        assert "its id was" in last
        assert "without `resume`" in last
    assert again is not None and not again.logged

    links = history.hub.models[oracles.MODEL].chain()
    assert links and len({p["topic_id"] for v in links for p in v.cursor["partitions"]}) == 1
    # What is committed was trained on the old topic alone.
    found = oracles.Outcome.of(history.hub)
    reference = uninterrupted("jax")
    shared = {s: t for s, t in reference.tensors.items() if s in found.tensors}
    assert shared and all(found.tensors[step] == tensors for step, tensors in shared.items())
    history.sync()
    assert not oracles.witnessed(history.lines, history.hub, STEPS)


def test_a_journal_left_by_a_kill_is_replayed_once(make_history: Make) -> None:
    history = make_history("jax", "tansu", save_freq=12)
    assert history.killed("version-journalled", 1)
    assert len(history.hub.models[oracles.MODEL]) == 0
    assert list(history.home.glob("journal/*.safetensors"))

    given = ["--mongodb", history.options["mongodb"], "--kafka", history.options["kafka"]]
    command = [sys.executable, "-m", "keras_tl", "sync", "--json", *given]
    processes = [
        subprocess.Popen(
            [*command, "--project", history.hub.project],
            env=environment("jax", history.home),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    texts = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    said = [json.loads(text) for text in texts]
    assert sum(counts["journals"] for counts in said) == 1
    assert sum(counts["versions"] for counts in said) == 1
    (version,) = history.hub.models[oracles.MODEL]
    assert version.step == 12
    assert not oracles.witnessed(history.lines, history.hub, STEPS)
    assert not any(history.sync().values())
    assert not list(history.home.glob("journal/*"))


@pytest.mark.parametrize(
    ("mutant", "phase", "nth", "broken"),
    [
        ("cursor", "version-committed", 2, {"weights", "chain", "sequence"}),
        ("optimizer", "version-committed", 2, {"weights", "sequence"}),
        ("ids", "chunk-written", 4, {"witnessed"}),
        ("acknowledged", "chunk-acknowledged", 4, {"witnessed"}),
    ],
)
def test_a_broken_trainer_is_noticed(
    mutant: str,
    phase: str,
    nth: int,
    broken: set[str],
    make_history: Make,
    uninterrupted: Uninterrupted,
) -> None:
    expected = uninterrupted("jax")
    history = make_history("jax", "tansu", mutant=mutant, patience=PATIENCE / 2)
    assert history.killed(phase, nth)
    found = history.finish()
    noticed = {
        # What a checkpoint lacks is missed in its manifest, and in what was trained after it.
        "weights": oracles.weights(expected, found, ["trainable"]),
        "chain": oracles.chain(expected, history.hub, BATCH, BLOCK),
        "sequence": oracles.sequence(expected, found),
        "witnessed": oracles.witnessed(history.lines, history.hub, STEPS),
    }
    assert broken <= {name for name, differences in noticed.items() if differences}, noticed


def test_half_of_all_kills_lie_after_the_first_version() -> None:
    versions = [kill.versions for kill in kills if kill.versions is not None]
    assert 2 * sum(n > 0 for n in versions) >= len(versions)

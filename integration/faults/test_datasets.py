"""Who writes to a dataset is killed: no half sample is left, and the same again completes it."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import history
import pytest
import savers
from children import FULL, Child, Place
from dataset_oracles import rows, told
from inputs import SEED

from keras_tl import services
from keras_tl.datasets import Dataset
from keras_tl.storage import hooks
from keras_tl.storage.blobs import Blobs

RANDOM = 40 if FULL else 2
N = 600  # samples: three packs

INSERT = [
    *(("dataset-created", 1), ("blob-files", 1), ("dataset-reserved", 2), ("dataset-packs", 1)),
    *(("dataset-transaction", 2), ("dataset-committed", 1)),
]
PACKS = ("dataset-packs", 1)
EDIT = [("dataset-editing", 1), ("dataset-edited", 2), ("dataset-editing", 4), ("dataset-gc", 1)]
DELETE = [("dataset-deleted", 1)]


def dataset(place: Place) -> Dataset:
    return place.hub.datasets["d"]


def whole(place: Place, content: int = 0) -> dict[str, dict[str, Any]]:
    """The samples, each of which must be as it was inserted; the outbox tells of all."""
    found = rows(dataset(place))
    expected = savers.columns(N, content)
    blobs = Blobs(place.hub.connection.db)
    for key, sample in found.items():
        i = int(key[1:])
        assert (sample["x"] == expected["x"][i]).all(), key
        note = sample["note"]
        note = note if isinstance(note, bytes) else blobs.get(note.name)
        assert note == expected["note"][i], key
    return found


def killed(child: Child, kill: tuple[str, int]) -> None:
    assert child.wait() == -9 and child.lines("killed"), (kill, child.errors[-3000:])


def test_every_phase_is_killed_somewhere() -> None:
    sources = (Path(history.ROOT) / "keras_tl" / "datasets").rglob("*.py")
    found = {
        phase
        for source in sources
        for phase in re.findall(r"hooks\.phase\(\s*\"(dataset-[\w-]+)\"", source.read_text())
    }
    assert found == {p for p, _ in [*INSERT, *EDIT, *DELETE] if p.startswith("dataset-")}


def inserts() -> list[tuple[str, int]]:
    chance = random.Random(f"{SEED}/inserts")
    return [*INSERT, *(("line", chance.randint(2, 16)) for _ in range(RANDOM))]


def insert(place: Place, **options: Any) -> int:
    """What a child does, here: all samples, of which some may be there."""
    columns = savers.columns(N, options.pop("content", 0))
    return dataset(place).insert_many(columns, savers.keys(N), {"split": "train"}, **options)


def test_an_insertion_that_is_killed(place: Place) -> None:
    chance = random.Random(f"{SEED}/delays")
    for phase, nth in inserts():
        if phase == "line":
            child = place.start("insert", n=N)
            child.wait_line(nth)
            time.sleep(chance.uniform(0, 0.02))  # kills lie between two lines, too
            child.kill()
        else:
            child = place.start("insert", n=N, kill=(phase, nth))
            killed(child, (phase, nth))
        place.note(f"insertion at {phase} {nth}", versions=False)
        count = len(whole(place))
        assert told(dataset(place))["inserted"] == count, (phase, nth)
        assert insert(place) == N - count
        assert whole(place).keys() == set(savers.keys(N))
        assert told(dataset(place))["inserted"] == N
        dataset(place).delete(savers.keys(N))
        place.db["outbox"].delete_many({})
        if nth == 1:  # blobs that are there are not stored again
            dataset(place).gc(0)
            assert place.hub.models.gc(0)["deleted"] == N - 512  # all values of the last pack
    found = dataset(place)
    insert(place)
    killed(place.start("insert", n=N, content=1, replace=True, kill=PACKS), PACKS)
    place.db["outbox"].delete_many({})  # a majority has this, and so all that was before it
    heads = {head["_id"] for head in found.heads.find({}, {"_id": 1})}
    packs = {pack["_id"] for pack in found.packs.find({}, {"_id": 1})}
    assert found.gc(0)["orphans"] == len(packs - heads) > 0
    place.hub.models.gc(0)
    assert rows(found).keys() == set(savers.keys(N))


def test_a_replacement_that_is_killed(place: Place) -> None:
    """Each sample is the old one or the new one, and all are new in the end."""
    place.start("insert", n=N).finish()
    kills = [("dataset-packs", 1), ("dataset-transaction", 2), ("dataset-committed", 2)]
    old, new = (savers.columns(N, content)["x"] for content in (0, 1))
    for kill in kills:
        killed(place.start("insert", n=N, content=1, replace=True, kill=kill), kill)
        place.note(f"replacement at {kill}", versions=False)
        found = rows(dataset(place))
        assert len(found) == N
        for key, sample in found.items():
            i = int(key[1:])
            assert (sample["x"] == new[i]).all() or (sample["x"] == old[i]).all(), (kill, key)
    insert(place, content=1, replace=True)
    assert len(whole(place, content=1)) == N


def test_two_insertions_at_once(place: Place) -> None:
    """Of two processes that write the same samples each sample comes from one."""
    both = [place.start("insert", n=N), place.start("insert", n=N, part=slice(200, None))]
    for child in both:
        child.finish()
    assert sum(child.lines("written")[0]["written"] for child in both) == N
    assert whole(place).keys() == set(savers.keys(N))
    assert told(dataset(place))["inserted"] == N


def test_edits_that_are_killed(place: Place) -> None:
    place.start("insert", n=N).finish()
    for kill in EDIT:
        killed(place.start("edit", n=N, kill=kill), kill)
        place.note(f"edits at {kill}", versions=False)
        for key, sample in whole(place).items():
            i = int(key[1:])
            label, split = sample["labels"]["y"], sample["tags"]["split"]
            assert (label, split) in ((i % 10, "train"), (i % 7, "test")), (kill, key)
        insert(place, replace=True)
    place.start("edit", n=N).finish()
    found = whole(place)
    assert found.keys() == set(savers.keys(N)[N // 2 :])
    assert dataset(place).predictions.count_documents({}) == len(found)
    assert {sample["tags"]["split"] for sample in found.values()} == {"test"}


def test_a_dataset_that_is_half_deleted(place: Place) -> None:
    place.start("insert", n=N, part=slice(1)).finish()
    killed(place.start("drop", kill=DELETE[0]), DELETE[0])
    assert list(place.hub.datasets) == []
    assert place.hub.datasets.gc()["collections"] == 4
    assert not [name for name in place.db.list_collection_names() if ".d-" in name]


def test_a_server_that_dies_between_packs_and_their_heads(
    place: Place, stack: services.Stack
) -> None:
    """Packs are acknowledged by one server; whoever refers to them looks whether they are there."""
    place.start("insert", n=N, part=slice(1)).finish()
    found = dataset(place)

    def die(phase: str) -> None:
        if phase == "dataset-packs":
            hooks.hook = None
            stack.kill("mongodb")
            stack.restart("mongodb")
            place.client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=2)
            # As if they had not reached its journal.
            found.packs.delete_many({"_id": {"$gt": 0}})

    hooks.hook = die
    assert insert(place) == N - 1
    assert whole(place).keys() == set(savers.keys(N))


def test_a_writer_without_transactions_is_noticed(place: Place) -> None:
    place.start("insert", n=N, part=slice(1)).finish()
    kill = ("dataset-apart", 1)
    mutant = place.start("insert", n=N, mutants=["apart"], kill=kill)
    killed(mutant, kill)
    with pytest.raises(AssertionError):
        found = whole(place)
        assert told(dataset(place))["inserted"] == len(found)

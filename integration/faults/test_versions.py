"""Who saves, deletes or promotes versions is killed: what is listed is whole, what is not is gone.

Keras' ModelCheckpoint, killed while it saves, left 5 of 8 files unreadable: it writes over the
only copy.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import history
import numpy as np
import pytest
import savers
import stored
from children import FULL, Child, Place
from inputs import SEED

from keras_tl.storage import blobs, hooks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RANDOM = 50 if FULL else 4

#: Where a `fit` is killed, and when; chunks are sent one by one. Blobs come first: each `fit` has
#: the same tensors, and what is stored is not sent again.
FIT = [
    *(("blob-chunks", 4), ("blob-files", 3)),
    *(("version-captured", 1), ("version-stored", 2), ("version-journalled", 3)),
    *(("version-verified", 2), ("version-uploaded", 2), ("version-transaction", 2)),
    *(("version-committed", 3), ("version-forgotten", 4)),
]
#: The same for `Versions.save`, which has neither a journal nor a second try.
SAVE = [
    *(("blob-chunks", 3), ("blob-files", 3), ("version-uploaded", 2)),
    *(("version-transaction", 2), ("version-committed", 2)),
]
CLEAN = [("version-buried", 1), ("blob-gc", 1)]
PROMOTE = [("alias-transaction", 2), ("alias-transaction", 4), ("alias-committed", 2)]
#: Of other tests: what events, orders and datasets go through.
ELSEWHERE = ("chunk-", "order-", "dataset-", "snapshot-")


@pytest.fixture(scope="module")
def uninterrupted(mongodb: str, tmp_path_factory: Any) -> Iterator[dict[int, stored.Tensors]]:
    """The tensors of each step of a `fit` that nobody kills."""
    made = Place(mongodb, tmp_path_factory.mktemp("uninterrupted"))
    made.start("fit").finish()
    found = {d["step"]: stored.tensors(made.db, d) for d in stored.listed(made.db)}
    assert list(found) == [2, 4, 6, 8, 10, 12]
    assert not stored.ordered(made.db)
    yield found
    made.close()


def equal(expected: stored.Tensors, found: stored.Tensors) -> bool:
    return expected.keys() == found.keys() and all(
        expected[name].tobytes() == found[name].tobytes() for name in expected
    )


def test_every_phase_is_killed_somewhere() -> None:
    sources = (Path(history.ROOT) / "keras_tl").rglob("*.py")
    found = {
        phase
        for source in sources
        for phase in re.findall(r"hooks\.phase\(\s*\"([\w-]+)\"", source.read_text())
        if not phase.startswith(ELSEWHERE)
    }
    assert found == {phase for phase, _ in [*FIT, *SAVE, *CLEAN, *PROMOTE]}


def fits() -> list[tuple[str, int]]:
    chance = random.Random(f"{SEED}/fits")
    return [*FIT, *(("line", chance.randint(1, 60)) for _ in range(RANDOM))]


def test_a_fit_killed_while_it_saves(
    place: Place, uninterrupted: dict[int, stored.Tensors]
) -> None:
    chance = random.Random(f"{SEED}/delays")
    for phase, nth in fits():
        before = len(stored.listed(place.db))
        if phase == "line":
            child = place.start("fit", mutants=["groups"])
            child.wait_line(nth)
            time.sleep(chance.uniform(0, 0.02))  # kills lie between two lines, too
            child.kill()
        else:
            child = place.start("fit", mutants=["groups"], kill=(phase, nth))
            assert child.wait() == -9 and child.lines("killed"), (phase, child.errors[-3000:])
        assert not stored.readable(place.db, skip=before), (phase, nth)
        place.hub.sync()
        place.note(f"fit at {phase} {nth}")
        mine = stored.listed(place.db)[before:]
        # What was journalled is there, in order, and as if nothing had happened.
        journalled = sum(line["phase"] == "version-journalled" for line in child.lines("phase"))
        assert len(mine) - journalled in (0, 1), (phase, nth)
        assert [d["step"] for d in mine] == [2 * (i + 1) for i in range(len(mine))]
        assert len({d["attempt"] for d in mine}) <= 1
        for document in mine:
            found = stored.tensors(place.db, document)
            assert equal(uninterrupted[document["step"]], found), (phase, document["version"])
        assert not place.journals
    assert not stored.readable(place.db) + stored.ordered(place.db)
    # Our own reader says the same.
    model = savers.network()
    for version in list(place.hub.models["net"])[::10]:
        place.hub.models["net"].restore_into(model, version)
        weights = {w.path: np.asarray(w.value).tobytes() for w in model.weights}
        there = stored.tensors(place.db, version.document)
        shared = {p: a.tobytes() for (r, p), a in there.items() if r.endswith("trainable")}
        assert shared and shared.items() <= weights.items()
    place.hub.models.gc(grace=0)
    assert not stored.orphans(place.db)


def whole(place: Place) -> list[str]:
    """Each version has the tensors of one content, which is the one that its tags tell."""
    different = []
    for document in stored.listed(place.db):
        content = document["tags"]["content"]
        for (_, path), array in stored.tensors(place.db, document).items():
            expected = -1.0 if "frozen" in path else float(content)
            if not (array == expected).all():
                different.append(f"{path} of {document['version']} is not of {content}")
    return different


def test_a_saver_killed_while_it_saves(place: Place) -> None:
    saved = 0
    for phase, nth in SAVE:
        child = place.start(
            "save", contents=[1, 2, saved + 3], mutants=["groups"], kill=(phase, nth)
        )
        assert child.wait() == -9 and child.lines("killed"), (phase, child.errors[-3000:])
        place.note(f"save at {phase} {nth}")
        assert not stored.readable(place.db) + stored.ordered(place.db) + whole(place), phase
        found = len(stored.listed(place.db))
        acknowledged = saved + len(child.lines("saved"))
        assert found - acknowledged == (phase == "version-committed"), phase
        saved = found
    child = place.start("save", contents=[9])  # it waits for what the killed ones have left
    child.finish()
    assert len(stored.listed(place.db)) == saved + 1
    place.hub.models.gc(grace=0)
    assert not stored.orphans(place.db) + stored.readable(place.db) + stored.ordered(place.db)


def test_a_cleaner_and_a_promoter_killed(place: Place) -> None:
    for phase, nth in [*CLEAN, *PROMOTE]:
        place.start("save", contents=[nth, nth + 1, nth + 2, nth + 3, nth + 4]).finish()
        act = "clean" if (phase, nth) in CLEAN else "promote"
        before = stored.listed(place.db)
        child = place.start(act, kill=(phase, nth))
        assert child.wait() == -9 and child.lines("killed"), (phase, child.errors[-3000:])
        place.note(f"{act} at {phase} {nth}")
        found = stored.readable(place.db) + stored.ordered(place.db) + whole(place)
        assert not found, phase
        if phase == "version-buried":  # inside the transaction: nothing was deleted
            assert stored.listed(place.db) == before
        else:
            assert len(stored.listed(place.db)) == (3 if phase == "blob-gc" else len(before))
    place.start("clean").finish()
    assert not stored.orphans(place.db) + stored.readable(place.db) + stored.ordered(place.db)


@pytest.mark.parametrize("mutant", ["early", "untouched"])
def test_a_broken_saver_is_noticed(mutant: str, place: Place) -> None:
    if mutant == "early":
        child = place.start(
            "save", contents=[1, 2], mutants=[mutant], kill=("version-committed", 2)
        )
        assert child.wait() == -9
        (found,) = stored.readable(place.db)
        assert "net 2 cannot be read: NoFile" in found
        return
    _collect_meanwhile(place, [lambda: setattr(blobs.Blobs, "touch", lambda *_: True)])
    assert any("cannot be read: NoFile" in found for found in stored.readable(place.db))


def _collect_meanwhile(place: Place, break_it: list[Callable[[], None]]) -> int:
    """Save what was deleted before, while `gc` takes it at the last moment; how much it took."""
    versions = place.hub.models["net"]
    versions.save(savers.bundle(1), tags={"content": 1})
    versions.save(savers.bundle(2), tags={"content": 2})
    versions.delete(1)
    taken = 0

    def hook(phase: str) -> None:
        nonlocal taken
        if phase == "version-uploaded" and not taken:  # everything is stored already, it thinks
            taken = place.hub.models.gc(grace=0)["deleted"]

    real = blobs.Blobs.touch
    try:
        for change in break_it:
            change()
        hooks.hook = hook
        versions.save(savers.bundle(1), tags={"content": 1})
    finally:
        hooks.hook, blobs.Blobs.touch = None, real  # type: ignore[method-assign]
    return taken


def test_gc_takes_what_a_save_in_flight_is_about_to_use(place: Place) -> None:
    assert _collect_meanwhile(place, [])
    assert not stored.readable(place.db) + stored.ordered(place.db) + whole(place)
    place.hub.models.gc(grace=0)
    assert not stored.orphans(place.db)


def test_gc_beside_savers(place: Place) -> None:
    """Contents come and go while versions are pruned and blobs collected, and all are killed."""
    limit, grace = 0.5, 4.0  # a process must be away for 3.5 s to be taken for dead
    chance = random.Random(f"{SEED}/beside")

    def saver(number: int) -> Child:
        own = [100 * number + i for i in range(8)]
        contents = chance.sample([*own, *range(6)], 10)  # some of both, some of one alone
        return place.start("save", contents=contents, limit=limit, forever=True)

    def cleaner() -> Child:
        return place.start("clean", grace=grace, last=4, forever=True)

    children = {1: saver(1), 2: saver(2), 0: cleaner()}
    deleted, kills = 0, 0
    until = time.monotonic() + (90 if FULL else 10)
    while time.monotonic() < until or not deleted:
        assert time.monotonic() < until + history.PATIENCE, children[0].errors[-3000:]
        assert not stored.readable(place.db)
        for number, child in list(children.items()):
            assert child.process.is_alive(), child.errors[-3000:]
            if chance.random() < 0.1 and child.lines("saved" if number else "pruned"):
                child.kill()
                kills += 1
                deleted += sum(line["deleted"] for line in child.lines("deleted"))
                children[number] = saver(number) if number else cleaner()
        deleted += bool(
            children[0].lines("deleted") and children[0].lines("deleted")[-1]["deleted"]
        )
    for child in children.values():
        child.kill()
    place.note(f"{kills} savers and cleaners, beside one another")
    place.start("save", contents=[1]).finish()  # waits for the locks of the killed
    place.start("clean", grace=0.0).finish()
    assert not stored.orphans(place.db)
    assert not stored.readable(place.db) + stored.ordered(place.db) + whole(place)


def test_processes_that_save_one_model_at_once(place: Place) -> None:
    fits, savings = [place.start("fit") for _ in range(2)], 12
    both = [place.start("save", contents=[i + j for j in range(savings)]) for i in (0, 50)]
    for child in [*fits, *both]:
        child.finish()
    found = stored.listed(place.db)
    assert [d["version"] for d in found] == list(range(1, 2 * 6 + 2 * savings + 1))
    assert not stored.readable(place.db) + stored.ordered(place.db)
    attempts = [d["attempt"] for d in found]
    runs = [child.lines("fitted")[0]["fitted"] for child in fits]
    for run in runs:
        links = [d for d in found if d["run"] == run]
        assert [d["step"] for d in links] == [2, 4, 6, 8, 10, 12]
        assert [d["parent"] for d in links[1:]] == [d["version"] for d in links[:-1]]
    for child in both:
        said = {line["saved"]: line["content"] for line in child.lines("saved")}
        assert said == {d["version"]: d["tags"]["content"] for d in found if d["version"] in said}
    assert len(set(attempts)) == 2 + 2 * savings

"""MongoDB is away while a model is trained, or the disk is full: training goes on, nothing is lost.

With the server stopped for 25 s one step of a synchronous MLflow logger took 25 s; with it away for
75 s Sacred's MongoObserver lost 92 % of the points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import savers
import stored
from children import FULL, Child, Place, frozen, witnessed

from keras_tl import services
from keras_tl.storage import cache

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# A step takes 10 ms more than it must: one fit lasts 3 s, or 75 s.
STEPS, PAUSE = (7500 if FULL else 300), 0.01
SAVE_FREQ = STEPS // 3


@pytest.fixture
def place(stack: services.Stack, tmp_path: Path) -> Iterator[Place]:
    made = Place(stack.mongodb, tmp_path)
    yield made
    made.close()


def start(place: Place) -> Child:
    """A `fit` that has saved its first version, of three."""
    options = {"epochs": 1, "steps": STEPS, "save_freq": SAVE_FREQ, "pause": PAUSE}
    child = place.start("fit", paced=False, flush_timeout=0.5, **options)
    child.wait_said("phase", phase="version-forgotten")
    return child


def check(place: Place, child: Child) -> None:
    """All that was logged is there once, and the last version that was taken."""
    place.hub.sync()  # what the process has not waited for
    run = child.lines("fitted")[0]["fitted"]
    assert place.rows(run, "batch") == witnessed(child)
    assert sum(witnessed(child).values()) == STEPS
    assert place.hub.runs[run].events("loss")["epoch"].tolist() == [0]
    assert place.hub.runs[run].state == "finished"
    # One that could not be written to disk gives way to the next; the newest is kept.
    versions = {d["step"] for d in stored.listed(place.db)}
    assert {SAVE_FREQ, STEPS} <= versions <= {SAVE_FREQ, 2 * SAVE_FREQ, STEPS}
    assert not stored.readable(place.db) + stored.ordered(place.db)
    assert not place.journals


@pytest.mark.parametrize("fault", ["frozen", "killed"])
def test_mongod_away_during_a_fit(
    fault: str, place: Place, stack: services.Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start(place)
    with contextlib.ExitStack() as away:
        before = len(child.lines("logged"))
        if fault == "frozen":
            away.enter_context(frozen(stack))
        else:
            stack.kill("mongodb")
            away.callback(stack.restart, "mongodb")
        # No step waits for the server: all are over while it is still away.
        fitted = child.wait_said("fitted")
        assert len(child.lines("logged")) == STEPS + 1 > before
        assert child.process.is_alive()  # and waits for the server, for a time
    child.finish()
    check(place, child)
    assert child.errors.count("Nothing is lost") == 1
    with capsys.disabled():
        longest = 1000 * fitted["longest"]
        print(f"\nmongod {fault} for {STEPS - before} steps: the longest took {longest:.0f} ms")


def test_a_full_disk(place: Place) -> None:
    """What was logged before and after is kept; of versions none is kept by half."""
    full, free, steps = 100, 200, 300
    child = place.start(
        "full_disk",
        full=full,
        free=free,
        room=2000,
        epochs=1,
        steps=steps,
        save_freq=60,
        pause=0.01,
    )
    child.finish()
    run = child.lines("fitted")[0]["fitted"]
    seen = [line["row"] for line in child.lines("logged") if line["logged"] == "batch"]
    there = place.rows(run, "batch")
    assert len(seen) == steps  # training went on
    assert set(there.values()) == {1} and there.keys() <= set(seen)
    lost = [row[1] + 1 for row in seen if row not in there]
    assert lost == list(range(free + 1 - len(lost), free + 1)) and full < lost[0]
    assert place.hub.runs[run].state == "finished"
    assert child.errors.count("The journal cannot be written") == 1
    assert not stored.readable(place.db) + stored.ordered(place.db)
    found = [d["step"] for d in stored.listed(place.db)]
    assert {60, 300} <= set(found) <= {60, 120, 180, 240, 300}
    assert not place.journals


def test_a_cache_on_a_full_disk(place: Place, caplog: Any, monkeypatch: Any) -> None:
    """A folder that takes nothing: every load works, and one warning says that it is not kept."""
    place.home.mkdir(parents=True)
    blocked = place.home / "blocked"
    blocked.write_text("a file where the cache's folder should be")
    monkeypatch.setenv("KERAS_TL_CACHE", str(blocked))
    models = place.hub.models["net"]
    for content in (1, 2):
        models.save(savers.bundle(content), tags={"content": content})
    model = savers.bundle(0)
    for number in (1, 2, 1):
        models.restore_into(model, number)
        assert all((w == number).all() for w in model.get_layer("head").get_weights())
        cache.shared().flush()
    said = [r for r in caplog.records if "cannot be written" in r.getMessage()]
    assert len(said) == 1

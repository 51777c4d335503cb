"""Damaged blobs are named, a damaged cache is repaired, and no document grows too large."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import stored
from children import FULL, Place

from keras_tl.models import Run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LARGE = 600  # squared and in float32: two chunks


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path / "cache"))


def large(content: float) -> keras.Model:
    model = keras.Sequential([keras.Input((LARGE,)), keras.layers.Dense(LARGE, name="wide")])
    model.layers[0].set_weights([np.full((LARGE, LARGE), content), np.zeros(LARGE)])
    return model


def flip(db: Any, chunk: Any) -> None:
    data = bytearray(chunk["data"])
    data[len(data) // 2] ^= 1
    db["blobs.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})


def remove(db: Any, chunk: Any) -> None:
    db["blobs.chunks"].delete_one({"_id": chunk["_id"]})


def shorten(db: Any, chunk: Any) -> None:
    change = {"$set": {"data": chunk["data"][:-100]}}
    db["blobs.chunks"].update_one({"_id": chunk["_id"]}, change)


@pytest.mark.parametrize("number", [0, 1], ids=["first", "last"])
@pytest.mark.parametrize("damage", [flip, remove, shorten])
def test_a_damaged_blob_is_named(
    damage: Callable[[Any, Any], None], number: int, place: Place, monkeypatch: Any
) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", "0")
    models = place.hub.models["net"]
    models.save(large(1.0))
    models.save(large(2.0))
    (entry,) = (
        e for e in models.version(2).document["tensors"] if e["path"].endswith("wide/kernel")
    )
    file = place.db["blobs.files"].find_one({"filename": entry["hash"]})
    chunk = place.db["blobs.chunks"].find_one({"files_id": file["_id"], "n": number})
    damage(place.db, chunk)
    model = large(0.0)
    with pytest.raises(ValueError, match=r"Version 2 of 'net' .*wide/kernel is damaged"):
        models.restore_into(model)
    with pytest.raises(ValueError, match=r"Version 2 of 'net' .*wide/kernel is damaged"):
        models.load()
    assert not any(w.any() for w in model.get_weights())  # nothing was restored by half
    models.restore_into(model, 1)  # the others are whole
    assert (model.get_weights()[0] == 1.0).all()


def test_a_damaged_cache_is_repaired(place: Place, caplog: Any) -> None:
    models = place.hub.models["net"]
    models.save(large(3.0))
    model = large(0.0)
    models.restore_into(model)
    cached = _cached(place, models.version().document)
    data = bytearray(cached.read_bytes())
    data[len(data) // 2] ^= 1
    cached.write_bytes(data)
    model = large(0.0)
    models.restore_into(model)
    assert (model.get_weights()[0] == 3.0).all()
    assert [r for r in caplog.records if re.search(rf"damaged.*{cached.name}", r.getMessage())]
    assert (
        stored.blob(place.db, cached.name) == _cached(place, models.version().document).read_bytes()
    )


def _cached(place: Place, document: Any) -> Path:
    from keras_tl.storage import cache

    cache.shared().flush()
    (entry,) = (e for e in document["tensors"] if e["path"].endswith("wide/kernel"))
    (path,) = cache.shared().folder.rglob(entry["hash"])
    return path


class Many(keras.Model):
    """Very many small weights."""

    def __init__(self, count: int) -> None:
        super().__init__(name="many")
        self.built = True
        for i in range(count):
            self.add_weight((1,), "zeros", name=f"w{i}")


def sizes(db: Any, name: str) -> dict[str, int]:
    """How many documents a collection has, and the size of its largest."""
    group = {"_id": None, "n": {"$sum": 1}, "max": {"$max": {"$bsonSize": "$$ROOT"}}}
    (found,) = db[name].aggregate([{"$group": group}])
    return {"n": found["n"], "max": found["max"]}


def test_ten_thousand_tensors(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", "0")
    count = 10_000
    model = Many(count)
    for i, weight in enumerate(model.weights):
        weight._value = weight._value + i  # `assign` takes a millisecond
    saved = place.hub.models["many"].save(model)
    assert sizes(place.db, "versions")["max"] < 1 << 20
    (document,) = stored.listed(place.db)
    found = stored.manifest(place.db, document)
    assert len(found) == count and {e["path"].rpartition("/")[2] for e in found} == {
        f"w{i}" for i in range(count)
    }
    for weight in model.weights:
        weight._value = weight._value * 0
    place.hub.models["many"].restore_into(model, saved)
    values = np.concatenate([np.asarray(weight.value) for weight in model.weights])
    assert values.tolist() == list(range(count))


def test_very_many_steps(place: Place) -> None:
    steps, part = (10_000_000, 1_000_000) if FULL else (300_000, 100_000)
    run = Run(place.hub.connection, "long")
    run.start()
    for first in range(0, steps, part):
        for step in range(first, first + part):
            run.log(step + 1, 0, step, {"loss": step * 0.5, "lr": 1e-3})
        assert run.outbox.flush(120)  # or the journal would reach its limit
    run.end()
    place.hub.models.flush(60)
    for name in ("events", "runs"):
        assert sizes(place.db, name)["max"] < 2 << 20
    found = place.hub.runs[run.id].events("loss", kind="batch")
    assert (found["step"] == np.arange(1, steps + 1)).all()
    assert (found["loss"] == np.arange(steps) * 0.5).all()
    assert place.hub.runs[run.id].last["loss"] == (steps - 1) * 0.5

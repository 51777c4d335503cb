"""Without the server: what this machine has seen of a model loads, and what it has not says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import ConnectionFailure
from runner import digest, network

import keras_tl as ktl
from keras_tl.models import best, offline
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.cache import shared

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_model_loads_while_the_server_is_away(
    stack_factory: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(offline, "PATIENCE", 0.5)
    stack = stack_factory(services=("mongodb",))
    with ktl.Hub(stack.mongodb, timeoutMS=5000) as hub:
        digits = hub.models["digits"]
        model = network()
        for value in (0.5, 0.1, 0.2):
            digits.save(model, metrics={"loss": value})
            model.layers[0].set_weights([w + 1 for w in model.layers[0].get_weights()])
        wanted = {
            asked: digest(digits.load(asked)) for asked in (2, "latest", best("loss", mode="min"))
        }
        held = digits.version(2).document
        again = hub.models["again"]  # a model under the key of one that was deleted
        again.save(model)
        again.load(1)
        hub.models.delete("again")
        model.layers[0].set_weights([w + 1 for w in model.layers[0].get_weights()])
        again.save(model)
        second = digest(again.load(1))
        shared().flush()

        stack.kill("mongodb")
        with caplog.at_level(logging.WARNING, "keras_tl"):
            for asked, bits in wanted.items():
                assert digest(digits.load(asked)) == bits
            assert digits.restore_into(network()).number == 3
            assert digest(digits.warm(2)) == wanted[2]
        said = [r.getMessage() for r in caplog.records if "is away" in r.getMessage()]
        assert len(said) == 1 and "as it was last seen at 2" in said[0]
        assert digits.version(2).document == held
        assert digest(again.load(1)) == second
        for path in (tmp_path / "cache" / "versions").rglob("*.bson"):
            if path.stem == "1":
                path.write_bytes(b"garbage")
        with pytest.raises(ConnectionFailure):
            again.load(1)

        for asked in (1, "prod", best("loss", mode="max")):
            with pytest.raises(ConnectionFailure) as caught:
                digits.load(asked)
            assert "is not in the cache" in caught.value.__notes__[0]
        with pytest.raises(ConnectionFailure):
            hub.models["other"].load()
        for path in (tmp_path / "cache").glob("??/*"):
            path.unlink()
        with pytest.raises(ConnectionFailure) as caught:  # the document is, the tensors are not
            digits.restore_into(network(), 2)
        assert "tensors are not in the cache" in caught.value.__notes__[0]

        stack.restart("mongodb")
        assert digest(digits.load(2)) == wanted[2]
        digits.delete(1)
        digits.save(model)
        assert digits.version().number == 4
        shared().flush()
        stored = set((tmp_path / "cache").glob("??/*"))
        assert {f.name for f in stored} >= {
            e["hash"] for e in held["tensors"] if e["role"] != "metric"
        }
        assert Blobs(hub.connection.db).missing(f.name for f in stored) == set()

"""Names of a run's fields: what people write is where the document has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.models import buckets, fields
from keras_tl.storage.query import compile_query

METRIC = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: "__" not in name
)


def at(document: Any, path: str) -> Any:
    """What MongoDB finds at a path."""
    for part in path.split("."):
        document = document[part]
    return document


@given(name=METRIC, other=METRIC)
def test_a_metric_is_found_under_its_own_name(name: str, other: str) -> None:
    values = {buckets.key(other): 2.0, buckets.key(name): 1.0}
    run = {
        **dict.fromkeys(("last", "min", "max"), values),
        "best": {key: {"v": value, "step": 3} for key, value in values.items()},
    }
    for kind in fields.METRICS:
        (path,) = compile_query({f"{kind}.{name}": 1}, fields.path)
        assert at(run, path) == 1.0
    assert fields.metrics(run)[f"best.{name}"] == fields.metrics(run)[f"last.{name}"] == 1.0


def test_a_row_has_the_names_that_a_query_takes() -> None:
    run = {
        **{"_id": "r", "name": "n", "state": "finished", "started": 1, "last_step": 7},
        **{"params": {"opt": {"lr": 0.5}, "sizes": [1, 2], "none": {}}, "tags": {"a%2Eb": "x"}},
        **{"last": {"loss": 0.1}, "best": {"loss": {"v": 0.05, "step": 3}}},
    }
    row = fields.row(run)
    assert row["params.opt.lr"] == 0.5 and row["params.sizes"] == [1, 2]
    assert row["tags.a%2Eb"] == "x" and row["step"] == 7 and row["model"] is None
    for name, value in row.items():
        (path,) = compile_query({name: 1}, fields.path)
        if value is not None:
            assert at(run, path) == value


@pytest.mark.parametrize("name", ["params..lr", "tags.$x"])
def test_a_path_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name a field"):
        compile_query({name: 1}, fields.path)


@pytest.mark.parametrize("name", ["", ".", "nmae", "last", "metrics.loss", "params", "_id"])
def test_what_no_run_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="take id, name, .*Received: '" + name):
        compile_query({name: 1}, fields.path)

"""The rows that a snapshot holds, in the form that its document has them."""

from __future__ import annotations

import bson
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.snapshots.held import BUCKET, groups, has, numbers, packed


@given(
    st.sets(st.integers(0, 5000) | st.integers(2**40, 2**40 + 50), max_size=40),
    st.sampled_from([1, 4, 8, 256]),
    st.integers(0, 5000),
)
def test_what_is_packed_is_found(places: set[int], rows: int, other: int) -> None:
    at = np.array(sorted(places), np.int64)
    found = packed(at, rows)
    packs = sorted({place // rows for place in places})
    assert numbers(found["packs"]).tolist() == packs
    assert found["buckets"] == sorted({pack // BUCKET for pack in packs})
    for place in {*places, other}:
        assert has(found["packs"], place, rows) is (place in places)
    assert bson.decode(bson.encode(found)) == found


@pytest.mark.parametrize("step", [1, 3])
def test_a_million_small_packs_fit_a_document(step: int) -> None:
    """Each `insert` is a pack of its own; one that could not be frozen would be found out late."""
    found = packed(np.arange(0, 1_000_000 * step, step) * 256, 256)
    assert len(bson.encode(found)) < 1 << 20


def test_many_packs_are_asked_for_in_groups() -> None:
    several = list(groups(np.arange(250_000)))
    assert [len(group) for group in several] == [100_000, 100_000, 50_000]
    assert sum(several, []) == list(range(250_000))

"""Columns of values, and their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.views.ordering import column, order


@pytest.mark.parametrize(
    ("values", "declared", "dtype", "expected"),
    [
        ([1, 2], int, "int64", [1, 2]),
        ([1, None], int, "float64", [1.0, np.nan]),
        ([1, 2.5], None, "float64", [1.0, 2.5]),
        ([1.5, None], float, "float64", [1.5, np.nan]),
        ([True, False], bool, "bool", [True, False]),
        ([True, None], bool, "object", [True, None]),
        (["a", None], str, "object", ["a", None]),
        (["a", 1], None, "object", ["a", 1]),
        ([[1, 2], None], None, "float64", [[1.0, 2.0], [np.nan, np.nan]]),
        ([[1, 2], [3]], None, "object", [[1, 2], [3]]),
        ([None, None], None, "object", [None, None]),
        ([], int, "int64", []),
        ([], list, "object", []),
    ],
)
def test_a_column_has_the_dtype_of_its_values(
    values: list[Any], declared: Any, dtype: str, expected: list[Any]
) -> None:
    found = column(values, declared)
    assert found.dtype == dtype
    assert len(found) == len(values)
    if dtype == "object":
        assert found.tolist() == expected
    else:
        np.testing.assert_array_equal(found, expected)


def test_times_are_in_utc() -> None:
    at = datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    found = column([at, None], datetime)
    assert found.dtype == "datetime64[ms]"
    assert found[0] == np.datetime64("2026-05-01T12:00:00") and np.isnat(found[1])


T0 = datetime(2026, 5, 1, tzinfo=UTC)
homogeneous = st.one_of(
    st.lists(st.none() | kind, max_size=12)
    for kind in (
        st.integers(-3, 3) | st.sampled_from([0.5, float("inf"), 1.0]),
        st.text(max_size=2),
        st.booleans(),
        st.integers(0, 3).map(lambda h: T0 + timedelta(hours=h)),
    )
)


@given(homogeneous)
def test_an_order_is_stable_with_the_missing_first(values: list[Any]) -> None:
    found = order(values).tolist()
    expected = [i for i, v in enumerate(values) if v is None]
    expected += sorted((i for i, v in enumerate(values) if v is not None), key=lambda i: values[i])
    assert found == expected
    assert order(values, descending=True).tolist() == expected[::-1]


def test_nan_comes_before_numbers_and_lists_have_no_order() -> None:
    assert order([1.0, float("nan"), None, -1]).tolist() == [2, 1, 3, 0]
    with pytest.raises(ValueError, match="must name numbers, texts.*list"):
        order([[1.0]])

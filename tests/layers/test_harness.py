"""Every layer through every property, and a planted fault for each property."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import pytest
from harness import PROPERTIES, Case, cases

import keras_tl.layers

CASES = cases()


def check(name: str, case: Case, tmp_path: Path) -> None:
    kwargs = {"tmp_path": tmp_path} if name == "saved" else {}
    PROPERTIES[name](case, **kwargs)


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(case: Case, name: str, tmp_path: Path) -> None:
    check(name, case, tmp_path)


def untested(names: list[str], made: set[type]) -> list[str]:
    """The public layers that no case makes."""
    classes = {name: getattr(keras_tl.layers, name) for name in names}
    return [n for n, c in classes.items() if is_layer(c) and c not in made]


def is_layer(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, keras.layers.Layer)


def test_every_layer_has_a_case() -> None:
    made = {type(case.make()) for case in CASES}
    assert untested(keras_tl.layers.__all__, made) == []


def test_every_layer_is_registered_and_says_what_it_does_to_masks() -> None:
    masks: dict[type, bool] = {}
    for case in CASES:
        layer = case.make()
        assert keras.saving.get_registered_name(type(layer)).startswith("keras_tl>"), case.name
        masks[type(layer)] = masks.get(type(layer), False) or case.masks
        if case.masks:
            assert layer.supports_masking, case.name


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)

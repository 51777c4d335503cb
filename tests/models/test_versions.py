"""Who may move `latest`: the table of what two trainers of one model can be to each other."""

from __future__ import annotations

from typing import Any

import pytest

from keras_tl.models.versions import _is_newest

OWNER = {"run": "r", "attempt": "a", "number": 1, "began": 100.0}


def attempt(**changes: Any) -> dict[str, Any]:
    return {**OWNER, **changes}


@pytest.mark.parametrize(
    ("owner", "about", "latest", "parent", "moves"),
    [
        # the first version there is
        (None, attempt(), None, None, True),
        (OWNER, attempt(attempt="b", began=1.0), None, None, True),
        # the same attempt goes on
        (OWNER, attempt(), 5, 5, True),
        (OWNER, attempt(), 5, 4, True),
        # who resumed from the latest takes over, whatever the clocks say
        (OWNER, attempt(attempt="b", number=2, began=1.0), 5, 5, True),
        (OWNER, attempt(attempt="b", number=2, began=1.0), 5, 4, True),
        # a zombie of the same run: taken for dead, it goes on after another has resumed
        (OWNER, attempt(attempt="z", number=0, began=999.0), 5, 3, False),
        # two that resumed from the same version: the one that began later
        (OWNER, attempt(attempt="b", number=1, began=101.0), 5, 3, True),
        (OWNER, attempt(attempt="b", number=1, began=99.0), 5, 3, False),
        # another run altogether: the one that began later
        (OWNER, attempt(run="s", attempt="b", number=0, began=101.0), 5, None, True),
        (OWNER, attempt(run="s", attempt="b", number=0, began=99.0), 5, None, False),
        (OWNER, attempt(run="s", attempt="b", number=7, began=99.0), 5, 2, False),
        # another run that starts from the latest
        (OWNER, attempt(run="s", attempt="b", number=0, began=99.0), 5, 5, True),
    ],
)
def test_latest(
    owner: dict[str, Any] | None,
    about: dict[str, Any],
    latest: int | None,
    parent: int | None,
    moves: bool,
) -> None:
    assert _is_newest(owner, about, latest, parent) is moves

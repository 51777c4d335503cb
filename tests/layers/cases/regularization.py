"""Layers that disturb a network in training."""

from __future__ import annotations

from harness import Case

CASES: list[Case] = []

"""Layers that disturb a network in training."""

__all__: list[str] = []

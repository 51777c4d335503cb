"""Layers that are trained for few bits."""

__all__: list[str] = []

"""Convolutions that sample or mask their input."""

__all__: list[str] = []

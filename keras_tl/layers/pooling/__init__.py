"""Pooling that remembers where the maximum was, and its inverse."""

__all__: list[str] = []

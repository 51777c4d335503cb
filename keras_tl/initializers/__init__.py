"""Initial values that Keras lacks."""

__all__: list[str] = []

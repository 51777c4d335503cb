"""Order, shape and padding of axes."""

__all__: list[str] = []

"""What decides inside the compiled step."""

__all__: list[str] = []

"""Resolution out of channels."""

__all__: list[str] = []

"""What object detectors need around a network."""

__all__: list[str] = []

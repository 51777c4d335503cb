"""A place where fault tests stop, kill or fail the process between two writes."""

from collections.abc import Callable

#: Set by a test; called with the name of the phase that was just reached.
hook: Callable[[str], None] | None = None


def phase(name: str) -> None:
    """Tell a fault test that the phase `name` of a write was reached; free otherwise."""
    if hook is not None:
        hook(name)

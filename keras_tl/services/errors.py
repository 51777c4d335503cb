"""What the local stack raises."""


class ServiceError(RuntimeError):
    """A local server cannot be found, started, reached or stopped; the text says what to do."""


class EarlyExit(ServiceError):
    """A server ended before it was ready (told apart because a lost port race is tried again)."""

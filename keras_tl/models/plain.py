"""What a document can hold of a value, without secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_tl.models import buckets
from keras_tl.storage.connection import _SECRET_KEY, redact


def plain(value: Any, key: str = "", encode: Callable[[str], str] = buckets.key) -> Any:
    """What a document can hold of `value`, without secrets.

    Args:
        value: anything.
        key: its name, which may say that it is a secret.
        encode: makes the names in it keys of a document.

    Example:

    >>> plain({"lr": 0.1, "api_token": "abc", "at": "mongodb://ada:pass@db"})
    {'lr': 0.1, 'api_token': '***', 'at': 'mongodb://ada:***@db'}
    """
    if _SECRET_KEY.search(key) and not isinstance(value, (bool, int, float)):  # `max_tokens=512`
        return "***"
    if isinstance(value, Mapping):
        return {encode(str(k)): plain(v, str(k), encode) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, "", encode) for v in value]
    if isinstance(value, str):
        return buckets.text(redact(value) if "://" in value else value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return plain(value.tolist() if hasattr(value, "tolist") else str(value), "", encode)

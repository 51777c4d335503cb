"""Names that people choose: checked once, so that none becomes a path or an operator of MongoDB."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

#: What a field or a tag cannot be called, since views, records or calls use the word themselves.
RESERVED = (
    *("key", "added", "prediction", "at", "tags", "index", "model", "version", "sample"),
    "self",
)
_LONGEST_NAME, _LONGEST_KEY = 100, 1024


def check_name(name: Any, what: str) -> str:
    """A name of a field, a tag or a predicted value, if it may be one.

    Args:
        name: the name.
        what: the argument that it was given by.

    Raises:
        ValueError: if it is no text, empty, longer than 100 characters or reserved, is not
            printable, has `$`, `.` or `__` in it, or begins with `-`.

    Example:

    >>> check_name("split", "tags")
    'split'
    """
    rule = None
    if not isinstance(name, str):
        rule = "text"
    elif not name or len(name) > _LONGEST_NAME or not name.isprintable() or name != name.strip():
        rule = f"1 to {_LONGEST_NAME} printable characters, with no space at its ends"
    elif "$" in name or "." in name or "__" in name:
        rule = "without `$`, `.` and `__`, which queries use"
    elif name.startswith("-"):
        rule = "without a `-` at its beginning, which `sort` uses"
    elif name in RESERVED:
        rule = f"other than {', '.join(RESERVED)}, which are reserved"
    if rule is not None:
        raise ValueError(f"A name in `{what}` must be {rule}. Received: {name!r}")
    return str(name)


def check_key(key: Any, what: str = "key") -> str:
    """A key of a sample or a dataset, if it may be one.

    Raises:
        ValueError: if it is no text, empty, longer than 1,024 characters, or holds a NUL or half
            of a surrogate pair.
    """
    if (
        not isinstance(key, str)
        or not 0 < len(key) <= _LONGEST_KEY
        or "\0" in key
        or not key.isascii()
        and _SURROGATE.search(key)
    ):
        raise ValueError(
            f"`{what}` must be text of 1 to {_LONGEST_KEY} characters of Unicode, without NUL. "
            f"Received: {key!r}"
        )
    return str(key)


_SURROGATE = re.compile("[\ud800-\udfff]")


def check_keys(keys: Iterable[Any], what: str = "keys") -> list[str]:
    """The keys as a list, each checked, none twice.

    Raises:
        ValueError: if one is no key (see `check_key`), or stands twice.
    """
    if isinstance(keys, (str, bytes)):
        raise ValueError(f"`{what}` must be a list of keys. Received: {keys!r}")
    found = keys.tolist() if hasattr(keys, "tolist") else list(keys)
    for key in found:
        check_key(key, what)
    if len(set(found)) != len(found):
        seen: set[str] = set()
        twice = next(key for key in found if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"`{what}` must name each sample once. Received: {twice!r} twice")
    return found


def fresh_keys(count: int) -> list[str]:
    """So many keys that nobody else has: 26 hexadecimal digits, in ascending order.

    They begin with the time, so that an index over them grows at its end.
    """
    prefix = f"{int(time.time()):08x}{os.urandom(6).hex()}"
    return [f"{prefix}{i:06x}" for i in range(count)]


def slug(key: str, uid: str) -> str:
    """What the names of a dataset's collections end in: short, and never used again.

    Example:

    >>> slug("Faces/2024 (raw)", "5f0c9a7be1d24c11")
    'faces_2024_raw-5f0c9a7be1d24c11'
    """
    plain = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
    return f"{plain[:40]}-{uid}".lstrip("-")

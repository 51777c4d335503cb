"""What this machine last saw of versions and aliases, for when the server is away."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from keras_tl.storage.connection import Connection
from keras_tl.storage.home import cache_settings

log = logging.getLogger("keras_tl")

#: Seconds after which a server counts as away where what it would say is held. With `timeoutMS` the
#: driver waits for all of that, whatever its `serverSelectionTimeoutMS`.
PATIENCE = 5.0
_MOST = 200  # documents a model

_told: set[Path] = set()


def remember(connection: Connection, document: Mapping[str, Any], name: str | None = None) -> None:
    """Keep a version's document beside the cached tensors; never raises.

    Args:
        connection: where it comes from.
        document: the version's document.
        name: the alias (or the text of the question) that it was found by, if not by its number.
    """
    folder = _folder(connection, document["model"])
    if folder is None:
        return
    _told.discard(folder)
    with contextlib.suppress(OSError):  # the cache of the tensors says it
        path = folder / f"{document['version']}.bson"
        if document.get("deleted") is not None:
            path.unlink(missing_ok=True)
            return
        _write(path, dict(document))  # also over that of a model that was deleted
        _forget_oldest(folder)
        if name is not None:
            _write(_alias(folder, name), {"version": document["version"]})


def recall(connection: Connection, key: str, asked: int | str, error: Exception) -> dict[str, Any]:
    """A version's document as last seen, with one warning for each model.

    Args:
        connection: the server that is away.
        key: the model's key.
        asked: the version's number, or what was given as `name` to `remember`.
        error: what the server's absence raised.

    Raises:
        Exception: `error`, with a note, if the version is not held.
    """
    from bson import CodecOptions, decode
    from bson.errors import BSONError

    folder = _folder(connection, key)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    try:
        if folder is None:
            raise FileNotFoundError
        named = folder / f"{asked}.bson" if isinstance(asked, int) else _alias(folder, str(asked))
        seen = datetime.datetime.fromtimestamp(named.stat().st_mtime, datetime.UTC)
        document: dict[str, Any] = decode(named.read_bytes(), options)
        if not isinstance(asked, int):
            path = folder / f"{document['version']}.bson"
            document = decode(path.read_bytes(), options)
    except (OSError, ValueError, KeyError, BSONError) as missing:
        _refuse(key, asked, error, missing)
    if folder not in _told:
        _told.add(folder)
        log.warning(
            "MongoDB at %s is away (%s): %r of the model %r is version %d as it was last seen at "
            "%s UTC, out of the cache of this machine.",
            connection.address,
            type(error).__name__,
            asked,
            key,
            document["version"],
            f"{seen:%Y-%m-%d %H:%M:%S}",
        )
    return document


def _refuse(key: str, asked: int | str, error: Exception, missing: Exception) -> NoReturn:
    error.add_note(
        f"Version {asked!r} of the model {key!r} is not in the cache of this machine: without the "
        "server only what was loaded here before can be loaded."
    )
    raise error from missing


def _folder(connection: Connection, key: str) -> Path | None:
    root, limit = cache_settings()
    if limit <= 0:
        return None
    store = f"{connection.address}\0{connection.project}"
    return root / "versions" / _digest(store) / _digest(key)


def _alias(folder: Path, name: str) -> Path:
    return folder / f"name-{_digest(name)}.bson"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(path: Path, document: dict[str, Any]) -> None:
    from bson import encode

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(encode(document))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _forget_oldest(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.stem.isdigit()]
    for path in sorted(files, key=lambda p: p.stat().st_mtime)[:-_MOST]:
        path.unlink(missing_ok=True)

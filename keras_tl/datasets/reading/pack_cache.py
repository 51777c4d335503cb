"""Packs of fields whose size varies, near at hand: on this machine's disk, or in memory."""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_tl.datasets.reading import cache_room
from keras_tl.storage.cache import BlobCache

log = logging.getLogger("keras_tl")

_NAME = 32  # bytes of a SHA-256
Document = dict[str, Any]


class PackMemory:
    """Keeps the documents of packs in memory.

    Args:
        names: the fields that are kept.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._documents: dict[int, Document] = {}

    def get(self, packs: Sequence[int]) -> dict[int, Document]:
        """Those of the packs that are there: documents of the fields."""
        return {pack: self._documents[pack] for pack in packs if pack in self._documents}

    def put(self, pack: int, document: Mapping[str, Any]) -> None:
        """Keeps the fields of a pack's document."""
        fields = {name: document["fields"][name] for name in self.names}
        self._documents[pack] = {"n": document["n"], "fields": fields}


class PackCache(PackMemory):
    """Keeps fields of packs as BSON in the cache of blobs, by their SHA-256, which it verifies.

    In the folder `columns/<uid>` of the cache, `N.names` has the names: 32 bytes a pack for the
    field at place N of the schema, zeros where there is none. A name is written behind its content
    or before, as the disk has it: what it names is there, or is read from MongoDB.

    Args:
        blobs: the contents.
        uid: of the dataset.
        places: the fields' places in the schema, by name.
    """

    def __init__(self, blobs: BlobCache, uid: str, places: Mapping[str, int]) -> None:
        super().__init__(list(places))
        self._blobs = blobs
        self._files: dict[str, int] = {}
        folder = blobs.folder / "columns" / uid
        try:
            self._open(cache_room.use(folder))
            for name, place in places.items():
                self._files[name] = self._open(_file(folder, place))
        except OSError as error:
            self._files = {}
            log.debug("The cache %s takes no packs: %s", folder, error)

    def _open(self, fd: int) -> int:
        weakref.finalize(self, os.close, fd)
        return fd

    def get(self, packs: Sequence[int]) -> dict[int, Document]:
        import bson

        wanted = {pack: named for pack in packs if (named := self._named(pack)) is not None}
        held = self._blobs.held({name for names in wanted.values() for name in names})
        found = {}
        for pack, names in wanted.items():
            if all(name in held for name in names):
                parts = [bson.decode(held[name]) for name in names]
                fields = {name: part["field"] for name, part in zip(self.names, parts, strict=True)}
                found[pack] = {"n": parts[0]["n"], "fields": fields}
        return found

    def put(self, pack: int, document: Mapping[str, Any]) -> None:
        import bson

        for name, fd in self._files.items():
            content = bson.encode({"n": document["n"], "field": document["fields"][name]})
            digest = hashlib.sha256(content)
            self._blobs.put_many({digest.hexdigest(): memoryview(content)})
            try:
                os.pwrite(fd, digest.digest(), pack * _NAME)
            except OSError as error:
                log.debug("A pack is not in the cache: %s", error)

    def _named(self, pack: int) -> list[str] | None:
        """The names of the fields' contents, if all were put."""
        found = [os.pread(fd, _NAME, pack * _NAME) for fd in self._files.values()]
        if not found or any(len(name) < _NAME or not any(name) for name in found):
            return None
        return [name.hex() for name in found]


def _file(folder: Path, place: int) -> int:
    return os.open(folder / f"{place}.names", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

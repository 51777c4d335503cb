"""Indexes on labels and tags: made of themselves for what views ask, few, and dropped when unused.

A dataset's document lists them, so that every process knows them: `indexes: {name: {fields, auto}}`
and `usage: {name: when a view has last asked for it}`. The list is written before the server makes
or drops an index: killed in between, an index is missing until the next process asks for it, or is
there without being listed, and `tend` drops it.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from keras_tl.datasets.views.conditions import path
from keras_tl.datasets.views.explaining import PREFIX, explain
from keras_tl.datasets.views.rows import Order
from keras_tl.datasets.views.shapes import Shape, bare, joined, outline, shapes_of, words

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.storage.connection import Connection

log = logging.getLogger("keras_tl")

MOST = 8  # automatic ones of a dataset
_MIN_SAMPLES, _WARN_SAMPLES = 1000, 10_000
_UNUSED = timedelta(days=7)
_NOTED = 60.0  # s between two notes of the use of an index
_AGAIN = 60.0  # s after which a dataset that was small may have grown


class _Known:
    """What this process knows of a dataset's indexes."""

    def __init__(self) -> None:
        #: Until when nobody looks again at queries of this kind.
        self.asked: dict[Any, float] = {}
        #: The index for queries of a shape.
        self.serving: dict[Shape, str] = {}
        #: When an index was used last.
        self.used: dict[str, float] = {}
        #: When that was written down last.
        self.noted: dict[str, float] = {}
        self.threads: list[threading.Thread] = []

    def forget(self) -> None:
        """After the indexes have changed."""
        self.asked.clear()
        self.serving.clear()


_known: dict[tuple[str | None, str, str], _Known] = {}


def _of(dataset: Dataset) -> _Known:
    connection = dataset.connection
    return _known.setdefault((connection.address, connection.project, dataset.uid), _Known())


def visit(dataset: Dataset, query: Mapping[str, Any], sort: Order) -> None:
    """A view is about to ask this: warn if that is slow, and make or keep an index for it.

    It costs the first query of a shape in this process a few milliseconds, and others nothing.
    """
    known = _of(dataset)
    shapes = shapes_of(query, sort)[: MOST + 1]
    names = [known.serving[shape] for shape in shapes if shape in known.serving]
    now = time.monotonic()
    for name in names:
        known.used[name] = now
        if now - known.noted.get(name, -_NOTED) >= _NOTED:
            known.noted[name] = now
            _start(known, _note, dataset, name)
    if shapes and len(names) == len(shapes):
        return
    asked = (tuple(shapes), outline(query), tuple(sort))
    if now < known.asked.get(asked, -math.inf):
        return
    known.asked[asked] = now + _AGAIN
    size = dataset.samples.estimated_document_count()
    fits = 0 < len(shapes) <= MOST
    automatic = fits and dataset.document["index"] and size > _MIN_SAMPLES
    if size > _WARN_SAMPLES and not automatic:
        known.asked[asked] = math.inf  # one warning is enough, as nothing will change
    if size > _WARN_SAMPLES and explain(dataset, query, sort, None, "queryPlanner")["scan"]:
        hope = (
            ("An index for it is being made." if len(shapes) == 1 else "Indexes are being made.")
            if automatic
            else f"{' and '.join(map(_call, shapes))} would help."
            if shapes
            else "No index can help: such conditions leave no range of values."
        )
        log.warning(
            "A view of %r looks at all of its %d samples, for %s. %s",
            dataset.key,
            size,
            words(query, sort),
            hope,
        )
    if automatic:
        _start(known, _make_all, dataset, shapes)


def _call(shape: Shape) -> str:
    return f"`create_index({', '.join(map(repr, bare(shape.fields)))})`"


def wait(dataset: Dataset) -> None:
    """Wait until the indexes that this process is making are made."""
    for thread in list(_of(dataset).threads):
        thread.join()


def create(dataset: Dataset, names: Sequence[str]) -> None:
    """Makes an index (see `Dataset.create_index`)."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"`names` must be one name or more, none twice. Received: {names!r}")
    fields = tuple(path(dataset.schema, name, what="names") for name in names)
    name = _name(fields)
    # The list first: an index that is not listed is dropped.
    listed = {"$set": {f"indexes.{name}": {"fields": list(fields), "auto": False}}}
    if not _update(dataset, listed):
        dataset.check_exists()
    _ensure(dataset, name, fields)
    _of(dataset).forget()


def drop(dataset: Dataset, names: Sequence[str]) -> None:
    """Drops an index.

    Raises:
        KeyError: if there is none of these names.
    """
    name = joined(names)
    if name not in _document(dataset).get("indexes", {}):
        dataset.check_exists()
        raise KeyError(f"`names` must be those of an index. Received: {list(names)}")
    _update(dataset, {"$unset": {f"indexes.{name}": "", f"usage.{name}": ""}})
    _of(dataset).forget()
    tend(dataset)


def listed(dataset: Dataset) -> list[dict[str, Any]]:
    """The indexes: `fields`, `auto`, when each was last `used` (or `None`), `ready`."""
    document = _document(dataset)
    if not document:
        dataset.check_exists()
    there = dataset.samples.index_information()
    usage = document.get("usage", {})
    return [
        {
            "fields": bare(about["fields"]),
            "auto": about["auto"],
            "used": usage.get(name),
            "ready": PREFIX + name in there,
        }
        for name, about in sorted(document.get("indexes", {}).items())
    ]


def tend(dataset: Dataset) -> None:
    """Drops automatic indexes that nobody has used for 7 days, and those that are not listed."""
    there = [name for name in dataset.samples.index_information() if name.startswith(PREFIX)]
    document = _document(dataset)  # behind the line above: what is there was listed before
    now = dataset.connection.db.command("hello")["localTime"].replace(tzinfo=UTC)
    usage = document.get("usage", {})
    kept = {}
    for name, about in document.get("indexes", {}).items():
        used = usage.get(name, now)
        if about["auto"] and now - used > _UNUSED:
            gone = {f"indexes.{name}": "", f"usage.{name}": ""}
            if _update(dataset, {"$unset": gone}, {f"usage.{name}": used}):
                continue
        kept[name] = about
    for name in there:
        if name.removeprefix(PREFIX) not in kept:
            _drop(dataset, name)


def _make_all(dataset: Dataset, shapes: Sequence[Shape]) -> None:
    for shape in shapes:
        _make(dataset, shape)


def _make(dataset: Dataset, shape: Shape) -> None:
    """Lets an index serve the shape: one that is listed, or another one."""
    known = _of(dataset)
    for _ in range(10):
        document = _document(dataset)
        found: dict[str, Any] = document.get("indexes", {})
        name = next((n for n, about in found.items() if shape.served_by(about["fields"])), None)
        if name is None:
            name = _name(shape.fields)
            usage = _usage(dataset, document)
            oldest = datetime.min.replace(tzinfo=UTC)
            own = [n for n, about in found.items() if about["auto"]]
            own.sort(key=lambda n: usage.get(n, oldest))
            gone = set(own[: max(0, len(own) - MOST + 1)])
            listed = {n: about for n, about in found.items() if n not in gone}
            listed[name] = {"fields": list(shape.fields), "auto": True}
            used = {n: at for n, at in usage.items() if n not in gone} | {name: "$$NOW"}
            changes = [{"$set": {"indexes": {"$literal": listed}}}, {"$unset": "usage"}]
            changes.append({"$set": {"usage": used}})
            if not _update(dataset, changes, {"indexes": document.get("indexes")}):
                continue  # another process made one meanwhile
            for unused in gone:
                _drop(dataset, PREFIX + unused)
            found = listed
        _ensure(dataset, name, found[name]["fields"])
        known.used[name] = known.noted[name] = time.monotonic()
        known.serving = {s: n for s, n in known.serving.items() if n in found} | {shape: name}
        _note(dataset, name)
        return


def _usage(dataset: Dataset, document: Mapping[str, Any]) -> dict[str, datetime]:
    """When each index was used last, also by what this process has not written down yet."""
    usage, known = dict(document.get("usage", {})), _of(dataset)
    server, here = dataset.now(), time.monotonic()
    for name, at in list(known.used.items()):
        if name in document.get("indexes", {}):
            used = server - timedelta(seconds=here - at)
            usage[name] = max(used, usage.get(name, used))
    return usage


def _note(dataset: Dataset, name: str) -> None:
    exists = {f"indexes.{name}": {"$exists": True}}
    if not _update(dataset, [{"$set": {f"usage.{name}": "$$NOW"}}], exists):
        _of(dataset).forget()  # it was dropped by another process
    tend(dataset)


def _ensure(dataset: Dataset, name: str, fields: Sequence[str]) -> None:
    # `at` behind the others lets a view be resolved and counted without a look at the samples.
    keys = [*((field, 1) for field in fields), ("at", 1)]
    dataset.samples.create_index(keys, name=PREFIX + name)


def _drop(dataset: Dataset, name: str) -> None:
    from pymongo.errors import OperationFailure

    try:
        dataset.samples.drop_index(name)
    except OperationFailure as error:
        if error.code not in (26, 27):  # the collection or the index is gone
            raise


class _Pinned:
    """The client of a connection as it is: once that is closed, no other one is made."""

    def __init__(self, connection: Any) -> None:
        self.db, self.client = connection.db, connection.client
        self.address, self.project = connection.address, connection.project


def _start(known: _Known, work: Callable[..., None], dataset: Dataset, *about: Any) -> None:
    pinned = copy.copy(dataset)
    pinned.connection = cast("Connection", _Pinned(dataset.connection))

    def run() -> None:
        from pymongo.errors import PyMongoError

        try:
            work(pinned, *about)
        except PyMongoError as error:  # no view waits for it, and the next process tries again
            log.info("Indexes of %r were not tended: %s", dataset.key, type(error).__name__)
        finally:
            known.threads.remove(threading.current_thread())

    thread = threading.Thread(target=run, name="keras_tl-indexes", daemon=True)
    known.threads.append(thread)
    thread.start()


def _document(dataset: Dataset) -> dict[str, Any]:
    query = {"_id": dataset.key, "uid": dataset.uid}
    return dataset.connection.db["datasets"].find_one(query, {"indexes": 1, "usage": 1}) or {}


def _update(dataset: Dataset, changes: Any, as_seen: Mapping[str, Any] | None = None) -> bool:
    query = {"_id": dataset.key, "uid": dataset.uid, **(as_seen or {})}
    return bool(dataset.connection.db["datasets"].update_one(query, changes).matched_count)


def _name(fields: Sequence[str]) -> str:
    return joined(bare(fields))

"""Indexes on labels and tags: made of themselves for what views ask, few, and dropped when unused.

A dataset's document lists them, so that every process knows them: `indexes: {name: {fields, auto}}`
and `usage: {name: when a view has last asked for it}`. The list is written before the server makes
or drops an index: killed in between, an index is missing until the next process asks for it, or is
there without being listed, and `tend` drops it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_tl.datasets.conditions import path
from keras_tl.datasets.rows import Order

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

log = logging.getLogger("keras_tl")

MOST = 8  # automatic ones of a dataset
_MIN_SAMPLES, _WARN_SAMPLES = 1000, 10_000
_UNUSED = timedelta(days=7)
_NOTED = 60.0  # s between two notes of an index' use
_PREFIX = "ktl "
_RANGES = {"$gt", "$gte", "$lt", "$lte"}


class Shape(NamedTuple):
    """What a query asks an index for.

    Args:
        equal: paths that have one value or one of a list, in alphabetical order.
        then: path of an order or a range, or `None`.
    """

    equal: tuple[str, ...]
    then: str | None

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.equal, *([self.then] if self.then is not None else []))

    def served_by(self, fields: Sequence[str]) -> bool:
        """Whether an index over these paths finds what the query asks for."""
        count = len(self.equal)
        if set(fields[:count]) != set(self.equal):
            return False
        return self.then is None or tuple(fields[count : count + 1]) == (self.then,)


def shape_of(query: Mapping[str, Any], sort: Order) -> Shape | None:
    """The shape of a query, or `None` where no index of ours would help.

    Example:

    >>> shape_of({"tags.b": {"$eq": 1}, "tags.a": {"$in": [2]}, "added": {"$gt": 3}}, [])
    Shape(equal=('tags.a', 'tags.b'), then='added')
    """
    equal: set[str] = set()
    ranges: list[str] = []
    for place, clause in _clauses(query):
        if clause.keys() & {"$eq", "$in"}:
            equal.add(place)
        elif clause.keys() & _RANGES:
            ranges.append(place)
    wanted = [place for place, _ in sort if place != "at"] + sorted(ranges)
    then = next((place for place in wanted if place not in equal), None)
    if "_id" in equal or then == "_id" or not (equal or then):
        return None
    return Shape(tuple(sorted(equal)), then)


def _clauses(query: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The conditions by path that all have to hold."""
    for place, clause in query.items():
        if place == "$and":
            for part in clause:
                yield from _clauses(part)
        elif not place.startswith("$"):
            yield place, clause


class _Known:
    """What this process knows of a dataset's indexes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: set[Any] = set()
        self.serving: dict[Shape, str] = {}
        self.noted: dict[str, float] = {}
        self.threads: list[threading.Thread] = []


_known: dict[tuple[str | None, str, str], _Known] = {}


def _of(dataset: Dataset) -> _Known:
    connection = dataset.connection
    return _known.setdefault((connection.address, connection.project, dataset.uid), _Known())


def visit(dataset: Dataset, query: Mapping[str, Any], sort: Order) -> None:
    """A view is about to ask this: warn if that is slow, and make or keep an index for it.

    It costs the first query of a shape in this process a few milliseconds, and others nothing.
    """
    known = _of(dataset)
    shape = shape_of(query, sort)
    name = known.serving.get(shape) if shape is not None else None
    if name is not None:
        if time.monotonic() - known.noted.get(name, -_NOTED) >= _NOTED:
            known.noted[name] = time.monotonic()
            _start(known, _note, dataset, name)
        return
    outline = (shape, _outline(query), tuple(sort))
    with known.lock:
        if outline in known.seen:
            return
        known.seen.add(outline)
    size = dataset.samples.estimated_document_count()
    automatic = shape is not None and dataset.document.get("index", True) and size > _MIN_SAMPLES
    if size > _WARN_SAMPLES and _plan(dataset, query, sort, None, "queryPlanner")["scan"]:
        hope = (
            "An index for it is being made."
            if automatic
            else f"`create_index({', '.join(map(repr, _bare(shape.fields)))})` would help."
            if shape is not None
            else "No index can help: such conditions leave no range of values."
        )
        log.warning(
            "A view of %r looks at all of its %d samples, for %s. %s",
            dataset.key,
            size,
            _words(query, sort),
            hope,
        )
    if automatic:
        _start(known, _make, dataset, shape)


def wait(dataset: Dataset) -> None:
    """Wait until the indexes that this process is making are made."""
    known = _of(dataset)
    while known.threads:
        known.threads[0].join()


def create(dataset: Dataset, names: Sequence[str]) -> None:
    """Makes an index (see `Dataset.create_index`)."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"`names` must be one name or more, none twice. Received: {names!r}")
    fields = tuple(path(dataset.schema, name, what="names") for name in names)
    name = _name(fields)
    # The list first: an index that is not listed is dropped.
    _update(dataset, {"$set": {f"indexes.{name}": {"fields": list(fields), "auto": False}}})
    _ensure(dataset, name, fields)
    known = _of(dataset)
    known.serving.clear()
    known.seen.clear()


def drop(dataset: Dataset, names: Sequence[str]) -> None:
    """Drops an index.

    Raises:
        KeyError: if there is none of these names.
    """
    name = "+".join(names)
    if name not in _document(dataset).get("indexes", {}):
        raise KeyError(f"`names` must be those of an index. Received: {list(names)}")
    _update(dataset, {"$unset": {f"indexes.{name}": "", f"usage.{name}": ""}})
    known = _of(dataset)
    known.serving.clear()
    tend(dataset)


def listed(dataset: Dataset) -> list[dict[str, Any]]:
    """The indexes: `fields`, `auto`, when each was last `used` (or `None`), `ready`."""
    document = _document(dataset)
    there = dataset.samples.index_information()
    usage = document.get("usage", {})
    return [
        {
            "fields": _bare(about["fields"]),
            "auto": about["auto"],
            "used": usage.get(name),
            "ready": _PREFIX + name in there,
        }
        for name, about in sorted(document.get("indexes", {}).items())
    ]


def tend(dataset: Dataset) -> None:
    """Drops automatic indexes that nobody has used for 7 days, and those that are not listed."""
    there = [name for name in dataset.samples.index_information() if name.startswith(_PREFIX)]
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
        if name.removeprefix(_PREFIX) not in kept:
            _drop(dataset, name)


def explain(
    dataset: Dataset, query: Mapping[str, Any], sort: Order, limit: int | None
) -> dict[str, Any]:
    """How the server finds the samples: `index`, `scan`, `docs` and `keys` (see `View.explain`)."""
    return _plan(dataset, query, sort, limit, "executionStats")


def _make(dataset: Dataset, shape: Shape) -> None:
    """Lets an index serve the shape: one that is listed, or another one."""
    known = _of(dataset)
    for _ in range(10):
        document = _document(dataset)
        found: dict[str, Any] = document.get("indexes", {})
        name = next((n for n, about in found.items() if shape.served_by(about["fields"])), None)
        if name is None:
            name = _name(shape.fields)
            usage = document.get("usage", {})
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
                _drop(dataset, _PREFIX + unused)
            found = listed
        _ensure(dataset, name, found[name]["fields"])
        known.noted[name] = time.monotonic()
        known.serving = {s: n for s, n in known.serving.items() if n in found} | {shape: name}
        _note(dataset, name)
        return


def _note(dataset: Dataset, name: str) -> None:
    exists = {f"indexes.{name}": {"$exists": True}}
    _update(dataset, [{"$set": {f"usage.{name}": "$$NOW"}}], exists)
    tend(dataset)


def _ensure(dataset: Dataset, name: str, fields: Sequence[str]) -> None:
    # `at` behind the others lets a view be resolved and counted without a look at the samples.
    keys = [*((field, 1) for field in fields), ("at", 1)]
    dataset.samples.create_index(keys, name=_PREFIX + name)


def _drop(dataset: Dataset, name: str) -> None:
    from pymongo.errors import OperationFailure

    try:
        dataset.samples.drop_index(name)
    except OperationFailure as error:
        if error.code not in (26, 27):  # the collection or the index is gone
            raise


def _start(known: _Known, work: Any, dataset: Dataset, *about: Any) -> None:
    def run() -> None:
        from pymongo.errors import PyMongoError

        try:
            work(dataset, *about)
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
    return "+".join(_bare(fields))


def _bare(fields: Sequence[str]) -> list[str]:
    """Names of labels and tags as people call them: no label is called as a tag."""
    return [field.partition(".")[2] or field for field in fields]


def _outline(query: Any) -> Any:
    """The query without its values."""
    return tuple(
        (name, tuple(map(_outline, clause)) if isinstance(clause, list) else tuple(clause))
        for name, clause in query.items()
    )


def _words(query: Mapping[str, Any], sort: Order) -> str:
    places = dict.fromkeys(place for place, _ in _clauses(query))
    parts = [f"conditions on {', '.join(_bare(list(places)))}"] if places else []
    parts += [f"an order by {_bare([place])[0]}" for place, _ in sort[:1]]
    return " and ".join(parts) or "such conditions"


def _plan(
    dataset: Dataset, query: Mapping[str, Any], sort: Order, limit: int | None, verbosity: str
) -> dict[str, Any]:
    find: dict[str, Any] = {"find": dataset.samples.name, "filter": query}
    find["projection"] = {"_id": 0, "at": 1}
    if sort:
        find |= {"sort": dict(sort), "allowDiskUse": True}
    if limit:
        find["limit"] = limit
    found = dataset.connection.db.command({"explain": find, "verbosity": verbosity})
    stages = list(_stages(found["queryPlanner"]["winningPlan"]))
    stats = found.get("executionStats", {})
    names = [stage["indexName"] for stage in stages if "indexName" in stage]
    if any(stage.get("stage") == "IDHACK" for stage in stages):
        names.append("_id_")
    return {
        "index": names[0].removeprefix(_PREFIX) if names else None,
        "scan": any(stage.get("stage") == "COLLSCAN" for stage in stages),
        "docs": stats.get("totalDocsExamined", 0),
        "keys": stats.get("totalKeysExamined", 0),
    }


def _stages(plan: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(plan, Mapping):
        yield plan
        for inside in plan.values():
            yield from _stages(inside)
    elif isinstance(plan, list):
        for inside in plan:
            yield from _stages(inside)

"""A dataset at one moment: what plans are evaluated on, read in one snapshot of the server's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keras_tl.datasets.views import indexes
from keras_tl.datasets.views.conditions import both
from keras_tl.datasets.views.explaining import looked_at
from keras_tl.datasets.views.plan import Joined, Plan
from keras_tl.datasets.views.rows import Order, Rows

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.schema.schema import Schema

T = TypeVar("T")

_SNAPSHOT_UNAVAILABLE, _QUERY_PLAN_KILLED = 246, 175
_TRIES = 20
_FEW = 10_000  # rows that are asked for one by one
_BATCH = 10_000  # documents a reply: few enough for Python's collector to leave them alone


def ask(dataset: Dataset, question: Callable[[Live], T]) -> T:
    """The answer of the dataset as it is at one moment, whatever is written meanwhile.

    Args:
        dataset: the dataset.
        question: asked of the store; again, if the server is just changing the collection.

    Raises:
        KeyError: if the dataset was deleted.
    """
    from pymongo.errors import OperationFailure

    for tries in count():
        try:
            with dataset.connection.client.start_session(snapshot=True) as session:
                answer = question(Live(dataset, session))
            # Reads at one moment do not hold against a deletion, which removes the dataset's
            # document first: as long as that is there, nothing was missing.
            dataset.check_exists()
            return answer
        except LookupError:
            dataset.check_exists()  # some collections were dropped between two reads
            raise
        except OperationFailure as error:
            dataset.check_exists()
            # An index, or the collection, is younger than the moment that was asked for; or the
            # index that the answer was read from was dropped.
            if error.code not in (_SNAPSHOT_UNAVAILABLE, _QUERY_PLAN_KILLED) or tries >= _TRIES:
                raise
            time.sleep(0.02 * (tries + 1))
    raise AssertionError


class Live:
    """A store for plans (`rows.Store`): the dataset as a session sees it.

    Args:
        dataset: the dataset.
        session: of the server; a snapshot session for what must fit together.

    Attributes:
        tell: is told what each look of the server costs, if it is set (see `View.explain`).
    """

    tell: Callable[[dict[str, Any]], None] | None = None

    def __init__(self, dataset: Dataset, session: ClientSession | None) -> None:
        self.dataset = dataset
        self._session = session

    @property
    def schema(self) -> Schema:
        return self.dataset.schema

    @property
    def origin(self) -> Plan:
        return ()

    def _find(
        self,
        collection: Collection[dict[str, Any]],
        query: Mapping[str, Any],
        *args: Any,
        **kw: Any,
    ) -> Cursor[dict[str, Any]]:
        if self.tell is not None:
            options = {**dict(zip(["projection"], args, strict=False)), **kw}
            self.tell(looked_at(self.dataset, collection, query, options))
        return collection.find(query, *args, session=self._session, **kw)

    def select(self, query: dict[str, Any], sort: Order, limit: int | None) -> np.ndarray:
        """Addresses of the samples that the filter lets through: ascending, or as sorted."""
        if limit == 0:
            return np.empty(0, np.int64)
        if not query and not sort and (limit is None or limit > _FEW):
            return self.heads(())[0][:limit]
        if query or sort:
            indexes.visit(self.dataset, query, sort)
        order = sort or ([("at", 1)] if limit is not None else None)
        found = self._find(
            self.dataset.samples,
            query,
            {"_id": 0, "at": 1},
            sort=order,
            limit=limit or 0,
            batch_size=_BATCH,
            allow_disk_use=True if order else None,
        )
        at = _joined([[document["at"] for document in batch] for batch in _batches(found)])
        return at if order else np.sort(at)

    def count(self, query: dict[str, Any], limit: int | None) -> int:
        """How many samples the filter lets through."""
        if limit == 0:
            return 0
        if not query:
            lives = self._find(self.dataset.heads, {}, {"_id": 0, "live": 1})
            total = sum(head["live"] for head in lives)
            return total if limit is None else min(total, limit)
        indexes.visit(self.dataset, query, [])
        options = {} if limit is None else {"limit": limit}
        found = self.dataset.samples.count_documents(query, session=self._session, **options)
        return int(found)

    def keys(self, rows: Rows) -> list[str]:
        """The samples' keys."""
        return self.values(rows, "_id")

    def values(self, rows: Rows, path: str) -> list[Any]:
        """What the samples have there, `None` where they have nothing."""
        name = path.removeprefix("labels.")
        if name != path:
            return self.schema.labels[name].plain(self.labels(rows.at, [name])[name])
        return self.table(rows, [path])[0]

    def table(self, rows: Rows, paths: Sequence[str]) -> list[list[Any]]:
        """What the samples have at each path, as their documents have it."""
        projection = {"_id": int("_id" in paths), "at": 1, **dict.fromkeys(paths, 1)}
        documents = self._find(self.dataset.samples, _covering(rows), projection, batch_size=_BATCH)
        at: list[list[int]] = []
        found: list[list[Any]] = [[] for _ in paths]
        for batch in _batches(documents):
            at.append([document["at"] for document in batch])
            for values, path in zip(found, paths, strict=True):
                values += _at_path(batch, path)
        place = _positions(_joined(at), rows.at).tolist()
        return [[values[i] for i in place] for values in found]

    def found(self, query: dict[str, Any]) -> list[str]:
        """Keys of the samples that the filter lets through."""
        found = self._find(self.dataset.samples, query, {"_id": 1})
        return [document["_id"] for document in found]

    def labels(self, at: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns of labels, from the heads of the packs."""
        if not names:
            return {}
        every, columns = self.heads(names, self._wanted(np.unique(at // self.dataset.rows)), True)
        place = _positions(every, at)
        return {name: column[place] for name, column in columns.items()}

    def _wanted(self, packs: np.ndarray) -> dict[str, Any]:
        """A filter for heads: of these packs, or of all where most of them are wanted."""
        if 4 * len(packs) > self.dataset.heads.estimated_document_count():
            return {}
        return {"_id": {"$in": packs.tolist()}}

    def digests(self, at: np.ndarray) -> np.ndarray:
        """The SHA-256 of each row, uint8 `(n, 32)`."""
        packs, place = np.unique(at // self.dataset.rows, return_inverse=True)
        query, wanted = self._wanted(packs), {"digests": 1}
        by_pack = {
            head["_id"]: head["digests"] for head in self._find(self.dataset.heads, query, wanted)
        }
        table = np.zeros((len(packs), self.dataset.rows, 32), np.uint8)
        for digests, pack in zip(table, packs.tolist(), strict=True):
            rows = np.frombuffer(by_pack[pack], np.uint8).reshape(-1, 32)
            digests[: len(rows)] = rows
        return table[place, at % self.dataset.rows]

    def heads(
        self, names: Sequence[str], query: Mapping[str, Any] | None = None, dead: bool = False
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The addresses of all samples, ascending, and the columns of these labels.

        Args:
            names: the labels.
            query: a filter for heads; default: all.
            dead: whether rows that no sample has any more are wanted, too.
        """
        wanted = {"n": 1, "dead": 1} | {f"labels.{name}": 1 for name in names}
        found = self._find(self.dataset.heads, query or {}, wanted)
        heads = sorted(found.to_list(), key=lambda head: head["_id"])
        if not heads:
            empty = {name: np.empty(0, self.schema.labels[name].dtype) for name in names}
            return np.empty(0, np.int64), empty
        counts = np.array([head["n"] for head in heads], np.int64)
        first = np.array([head["_id"] for head in heads], np.int64) * self.dataset.rows
        begin = np.cumsum(counts) - counts
        at = np.repeat(first - begin, counts) + np.arange(counts.sum())
        columns = {
            name: np.frombuffer(
                b"".join(head["labels"][name] for head in heads), self.schema.labels[name].dtype
            )
            for name in names
        }
        if not dead and any(head.get("dead") for head in heads):
            alive = np.concatenate([_alive(head) for head in heads])
            at = at[alive]
            columns = {name: column[alive] for name, column in columns.items()}
        return at, columns

    def predicted(self, join: Joined, query: dict[str, Any]) -> set[str]:
        """Keys of the samples with a prediction that the filter lets through."""
        found = self._find(
            self.dataset.predictions,
            both(_equal(model=join[0], version=join[1]), query),
            {"_id": 0, "sample": 1},
            batch_size=_BATCH,
        )
        return {document["sample"] for batch in _batches(found) for document in batch}

    def predictions(self, rows: Rows, join: Joined, name: str) -> list[Any]:
        """What was predicted for the samples, `None` where nothing was."""
        keys = self.keys(rows)
        found = predictions(self.dataset, keys, join, [name], self._session)
        return [found.get(key, {}).get(name) for key in keys]


def predictions(
    dataset: Dataset,
    keys: Sequence[str],
    join: Joined,
    names: Sequence[str] | None = None,
    session: ClientSession | None = None,
) -> dict[str, dict[str, Any]]:
    """What a version of a model has predicted, by sample and by name.

    Args:
        dataset: the dataset.
        keys: the samples; others may be in the answer, too.
        join: the model and its version.
        names: what is wanted; default: all.
        session: of the server.
    """
    query = _equal(model=join[0], version=join[1])
    if len(keys) <= _FEW:
        query["sample"] = {"$in": list(keys)}
    wanted = ["values"] if names is None else [f"values.{name}" for name in names]
    projection = {"_id": 0, "sample": 1, **dict.fromkeys(wanted, 1)}
    found = dataset.predictions.find(query, projection, batch_size=_BATCH, session=session)
    return {d["sample"]: d.get("values", {}) for batch in _batches(found) for d in batch}


def _equal(**values: Any) -> dict[str, Any]:
    return {name: {"$eq": value} for name, value in values.items()}


def _batches(cursor: Cursor[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    # By the batch, as `to_list` is faster than `next`; raw batches are slower than either.
    with cursor:
        while batch := cursor.to_list(_BATCH):
            yield batch


def _joined(numbers: list[list[int]]) -> np.ndarray:
    parts = [np.array(part, np.int64) for part in numbers]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _covering(rows: Rows) -> dict[str, Any]:
    """A filter that lets these rows through, and not many others."""
    if rows.exact or not len(rows.at):
        return rows.query
    if len(rows.at) <= _FEW:
        return both(rows.query, {"at": {"$in": rows.at.tolist()}})
    return both(rows.query, {"at": {"$gte": int(rows.at.min()), "$lte": int(rows.at.max())}})


def _alive(head: dict[str, Any]) -> np.ndarray:
    if not head.get("dead"):
        return np.ones(head["n"], bool)
    bits = np.frombuffer(head["dead"], np.uint8)
    return ~np.unpackbits(bits, count=head["n"], bitorder="little").astype(bool)


def _at_path(documents: Sequence[Mapping[str, Any]], path: str) -> list[Any]:
    first, _, second = path.partition(".")
    if second:
        return [document.get(first, _NOTHING).get(second) for document in documents]
    return [document.get(first) for document in documents]


_NOTHING: Mapping[str, Any] = {}


def _positions(every: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of the wanted addresses is; all of them are there."""
    order = np.argsort(every, kind="stable")
    found = order[np.searchsorted(every, wanted, sorter=order)]
    if (every[found] != wanted).any():
        raise LookupError("rows are not there")
    return found

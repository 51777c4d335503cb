"""How samples get into a dataset: packs first, then all that refers to them in one transaction.

Killed before the transaction, packs without a head stay, which nobody sees and `gc` takes; after
it, all samples of the group are there. Numbers of packs that were reserved and not used are gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.storing import existing, outbox, packs
from keras_tl.datasets.storing.block import Block, of_columns, of_records
from keras_tl.datasets.storing.existing import Moved, Plan
from keras_tl.storage import hooks
from keras_tl.storage.blobs import Blobs

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

_GROUP_ROWS, _GROUP_BYTES = 4096, 16 << 20  # of a transaction
_THREADS = 2
# Samples that are documents at a time. Python looks through all that a process has after so many
# new objects: with a backend loaded that took a third of the time of an insertion.
_SAMPLES = 500
_DUPLICATE = 11000


def insert(
    dataset: Dataset,
    samples: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    keys: Iterable[str] | None,
    tags: Mapping[str, Any] | None,
    replace: bool,
    keep: bool = False,
) -> int:
    """See `Dataset.insert_many`.

    Args:
        dataset: where to.
        samples: as there.
        keys: as there.
        tags: as there.
        replace: as there.
        keep: whether, without `replace`, samples that exist with the same tensors keep labels and
            tags that are others by now: those of an import that is run again.
    """
    if not isinstance(tags, Mapping | None):
        raise ValueError(f"`tags` must be a mapping of tags to values. Received: {tags!r}")
    if any(name not in dataset.schema.tags for name in tags or ()):
        dataset.refresh()  # declared by others, maybe
    schema, tags = dataset.schema, tags or {}
    writer = Writer(dataset, replace, keep)
    if isinstance(samples, Mapping):
        writer.look = keys is not None
        blocks = of_columns(schema, samples, keys, tags, writer.store)
    elif keys is not None:
        raise ValueError(
            "`keys` is for columns; samples one by one have their own as `key`. Received: "
            "keys and an iterable"
        )
    else:
        blocks = of_records(schema, samples, tags, writer.store, dataset.refresh)
    written = writer.write_all(blocks)
    if written:
        outbox.ring(dataset)
    return written


class Writer:
    """Writes blocks to a dataset; threads may share it.

    Args:
        dataset: where to.
        replace: whether samples that exist get other values, instead of being refused.
        keep: whether those that exist with the same tensors keep their labels and tags, if not.

    Attributes:
        look: whether keys may exist already: not those that were just made.
    """

    look = True

    def __init__(self, dataset: Dataset, replace: bool = False, keep: bool = False) -> None:
        self.dataset, self.replace, self.keep = dataset, replace, keep
        self.blobs = Blobs(dataset.connection.db)

    def store(self, content: Any) -> packs.Blob:
        """Stores a large value now; it is spared by `gc` for as long as an upload may take."""
        client = self.dataset.connection.client
        while True:
            (name,) = self.blobs.put_many([content])
            with client.start_session() as session:
                if session.with_transaction(lambda s: self.blobs.touch([name], s)):  # noqa: B023
                    return packs.Blob(name, packs.length(content))

    def write_all(self, blocks: Iterable[Block]) -> int:
        """Writes blocks, two groups at a time; how many samples were not there yet.

        A group waits for one before it that has a key of its own: what comes later is later.

        Raises:
            ValueError: as `write`; groups before may have been written by then.
        """
        groups = _groups(blocks)
        first = list(next(groups, []))
        second = next(groups, None)
        if second is None:
            return self.write(first, self.dataset.reserve(len(first))) if first else 0
        written = 0
        running: list[tuple[Future[int], set[str]]] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                for group in chain([first, second], groups):
                    keys = {key for block in group for key in block.keys}
                    while any(not keys.isdisjoint(others) for _, others in running):
                        written += running.pop(0)[0].result()
                    # Numbers are in the order of the samples, whichever group is faster.
                    number = self.dataset.reserve(len(group))
                    running.append((pool.submit(self.write, group, number), keys))
                    if len(running) > _THREADS:
                        written += running.pop(0)[0].result()
                return written + sum(future.result() for future, _ in running)
            except BaseException:
                for future, _ in running:
                    future.cancel()
                raise

    def write(self, group: list[Block], first: int) -> int:
        """Writes the samples that are not there yet; how many those were.

        Args:
            group: their blocks.
            first: the first of the numbers that are reserved for them.

        Raises:
            ValueError: if a sample exists with other values, unless `replace`.
            KeyError: if the dataset was deleted meanwhile.
            TimeoutError: if a value that was stored before it came here was collected meanwhile.
        """
        schema = self.dataset.schema
        for block in group:
            block.digests = packs.digests(schema, block.columns, len(block))
        look = self.look
        while True:
            found = existing.look(self.dataset, group) if look else {}
            plan = existing.plan(schema, group, found, self.replace, self.keep)
            try:
                return self._write(plan, first) if plan.blocks or plan.edited else 0
            except Moved:
                self._check_stored(group)
                look = True  # others wrote the same keys meanwhile
                first = self.dataset.reserve(len(group))

    def _check_stored(self, group: list[Block]) -> None:
        stored = {
            value.name: f"`{name}` of sample {key!r}"
            for block in group
            for name, column in block.columns.items()
            for key, value in zip(block.keys, column, strict=True)
            if isinstance(value, packs.Blob)
        }
        for name in self.blobs.missing(stored):
            raise TimeoutError(
                f"{stored[name]} must be referred to within the grace period of `gc` after it was "
                "stored. Received: a value that was collected"
            )

    def _write(self, plan: Plan, first: int) -> int:
        dataset = self.dataset
        started = dataset.now()
        hooks.phase("dataset-reserved")
        documents: list[dict[str, Any]] = []
        heads: list[dict[str, Any]] = []
        for number, block in enumerate(plan.blocks, first):
            put, digested = self.blobs.put_many, block.digests
            pack, head = packs.encode(dataset.schema, block.columns, put, digested)
            documents.append({"_id": number, **pack, "added": started})
            heads.append({"_id": number, **head, "added": started})
        _insert_packs(dataset, documents)
        documents.clear()
        hooks.phase("dataset-packs")
        commit = _Commit(self, plan, heads, started)
        with dataset.connection.client.start_session() as session:
            try:
                session.with_transaction(commit)
            except Moved:  # not committed, for certain: nobody will refer to them
                dataset.packs.delete_many({"_id": {"$in": [head["_id"] for head in heads]}})
                raise
        hooks.phase("dataset-committed")
        return sum(map(len, plan.blocks)) + len(plan.edited)


class _Commit:
    """What one transaction does; it may be run again."""

    def __init__(
        self,
        writer: Writer,
        plan: Plan,
        heads: list[dict[str, Any]],
        started: datetime,
    ) -> None:
        self.dataset, self.blobs, self.plan = writer.dataset, writer.blobs, plan
        self.heads, self.started = heads, started

    def __call__(self, session: ClientSession) -> None:
        from pymongo.errors import BulkWriteError

        dataset, heads = self.dataset, self.heads
        numbers = [head["_id"] for head in heads]
        if numbers and dataset.heads.find_one({"_id": numbers[0]}, {"_id": 1}, session=session):
            return  # an earlier try was committed, its answer was lost
        dataset.check_exists(session)
        # They were acknowledged by one server only, which may have died since; or `gc` took them.
        there = dataset.packs.count_documents({"_id": {"$in": numbers}}, session=session)
        names = {name for head in heads for name in head.get("blobs", ())}
        if there < len(numbers) or (names and not self.blobs.touch(names, session)):
            raise Moved  # or it took a blob that was stored before: store it again
        events = []
        moved = self.plan.moved
        if moved or self.plan.edited:
            replaced = [sample for sample in self._samples() if sample["_id"] in moved]
            changed = existing.apply(dataset, self.plan, replaced, self.started, session)
            events += outbox.of_keys(dataset, "updated", changed)
        samples = (sample for sample in self._samples() if sample["_id"] not in moved)
        try:
            while part := list(islice(samples, _SAMPLES)):
                dataset.samples.insert_many(part, ordered=False, session=session)
        except BulkWriteError as error:
            if any(e["code"] != _DUPLICATE for e in error.details["writeErrors"]):
                raise
            raise Moved from None
        if heads:
            dataset.heads.insert_many(heads, ordered=False, session=session)
        for number, block in zip(numbers, self.plan.blocks, strict=True):
            new = len(block) - sum(key in moved for key in block.keys) if moved else len(block)
            if new:
                events.append(outbox.event(dataset, "inserted", new, packs=[number]))
        outbox.tell(dataset, events, session)
        hooks.phase("dataset-transaction")

    def _samples(self) -> Iterator[dict[str, Any]]:
        for head, block in zip(self.heads, self.plan.blocks, strict=True):
            yield from _samples(self.dataset, block, head["_id"], self.started)


def _groups(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks that one transaction takes; no key stands twice in them."""
    group: list[Block] = []
    keys: set[str] = set()
    rows = size = 0
    for block in blocks:
        if group and not keys.isdisjoint(block.keys):
            yield group
            group, keys, rows, size = [], set(), 0, 0
        group.append(block)
        keys.update(block.keys)
        rows += len(block)
        size += sum(packs.length(column) for column in block.columns.values())
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, keys, rows, size = [], set(), 0, 0
    if group:
        yield group


def _insert_packs(dataset: Dataset, documents: list[dict[str, Any]]) -> None:
    """The transaction, which looks whether they are there, waits for the majority."""
    from pymongo import WriteConcern

    if documents:
        collection = dataset.packs.with_options(write_concern=WriteConcern(1))
        collection.insert_many(documents, ordered=False)


def _samples(
    dataset: Dataset, block: Block, number: int, added: datetime
) -> Iterator[dict[str, Any]]:
    """The documents of the samples of a pack."""
    at = number * dataset.rows
    labels = {
        name: kind.plain(np.asarray(block.columns[name]))
        for name, kind in dataset.schema.labels.items()
    }
    labelled, tagged = _records(labels, len(block)), _records(block.tags, len(block), none=False)
    for key, row, label, tag in zip(block.keys, range(at, at + len(block)), labelled, tagged):  # noqa: B905
        yield {"_id": key, "at": row, "labels": label, "tags": tag, "added": added}


def _records(
    columns: Mapping[str, list[Any]], n: int, none: bool = True
) -> Iterator[dict[str, Any]]:
    """The rows of columns, with `None` or without; those that are equal are one object."""
    made: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = tuple(columns)
    for row in zip(*columns.values(), strict=True) if names else [()] * n:
        record = made.get(row)
        if record is None or 0.0 in row:  # which equals -0.0
            pairs = zip(names, row, strict=True)
            record = {name: value for name, value in pairs if none or value is not None}
            made[row] = record
        yield record

"""Packs from MongoDB: only the fields that are wanted, verified, and patient with the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from keras_tl.datasets.storing import packs

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

log = logging.getLogger("keras_tl")

#: Seconds that reading waits for a MongoDB that is away, before it gives up.
PATIENCE = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0  # s between two tries
_T = TypeVar("_T")

#: Numbers of packs by the dataset and the fields: packs never change.
_verified: dict[tuple[str, frozenset[str]], set[int]] = {}


def fetch(
    dataset: Dataset,
    numbers: Sequence[int],
    names: Iterable[str],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads packs.

    Args:
        dataset: the dataset.
        numbers: the packs.
        names: the fields whose payloads are wanted.
        stopped: whether nobody waits for them any more.

    Yields:
        The number and the document of each pack; of other fields it has the hash only. A process
        verifies a pack once.

    Raises:
        RuntimeError: a pack is gone.
        KeyError: the dataset was deleted.
        ValueError: a pack is damaged.
        pymongo.errors.PyMongoError: MongoDB was away for longer than `PATIENCE`.
    """
    from pymongo.errors import OperationFailure

    wanted = set(names)
    projection = None  # of all fields: it would cost the server a copy
    if wanted != set(dataset.schema.tensors):
        projection = {"n": 1, "hash": 1} | {
            f"fields.{name}" if name in wanted else f"fields.{name}.hash": 1
            for name in dataset.schema.tensors
        }
    query = {"_id": {"$in": list(numbers)}}
    try:
        found = patiently(lambda: list(dataset.packs.find(query, projection)), stopped)
    except OperationFailure:  # the collection was dropped beneath it
        patiently(dataset.check_exists, stopped)
        raise
    if len(found) < len(numbers):
        missing = sorted({*numbers} - {document["_id"] for document in found})
        raise gone(dataset, f"Packs {missing}")
    known = _verified.setdefault((dataset.uid, frozenset(wanted)), set())
    while found:
        document = found.pop()
        if document["_id"] not in known:
            packs.verify(document)
            known.add(document["_id"])
        yield document["_id"], document


def gone(dataset: Dataset, what: str) -> RuntimeError:
    """The error for what is not stored any more.

    Raises:
        KeyError: the dataset was deleted.
    """
    patiently(dataset.check_exists)
    return RuntimeError(
        f"{what} of the dataset {dataset.key!r} are gone. Their samples were deleted, and `gc` ran "
        "with a `grace` shorter than the epoch that still reads them."
    )


def patiently(call: Callable[[], _T], stopped: Callable[[], bool] = lambda: False) -> _T:
    """What the call returns; repeated, for `PATIENCE` seconds, while MongoDB is away.

    Args:
        call: what to do; it may be done twice.
        stopped: whether nobody waits for it any more.

    Raises:
        pymongo.errors.PyMongoError: of the last try, with a note that says how long it took.
    """
    from pymongo.errors import ConnectionFailure, PyMongoError

    began, wait, told = time.monotonic(), _FIRST_WAIT, False
    while True:
        try:
            return call()
        except PyMongoError as error:
            if not (isinstance(error, ConnectionFailure) or error.timeout):
                raise
            waited = time.monotonic() - began
            ended = stopped() or not threading.main_thread().is_alive()
            if waited > PATIENCE or ended:
                error.add_note(f"MongoDB has been away for {waited:.0f} s; nobody waits longer.")
                raise
            if not told:
                told = True
                log.warning(
                    "MongoDB is away (%s): samples are waited for, %.0f s at most.",
                    str(error).partition(",")[0],
                    PATIENCE,
                )
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)

"""What happened to samples, told in the transaction in which it happens, and rung behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_tl.storage import bell

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

#: Of the documents in `outbox`.
KINDS = ("inserted", "updated", "labelled", "deleted", "predicted")
_KEYS = 1000  # a document


def event(dataset: Dataset, kind: str, n: int, **about: Any) -> dict[str, Any]:
    """A document of the outbox: `n` samples, with their `packs` or `keys`."""
    return {"dataset": dataset.key, "uid": dataset.uid, "kind": kind, "n": n, **about}


def of_keys(dataset: Dataset, kind: str, keys: Sequence[str], **about: Any) -> list[dict[str, Any]]:
    """Documents of the outbox for samples that are told by key."""
    parts = (list(keys[at : at + _KEYS]) for at in range(0, len(keys), _KEYS))
    return [event(dataset, kind, len(part), keys=part, **about) for part in parts]


def tell(dataset: Dataset, events: Iterable[dict[str, Any]], session: ClientSession) -> None:
    """Puts events into the outbox."""
    now = dataset.now()
    documents = [{**event, "at": now} for event in events]
    if documents:
        dataset.connection.db["outbox"].insert_many(documents, session=session)


def ring(dataset: Dataset) -> None:
    """Tells those who follow the dataset that there is something in the outbox."""
    bell.ring(dataset.connection, "dataset.changed", dataset=dataset.key)

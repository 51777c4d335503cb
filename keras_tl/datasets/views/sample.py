"""One sample of a dataset, whose tensors are read when they are asked for."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.storing import packs
from keras_tl.datasets.views.conditions import both
from keras_tl.datasets.views.live import predictions
from keras_tl.datasets.views.rows import evaluate, leading
from keras_tl.storage.blobs import Blobs

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.views.view import View

_LISTED = 1000  # samples that a list reads at a time
_PACKS = 4  # packs that a list keeps


class Sample:
    """One sample: its key, labels and tags at hand, its tensors a question away.

    Attributes:
        key: its key.
        labels: labels by name, `None` where one is missing.
        tags: tags by name, without those that it has not.
        added: when it was inserted.
        predictions: what the joined version of a model has predicted, by name; empty without one.
    """

    def __init__(
        self,
        reader: Reader,
        document: Mapping[str, Any],
        predictions: Mapping[str, Any] | None = None,
    ) -> None:
        schema = reader.dataset.schema
        self.key: str = document["_id"]
        self.added: datetime | None = document.get("added")
        labels, tags = document.get("labels") or {}, document.get("tags") or {}
        self.labels: dict[str, Any] = {name: labels.get(name) for name in schema.labels}
        self.tags: dict[str, Any] = {
            name: tags[name] for name in schema.tags if tags.get(name) is not None
        }
        self.predictions: dict[str, Any] = dict(predictions or {})
        self._reader, self._at = reader, document["at"]

    def __repr__(self) -> str:
        return f"Sample({self.key!r}, labels={self.labels}, tags={self.tags})"

    def __getitem__(self, name: str) -> Any:
        """A field or a tag; tensors are read from the store.

        Returns:
            An array; bytes for `Bytes` and what is kept encoded; text for `Text`; a label or a tag
            as a plain value, `None` where it is missing.

        Raises:
            KeyError: for a name that the dataset has not.
            ValueError: if what is stored is damaged.
        """
        schema = self._reader.dataset.schema
        if name in schema.labels:
            return self.labels[name]
        if name in schema.tags:
            return self.tags.get(name)
        return self._reader.value(self._at, name)

    def open(self, name: str) -> IO[bytes]:
        """The bytes of a field as a binary file; one over a megabyte is read a piece at a time.

        Raises:
            KeyError: for a name that the dataset has not.
            ValueError: if what is stored is damaged, or the field holds arrays or text.

        Example:

        ```python
        with ds["clip-7"].open("video") as file:
            head = file.read(4096)
        ```
        """
        return self._reader.open(self._at, name)


class Reader:
    """Reads values of samples, a pack at a time, and keeps the last few packs.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._blobs = Blobs(dataset.connection.db)
        self._packs: OrderedDict[int, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()

    def value(self, at: int, name: str) -> Any:
        """A value as `Sample` gives it."""
        found = self._stored(at, name)
        if isinstance(found, packs.Blob):
            about = _row(self._document(at)["fields"][name], at % self.dataset.rows)
            one = packs.decode({"n": 1, "fields": {name: about}}, [name], self._blobs.get_many)
            return one[name][0]
        return found.copy() if isinstance(found, np.ndarray) else found

    def open(self, at: int, name: str) -> IO[bytes]:
        """A value as a file."""
        found = self._stored(at, name)
        kind = self._document(at)["fields"][name]["dtype"]
        if kind != "bytes":
            raise ValueError(f"`name` must be a field that holds bytes. Received: {name!r}")
        return self._blobs.open(found.name) if isinstance(found, packs.Blob) else io.BytesIO(found)

    def _stored(self, at: int, name: str) -> Any:
        if name not in self.dataset.schema.tensors:
            listed = ", ".join([*self.dataset.schema.fields, *self.dataset.schema.tags])
            raise KeyError(f"`name` must be one of {listed}. Received: {name!r}")
        document = self._document(at)
        columns = self._packs[at // self.dataset.rows][1]
        if name not in columns:
            columns |= packs.decode(document, [name])
        return columns[name][at % self.dataset.rows]

    def _document(self, at: int) -> dict[str, Any]:
        number = at // self.dataset.rows
        if number not in self._packs:
            document = self.dataset.packs.find_one({"_id": number})
            if document is None:
                self.dataset.check_exists()
                raise ValueError(
                    f"Pack {number} of {self.dataset.key!r} must be stored: the sample was deleted "
                    "and its row collected since it was listed. Received: no such pack"
                )
            packs.verify(document)
            self._packs[number] = document, {}
            if len(self._packs) > _PACKS:
                self._packs.popitem(last=False)
        self._packs.move_to_end(number)
        return self._packs[number][0]


def _row(about: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The field of a pack that has this row alone, of a field whose values are blobs."""
    parts = {"data": 64, "lengths": 8}
    if "shapes" in about:
        parts["shapes"] = len(about["shapes"]) // (len(about["lengths"]) // 8)
    cut = {name: about[name][row * size : (row + 1) * size] for name, size in parts.items()}
    return {**about, **cut}


def listed(view: View) -> Iterator[Sample]:
    """The samples of a view, some at a time (see `View.__iter__`)."""
    at = view._ask(lambda store: evaluate(view.plan, store).at)
    reader = Reader(view.dataset)
    for begin in range(0, len(at), _LISTED):
        group = at[begin : begin + _LISTED].tolist()
        found = {d["at"]: d for d in view._documents({"at": {"$in": group}})}
        if len(found) < len(group):
            view.dataset.check_exists()
        # One that is not there was deleted or replaced meanwhile.
        yield from _made(view, reader, [found[place] for place in group if place in found])


def single(view: View, key: str) -> Sample | None:
    """The sample of a view with this key, if there is one."""
    query, _, limit, rest = leading(view.plan, view.dataset.schema)
    one = {"_id": {"$eq": check_key(key)}}
    if limit is not None or rest:
        query = one if key in view else {"_id": {"$in": []}}
    else:
        query = both(one, query)
    found = next(_made(view, Reader(view.dataset), view._documents(query)), None)
    if found is None:
        view.dataset.check_exists()
    return found


def _made(view: View, reader: Reader, documents: Sequence[dict[str, Any]]) -> Iterator[Sample]:
    predicted: Mapping[str, Any] = {}
    if view.join is not None:
        keys = [document["_id"] for document in documents]
        predicted = predictions(view.dataset, keys, view.join)
    for document in documents:
        yield Sample(reader, document, predicted.get(document["_id"]))

"""Where samples' values come from: the local columns, else MongoDB, which fills them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.reading import memory
from keras_tl.datasets.reading.columns import Columns
from keras_tl.datasets.reading.fetching import fetch, gone, patiently
from keras_tl.datasets.reading.pack_cache import PackCache, PackMemory
from keras_tl.datasets.reading.spans import Ahead, Span, cut, overlap
from keras_tl.datasets.schema.fields import BLOB_BYTES, Field, Text
from keras_tl.datasets.storing import packs
from keras_tl.storage.home import cache_settings

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

_THREADS = 2
_REQUEST_BYTES, _REQUEST_PACKS = 8 << 20, 256
_PIECE_BYTES = 4 << 20
_VARIES = 1024  # bytes that a value of varying size counts at least


class Source:
    """Reads fields of a dataset by address. Threads may share it.

    Values of fixed size up to a megabyte are gathered from the local columns: a `ColumnCache`, or
    memory. Packs that are not there yet are read from MongoDB, verified, and put there; two threads
    read ahead. What the columns do not take (`cache=None`, a disk that is full) is kept for as long
    as it is needed: for two windows of 64 MB. Values of varying size come from packs as well, and
    those over a megabyte from blobs; copies of these packs and blobs are in the cache of blobs. A
    shuffled epoch needs whole windows of such packs, of 1 GB at most, but the blobs of few batches.

    Args:
        dataset: the dataset.
        names: the fields: those that packs hold.
        cache: `"auto"` (the local cache, if `KERAS_TL_CACHE_LIMIT` is not 0), `"memory"` (all that
            was read stays in memory), or `None`.

    Raises:
        ValueError: for another `cache`.
    """

    def __init__(self, dataset: Dataset, names: Sequence[str], cache: str | None = "auto") -> None:
        if cache not in ("auto", "memory", None):
            raise ValueError(f"`cache` must be 'auto', 'memory' or None. Received: {cache!r}")
        self.dataset = dataset
        fields = {name: dataset.schema.tensors[name] for name in names}
        self._fixed = {n: f for n, f in fields.items() if f.row_bytes and _is_small(f)}
        self._loose = {n: f for n, f in fields.items() if n not in self._fixed}
        self._known_bytes = sum(field.row_bytes or 0 for field in fields.values())
        #: Of fields whose size varies: how many values were read, and their bytes.
        self._met = {n: (0, 0) for n, f in fields.items() if f.row_bytes is None}
        self.columns = _columns(dataset, self._fixed, cache)
        self._packs = _packs(dataset, self._loose, cache)
        self._cached = cache is not None
        self._memory = memory.shared()

    def row_bytes(self) -> int:
        """Bytes of a sample, about."""
        varying = (max(_VARIES, size // max(1, count)) for count, size in self._met.values())
        return max(1, self._known_bytes + sum(varying))

    def take(self, at: np.ndarray) -> dict[str, np.ndarray]:
        """The values of samples.

        Args:
            at: int64, their addresses.

        Returns:
            By field an array with a row a sample; of objects where sizes vary.

        Raises:
            RuntimeError: samples are gone.
            KeyError: the dataset was deleted.
            ValueError: a pack or a blob is damaged.
            pymongo.errors.PyMongoError: MongoDB was away for longer than `fetching.PATIENCE`.
        """
        for _, _, found in self.stream(at, max(1, len(at))):
            return found
        return {name: _empty(field) for name, field in (self._fixed | self._loose).items()}

    def stream(
        self, at: np.ndarray, size: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """The values of samples in pieces, while those that follow are read ahead.

        Args:
            at: int64, their addresses.
            size: samples of a batch.
            stopped: whether nobody waits for them any more; asked by threads.

        Yields:
            Where they begin and end, and the columns of some batches that are ready.

        Raises:
            Exception: as `take`.
        """
        count = len(at)
        if not count:
            return
        rows, columns = self.dataset.rows, self.columns
        if columns is not None:
            columns.reserve(int(at.max()) // rows + 1)
        ready: deque[Span] = deque()
        begin = 0
        pool = ThreadPoolExecutor(_THREADS, "keras_tl-samples")

        def begun(first: int, last: int) -> Span:
            span = Span(first, at[first:last], rows, self._memory)
            parts = self._parts(self._lacking(span))
            span.futures = [pool.submit(self._load, span, part, stopped) for part in parts]
            return span

        plan = cut(at, rows, size, self.row_bytes, bool(self._met))
        ahead = Ahead(plan, begun, self.row_bytes)
        try:
            while begin < count:
                while not ready or ready[-1].end < min(begin + size, count):
                    ready.append(ahead.next())
                ahead.fill()  # not before the first batch is there: nothing holds it up
                most = max(1, _PIECE_BYTES // (self.row_bytes() * size))
                while ready[-1].end < begin + most * size and ahead.done:
                    ready.append(ahead.next())
                    ahead.fill()
                batches = min(most, max(1, (ready[-1].end - begin) // size))
                end = min(begin + batches * size, count)
                yield begin, end, self._assembled(ready, at, begin, end)
                begin = end
                while ready and ready[0].end <= begin:
                    ready.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _lacking(self, span: Span) -> np.ndarray:
        """The packs that have to be looked at before the span's rows can be gathered."""
        if self.columns is None or self._loose:
            return span.packs
        return span.packs[~self.columns.sure(span.packs)]

    def _parts(self, wanted: np.ndarray) -> list[np.ndarray]:
        """What is asked for at a time: enough for each thread, and not too much."""
        size = self.row_bytes() * self.dataset.rows
        most = min(_REQUEST_PACKS, max(1, _REQUEST_BYTES // size))
        count = -(-len(wanted) // most)
        if count == 1 and len(wanted) > 1 and len(wanted) * size > 1 << 20:
            count = _THREADS
        return np.array_split(wanted, count) if count else []

    def _load(
        self, span: Span, wanted: np.ndarray, stopped: Callable[[], bool], keep: bool = True
    ) -> None:
        """In a thread: puts packs into the columns, or into the span."""
        columns = self.columns if keep else None
        absent = wanted if columns is None else columns.missing(wanted)
        lacking = set(absent.tolist() if self._fixed else ())
        held = self._packs.get(wanted.tolist()) if self._packs is not None and keep else {}
        for pack, document in held.items():
            self._keep_loose(span, pack, document)
        rest = set(wanted.tolist() if self._loose else ()) - held.keys()
        for asked, loose in ((rest, [*self._loose]), (lacking - rest, [])):
            names = [*(self._fixed if lacking & asked else ()), *loose]
            if not asked:
                continue
            for pack, document in fetch(self.dataset, sorted(asked), names, stopped):
                if pack in lacking:
                    self._keep_fixed(span, pack, document, columns)
                if loose:
                    if self._packs is not None:
                        self._packs.put(pack, document)
                    self._keep_loose(span, pack, document)

    def _keep_fixed(
        self, span: Span, pack: int, document: Mapping[str, Any], columns: Columns | None
    ) -> None:
        found = packs.decode(document, self._fixed)
        hashes = {n: f["hash"] for n, f in document["fields"].items() if f.get("codec") == "raw"}
        if columns is None or not columns.put(pack, found, hashes):
            for name, column in found.items():
                span.put(pack, name, column)

    def _keep_loose(self, span: Span, pack: int, document: Mapping[str, Any]) -> None:
        for name, column in packs.decode(document, self._loose).items():
            span.put(pack, name, column)
            if name in self._met:  # two threads may count as one: it is "about"
                count, size = self._met[name]
                self._met[name] = count + len(column), size + sum(map(_size, column))

    def _assembled(
        self, ready: Sequence[Span], at: np.ndarray, begin: int, end: int
    ) -> dict[str, np.ndarray]:
        parts = overlap(ready, begin, end)
        found: dict[str, np.ndarray] = {}
        for name, field in self._fixed.items():
            if len(parts) == 1 and name in parts[0][0].own:
                span, part = parts[0]
                if span.has[name][part].all():
                    found[name] = span.own[name][part]
                    continue
            out = found[name] = self._memory.empty((end - begin, *field.shape), field.dtype)  # type: ignore[misc, arg-type]
            if not any(name in span.own for span, _ in parts):
                if not self._gather(name, at[begin:end], out):
                    self._again(name, at[begin:end], out)
                continue
            for span, part in parts:
                place = out[span.begin + part.start - begin : span.begin + part.stop - begin]
                self._mixed(name, span, part, place)
        for name, field in self._loose.items():
            column = np.concatenate([span.own[name][part] for span, part in parts])
            found[name] = self._values(field, column)
        return found

    def _gather(self, name: str, at: np.ndarray, out: np.ndarray) -> bool:
        return self.columns is not None and self.columns.take(name, at, out)

    def _mixed(self, name: str, span: Span, part: slice, out: np.ndarray) -> None:
        """Rows of which some are in the span, and the others in the columns."""
        if name not in span.own:
            if not self._gather(name, span.at[part], out):
                self._again(name, span.at[part], out)
            return
        out[...] = span.own[name][part]
        rest = np.flatnonzero(~span.has[name][part])
        if len(rest):
            at = span.at[part][rest]
            values = np.empty((len(rest), *out.shape[1:]), out.dtype)
            if not self._gather(name, at, values):
                self._again(name, at, values)
            out[rest] = values

    def _again(self, name: str, at: np.ndarray, out: np.ndarray) -> None:
        """Rows that were taken out of the cache while they were read."""
        span = Span(0, at, self.dataset.rows)
        self._load(span, span.packs, lambda: False, keep=False)
        out[...] = span.own[name]

    def _values(self, field: Field, column: np.ndarray) -> np.ndarray:
        """Values of a field that are objects until now, with the contents of blobs."""
        names = {value.name for value in column if isinstance(value, packs.Blob)}
        if names:
            contents = self._blobs(names)
            column = column.copy()
            for row, value in enumerate(column):
                if isinstance(value, packs.Blob):
                    column[row] = _content(field, value, contents[value.name])
        if field.row_bytes is None:
            return column
        return np.stack(list(column)) if len(column) else _empty(field)

    def _blobs(self, names: set[str]) -> Mapping[str, memoryview]:
        from keras_tl.storage.blobs import Blobs
        from keras_tl.storage.cache import shared

        blobs = Blobs(self.dataset.connection.db)
        get = partial(shared().get_many, blobs) if self._cached else blobs.get_many
        try:
            return patiently(partial(get, names))
        except KeyError:
            raise gone(self.dataset, "Large values") from None


def _columns(dataset: Dataset, fields: Mapping[str, Field], cache: str | None) -> Columns | None:
    sizes = {name: field.row_bytes or 0 for name, field in fields.items()}
    if cache == "memory" and sizes:
        return Columns(dataset.rows, sizes)
    folder, limit = cache_settings()
    if cache is None or not sizes or not limit:
        return None
    from keras_tl.datasets.reading.column_cache import ColumnCache

    places = _places(dataset, fields)
    return ColumnCache(folder, limit, dataset.uid, dataset.rows, fields, places)


def _packs(dataset: Dataset, fields: Mapping[str, Field], cache: str | None) -> PackMemory | None:
    if cache is None or not fields:
        return None
    if cache == "memory":
        return PackMemory(list(fields))
    from keras_tl.storage.cache import shared

    return PackCache(shared(), dataset.uid, _places(dataset, fields)) if shared().limit else None


def _places(dataset: Dataset, names: Iterable[str]) -> dict[str, int]:
    wanted = set(names)
    return {name: i for i, name in enumerate(dataset.schema.fields) if name in wanted}


def _is_small(field: Field) -> bool:
    return field.row_bytes is not None and field.row_bytes <= BLOB_BYTES


def _size(value: Any) -> int:
    """Bytes of a value whose size varies, about."""
    if isinstance(value, packs.Blob):
        return value.length
    return int(getattr(value, "nbytes", 0)) or len(value)


def _empty(field: Field) -> np.ndarray:
    if field.row_bytes is None or field.shape is None:
        return np.empty(0, object)
    return np.empty((0, *field.shape), field.dtype)  # type: ignore[arg-type]


def _content(field: Field, value: packs.Blob, data: memoryview) -> Any:
    if field.dtype is not None and field.shape is not None:
        shape = value.shape or field.shape
        return np.frombuffer(data, field.dtype).reshape(shape)  # type: ignore[arg-type]
    return str(data, "utf-8") if isinstance(field, Text) else bytes(data)

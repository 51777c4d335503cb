"""Samples on their way into a dataset: checked columns, a pack at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_tl.datasets.schema.fields import BLOB_BYTES, Column, Field
from keras_tl.datasets.schema.names import check_key, check_keys, fresh_keys
from keras_tl.datasets.schema.schema import PACK_BYTES, Schema
from keras_tl.datasets.storing import packs
from keras_tl.storage.files import FileContent

#: Stores a value that is too large for a pack.
Store = Callable[[Any], packs.Blob]


@dataclass
class Block:
    """Samples that become one pack: checked values, column by column.

    Attributes:
        keys: of the samples.
        columns: by field.
        tags: by tag; `None` where a sample has none.
        digests: 32 bytes a row (see `packs.digests`).
    """

    keys: list[str]
    columns: dict[str, Column]
    tags: dict[str, list[Any]]
    digests: bytes = field(default=b"", repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: list[int]) -> Block:
        """The block of these rows alone."""
        if len(rows) == len(self):
            return self
        columns = {name: _take(column, rows) for name, column in self.columns.items()}
        tags = {name: [values[i] for i in rows] for name, values in self.tags.items()}
        digests = b"".join(self.digests[32 * i : 32 * i + 32] for i in rows)
        return Block([self.keys[i] for i in rows], columns, tags, digests)

    def sizes(self, schema: Schema) -> list[int]:
        """Bytes that each row takes in its pack."""
        total = [0] * len(self)
        for name, kind in schema.tensors.items():
            if kind.row_bytes is not None and kind.row_bytes <= BLOB_BYTES:
                total = [size + kind.row_bytes for size in total]
                continue
            for row, value in enumerate(self.columns[name]):
                total[row] += 64 if isinstance(value, packs.Blob) else packs.length(value)
        return total


def _take(column: Column, rows: list[int]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[i] for i in rows]


def of_columns(
    schema: Schema,
    columns: Mapping[str, Any],
    keys: Iterable[str] | None,
    tags: Mapping[str, Any],
    store: Store,
) -> Iterator[Block]:
    """Blocks of samples that are given column by column.

    All is checked before the first block comes, but for the content of files.

    Raises:
        ValueError: if something does not fit, naming the sample and the field.
    """
    _check_names(schema, columns)
    lengths = {name: _count(name, column) for name, column in columns.items()}
    n = next(iter(lengths.values()), 0)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns must have the same length. Received: {lengths}")
    named = None if keys is None else check_keys(keys)
    if named is not None and len(named) != n:
        raise ValueError(f"`keys` must have a key a sample: {n}. Received: {len(named)}")

    def where(name: str, begin: int = 0) -> Callable[[int], str]:
        return lambda row: _where(name, begin + row, named[begin + row] if named else None)

    labels = {
        name: kind.check_column(columns.get(name, [None] * n), where(name))
        for name, kind in schema.labels.items()
    }
    tagged = {
        name: schema.check_tag_column(name, values, n, where("tags"))
        for name, values in tags.items()
    }
    steps = range(0, n, schema.rows)
    for name, kind in schema.tensors.items():
        for begin in steps:
            kind.examine(columns[name][begin : begin + schema.rows], where(name, begin))

    def blocks() -> Iterator[Block]:
        for begin in steps:
            part = slice(begin, min(n, begin + schema.rows))
            checked = {
                name: _checked(kind, columns[name][part], where(name, begin), store)
                if name in schema.tensors
                else labels[name][part]
                for name, kind in schema.fields.items()
            }
            yield from _cut(
                schema,
                Block(
                    named[part] if named else fresh_keys(part.stop - begin),
                    checked,
                    {name: values[part] for name, values in tagged.items()},
                ),
            )

    return blocks()


def of_records(
    schema: Schema,
    records: Iterable[Mapping[str, Any]],
    tags: Mapping[str, Any],
    store: Store,
    refreshed: Callable[[], Schema] | None = None,
) -> Iterator[Block]:
    """Blocks of samples that come one by one; no more than a block of them is held.

    A key that comes again is in a later block: it is as if it were inserted by a later call.

    Args:
        schema: of the dataset.
        records: values by field, with the sample's key as `key`, and `tags` by name.
        tags: for those that do not have these of their own.
        store: stores large values.
        refreshed: reads the schema again, if a sample has a tag that it does not have.

    Raises:
        ValueError: if something does not fit, naming the sample and the field.
    """
    rows: list[tuple[str | None, dict[str, Any], dict[str, Any]]] = []
    seen: set[str] = set()
    size = 0

    def block() -> Block:
        fresh = iter(fresh_keys(len(rows)))
        names = {name: None for _, _, tagged in rows for name in tagged}
        made = Block(
            [key if key is not None else next(fresh) for key, _, _ in rows],
            {
                name: _column(kind.row_bytes, [values[name] for _, values, _ in rows])
                for name, kind in schema.fields.items()
            },
            {name: [tagged.get(name) for _, _, tagged in rows] for name in names},
        )
        rows.clear()
        seen.clear()
        return made

    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise ValueError(
                f"Sample {number} must be a mapping of fields to values. Received: {record!r}"
            )
        key = None if record.get("key") is None else check_key(record["key"])
        values = {n: v for n, v in record.items() if n not in ("key", "tags")}
        _check_names(schema, values, f"Sample {number if key is None else repr(key)}")
        checked = {
            name: _settle_one(kind.check(values.get(name), _where(name, number, key)), store)
            for name, kind in schema.fields.items()
        }
        own = record.get("tags") or {}
        if not isinstance(own, Mapping):
            raise ValueError(
                f"{_where('tags', number, key)} must be a mapping of tags to values. "
                f"Received: {own!r}"
            )
        if refreshed is not None and not own.keys() <= schema.tags.keys():
            schema = refreshed()  # declared by others, maybe
        tagged = {
            name: schema.check_tag(name, value, lambda: _where("tags", number, key))  # noqa: B023
            for name, value in {**tags, **own}.items()
        }
        length = sum(
            64 if isinstance(value, packs.Blob) else packs.length(value)
            for value in checked.values()
        )
        if rows and (size + length > PACK_BYTES or key in seen):
            yield block()
            size = 0
        rows.append((key, checked, tagged))
        size += length
        if key is not None:
            seen.add(key)
        if len(rows) == schema.rows:
            yield block()
            size = 0
    if rows:
        yield block()


def _where(name: str, row: int, key: str | None) -> str:
    return f"`{name}` of sample {row if key is None else repr(key)}"


def _check_names(schema: Schema, given: Iterable[str], who: str = "The samples") -> None:
    names = set(given)
    unknown = sorted(map(repr, names - schema.fields.keys()))
    if unknown:
        raise ValueError(
            f"{who} must have the fields {', '.join(schema.fields)} only. "
            f"Received: {', '.join(unknown)}"
        )
    absent = sorted(schema.tensors.keys() - names)
    if absent:
        raise ValueError(f"{who} must have the fields {', '.join(absent)}. Received: none")


def _count(name: str, column: Any) -> int:
    if isinstance(column, (str, bytes, Mapping)) or not hasattr(column, "__getitem__"):
        raise ValueError(
            f"`{name}` must be an array or a list with a value a sample. "
            f"Received: {type(column).__name__}"
        )
    try:
        return len(column)
    except TypeError:
        raise ValueError(f"`{name}` must have a value a sample. Received: one number") from None


def _column(row_bytes: int | None, values: list[Any]) -> Column:
    if row_bytes is None or any(isinstance(value, packs.Blob) for value in values):
        return values
    return np.stack(values)


def _checked(kind: Field, values: Any, where: Callable[[int], str], store: Store) -> Column:
    """A checked column, its large values stored one by one: no file stays open, no copy is kept."""
    if kind.row_bytes is not None and kind.row_bytes <= BLOB_BYTES:
        return kind.check_column(values, where)
    return [_settle_one(kind.check(value, where(row)), store) for row, value in enumerate(values)]


def _settle_one(value: Any, store: Store) -> Any:
    if packs.length(value) <= BLOB_BYTES or isinstance(value, packs.Blob):
        return value
    if isinstance(value, np.ndarray):
        return store(value.tobytes())._replace(shape=value.shape)
    stored = store(value)
    if isinstance(value, FileContent):
        value.close()
    return stored


def _cut(schema: Schema, block: Block) -> Iterator[Block]:
    """The block, in parts if its values are larger than a pack may be."""
    sizes = block.sizes(schema) if schema.varies else []
    begin, size = 0, 0
    for row, length in enumerate(sizes):
        if row > begin and size + length > PACK_BYTES:
            yield block.take(list(range(begin, row)))
            begin, size = row, 0
        size += length
    yield block.take(list(range(begin, len(block))))

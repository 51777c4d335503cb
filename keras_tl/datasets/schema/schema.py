"""What the samples of a dataset have: fields and tags, checked where they enter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from keras_tl.datasets.schema.fields import BLOB_BYTES, Field, from_config
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.schema.names import check_name

#: Bytes of rows in a pack, about; and rows at most.
PACK_BYTES, PACK_ROWS = 4 << 20, 256
_VARIES = 1024  # bytes that a value of varying size counts
_LONGEST = 10_000  # characters of a tag
_POINTER = 64  # bytes that a blob's name takes

#: Types of tags by the name that the schema keeps.
TAGS: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, bool, datetime)}


class Schema:
    """The fields and tags of a dataset.

    Args:
        fields: kinds by name, in the order of the columns.
        tags: Python types by name, or the names of the types: `str`, `int`, `float`, `bool`,
            `datetime.datetime`.

    Attributes:
        fields: all kinds by name.
        tensors: those that packs hold.
        labels: those that can be changed.
        tags: names of types by name.
        rows: rows of a pack at most: a power of two.

    Raises:
        ValueError: if a name or a kind is none.

    Example:

    >>> from keras_tl.datasets import Array
    >>> schema = Schema({"x": Array((8,)), "y": Label(2)}, {"split": str})
    >>> schema.tags, schema.rows
    ({'split': 'str'}, 256)
    """

    def __init__(
        self, fields: Mapping[str, Field], tags: Mapping[str, type | str] | None = None
    ) -> None:
        if not fields:
            raise ValueError("`fields` must name one field at least. Received: none")
        if not isinstance(tags, Mapping | None):
            raise ValueError(f"`tags` must be a mapping of names to types. Received: {tags!r}")
        self.fields: dict[str, Field] = {}
        for name, field in fields.items():
            if not isinstance(field, Field):
                raise ValueError(
                    f"`{check_name(name, 'fields')}` must be a kind of field, as `Array(shape)`. "
                    f"Received: {field!r}"
                )
            self.fields[check_name(name, "fields")] = field
        self.tags: dict[str, str] = {}
        self.declare(tags or {})
        self.labels = {n: f for n, f in self.fields.items() if isinstance(f, Label)}
        self.tensors = {n: f for n, f in self.fields.items() if n not in self.labels}
        sizes = (
            _VARIES
            if field.row_bytes is None
            else field.row_bytes
            if field.row_bytes <= BLOB_BYTES
            else _POINTER
            for field in self.tensors.values()
        )
        most = max(1, PACK_BYTES // max(1, sum(sizes)))
        self.rows = min(PACK_ROWS, 1 << (most.bit_length() - 1))

    @property
    def varies(self) -> bool:
        """Whether rows of packs differ in size."""
        return any(field.row_bytes is None for field in self.tensors.values())

    def declare(self, tags: Mapping[str, type | str]) -> None:
        """Adds tags.

        Raises:
            ValueError: if a name or a type is none, or the name has another meaning already.
        """
        for name, kind in tags.items():
            check_name(name, "tags")
            wanted = kind if isinstance(kind, str) else getattr(kind, "__name__", None)
            if wanted not in TAGS or not isinstance(kind, str) and TAGS[wanted] is not kind:
                raise ValueError(
                    f"`tags[{name!r}]` must be one of the types {', '.join(TAGS)}. "
                    f"Received: {kind!r}"
                )
            if name in self.fields or self.tags.get(name, wanted) != wanted:
                raise ValueError(
                    f"`tags` must have names of their own. Received: {name!r}, which is "
                    f"{self.fields.get(name) or self.tags[name]} already"
                )
            self.tags[name] = wanted

    def config(self) -> dict[str, Any]:
        """What a dataset's document keeps: `{"fields": [{"name", "kind", ...}], "tags": {...}}`."""
        fields = [{"name": name, **field.config()} for name, field in self.fields.items()]
        return {"fields": fields, "tags": dict(self.tags)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """The schema of a `config()`."""
        fields = {}
        for entry in config["fields"]:
            given = {name: value for name, value in entry.items() if name != "name"}
            fields[entry["name"]] = from_config(given)
        return cls(fields, config["tags"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.config() == other.config()

    def __repr__(self) -> str:
        return f"Schema({self.fields!r}, tags={self.tags!r})"

    def check_tag(self, name: str, value: Any, where: Callable[[], str]) -> Any:
        """A tag's value as a document keeps it; `None` where it is missing, as NaN is.

        Raises:
            ValueError: if there is no such tag, or it has another type.
        """
        if name not in self.tags:
            raise ValueError(
                f"{where()} must have tags that the dataset has: {', '.join(self.tags) or 'none'} "
                f"(`declare` adds some). Received: {name!r}"
            )
        return _tag(self.tags[name], name, value, where)

    def check_tag_column(
        self, name: str, values: Any, count: int, where: Callable[[int], str]
    ) -> list[Any]:
        """A tag's values for so many samples: of a column, or one value for all."""
        if isinstance(values, (list, tuple)) or (
            not isinstance(values, (str, bytes)) and getattr(values, "shape", ()) != ()
        ):
            found = values.tolist() if hasattr(values, "tolist") else list(values)
            if len(found) != count:
                raise ValueError(
                    f"`tags[{name!r}]` must have a value a sample: {count}. Received: {len(found)}"
                )
            wanted = TAGS.get(self.tags.get(name, ""))
            kinds = set(map(type, found))
            if wanted in (bool, int) and kinds <= {wanted}:
                if wanted is bool or not found or -(2**63) <= min(found) <= max(found) < 2**63:
                    return found
            if wanted is str and kinds <= {str}:  # of which there are few
                for text in dict.fromkeys(found):
                    self.check_tag(name, text, lambda: where(found.index(text)))  # noqa: B023
                return found
            return [
                self.check_tag(name, value, lambda row=row: where(row))  # type: ignore[misc]
                for row, value in enumerate(found)
            ]
        return [self.check_tag(name, values, lambda: where(0))] * count


def _tag(kind: str, name: str, value: Any, where: Callable[[], str]) -> Any:
    if value is None:
        return None
    if hasattr(value, "tolist") and getattr(value, "shape", None) == ():
        value = value.tolist()
    given = type(value)
    if kind == "str" and given is str:
        bad = "\0" in value or (not value.isascii() and _has_surrogate(value))
        if not bad and len(value) <= _LONGEST:
            return value
    elif kind == "bool" and given is bool:
        return value
    elif kind == "int" and given is int:
        if -(2**63) <= value < 2**63:
            return value
    elif kind == "float" and given in (float, int):
        try:
            return None if math.isnan(value) else float(value)
        except OverflowError:
            pass
    elif kind == "datetime" and isinstance(value, datetime) and value.utcoffset() is not None:
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            pass
        else:  # what a document holds of it
            return value.replace(microsecond=value.microsecond // 1000 * 1000)
    elif kind != "str" and given is float and math.isnan(value):
        return None  # what data frames have where nothing is
    rules = {
        "str": f"text of up to {_LONGEST} characters, without NUL",
        "int": "an integer of 64 bits",
        "float": "a number",
        "bool": "True or False",
        "datetime": "an aware datetime, of a year from 1 to 9999 in UTC",
    }
    raise ValueError(f"{where()}: tag `{name}` must be {rules[kind]}. Received: {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value[:100] if isinstance(value, str) else value)
    return f"{text[:100]}..." if len(text) > 100 else text


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)

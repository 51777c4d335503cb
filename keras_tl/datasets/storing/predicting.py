"""What models say of samples, by model and version, beside the labels that people gave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from keras_tl.datasets.schema.names import check_key, check_name
from keras_tl.datasets.storing import outbox
from keras_tl.datasets.storing.changes import check_exist, is_column, keys_of, parts
from keras_tl.datasets.views.view import View
from keras_tl.storage import hooks

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

_BYTES = 15 << 20  # of values: a document of MongoDB ends at 16 MB
_TOO_LARGE = (10334, 17419, 17420)  # codes of the server


def add(
    dataset: Dataset,
    samples: str | Iterable[str] | View,
    model: str,
    version: int,
    values: Mapping[str, Any],
) -> int:
    """Keeps predictions (see `Dataset.add_predictions`)."""
    keys = keys_of(dataset, samples)
    check_key(model, "model")
    if isinstance(version, bool) or not hasattr(version, "__index__"):
        raise ValueError(f"`version` must be the number of a version. Received: {version!r}")
    version = version.__index__()
    if not 0 <= version < 2**63:
        raise ValueError(f"`version` must be the number of a version. Received: {version!r}")
    if not values:
        raise ValueError("`values` must name one predicted value at least. Received: none")
    columns = {
        check_name(name, "values"): _column(name, value, keys) for name, value in values.items()
    }
    for row, key in enumerate(keys):
        sizes = {name: _bytes(column[row]) for name, column in columns.items()}
        if sum(sizes.values()) > _BYTES:
            raise _too_large(key, max(sizes, key=sizes.__getitem__))
    check_exist(dataset, keys)
    for part in parts(len(keys)):
        rows = [
            dict(zip(columns, row, strict=True))
            for row in zip(*(column[part] for column in columns.values()), strict=True)
        ]
        with dataset.connection.client.start_session() as session:
            session.with_transaction(
                lambda s: _write(dataset, keys[part], model, version, rows, s)  # noqa: B023
            )
        hooks.phase("dataset-edited")
    if keys:
        outbox.ring(dataset)
    return len(keys)


def _column(name: str, values: Any, keys: list[str]) -> list[Any]:
    if not is_column(values):
        return [_value(name, values, None)] * len(keys)
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(found) != len(keys):
        raise ValueError(
            f"`{name}` must have a value a sample: {len(keys)}. Received: {len(found)}"
        )
    return [_value(name, value, key) for value, key in zip(found, keys, strict=True)]


def _value(name: str, value: Any, key: str | None) -> Any:
    """A value as a document keeps it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list):
        fits = all(_is_number(item) for item in value)
    elif isinstance(value, str):
        fits = "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    else:
        fits = value is None or isinstance(value, bool) or _is_number(value)
    if not fits:
        of = "" if key is None else f" of sample {key!r}"
        raise ValueError(
            f"`{name}`{of} must be a number, a text, a list of numbers or None. Received: {value!r}"
        )
    # NaN equals nothing, and no query finds it: it is nothing.
    return None if isinstance(value, float) and math.isnan(value) else value


def _bytes(value: Any) -> int:
    """How much room a value takes in a document, at least."""
    if isinstance(value, list):
        return 12 * len(value)  # an element has its index with it, as text
    return len(value.encode()) if isinstance(value, str) else 8


def _too_large(key: str, name: str) -> ValueError:
    return ValueError(
        f"`{name}` of sample {key!r} must fit into {_BYTES >> 20} MB, with all else that the "
        "version predicts of the sample. Received: more"
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return isinstance(value, float)


def _write(
    dataset: Dataset,
    keys: list[str],
    model: str,
    version: int,
    rows: list[dict[str, Any]],
    session: ClientSession,
) -> None:
    from pymongo import UpdateOne
    from pymongo.errors import BulkWriteError

    check_exist(dataset, keys, session)
    # No model and no number has a slash in it: no two predictions have the same name.
    prefix = f"{quote(model, safe='')}/{version}/"
    changes = [
        UpdateOne(
            {"_id": f"{prefix}{key}"},
            {
                "$set": {f"values.{name}": value for name, value in row.items()},
                "$setOnInsert": {"model": model, "version": version, "sample": key},
            },
            upsert=True,
        )
        for key, row in zip(keys, rows, strict=True)
    ]
    try:
        dataset.predictions.bulk_write(changes, ordered=False, session=session)
    except BulkWriteError as error:
        for failed in error.details["writeErrors"]:
            if failed["code"] in _TOO_LARGE:  # with what was there before
                row = rows[failed["index"]]
                name = max(row, key=lambda name: _bytes(row[name]))
                raise _too_large(keys[failed["index"]], name) from None
        raise
    events = outbox.of_keys(dataset, "predicted", keys, model=model, version=version)
    outbox.tell(dataset, events, session)
    hooks.phase("dataset-editing")

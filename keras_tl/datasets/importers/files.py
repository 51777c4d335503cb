"""CSV files by pandas and Parquet files by PyArrow, as tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from keras_tl.datasets.importers.tables import ROWS


class Csv:
    """A CSV file. The first rows tell the types of its columns.

    Args:
        path: the file, or a URL that pandas reads.
        options: arguments of `pandas.read_csv`.
        text: a column that is read as it stands, if `dtype` does not tell its type.

    Raises:
        ImportError: without pandas.
        ValueError: if rows have more values than there are columns, or there are no rows.
    """

    def __init__(
        self, path: str | os.PathLike[str], options: Mapping[str, Any], text: str | None = None
    ) -> None:
        try:
            import pandas
        except ImportError as error:
            raise ImportError("CSV files need pandas: `pip install 'keras_tl[pandas]'`.") from error
        self._read, self._path = pandas.read_csv, path
        self._parsing = pandas.errors.ParserError
        # Without `index_col` what is too much in each row would shift all columns.
        self._options = {"index_col": False, **options, "dtype_backend": "numpy_nullable"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pandas.errors.ParserWarning)
                first = self._read(path, nrows=ROWS, **self._options)
        except (pandas.errors.ParserWarning, self._parsing) as error:
            raise self._uneven(error) from None
        except pandas.errors.EmptyDataError:
            first = pandas.DataFrame()
        if not len(first):
            raise ValueError(f"`path` must have rows. Received: {str(path)!r}, without any")
        self._names = {str(name): name for name in first.columns}  # numbers, without a header
        self.columns = list(self._names)
        self._dtypes = {name: first.dtypes[label] for name, label in self._names.items()}
        told = options.get("dtype", {})
        if text in self._names and isinstance(told, Mapping) and self._names[text] not in told:
            self._dtypes[text] = pandas.StringDtype()  # 007 is not 7

    def _uneven(self, error: Exception) -> ValueError:
        return ValueError(
            "`path` must have as many names in its first line as values in the others. "
            f"Received: {str(self._path)!r}: {error}"
        )

    def type(self, column: str) -> type:
        return _CSV.get(self._dtypes[column].kind, object)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        labels = [self._names[name] for name in columns]
        # What the first rows told holds for all, or the type would change from part to part. All
        # columns are read: with `usecols` pandas lets lines pass that have too many values.
        options = {**self._options, "chunksize": ROWS}
        options["dtype"] = {
            self._names[name]: kind if name in columns else "string"
            for name, kind in self._dtypes.items()
            if kind.kind != "M"
        }
        try:
            with self._read(self._path, **options) as parts:
                for part in parts:
                    yield {
                        name: part[label].astype(object).where(part[label].notna(), None).tolist()
                        for name, label in zip(columns, labels, strict=True)
                    }
        except self._parsing as error:
            raise self._uneven(error) from None
        except ValueError as error:
            raise ValueError(
                f"`path` must have columns of the types that their first {ROWS} rows have, or "
                f"`dtype` must tell them. Received: {str(self._path)!r}: {error}"
            ) from error


_CSV = {"i": int, "u": int, "f": float, "b": bool, "O": str, "M": datetime}


class Parquet:
    """A Parquet file.

    Args:
        path: the file.

    Raises:
        ImportError: without PyArrow.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError(
                "Parquet files need PyArrow: `pip install 'keras_tl[parquet]'`."
            ) from error
        self._open, self._path = pyarrow.parquet.ParquetFile, path
        with self._open(path) as file:
            self._schema = file.schema_arrow
        self.columns = list(self._schema.names)

    def type(self, column: str) -> type:
        import pyarrow.types as types

        kind = self._schema.field(column).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        for check, found in (
            (types.is_boolean, bool),
            (types.is_integer, int),
            (types.is_floating, float),
            (types.is_timestamp, datetime),
        ):
            if check(kind):
                return found
        return str if types.is_string(kind) or types.is_large_string(kind) else object

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        with self._open(self._path) as file:
            for batch in file.iter_batches(ROWS, columns=list(columns)):
                yield {name: _values(batch.column(name)) for name in columns}


def _values(column: Any) -> list[Any]:
    """A column's values; of records with `bytes`, as Hugging Face keeps images, these."""
    values: list[Any] = column.to_pylist()
    if any(isinstance(value, Mapping) and "bytes" in value for value in values):
        return [None if value is None else value["bytes"] for value in values]
    return values

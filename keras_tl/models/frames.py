"""Events and runs as pandas data frames; needs the extra `pandas`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import fields

if TYPE_CHECKING:
    import pandas


def of_events(columns: Mapping[str, np.ndarray]) -> pandas.DataFrame:
    """Columns of `RunRecord.events` as a frame: `time` as UTC times, `attempt` as categories."""
    pd = module()
    frame = pd.DataFrame(dict(columns))
    frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
    frame["attempt"] = frame["attempt"].astype("category")
    return frame


def of_runs(documents: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """One row a run, by id."""
    pd = module()
    rows = {document["_id"]: fields.row(document) for document in documents}
    found = dict.fromkeys(name for values in rows.values() for name in values)
    names = [*fields.OWN, *sorted(name for name in found if name not in fields.OWN)]
    frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=names)
    for name in ("started", "ended"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    frame.index.name = "id"
    return frame


def module() -> Any:
    """pandas.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("Data frames need pandas: `pip install 'keras_tl[pandas]'`.") from error
    return pandas

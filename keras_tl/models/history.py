"""`hub.runs`: runs found, compared, copied and deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import fields
from keras_tl.models.liveness import LIVE, mark_lost
from keras_tl.models.record import RunRecord
from keras_tl.models.selection import Best, at_most
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    import pandas

    from keras_tl.models.comparison import Comparison

__all__ = ["RunRecord", "Runs"]


class Runs:
    """The runs of a project: `hub.runs`.

    Args:
        connection: where they are kept.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __getitem__(self, run: str) -> RunRecord:
        """A run by id, or by the beginning of its id if only one begins so."""
        if not isinstance(run, str) or not run:
            raise KeyError(f"`run` must be a run's id. Received: {run!r}")
        mark_lost(self.connection.db)
        query = {"_id": {"$gte": run, "$lt": run + "\uffff"}}
        found = list(self.connection.db["runs"].find(query).limit(2))
        exact = [d for d in found if d["_id"] == run]
        if len(found) != 1 and not exact:
            many = "several runs begin so" if found else "there is none"
            raise KeyError(f"`run` must be the id of one run: {many}. Received: {run!r}")
        return RunRecord(self.connection, (exact or found)[0])

    def __iter__(self) -> Iterator[RunRecord]:
        """All runs, newest first, read as they are asked for."""
        mark_lost(self.connection.db)
        for document in self.connection.db["runs"].find().sort("started", -1):
            yield RunRecord(self.connection, document)

    def where(self, limit: int = 0, order: str | None = None, **conditions: Any) -> list[RunRecord]:
        """Runs that meet all conditions, newest first or as `order` says.

        Args:
            limit: at most so many; 0 means all.
            order: a field, smallest first, or `"-"` and a field, greatest first; runs that do not
                have it are left out.
            **conditions: a field and an operator as in `keras_tl.storage.compile_query`. Fields
                are `id`, `name`, `model`, `state`, `started`, `ended`, `parent`, `step` (the
                last), `params.NAME`, `tags.NAME` (names as `RunRecord.params` and `tags` have
                them), and of each metric `last.NAME`, `best.NAME`, `min.NAME`, `max.NAME`.

        Raises:
            ValueError: for a condition, a limit or an order that is not understood.

        Example:

        ```python
        hub.runs.where(state="finished", **{"params.lr__gt": 0.1, "best.val_loss__lt": 0.5})
        hub.runs.where(limit=10, order="-best.val_accuracy")
        ```
        """
        query, sort = _query(conditions, order)
        mark_lost(self.connection.db)
        cursor = self.connection.db["runs"].find(query).sort(*sort).limit(at_most(limit))
        return [RunRecord(self.connection, document) for document in cursor]

    def best(self, metric: str, mode: str = "auto", **conditions: Any) -> RunRecord:
        """The run with the best value of a metric among all epochs of all runs.

        Args:
            metric: its name; NaN and infinite values do not count.
            mode: `"min"`, `"max"`, or `"auto"`: by its name.
            **conditions: as `where` takes them.

        Raises:
            KeyError: if no such run has a value of it.
            ValueError: for a mode or a condition that is not understood, or a name that does not
                tell the mode.

        Example:

        ```python
        hub.runs.best("val_loss", model="digits").params
        ```
        """
        direction = Best(metric, mode).direction()
        sign = "-" if direction == "max" else ""
        query, sort = _query(conditions, f"{sign}{direction}.{metric}")
        mark_lost(self.connection.db)
        found = self.connection.db["runs"].find_one(query, sort=[sort])
        if found is None:
            raise KeyError(
                f"`metric` must be one that an epoch of such a run has. Received: {metric!r}"
            )
        return RunRecord(self.connection, found)

    def frame(
        self, limit: int = 0, order: str | None = None, **conditions: Any
    ) -> pandas.DataFrame:
        """Runs as a data frame, one row a run.

        Takes what `where` takes. The index is the id; columns are `name`, `model`, `state`,
        `started`, `ended`, `parent`, `step`, and `params.*`, `tags.*`, `last.*`, `best.*` of all.

        Raises:
            ImportError: without pandas (`pip install 'keras_tl[pandas]'`).
            ValueError: for a condition that is not understood.
        """
        from keras_tl.models import frames

        frames.module()
        return frames.of_runs(run.document for run in self.where(limit, order, **conditions))

    def compare(self, runs: Sequence[str | RunRecord], metric: str | None = None) -> Comparison:
        """What differs between runs: params, tags, git, packages; and their metrics.

        Args:
            runs: records, ids, or beginnings of ids.
            metric: the only metric to show; `None`: all.

        Raises:
            KeyError: if one of them is not there.
            ValueError: if `runs` is a single one.

        Example:

        ```python
        print(hub.runs.compare([first, second], metric="val_loss"))
        ```
        """
        from keras_tl.models.comparison import Comparison

        if isinstance(runs, str | RunRecord):
            raise ValueError(f"`runs` must be a list of runs. Received: {runs!r}")
        return Comparison([self[r.id if isinstance(r, RunRecord) else r] for r in runs], metric)

    def delete(self, run: str) -> None:
        """Delete a run: its events, its orders and its document.

        Versions that it saved stay, with the run's id; so do runs nested in it. What is left of
        it in a journal of another machine comes without a run if it is sent later.

        Args:
            run: the whole id.

        Raises:
            KeyError: if there is none.
            ValueError: if it trains.
        """
        db = self.connection.db
        mark_lost(self.connection.db)
        # Killed in between, the run is there as "deleted", and deleting it again goes on.
        found = db["runs"].find_one_and_update(
            {"_id": run, "state": {"$nin": list(LIVE)}}, {"$set": {"state": "deleted"}}
        )
        if found is None:
            if db["runs"].find_one({"_id": run}, {"_id": 1}) is None:
                raise KeyError(f"`run` must be the whole id of a run. Received: {run!r}")
            raise ValueError(f"`run` must not train while it is deleted. Received: {run!r}")
        for name in ("events", "orders"):
            db[name].delete_many({"run": run})
        db["runs"].delete_one({"_id": run, "state": "deleted"})  # unless it was resumed meanwhile

    def to_parquet(self, folder: str | os.PathLike[str], **conditions: Any) -> list[str]:
        """Write runs and their events as Parquet files, for pandas, DuckDB, Spark and the like.

        `folder/runs.parquet` has a row for each run, as `frame` has. `folder/events/kind=KIND/ID
        .parquet` has a row for each event: `run`, the columns of `RunRecord.events`, among them
        `superseded`, with `time` in UTC. Numbers are exact, NaN and Inf included. Arrays are
        structs of `dtype`, `shape` and `data` (little-endian bytes); values that are no numbers,
        text or bools all alike are JSON. Files that are there are replaced whole.

        Args:
            folder: where to write; made if it is not there.
            **conditions: as `where` takes them; none means all runs.

        Returns:
            The paths written.

        Raises:
            ImportError: without pyarrow (`pip install 'keras_tl[parquet]'`).
            ValueError: for a condition that is not understood.
        """
        from keras_tl.models import parquet

        return parquet.write_runs(self.where(**conditions), folder)

    def to_mlflow(
        self,
        tracking_uri: str,
        experiment: str | None = None,
        *,
        versions: bool = False,
        **conditions: Any,
    ) -> dict[str, str]:
        """Copy runs into an MLflow tracking store, through MLflow's own client.

        Metrics keep name, step, time and value: epochs by their name, other rows of numbers as
        `KIND/NAME`, without those that a later attempt has done again. Params, tags, state, times
        and the parent come along. Exporting again adds what is new and doubles nothing; rows that
        were exported before an attempt did them again stay beside the new ones. What MLflow
        changes: infinite values become the largest float64 in its SQL stores, params are
        cut at 6000 characters and can not be changed any more, times are whole milliseconds.

        Args:
            tracking_uri: MLflow's, as `sqlite:///mlflow.db`.
            experiment: name of the experiment, made if there is none; default: the project's.
            versions: whether to attach the versions that the runs saved, as `.safetensors` with
                a manifest in JSON.
            **conditions: as `where` takes them; none means all runs.

        Returns:
            MLflow's run ids by ours.

        Raises:
            ImportError: without MLflow (`pip install 'keras_tl[mlflow]'`).
            ValueError: for a condition that is not understood.
        """
        from keras_tl.models import exports

        return exports.to_mlflow(
            self.where(**conditions), tracking_uri, experiment or self.connection.project, versions
        )


def _query(
    conditions: Mapping[str, Any], order: str | None
) -> tuple[dict[str, Any], tuple[str, int]]:
    """A filter and a sort that the indexes of `runs` serve."""
    from keras_tl.storage.query import compile_query

    query = compile_query(conditions, fields.path)
    if order is None:
        return query, ("started", -1)
    name = order.removeprefix("-")
    (path,) = compile_query({f"{name}__exists": True}, fields.path)
    # A wildcard index serves a sort only together with bounds of one type, and metrics have one.
    number = name.partition(".")[0] in fields.METRICS
    have = {path: {"$gte": -np.inf} if number else {"$exists": True}}
    return {"$and": [query, have]} if query else have, (path, -1 if order.startswith("-") else 1)

"""Which version is meant: a number, an alias, the best by a metric, or what a query finds."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tl.models import offline
from keras_tl.models.buckets import key, name
from keras_tl.storage.connection import Connection
from keras_tl.storage.query import compile_query

_SMALLER_IS_BETTER = ("loss", "error", "mse", "mae", "rmse", "divergence", "perplexity")
_GREATER_IS_BETTER = (
    *("acc", "auc", "precision", "recall", "f1", "fmeasure", "iou", "io_u", "dice", "r2", "top_k"),
    *("bleu", "psnr", "ssim"),
)
_FIELDS = {
    **{"number": "version", "run": "run", "attempt": "attempt"},
    **{"step": "step", "epoch": "epoch", "batch": "batch", "parent": "parent"},
    "created": "created",
}
# Lists leave out the long parts: 750 tensors take milliseconds to decode.
_LISTED = {"tensors": 0, "callbacks": 0}


class Version:
    """One version of a model, as a document: all of it is there, or it would not be.

    Attributes:
        number: 1, 2, ... in the order of commits.
        step: batches trained when it was taken.
        metrics: values of the metrics then.
        tags: what it was saved with.
        parent: number of the version before it on its chain, or `None`.
        cursor: offsets of the stream it was trained on, or `None`.
        deleted: when its tensors were deleted, or `None`.
    """

    def __init__(self, document: Mapping[str, Any], collection: Any = None) -> None:
        self._document = document
        self._collection = collection  # to read what a list leaves out
        self.model: str = document["model"]
        self.number: int = document["version"]
        self.step: int = document["step"]
        self.epoch: int = document["epoch"]
        self.metrics: dict[str, float] = {name(k): v for k, v in document["metrics"].items()}
        self.tags: dict[str, Any] = {name(k): v for k, v in document.get("tags", {}).items()}
        self.parent: int | None = document["parent"]
        self.cursor: dict[str, Any] | None = document["cursor"]
        self.run: str = document["run"]
        self.created: datetime.datetime = document["created"]
        self.deleted: datetime.datetime | None = document.get("deleted")

    def __repr__(self) -> str:
        return f"Version({self.model!r}, {self.number}, step={self.step})"

    @property
    def document(self) -> Mapping[str, Any]:
        """The whole document; of a version from a list it is read when it is first asked for.

        Raises:
            KeyError: if the model was deleted meanwhile.
        """
        if self._collection is not None:
            found = self._collection.find_one({"_id": self._document["_id"]})
            if found is None:
                raise KeyError(f"Version {self.number} of {self.model!r} is gone with its model.")
            self._document, self._collection = found, None
        return self._document


def at_most(limit: int) -> int:
    """The limit of a list; MongoDB would take a negative one for its absolute value."""
    if limit < 0:
        raise ValueError(f"`limit` must be 0 (all) or greater. Received: {limit!r}")
    return limit


def _field(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind in ("metrics", "tags") and rest:
        return f"{kind}.{key(rest)}"
    if name not in _FIELDS:
        raise ValueError(
            f"`where` takes {', '.join(_FIELDS)}, metrics.NAME and tags.NAME. Received: {name!r}"
        )
    return _FIELDS[name]


def direction(metric: str) -> str | None:
    """Whether a metric is better when small or when great, as far as its name tells.

    Example:

    >>> direction("val_dice_loss"), direction("val_dice"), direction("score")
    ('min', 'max', None)
    """
    lower = metric.lower()
    if any(part in lower for part in _SMALLER_IS_BETTER):
        return "min"
    return "max" if any(part in lower for part in _GREATER_IS_BETTER) else None


@dataclass(frozen=True)
class Best:
    """Stands for the version with the best value of a metric: `models.load(best("val_loss"))`.

    Args:
        monitor: name of the metric.
        mode: `"min"`, `"max"`, or `"auto"`: as the model's checkpoint judged this metric, else by
            its name (`loss` and errors are better when small, `accuracy` and its like when great).

    Raises:
        ValueError: if `mode` is none of these.

    Example:

    >>> Best("val_loss", mode="min")
    Best(monitor='val_loss', mode='min')
    """

    monitor: str
    mode: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str) or not self.monitor:
            raise ValueError(f"`monitor` must be a metric's name. Received: {self.monitor!r}")
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f'`mode` must be "auto", "min" or "max". Received: {self.mode!r}')

    def direction(self, judged: Mapping[str, Any] | None = None) -> str:
        """`"min"` or `"max"`.

        Args:
            judged: `monitor` and `mode` by which the model's checkpoint judges, if known.

        Raises:
            ValueError: if `mode` is `"auto"` and neither tells.

        Example:

        >>> Best("val_accuracy").direction(), Best("val_loss").direction()
        ('max', 'min')
        """
        if self.mode != "auto":
            return self.mode
        if judged is not None and judged["monitor"] == self.monitor:
            return str(judged["mode"])
        named = direction(self.monitor)
        if named is not None:
            return named
        raise ValueError(
            '`mode` must be "min" or "max" for a metric whose name does not tell. '
            f"Received: mode='auto' for {self.monitor!r}"
        )


best = Best

#: What names a version: its number, an alias, itself, or `best("val_loss")`.
Reference = int | str | Version | Best


class Selection:
    """The versions of one model, to find them.

    Args:
        connection: where they are kept.
        key: the model's key.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection = connection
        self.key = key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    def __iter__(self) -> Iterator[Version]:
        """The versions, newest first, without those that were deleted."""
        return map(self._listed, self._kept().sort("version", -1))

    @property
    def versions(self) -> list[Version]:
        """The versions, newest first, without those that were deleted."""
        return self.where()

    def __len__(self) -> int:
        return int(self._collection.count_documents({"model": self.key, "deleted": None}))

    @property
    def _collection(self) -> Any:
        return self.connection.db["versions"]

    @property
    def _model(self) -> dict[str, Any]:
        return self.connection.db["models"].find_one({"_id": self.key}) or {"aliases": {}}

    @property
    def aliases(self) -> dict[str, int]:
        """Names of versions: `latest` and `best` are kept by the library, others by `promote`."""
        return dict(self._model["aliases"])

    def version(self, version: Reference = "latest") -> Version:
        """One version, by number, alias or `best(...)`.

        While the server is away, what was asked for on this machine before is answered as it was
        then, with a warning.

        Raises:
            KeyError: if there is none, or it was deleted.
            pymongo.errors.ConnectionFailure: if the server is away, and it was not asked for
                before.
        """
        import pymongo
        from pymongo.errors import ConnectionFailure

        if isinstance(version, Version):
            asked: int | str = version.number if version.model == self.key else repr(version)
        else:
            asked = repr(version) if isinstance(version, Best) else version
        try:
            with pymongo.timeout(offline.PATIENCE):
                found = self._find(version)
        except ConnectionFailure as error:
            return Version(offline.recall(self.connection, self.key, asked, error))
        named = asked if isinstance(asked, str) else None
        offline.remember(self.connection, found.document, named)
        if found.deleted is not None:
            raise KeyError(
                f"`version` must be one of the model {self.key!r} that is kept: version "
                f"{found.number} was deleted at {found.deleted:%Y-%m-%d %H:%M:%S} UTC. "
                f"Received: {version!r}"
            )
        return found

    def _find(self, version: Reference) -> Version:
        """One version, also if it was deleted: what is known of it stays."""
        if isinstance(version, Best):
            return self.best(version.monitor, version.mode)
        number: Any = version
        if isinstance(version, Version):
            number = version.number if version.model == self.key else None
        elif isinstance(version, str):
            number = self.aliases.get(version)
        found = None
        if hasattr(number, "__index__") and not isinstance(number, bool):
            number = int(number)  # NumPy's, too
            found = self._collection.find_one({"model": self.key, "version": number})
        if found is None:
            raise KeyError(
                f"`version` must be one of the model {self.key!r}. Received: {version!r}"
            )
        return Version(found)

    def best(self, monitor: str, mode: str = "auto") -> Version:
        """The version with the best value of a metric; the oldest of equal ones.

        Args:
            monitor: name of the metric. Values that are NaN or infinite are passed over.
            mode: `"min"`, `"max"` or `"auto"`, as of `keras_tl.models.best`.

        Raises:
            KeyError: if no version has a finite value of it.
            ValueError: if `mode` is not understood.

        Example:

        ```python
        model = hub.models["digits"].load(hub.models["digits"].best("val_loss", mode="min"))
        ```
        """
        direction = Best(monitor, mode).direction(self._model.get("best"))
        field = f"metrics.{key(monitor)}"
        # In a query MongoDB takes NaN for less than any number, so that "not Inf" is not enough.
        finite = {"$gte": -np.finfo("float64").max, "$lte": np.finfo("float64").max}
        query = {"model": self.key, "deleted": None, field: finite}
        order = [(field, 1 if direction == "min" else -1), ("version", 1)]
        found = self._collection.find_one(query, sort=order)
        if found is None:
            raise KeyError(
                f"`monitor` must be a metric of which a version of {self.key!r} has a finite "
                f"value. Received: {monitor!r}"
            )
        return Version(found)

    def where(self, limit: int = 0, **conditions: Any) -> list[Version]:
        """Versions that meet all conditions, newest first.

        Args:
            limit: at most so many; 0 means all.
            **conditions: of `number`, `step`, `epoch`, `batch`, `run`, `attempt`, `parent`,
                `created`, `metrics.NAME` and `tags.NAME`, with the operators of
                `keras_tl.storage.compile_query`.

        Raises:
            ValueError: for a condition that is not understood.

        Example:

        ```python
        hub.models["digits"].where(step__gte=1000, **{"metrics.val_loss__lt": 0.1})
        ```
        """
        query = compile_query(conditions, _field)
        found = self._kept(query).sort("version", -1).limit(at_most(limit))
        return [self._listed(document) for document in found]

    def _kept(self, query: Mapping[str, Any] | None = None) -> Any:
        own = {"model": self.key, "deleted": None}
        return self._collection.find({"$and": [own, query]} if query else own, _LISTED)

    def _listed(self, document: Mapping[str, Any]) -> Version:
        return Version(document, self._collection)

    def chain(self, version: Reference = "latest") -> list[Version]:
        """A version and those it was trained from, newest first, also deleted ones.

        Every record of a stream is trained once on such a chain.
        """
        found = [self._find(version)]
        older = {"model": self.key, "version": {"$lt": found[0].number}}
        with self._collection.find(older, _LISTED).sort("version", -1) as documents:
            for document in documents:  # a parent was committed before its children
                if document["version"] == found[-1].parent:
                    found.append(self._listed(document))
                if found[-1].parent is None:
                    break
        if found[-1].parent is not None:
            self._find(found[-1].parent)  # raises
        return found

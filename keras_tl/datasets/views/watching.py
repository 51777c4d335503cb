"""`view.watch()`: what comes into a view, changes in it and leaves it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_tl.datasets.views.plan import Combine, Plan, Sort, Where
from keras_tl.datasets.views.rows import leading
from keras_tl.storage.bell import Listener

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.views.view import View

log = logging.getLogger("keras_tl")

_POLL = 1.0  # s between two looks where there is no change stream, and between tries to get one
# What is told bears the time of its transaction, which lasts a minute and is tried for two.
_LATE = timedelta(minutes=5)
_KEYS = 10_000  # looked up at a time
_AWAIT_MS, _TOGETHER = 100, 1000  # of a change stream: wait for a word, words at a time
_LOST = (280, 286)  # a stream cannot go on, its history is gone


class Change(NamedTuple):
    """Something that happened to a view.

    Args:
        kind: `"entered"`, `"changed"` (its tensors, labels, tags, or the predictions that the view
            joins) or `"left"`.
        key: the sample's key.
    """

    kind: str
    key: str


def watch(view: View, timeout: float | None) -> Iterator[Change]:
    """The changes of a view (see `View.watch`); it is listened to from this call on."""
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise ValueError(f"`timeout` must be 0 s or more. Received: {timeout!r}")
    if view.base is not None:
        raise ValueError(f"A snapshot does not change, so it cannot be watched. Received: {view!r}")
    news = News(view.dataset)
    return _changes(view, news, set(view.keys()), timeout)


def _changes(view: View, news: News, members: set[str], timeout: float | None) -> Iterator[Change]:
    from pymongo.errors import ConnectionFailure

    quiet = time.monotonic()
    waiting: list[dict[str, Any]] = []  # words whose meaning is not looked up yet
    lost = False
    with news:
        while timeout is None or time.monotonic() - quiet < timeout:
            left = _POLL if timeout is None else quiet + timeout - time.monotonic()
            words, gap = news.wait(max(0.0, min(_POLL, left)))
            waiting, lost = waiting + words, lost or gap
            try:
                if not waiting and not lost:
                    view.dataset.check_exists()  # nothing is told of its end
                    continue
                told = _told(view, waiting)
                everything = lost or bool(told) and _depends(view)
                found = list(_differences(view, members, told, everything))
            except ConnectionFailure:
                continue  # the words are kept until the server is there again
            waiting, lost = [], False
            for change in found:
                yield change
                quiet = time.monotonic()


def _told(view: View, events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that events tell of, as far as they concern the view, in their order."""
    told: dict[str, None] = {}
    rows = view.dataset.rows
    joins = {view.join, *_joins(view.plan)}
    for event in events:
        if event["kind"] == "predicted" and (event["model"], event["version"]) not in joins:
            continue
        told |= dict.fromkeys(event.get("keys", ()))
        for pack in event.get("packs", ()):
            query = {"at": {"$gte": pack * rows, "$lt": (pack + 1) * rows}}
            found = view.dataset.samples.find(query, {"_id": 1}).sort("at", 1)
            told |= dict.fromkeys(document["_id"] for document in found)
    return list(told)


def _joins(plan: Plan) -> Iterator[Any]:
    for step in plan:
        if isinstance(step, (Where, Sort)):
            yield step.join
        elif isinstance(step, Combine):
            yield from _joins(step.other)


def _depends(view: View) -> bool:
    """Whether a change of one sample can bring another one in or out, as behind `limit`."""
    _, _, limit, rest = leading(view.plan, view.dataset.schema)
    return limit is not None or bool(rest)


def _differences(
    view: View, members: set[str], told: list[str], everything: bool
) -> Iterator[Change]:
    """What is otherwise than `members` says, which is brought up to date."""
    inside: set[str] = set()
    if everything:
        inside = set(view.keys())
        told = told + sorted((inside ^ members).difference(told))
    else:
        for begin in range(0, len(told), _KEYS):
            inside |= view.among(told[begin : begin + _KEYS])
    for key in told:
        before, now = key in members, key in inside
        if now:
            members.add(key)
            yield Change("changed" if before else "entered", key)
        elif before:
            members.discard(key)
            yield Change("left", key)


class News:
    """What the outbox tells of a dataset from now on: by a change stream, or by looking there.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._outbox = dataset.connection.db["outbox"]
        self._own = {"dataset": dataset.key, "uid": dataset.uid}
        self._token: Any = None  # of the last word that came
        self._listener: Listener | None = None
        self._stream: Any = None
        self._lost = False
        self._since = dataset.now()
        self._seen: dict[Any, Any] = {}
        self._open()
        if self._stream is None:
            self._seen = {event["_id"]: event["at"] for event in self._recent()}

    def __enter__(self) -> News:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._listener is not None:
            self._listener.close()

    def wait(self, timeout: float) -> tuple[list[dict[str, Any]], bool]:
        """What was told, after `timeout` s at most, and whether some of it was lost."""
        from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

        try:
            if self._listener is not None:
                return self._poll(timeout), False
            if self._stream is None:
                self._open()
            if self._lost:
                self._lost = False
                return [], True
            return self._next(timeout), False
        except PyMongoError as error:
            if isinstance(error, OperationFailure) and error.code in _LOST:
                self._token, self._lost = None, True  # from here on; what lies between is looked up
            elif not isinstance(error, ConnectionFailure) and not error.timeout:
                raise
            else:
                time.sleep(min(timeout, _POLL))
            self._stream = None
            return [], False

    def _open(self) -> None:
        from pymongo.errors import OperationFailure

        inside = {f"fullDocument.{name}": value for name, value in self._own.items()}
        match = {"operationType": "insert", **inside}
        try:
            self._stream = self._outbox.watch(
                [{"$match": match}], resume_after=self._token, max_await_time_ms=_AWAIT_MS
            )
            self._token = self._stream.resume_token
        except OperationFailure as error:
            if error.code in _LOST:
                raise
            # A role without the right, or a server without change streams.
            log.info(
                "%r is looked at each second: no change stream (%s)", self._dataset, error.code
            )
            self._listener = Listener(
                self._dataset.connection, "dataset.changed", dataset=self._dataset.key
            )

    def _next(self, timeout: float) -> list[dict[str, Any]]:
        """The first word, and those that come at once behind it."""
        from pymongo.errors import PyMongoError

        end = time.monotonic() + timeout
        found: list[dict[str, Any]] = []
        while len(found) < _TOGETHER:
            try:
                event = self._stream.try_next()
            except PyMongoError:
                if found:  # the next try says it again
                    break
                raise
            self._token = self._stream.resume_token
            if event is not None:
                found.append(event["fullDocument"])
            elif found or time.monotonic() >= end:
                break
        return found

    def _poll(self, timeout: float) -> list[dict[str, Any]]:
        assert self._listener is not None
        self._listener.wait(timeout)
        fresh = [event for event in self._recent() if event["_id"] not in self._seen]
        for event in fresh:
            self._seen[event["_id"]] = event["at"]
            self._since = max(self._since, event["at"])
        self._seen = {n: at for n, at in self._seen.items() if at >= self._since - _LATE}
        return fresh

    def _recent(self) -> list[dict[str, Any]]:
        query = {**self._own, "at": {"$gte": self._since - _LATE}}
        return list(self._outbox.find(query).sort("at", 1))

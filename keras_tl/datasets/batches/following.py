"""What a view has at the beginning of each epoch: asked again only if something has happened."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.datasets.views.resolved import Resolved
    from keras_tl.datasets.views.view import View

log = logging.getLogger("keras_tl")

#: Seconds that an epoch waits at its beginning for a MongoDB that is away; so many times as long
#: the epochs that follow do not ask it.
PATIENCE, _PAUSE = 3.0, 10
_EVENTS = 256


class Followed:
    """A view, resolved, and again when samples have changed.

    Args:
        view: the view.
        extra: the columns that are wanted.

    Attributes:
        resolved: what it was when somebody looked last.
    """

    def __init__(self, view: View, extra: Sequence[str]) -> None:
        self._view, self._extra = view, list(extra)
        self._events = self._newest() if view.base is None else []
        self.resolved: Resolved = view.resolve(self._extra)
        self._pause = 0.0

    def look(self) -> Resolved:
        """What the view has now; what it had, if MongoDB is away.

        Raises:
            KeyError: if the dataset was deleted.
        """
        from pymongo import timeout
        from pymongo.errors import PyMongoError

        if self._view.base is not None or time.monotonic() < self._pause:
            return self.resolved
        try:
            with timeout(PATIENCE):
                events = self._newest()
                self._view.dataset.check_exists()
            if events != self._events:
                self.resolved = self._view.resolve(self._extra)
                self._events = events
        except PyMongoError as error:
            self._pause = time.monotonic() + _PAUSE * PATIENCE
            log.warning(
                "MongoDB is away (%s): the epoch has the samples of the one before, as those have "
                "that begin in the next %.0f s.",
                str(error).partition(",")[0],
                _PAUSE * PATIENCE,
            )
        return self.resolved

    def _newest(self) -> list[Any]:
        """The times of the newest events: other ones after each change, whoever's clock is wrong.

        Asked before the view is: what happens in between is seen the next time.
        """
        dataset = self._view.dataset
        found = dataset.connection.db["outbox"].find(
            {"dataset": dataset.key},
            {"_id": 0, "at": 1},  # of the index alone
            sort=[("at", -1)],
            limit=_EVENTS,
        )
        return [event["at"] for event in found]

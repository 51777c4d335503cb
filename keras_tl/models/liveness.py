"""Runs whose process was not heard of lately: marked `lost`, by the server's clock alone."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

#: A run under way whose heartbeat is older than this is taken for lost.
LOST_AFTER = datetime.timedelta(seconds=30)

#: States of a run whose process says every few seconds that it lives.
LIVE = ("running", "paused")


def mark_lost(db: Database[dict[str, Any]], after: datetime.timedelta = LOST_AFTER) -> int:
    """Move runs under way that are silent for longer than `after` to the state `lost`.

    Any reader may call it, as often as it likes: it is one update on the server, whose clock
    alone counts, and of several readers at once one makes the move. `lost_at` says when it was
    made. A process that was only held up (a frozen server, a suspended laptop) moves its run back
    with its next heartbeat.

    Args:
        db: the project's database.
        after: silence by the server's clock.

    Returns:
        How many runs this call has moved.
    """
    from bson.int64 import Int64

    silence = Int64(after // datetime.timedelta(milliseconds=1))
    heard = {"$ifNull": ["$heartbeat", "$started"]}
    moved = db["runs"].update_many(
        {
            "state": {"$in": list(LIVE)},
            "$expr": {"$lt": [heard, {"$subtract": ["$$NOW", silence]}]},
        },
        [{"$set": {"state": "lost", "lost_at": "$$NOW"}}],
    )
    return moved.modified_count


def beat(db: Database[dict[str, Any]], run: str, attempt: str, state: str) -> None:
    """Say that the process lives which trains this attempt of a run, if it is the current one.

    Args:
        db: the project's database.
        run: id of the run.
        attempt: id of the attempt.
        state: the state that the run goes back to if a reader took it for lost.
    """
    back = {"$cond": [{"$eq": ["$state", "lost"]}, state, "$state"]}
    db["runs"].update_one(
        {"_id": run, "attempt": attempt}, [{"$set": {"heartbeat": "$$NOW", "state": back}}]
    )

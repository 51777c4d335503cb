"""Whether the `fit` that a backup belongs to is still under way."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.models.liveness import LIVE, LOST_AFTER
from keras_tl.models.runs import Run, under_way

if TYPE_CHECKING:
    from pymongo.database import Database

_WATCH = 6.5  # s, longer than the time between two heartbeats


def elsewhere(db: Database[dict[str, Any]], own: Run, run: Mapping[str, Any]) -> str | None:
    """Where the `fit` of a run trains right now, other than in `own`; `None` if it does not.

    The number of a process may be another one's by now, and a heartbeat may have been sent after
    its process had died, out of the journal: only one that goes on while we look says it.

    Args:
        db: the project's database.
        own: the run of the `fit` that asks.
        run: the stored run, with `state`, `attempt` and `attempts`.
    """
    for reference, other in list(under_way.values()):
        if other is not own and other.id == run["_id"] and _trains(reference()):
            return "this process"
    attempt = run.get("attempts", {}).get(run.get("attempt"), {})
    host, pid = attempt.get("host"), attempt.get("pid")
    if run.get("state") not in LIVE or pid is None:
        return None
    if host == socket.gethostname() and (pid == os.getpid() or not _exists(pid)):
        return None
    silence = int(LOST_AFTER.total_seconds() * 1000)
    recent = {"$expr": {"$gt": ["$heartbeat", {"$subtract": ["$$NOW", silence]}]}}
    query, wanted = {"_id": run["_id"], "attempt": run["attempt"]}, {"heartbeat": 1}
    first = db["runs"].find_one({**query, **recent}, wanted)
    until = time.monotonic() + _WATCH
    while first is not None and time.monotonic() < until:
        time.sleep(0.5)
        last = db["runs"].find_one({**query, "state": {"$in": list(LIVE)}}, wanted)
        if last is None:
            return None
        if last["heartbeat"] != first["heartbeat"]:
            return f"process {pid} on {host}"
    return None


def _trains(model: Any) -> bool:
    """Whether a thread is in a `fit` of the model: one that raised is in none."""
    for thread, top in sys._current_frames().items():
        frame: Any = top if thread != threading.get_ident() else sys._getframe(1)
        while frame is not None and model is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
                return True
            frame = frame.f_back
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True

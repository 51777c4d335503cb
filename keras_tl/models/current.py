"""The runs of the `fit`s that are under way in this process: how callbacks made apart meet."""

from __future__ import annotations

import weakref
from typing import Any

import keras

from keras_tl.models.outbox import close_outbox
from keras_tl.models.runs import Run, under_way
from keras_tl.storage.connection import Connection


def join(member: object, trained: keras.Model, connection: Connection, **about: Any) -> Run:
    """The run of the `fit` that trains this model; the first callback to ask makes it."""
    for reference, run in list(under_way.values()):
        found = reference()
        if found is None:
            run.end("failed")  # an earlier `fit` that raised, and whose model is gone
        elif found is trained and run.connection is connection:
            if id(member) in run.members or run.started:
                run.end("failed")  # an earlier `fit` that raised: nobody told its callbacks
                break
            run.members.add(id(member))
            run.name = about.get("name") or run.name
            run.model = about.get("model") or run.model
            run.params.update(about.get("params") or {})
            run.tags.update(about.get("tags") or {})
            run.parent = about.get("parent") or run.parent
            return run
    run = Run(connection, **about)
    run.members.add(id(member))
    under_way[id(run)] = (weakref.ref(trained), run)
    return run


def leave(member: object, run: Run, timeout: float) -> None:
    """The callback is done; the last one ends the run and waits `timeout` s at most for MongoDB."""
    run.members.discard(id(member))
    if not run.members:
        if run.number and not run.started:
            run.start()  # a resumed one that had no epochs left: else it would stay as it was
        run.end()
        run.outbox.flush(timeout)


def close(connection: Connection, timeout: float | None) -> None:
    """End what is under way on a connection and close its outbox."""
    for _, run in list(under_way.values()):
        if run.connection is connection:
            run.end("failed")
    close_outbox(connection, timeout)

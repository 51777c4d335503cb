"""`Hub`: one connection to MongoDB and Kafka, and everything that hangs off it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_tl.storage.connection import Connection
from keras_tl.storage.settings import configured

if TYPE_CHECKING:
    import keras

    from keras_tl.datasets.catalog import Datasets
    from keras_tl.models import Run, RunRecord
    from keras_tl.models.catalog import Models
    from keras_tl.models.history import Runs
    from keras_tl.services import Stack
    from keras_tl.streams import Producer, Stream


class Hub:
    """One connection to MongoDB and Kafka; runs, models, datasets and streams hang off it.

    Nothing is contacted before it is used. A hub can be shared between threads, and used in a
    forked process, which makes its own clients.

    What is not given is read from `KERAS_TL_MONGODB` and `KERAS_TL_KAFKA`, else from the file that
    `KERAS_TL_CONFIG` names or `config.toml` in `KERAS_TL_HOME` (default `~/.keras_tl`), with the
    keys `mongodb`, `kafka` and `project`.

    Args:
        mongodb: MongoDB URI with any pymongo option (TLS, SCRAM, ...).
        kafka: bootstrap servers, or a mapping of options in kafka-python's own names.
        project: name of the database that keeps this project apart from others.
        **mongo_options: passed to `pymongo.MongoClient`.

    Raises:
        ValueError: if `project` cannot be a database name or the config file is not understood.

    Example:

    >>> Hub("mongodb://ada:pass@db:27017", kafka="broker:9092", project="clicks")
    Hub(mongodb='mongodb://ada:***@db:27017', kafka='broker:9092', project='clicks')
    """

    def __init__(
        self,
        mongodb: str | None = None,
        kafka: str | Mapping[str, Any] | None = None,
        project: str | None = None,
        **mongo_options: Any,
    ) -> None:
        config = configured()
        self.connection = Connection(
            mongodb or config.get("mongodb"),
            kafka or config.get("kafka"),
            project or config.get("project") or "keras_tl",
            **mongo_options,
        )
        self._stack: Stack | None = None

    @classmethod
    def local(
        cls,
        folder: str | os.PathLike[str] | None = None,
        project: str | None = None,
        *,
        broker: str | None = None,
    ) -> Hub:
        """A hub on a MongoDB and a Kafka on this machine, started if they do not run yet.

        Data lives under `folder` and survives restarts. Closing the hub, or leaving its `with`
        block, stops what this call has started and nothing else.

        Args:
            folder: where data lives; default: `local` in `KERAS_TL_HOME`.
            project: as for `Hub`.
            broker: `"kafka"`, `"kafka-docker"` or `"tansu"`; default: the best that is found.

        Raises:
            keras_tl.services.ServiceError: if a server cannot be started, with what to do.
        """
        from keras_tl import services

        stack = services.up(folder, broker=broker)
        hub = cls(stack.mongodb, stack.kafka, project)
        hub._stack = stack
        return hub

    def __repr__(self) -> str:
        return repr(self.connection).replace("Connection", "Hub", 1)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def project(self) -> str:
        """The project's name."""
        return self.connection.project

    @property
    def models(self) -> Models:
        """The models of the project and their versions: `hub.models["digits"].load()`."""
        from keras_tl.models.catalog import Models

        return Models(self.connection)

    @property
    def datasets(self) -> Datasets:
        """The datasets of the project: `hub.datasets["digits"].where(split="train")`."""
        from keras_tl.datasets.catalog import Datasets

        return Datasets(self.connection)

    @property
    def runs(self) -> Runs:
        """The runs of the project: `hub.runs[id].events("loss")`."""
        from keras_tl.models.history import Runs

        return Runs(self.connection)

    def run(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        parent: Run | RunRecord | str | None = None,
    ) -> Run:
        """A run of your own, outside of `fit`: an evaluation, or what holds several runs together.

        Args:
            name: for people.
            params: what identifies it for people.
            tags: strings and numbers to find it by.
            parent: the run that it is a part of, or its id.

        Example:

        ```python
        with hub.run("evaluation", parent=logger.run) as run:
            run.log(step=1, logs={"accuracy": 0.93})
        ```
        """
        from keras_tl.models import Run

        return Run(self.connection, name, params=params, tags=tags, parent=parent)

    def callbacks(
        self, model: str, run: str | None = None, **checkpoint: Any
    ) -> list[keras.callbacks.Callback]:
        """What `fit` needs to log events and save versions.

        Args:
            model: key under which versions are kept.
            run: name of the run, for people; default: the model's key.
            **checkpoint: arguments of `MongoCheckpoint`, as `save_freq`, `monitor`, `mode`.
        """
        from keras_tl.callbacks import MongoCheckpoint, MongoLogger

        name = run or model
        return [
            MongoLogger(self, run=name),
            MongoCheckpoint(self, model, run=name, **checkpoint),
        ]

    def stream(
        self, topic: str, batch_size: int, *, resume: str | None = None, **options: Any
    ) -> Stream:
        """A topic as the `x` of `model.fit`.

        Args:
            topic: Kafka topic of blocks of samples, as `producer` writes them.
            batch_size: samples a batch.
            resume: key of a model: start where its latest version stopped. The next `fit` with
                that model's `MongoCheckpoint` then restores the version. If that was trained on
                arrays, its weights are where the stream begins; without a version, nothing is.
            **options: further arguments of `keras_tl.streams.Stream`, as `start="latest"`.

        Raises:
            keras_tl.streams.TopicChanged: if the topic is not the one the version was trained on.
            ValueError: if the version was not trained on this topic.
        """
        from keras_tl.models import resuming
        from keras_tl.streams import Stream

        if resume is None:
            return Stream(self.connection, topic, batch_size, **options)
        self.sync()  # what a killed trainer left on this machine may be the latest version
        try:
            version = self.models[resume].version()
        except KeyError:
            version = None
        cursor = version.cursor if version is not None else None
        if cursor is not None and cursor["topic"] != topic:
            raise ValueError(
                f"`resume` must name a model that was trained on the topic {topic!r}. Received: "
                f"resume={resume!r}, whose latest version was trained on {cursor['topic']!r}"
            )
        stream = Stream(self.connection, topic, batch_size, cursor=cursor, **options)
        stream.resumed = resume if version is not None else None
        resuming.announce(self.connection, resume, version.document if version else None, stream)
        return stream

    def producer(self, topic: str, **options: Any) -> Producer:
        """Writes samples to a topic, many to a record: see `keras_tl.streams.Producer`."""
        from keras_tl.streams import Producer

        return Producer(self.connection, topic, **options)

    def sync(self) -> dict[str, int]:
        """Send what processes that are gone left in their journals on this machine.

        Returns:
            The number of `journals`, `events` and `versions` sent, and of `others`: journals that
            belong to another server or project.

        Raises:
            pymongo.errors.PyMongoError: if MongoDB does not take it; what was not sent is kept.
        """
        from keras_tl.models.outbox import sync
        from keras_tl.streams.identity import refusal

        connection = self.connection
        return sync(connection, partial(refusal, connection) if connection.has_kafka else None)

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, close the connections and stop what `local` has started.

        Args:
            timeout: how long to wait for MongoDB at most, in s; default: 10, or half a second
                where the end of a `fit` has waited in vain. What it has not taken by then stays in
                the journal.
        """
        import sys

        # Only if something can have been logged: a hub that only reads has no outbox.
        if "keras_tl.models.outbox" in sys.modules:
            from keras_tl.models import current

            current.close(self.connection, timeout)
        self.connection.close()
        if self._stack is not None:
            self._stack.close()
            self._stack = None

"""`MongoBackupAndRestore`: a `fit` that was killed goes on at the very batch where it was."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_tl.callbacks import alive, states
from keras_tl.callbacks.checkpoint import MongoCheckpoint
from keras_tl.callbacks.position import Position, epoch_iterator, noted_steps
from keras_tl.models import resuming
from keras_tl.models.offline import PATIENCE
from keras_tl.models.outbox import sync
from keras_tl.streams.adapter import Feed

log = logging.getLogger("keras_tl")

_RANDOM = "random/"  # paths of random states
_OVER = ("finished", "stopped")  # states of runs that have nothing left to do


class MongoBackupAndRestore(MongoCheckpoint):
    """Backs a `fit` up in MongoDB; running the same script again goes on where it was killed.

    As `keras.callbacks.BackupAndRestore`, and exact to the step: also in the middle of an epoch
    the model ends with the `optimizer.iterations` and, bit for bit, the weights of a `fit` that
    was never interrupted. The batches of the epoch that are trained already are drawn and dropped
    without a training step. With weights, optimizer and seeds come back the sums of the metrics,
    the states of `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and of callbacks with
    `get_state` and `set_state`, and Python's, NumPy's and torch's random numbers. The logger's
    run goes on: rows after the backup are marked superseded.

    The data (`x` of `fit`) are not kept: the script has to give the same ones again. What
    shuffles them has to be repeatable for the samples to come in the same order; the number of
    steps is exact in any case, and where keras_tl sees that the order is not, it warns:

    - Arrays, on JAX and torch: always. On TensorFlow: after `keras.utils.set_random_seed`.
    - `keras.utils.PyDataset`: one that changes in `on_epoch_begin` or `on_epoch_end` must have
      `get_state()` and `set_state(state)`. With `workers` it is not: Keras hands batches that
      were read ahead over to the next epoch.
    - `tf.data`: shuffles with a seed, or after `keras.utils.set_random_seed`. An infinite one is
      drawn again from its beginning, as is a generator.
    - Generators: those that give the same batches to each process.

    A backup belongs to one `fit` that is under way: it is removed when `fit` completes. Versions
    to keep and to load are `MongoCheckpoint`'s, a stream is resumed by
    `hub.stream(..., resume=model)`.

    Args:
        hub: a `Hub`, or a MongoDB URI.
        model: key of the model that is trained; one `fit` at a time may back it up.
        save_freq: `"epoch"`, or a number of batches.
        delete_checkpoint: whether the backup is removed when `fit` completes. If not, the next
            `fit` goes on from it, and does nothing if that was its last epoch.
        run: name of the run, for people.
        flush_timeout: how long the end of `fit` waits for MongoDB at most, in s.

    Raises:
        ValueError: for a `save_freq` that is none of the above; in `fit` if another `fit` that is
            under way has the backup, the data are a stream, end before the batch of the backup or
            have another number of batches, or `steps_per_execution` does not lead to it.
        pymongo.errors.PyMongoError: at the beginning of `fit`, if MongoDB does not answer within
            5 s: whether there is a backup is not known then.

    Example:

    ```python
    backup = keras_tl.callbacks.MongoBackupAndRestore("mongodb://localhost", "digits", 100)
    model.fit(x, y, epochs=50, callbacks=[backup])
    ```
    """

    def __init__(
        self,
        hub: Any,
        model: str,
        save_freq: int | str = "epoch",
        delete_checkpoint: bool = True,
        *,
        run: str | None = None,
        flush_timeout: float = 10.0,
    ) -> None:
        from keras_tl.models.retention import Keep

        super().__init__(
            hub,
            f"{model}/backup",
            monitor="",  # a backup is not for being the best
            save_freq=save_freq,
            run=run,
            keep=Keep(last=1),
            flush_timeout=flush_timeout,
        )
        self.delete_checkpoint = delete_checkpoint
        self._name = model
        self._position: Position | None = None
        self._noted: dict[str, np.ndarray] = {}  # of the backup that this `fit` goes on from
        self._random: dict[str, np.ndarray] = {}
        self._batch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        iterator = epoch_iterator(self.model)
        if iterator is not None and isinstance(iterator.data_adapter, Feed):
            raise ValueError(
                "`x` of `fit` must not be a stream: use `MongoCheckpoint`, and "
                "`hub.stream(..., resume=model)` to go on. Received: a stream"
            )
        self._position = Position(iterator) if iterator is not None else None
        self._batch, self._noted = 0, {}
        super().on_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._position is not None:
            if self._epoch < 0 and self._noted:
                self._position.restore(self._noted, epoch, self._batch)
                self._noted = {}
            else:
                self._position.begin()
        super().on_epoch_begin(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        assert self._run is not None
        run, uploader = self._run, self._run.outbox.uploader
        super().on_train_end()
        if not self.delete_checkpoint or run.rank:
            return
        # Where this fails the run's end, which is journalled, says that the backup is over.
        try:
            if uploader.flush(self.flush_timeout):
                self._delete()
        except Exception as error:
            log.warning("The backup of %r is not deleted yet: %s", self._name, error)

    @property
    def _trained(self) -> str:
        return self._name

    def _claim(self) -> tuple[Mapping[str, Any] | None, Any]:
        """The backup, once what killed processes left on this machine is in MongoDB."""
        assert self._run is not None
        self._reach()
        db, uploader = self.connection.db, self._run.outbox.uploader
        uploader.flush(self.flush_timeout)  # of an earlier `fit` of this process, which raised
        verify = self._refusal if self.connection.has_kafka else None
        try:
            sync(self.connection, verify)
        except Exception as error:  # of another model's, perhaps
            log.warning("A journal could not be sent: %s: %s", type(error).__name__, error)
        model = db["models"].find_one({"_id": self.key}) or {"aliases": {}}
        latest = {"model": self.key, "version": model["aliases"].get("latest")}
        found = db["versions"].find_one(latest)
        if found is None:
            return None, None
        wanted = {"state": 1, "attempt": 1, "attempts": 1}
        run = db["runs"].find_one({"_id": found["run"]}, wanted) or {"_id": found["run"]}
        where = None if self._run.rank else alive.elsewhere(db, self._run, run)
        if where is not None:
            raise ValueError(
                "`model` must be backed up by one `fit` at a time, and the one that has the "
                f"backup is under way: run {run['_id']}, in {where}. Received: {self._name!r}"
            )
        if self.delete_checkpoint and run.get("state") in _OVER:
            if not self._run.rank:
                self._delete()
            return None, None
        return found, None

    def _reach(self) -> None:
        import pymongo
        from pymongo.errors import PyMongoError

        try:
            with pymongo.timeout(PATIENCE):
                self.connection.db.command("ping")
        except PyMongoError as error:
            error.add_note(
                f"Whether there is a backup of {self._name!r} to go on from cannot be told without "
                "MongoDB. Run this again when it answers, or leave `MongoBackupAndRestore` out."
            )
            raise

    def _goes_on(self, version: Mapping[str, Any]) -> bool:
        return True

    @property
    def _middle(self) -> int:
        return self._batch

    def _expect(self) -> None:
        """No stream is trained here."""

    def _resume(self, version: Mapping[str, Any]) -> None:
        assert self._run is not None
        epoch, batch = version["epoch"], version["batch"]
        goal = (self.params or {}).get("steps")
        if self._position is not None:
            self._noted = {
                entry["path"].removeprefix(_RANDOM): array
                for entry, array in resuming.callback_tensors(self.connection, version)
                if entry["path"].startswith(_RANDOM)
            }
        if not self._noted:
            warnings.warn(
                "`fit` is not Keras' own, or was not when the backup was made, and its data cannot "
                "be put back to where they were: the epoch that was interrupted begins anew.",
                stacklevel=2,
            )
            batch = 0
        elif batch and (before := noted_steps(self._noted)) != goal:
            raise ValueError(
                f"`x` must give the batches that it gave when the backup was made, {before} an "
                f"epoch, of which {batch} are trained. Give the same data, `batch_size` and "
                f'`steps_per_epoch`, or discard the backup: `hub.models.delete("{self.key}")`. '
                f"Received: {goal} batches an epoch"
            )
        self._batch = batch
        self._run.resume({**version, "batch": 0})
        self._run.skipped = batch  # Keras counts them in the first epoch
        resuming.restore(self.connection, version, self.model)
        self.model._initial_epoch = epoch  # as `keras.callbacks.BackupAndRestore` does it

    def _begin_data(self) -> None:
        if self._batch and self._position is not None:
            self._restore_metrics(self._position.example)
            self._position.arrive()
            self._batch = 0

    def _save(self, logs: Mapping[str, Any], epoch: int, batch: int) -> None:
        if self._position is not None:
            self._random = self._position.note(batch, (self.params or {}).get("steps"))
        super()._save(logs, epoch, batch)

    def _extra(self) -> list[tuple[str, np.ndarray]]:
        random = [(f"{_RANDOM}{name}", array) for name, array in self._random.items()]
        return [*states.arrays(self._others), *random]

    def _delete(self) -> None:
        """Remove the backup, all of it or nothing."""
        from pymongo.client_session import ClientSession

        db = self.connection.db

        def remove(session: ClientSession) -> None:
            db["versions"].delete_many({"model": self.key}, session=session)
            db["transitions"].delete_many({"model": self.key}, session=session)
            db["models"].delete_one({"_id": self.key}, session=session)

        with db.client.start_session() as session:
            session.with_transaction(remove)

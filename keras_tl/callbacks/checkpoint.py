"""`MongoCheckpoint`: versions of a model in MongoDB while it trains, and back from there."""

from __future__ import annotations

import uuid
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_tl.callbacks import states
from keras_tl.callbacks.position import before_batches, epoch_iterator, provenance
from keras_tl.models import current, environment, resuming, runs, state, versions
from keras_tl.storage.connection import connect
from keras_tl.streams import fitting
from keras_tl.streams.identity import refusal

if TYPE_CHECKING:
    from keras_tl.models.retention import Keep


class MongoCheckpoint(keras.callbacks.Callback):
    """Saves versions of the model to MongoDB: weights, optimizer, seeds, callbacks and offsets.

    Takes the arguments of `keras.callbacks.ModelCheckpoint`, with their meanings; a version takes
    the place of the file. A version appears whole or not at all, tensors that did not change cost
    nothing, and `fit` waits for a copy of the weights only: the rest is done in the background.

    When the model is trained on a stream, a version holds the offsets of exactly the samples that
    are in its weights. With `hub.stream(..., resume=model)` it puts that version back into the
    model when `fit` begins, and continues in the middle of the epoch where it was.

    It needs the values of no batch, so that Keras keeps its asynchronous dispatch on JAX.

    Args:
        hub: a `Hub`, or a MongoDB URI.
        model: key under which the versions are kept.
        monitor: name of the metric that tells which version is best.
        verbose: 1 to print a line when a version is taken.
        save_best_only: only save when `monitor` improved.
        save_weights_only: leave the optimizer out. Such a version cannot be resumed exactly.
        mode: `"auto"`, `"min"` or `"max"`.
        save_freq: `"epoch"`, or a number of batches.
        initial_value_threshold: value of `monitor` that a best version has to beat.
        run: name of the run, for people.
        tags: strings and numbers to keep with each version.
        keep: which versions stay, as `keras_tl.models.Keep(last=5, best=3)`; `None`: all.
        flush_timeout: how long the end of `fit` waits for MongoDB at most, in s.

    Raises:
        ValueError: for a `mode`, `save_freq` or `tags` that is none of the above, and in `fit` if
            another checkpoint of the same `fit` saves the same model.

    Example:

    ```python
    checkpoint = keras_tl.callbacks.MongoCheckpoint("mongodb://localhost", model="digits")
    model.fit(x, y, epochs=5, callbacks=[checkpoint])
    ```
    """

    def __init__(
        self,
        hub: Any,
        model: str,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: int | str = "epoch",
        initial_value_threshold: float | None = None,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        keep: Keep | None = None,
        flush_timeout: float = 10.0,
    ) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'`mode` must be "auto", "min" or "max". Received: mode={mode!r}')
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(
                f'`save_freq` must be "epoch" or a positive integer. Received: {save_freq!r}'
            )
        self.connection = connect(hub)
        self.key = model
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self.name = run
        self.tags = _tags(tags or {})
        self.keep = keep
        self.flush_timeout = flush_timeout
        self._refusal = partial(refusal, self.connection)
        self._run: runs.Run | None = None
        self._stream: Any = None
        self._data: dict[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._others: list[keras.callbacks.Callback] = []
        self._since_save = 0
        #: The stream that starts where the model was put back to.
        self.awaited: Any = None

    # Batches trained: `_first_step` before this epoch in the whole history of the model,
    # `_first_batch` in this epoch before a resume, `_steps` in this epoch by this `fit`.

    def on_train_begin(self, logs: Any = None) -> None:
        self._others = states.siblings(self)
        self._refuse_double()
        about = {"name": self.name, "model": self._trained, "rank": environment.rank()}
        self._run = current.join(self, self.model, self.connection, **about)
        self._first_step = self._steps = self._first_batch = 0
        self._epoch = -1
        self._end_epoch: _EndOfEpoch | None = None
        self._config = state.describe(self.model)
        state.warn_of_assets(self.model)
        self._stream, self._streamed, self._data = None, 0, None
        fitting.forget()
        self._run.outbox.uploader.refused = None  # an earlier `fit` was told
        self._resumed, self.awaited = self._claim()
        if self._resumed is not None:
            self._resume(self._resumed)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        run = self._run
        assert run is not None
        run.start()
        self._per_execution = self.model.steps_per_execution
        skipped = run.skipped if self._epoch < 0 else 0
        first = self._epoch < 0
        if first:
            self._first_step, self._first_batch = run.start_step - skipped, run.start_batch
            self._forget_initial_epoch()
            # Only now: their own `on_train_begin` has reset them.
            if self._resumed is not None and self._goes_on(self._resumed):
                states.restore(
                    self._resumed["callbacks"],
                    [self, *self._others],
                    resuming.callback_tensors(self.connection, self._resumed),
                )
        else:
            self._first_step, self._first_batch = self._first_step + self._steps, 0
        self._epoch, self._steps, self._begun = epoch, skipped, skipped - self._per_execution
        self._updates = states.updates(self.model) - skipped
        self._streamed = self._stream.trained if self._stream is not None else 0
        self._fresh = True
        if first and self._middle:
            self._undo_hooks()
        self._expect()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._fresh:
            self._fresh = False
            self._begin_data()
            self._data = provenance(self.model)
        self._begun = batch
        self._advance(batch)
        if (
            self.save_freq != "epoch"
            and self._since_save >= int(self.save_freq)
            and self._steps > 0
        ):
            self._since_save = 0
            state.synchronise(self.model)
            self._save(self.model.get_metrics_result(), self._epoch, self._first_batch + batch)
        goal = (self.params or {}).get("steps")
        last = goal and batch + self._per_execution >= goal - self._first_batch
        if last and self._first_batch and not self.model.stop_training:
            # The rest of an epoch that was resumed in the middle: a source that ended it early
            # would make Keras take its length for the length of every epoch.
            self._end_epoch = self.model.stop_training = _EndOfEpoch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._end_epoch is not None and self.model.stop_training is self._end_epoch:
            self.model.stop_training = False
        self._end_epoch = None
        self._advance(self._steps_at_end())
        if self.save_freq == "epoch" or self._since_save >= int(self.save_freq):
            self._since_save = 0
            self._save(logs or {}, epoch + 1, 0)

    def on_train_end(self, logs: Any = None) -> None:
        assert self._run is not None
        self._forget_initial_epoch()
        uploader = self._run.outbox.uploader
        current.leave(self, self._run, self.flush_timeout)
        if uploader.refused is not None:
            raise uploader.refused

    def get_state(self) -> dict[str, Any]:
        """What a version keeps of this callback."""
        return {"best": self.best}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what a version kept."""
        self.best = state["best"]

    # What a callback that goes on in other data does otherwise.

    @property
    def _trained(self) -> str:
        """The model that is trained, as the run names it."""
        return self.key

    def _claim(self) -> tuple[Mapping[str, Any] | None, Any]:
        """The version that this `fit` starts from, and the stream that starts there."""
        return resuming.claim(self.connection, self.key)

    def _goes_on(self, version: Mapping[str, Any]) -> bool:
        """Whether the training of the version goes on, or its weights begin another one."""
        return version["cursor"] is not None

    def _expect(self) -> None:
        fitting.expect(self)

    def _begin_data(self) -> None:
        """Before the first batch of each epoch."""
        stream = fitting.attached(self)
        if stream is not self._stream:
            self._stream, self._streamed = stream, stream.trained if stream else 0
        if self.awaited is not None and stream is not self.awaited:
            raise ValueError(
                f"`x` of `fit` must be the stream that was made with resume={self.key!r}, "
                "since the model was put back to where that stream starts. Received: "
                f"{'another stream' if stream is not None else 'no stream'}"
            )
        if self._resumed is not None and self._first_batch:
            self._restore_metrics(stream.example() if stream is not None else None)

    def _extra(self) -> list[tuple[str, np.ndarray]]:
        """Arrays that a version keeps beside the model's, with their paths."""
        return states.arrays(self._others)

    def _refuse_double(self) -> None:
        for other in self._others:
            if isinstance(other, MongoCheckpoint) and (
                (other.key, other.connection.address, other.connection.project)
                == (self.key, self.connection.address, self.connection.project)
            ):
                raise ValueError(
                    "`model` must be another one for each checkpoint of a `fit`, or each version "
                    f"would be there twice. Received: model={self._trained!r} twice"
                )

    def _resume(self, version: Mapping[str, Any]) -> None:
        assert self._run is not None
        if version["cursor"] is None:  # trained on arrays: the stream is another training
            return resuming.restore(self.connection, version, self.model)
        epoch, batch = version["epoch"], version["batch"]
        goal = (self.params or {}).get("steps")
        if goal and batch >= goal:  # epochs are shorter now: this one is over
            epoch, batch = epoch + 1, 0
        self._run.resume({**version, "batch": batch})
        resuming.restore(self.connection, version, self.model)
        self.model._initial_epoch = epoch  # as `keras.callbacks.BackupAndRestore` does it

    @property
    def _middle(self) -> int:
        """Batches of the first epoch that were trained before this `fit`."""
        return self._first_batch

    def _undo_hooks(self) -> None:
        """What hooks do when an epoch begins is in the version already, if it is its middle."""
        version, iterator = self._resumed, epoch_iterator(self.model)
        if version is not None and iterator is not None:
            restore = partial(resuming.restore, self.connection, version, self.model)
            before_batches(iterator, restore)

    def _forget_initial_epoch(self) -> None:
        if self._resumed is not None:  # `fit` has read it; the model's next one starts at 0
            self.model._initial_epoch = None

    def _restore_metrics(self, batch: Any) -> None:
        """An epoch that goes on in the middle has sums already; Keras has just reset them."""
        assert self._resumed is not None
        resuming.restore_metrics(self.connection, self._resumed, self.model, batch)

    def _advance(self, steps: int) -> None:
        """Note that `steps` batches of this epoch are trained."""
        if self._stream is not None:
            # At the end of the data Keras begins an execution that gets no batch.
            steps = min(steps, self._stream.handed_out - self._streamed)
        self._since_save += steps - self._steps
        self._steps = steps
        if self._stream is not None:
            self._stream.mark_trained(self._streamed + steps)
        uploader = self._run.outbox.uploader  # type: ignore[union-attr]
        if uploader.refused is not None:
            raise uploader.refused

    def _steps_at_end(self) -> int:
        # The last execution is not over when its `begin` hook runs. Keras does not shorten it to
        # `steps_per_epoch`: 10 steps by 4 are 12.
        if self._stream is not None:
            return self._begun + self._per_execution
        return states.steps(self, self._updates, self._begun + self._per_execution)

    def _save(self, logs: Mapping[str, Any], epoch: int, batch: int) -> None:
        value = logs.get(self.monitor)
        better = value is not None and self._improves(value)
        if better:
            self.best = float(value)  # type: ignore[arg-type]
        if self.save_best_only and value is None:
            warnings.warn(f"Can save best model only with {self.monitor} available.", stacklevel=2)
        elif self.save_best_only and not better:
            return
        run = self._run
        assert run is not None
        if run.rank:  # the first process of a data-parallel `fit` saves for all
            return
        manifest, bundle = state.capture(self.model)
        if self.save_weights_only:
            manifest = [e for e in manifest if e["role"] in ("trainable", "non_trainable")]
            bundle = {e["name"]: bundle[e["name"]] for e in manifest}
        if self._config is not None:
            bundle[versions.CONFIG] = np.frombuffer(self._config.encode(), np.uint8)
        for path, array in self._extra():
            manifest.append({"name": path, "path": path, "role": "callback"})
            bundle[path] = array
        about = {
            "id": f"{run.attempt}-{self._first_step + self._steps}-{uuid.uuid4().hex[:8]}",
            "model": self.key,
            **{"run": run.id, "attempt": run.attempt, "number": run.number, "began": run.began},
            "base": self._resumed["version"] if self._resumed else None,
            "after": self._attempt_before(),
            **{"step": self._first_step + self._steps, "epoch": epoch, "batch": batch},
            "metrics": _numbers(logs),
            "manifest": manifest,
            "callbacks": states.collect([self, *self._others]),
            "cursor": self._stream.cursor if self._stream is not None else None,
            "best": {"monitor": self.monitor, "mode": self._mode(), "value": self.best}
            if better
            else None,
            **{"tags": self.tags, "data": self._data},
            "keep": self.keep.to_dict() if self.keep is not None else None,
        }
        run.outbox.uploader.put(about, bundle, self._refusal)
        if self.verbose:
            keras.utils.io_utils.print_msg(
                f"\nStep {about['step']}: saving a version of {self.key!r}"
            )

    def _attempt_before(self) -> str | None:
        """The attempt whose versions this one goes on from: an earlier `fit` on the same stream."""
        run, stream = self._run, self._stream
        assert run is not None
        if stream is None:
            return None
        model, key, attempt, before = stream.fitted or (None, None, None, None)
        if attempt != run.attempt:
            goes_on = model is not None and model() is self.model and key == self.key
            before = attempt if goes_on else None
            stream.fitted = (weakref.ref(self.model), self.key, run.attempt, before)
        return before

    def _improves(self, value: Any) -> bool:
        if not np.isfinite(value):
            return False
        if self.best is None:
            return True
        return bool(value > self.best if self._mode() == "max" else value < self.best)

    def _mode(self) -> str:
        return self.mode if self.mode != "auto" else states.direction(self.model, self.monitor)


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in logs.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            continue  # another callback's text, or an array
    return found


def _tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in tags.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ValueError(
                "`tags` must be strings and numbers. "
                f"Received: {name!r} of type {type(value).__name__}"
            )
    return dict(tags)


class _EndOfEpoch:
    """A true value for `stop_training` that can be told from another callback's."""

    def __bool__(self) -> bool:
        return True

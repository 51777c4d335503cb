"""`MongoLogger`: the metrics of a `fit` in MongoDB."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import keras

from keras_tl.callbacks import orders, states
from keras_tl.models import current, environment, runs
from keras_tl.models.system import System
from keras_tl.storage.connection import connect


class MongoLogger(keras.callbacks.Callback):
    """Logs metrics of every batch and epoch, at the cost of an append to a local file.

    Events go to a journal on this machine and from there to MongoDB in the background: a server
    that is down, slow or frozen neither stops nor slows `fit`, and nothing that was logged is
    lost or doubled, also if the process is killed. `keras-tl sync` sends what is left.

    Values of batches are what Keras gives to callbacks: running means since the epoch began.

    On the JAX backend the callback can be called without waiting for the step's result
    (`async_safe`): Keras then keeps its asynchronous dispatch, unless another callback of the
    same `fit` needs the result of each batch.

    In a data-parallel `fit` of several processes only the first one logs metrics; each logs what
    it takes of its machine, with its rank, into the first one's run.

    Args:
        hub: a `Hub`, or a MongoDB URI.
        run: name of the run, for people.
        params: hyper-parameters to keep with the run; values under keys that look like a secret
            are not kept.
        tags: strings and numbers to find the run by.
        parent: the run that this one is a part of, or its id.
        log_batches: whether to log each batch, beside each epoch.
        takes_orders: whether the run can be told what to do while it trains, by
            `hub.runs[id].set(learning_rate=...)`, `pause()`, `resume()` and `stop()`, or by
            `keras-tl runs set ID learning_rate=...`. They reach the next training step within
            about a second.
        async_safe: whether Keras may call it without waiting; `None`: yes on an accelerator,
            where it pays.
        flush_timeout: how long the end of `fit` waits for MongoDB at most, in s.
        system: time in s between rows of the kind `"system"` (CPU, memory and GPUs; needs
            `keras_tl[system]`, else there are none), `None` for none.

    Raises:
        ValueError: for a `parent` or `system` that is none of the above.

    Example:

    ```python
    logger = keras_tl.callbacks.MongoLogger("mongodb://localhost", run="baseline")
    model.fit(x, y, callbacks=[logger])
    logger.run.event("note", text="looks good")
    ```
    """

    def __init__(
        self,
        hub: Any,
        run: str | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        tags: Mapping[str, Any] | None = None,
        parent: Any = None,
        log_batches: bool = True,
        takes_orders: bool = True,
        async_safe: bool | None = None,
        flush_timeout: float = 10.0,
        system: float | None = 15.0,
    ) -> None:
        super().__init__()
        if system is not None and not system > 0:
            raise ValueError(f"`system` must be more than 0 s, or `None`. Received: {system!r}")
        self.connection = connect(hub)
        self.name = run
        self.config = dict(params or {})
        self.tags = dict(tags or {})
        self.parent = runs.parent_id(parent)
        self.system = system
        self.log_batches = log_batches
        self.takes_orders = takes_orders
        self.async_safe = _on_accelerator() if async_safe is None else async_safe
        self.flush_timeout = flush_timeout
        self._run: runs.Run | None = None
        self._epoch = self._first_step = self._first_batch = self._steps = 0
        self._per_execution, self._active, self._updates = 1, True, 0
        self._watches = False
        self._orders: orders.Orders | None = None
        self._inbox = orders.NONE

    @property
    def run(self) -> runs.Run:
        """The run of the `fit` under way, or of the last one.

        Raises:
            ValueError: before the first `fit`.
        """
        if self._run is None:
            raise ValueError("`run` exists from the start of `fit` on. Received: no `fit` yet")
        return self._run

    def on_train_begin(self, logs: Any = None) -> None:
        rank = environment.rank()
        about = {
            "name": self.name,
            "params": self.config,
            "tags": self.tags,
            "parent": self.parent,
            "rank": rank,
        }
        self._run = current.join(self, self.model, self.connection, **about)
        # Of two loggers in one `fit` the first one logs, or each row would be there twice.
        first = _loggers.setdefault(self._run, weakref.ref(self))() is self
        self._active, self._watches = first and not rank, first and self.system is not None
        self._first_step = self._steps = 0
        self._epoch = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.run.start(_fit_config(self.model, self.params))
        # What a step hook needs of the model is read here: there its buffers are donated.
        self._per_execution = self.model.steps_per_execution
        skipped = self.run.skipped if self._epoch < 0 else 0
        if self._epoch < 0:
            self._first_step = self.run.start_step - skipped
            self._first_batch = self.run.start_batch
            self._listen()
        else:
            self._first_step, self._first_batch = self._first_step + self._steps, 0
        self._epoch, self._steps = epoch, 0
        if self._watches:
            self._watches = False
            System(self.run, self.system, self._position)  # type: ignore[arg-type]
        self._updates = states.updates(self.model) - skipped

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Main thread, in order: the only hook that tells how many steps an epoch had.
        self._steps = batch + self._per_execution
        if self._inbox.waiting:
            step = self._first_step + batch + 1
            self._orders.obey(self, step, self._epoch)  # type: ignore[union-attr]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Several threads, out of order, and nothing of `self.model` may be touched. The epoch
        # stands still meanwhile: Keras waits for these calls before it ends one.
        if self.log_batches and logs and self._active:
            self._run.log(  # type: ignore[union-attr]
                self._first_step + batch + 1, self._epoch, self._first_batch + batch, logs
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._steps = states.steps(self, self._updates, self._steps)
        if logs and self._active:
            step = self._first_step + self._steps
            self.run.log(step, epoch, self._first_batch + self._steps - 1, logs, kind="epoch")

    def _listen(self) -> None:
        self._orders, self._inbox = None, orders.NONE
        if self.takes_orders and self._active:
            self._orders = orders.Orders(self.run)
            self._inbox = self._orders.inbox

    def _position(self) -> tuple[int, int]:
        return self._first_step + self._steps, self._epoch

    def on_train_end(self, logs: Any = None) -> None:
        current.leave(self, self.run, self.flush_timeout)


# Weak on both sides: a logger holds its run, and its model.
_loggers: weakref.WeakKeyDictionary[runs.Run, weakref.ref[MongoLogger]] = (
    weakref.WeakKeyDictionary()
)


def _on_accelerator() -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.default_backend() != "cpu")


def _fit_config(model: keras.Model, params: Mapping[str, Any] | None) -> dict[str, Any]:
    config: dict[str, Any] = {"fit": {k: (params or {}).get(k) for k in ("epochs", "steps")}}
    config["model"] = {"class": type(model).__name__, "parameters": model.count_params()}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        config["optimizer"] = {
            k: v for k, v in optimizer.get_config().items() if isinstance(v, (str, int, float))
        }
    return config

"""What Keras' `fit` sees of a stream, on each backend."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Private, and the only way in: `get_data_adapter` lets a custom adapter through, while every public
# source does harm. A generator is pulled ahead and cannot say what was trained, a PyDataset warns
# about `shuffle`, is pulled ahead on TensorFlow, and raises when `stop_training` broke an epoch.
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from keras_tl.streams import fitting
from keras_tl.streams.errors import StreamError

Batch = tuple[Any, ...]

# Keras builds an unbuilt model from the shapes of a batch that it never trains on.
_BUILDERS = frozenset({"_symbolic_build", "_maybe_symbolic_build"})


class Feed(DataAdapter):
    """The Keras side of a stream: hands out batches by index and counts what was trained.

    Batch `i` stays the same, and is kept, until it is trained. Each iterator begins at the first
    untrained batch. Either a checkpoint says what is trained (`mark_trained`), or what Keras took
    for a step counts: it takes nothing ahead here.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._peeking = False
        self._marked = False
        self._failure: StreamError | None = None

    # What the subclass gives.

    @property
    def trained(self) -> int:
        raise NotImplementedError

    def _batch(self, index: int) -> Batch | None:
        """Batch `index`, or `None` at the end of the stream; waits for it."""
        raise NotImplementedError

    def example(self) -> Batch:
        """Arrays of the shapes and dtypes of a batch."""
        raise NotImplementedError

    def _forget(self, count: int) -> None:
        """Batches before `count` are trained."""
        raise NotImplementedError

    # What Keras calls.

    @property
    def num_batches(self) -> int | None:
        _refuse_ignored(sys._getframe(1))
        return None

    @property
    def has_partial_batch(self) -> bool | None:
        return None

    @property
    def partial_batch_size(self) -> int | None:
        return None

    def on_epoch_begin(self) -> None:
        self._check_process()
        self._peeking = _below(_BUILDERS)
        if self._peeking:
            return
        self._marked = fitting.attach(self)  # type: ignore[arg-type]
        _no_look_ahead(sys._getframe(1))

    def on_epoch_end(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def get_numpy_iterator(self) -> Iterator[Batch]:
        return _Batches(self)

    def get_jax_iterator(self) -> Iterator[Batch]:
        return _Batches(self)

    def get_tf_dataset(self) -> Any:
        import tensorflow as tf
        from keras import tree

        signature = tree.map_structure(
            lambda column: tf.TensorSpec((None, *column.shape[1:]), column.dtype), self.example()
        )
        dataset = tf.data.Dataset.from_generator(self._until_failure, output_signature=signature)
        # By default tf.data pulls batch N + 1 while step N runs. On a stream that goes quiet after
        # exactly N steps `fit` would then never return: nothing may run ahead of the training.
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        return dataset.with_options(options)

    def get_torch_dataloader(self) -> Any:
        import torch
        from keras import ops, tree

        class Rows(torch.utils.data.IterableDataset):
            def __iter__(rows) -> Iterator[Any]:
                return _Batches(self, lambda b: tree.map_structure(ops.convert_to_tensor, b))

        # Without a generator of its own, a new iterator draws from torch's global one, and a run
        # that was resumed would see other random numbers.
        return torch.utils.data.DataLoader(Rows(), batch_size=None, generator=torch.Generator())

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StreamError(
                "A stream belongs to the process that made it: a fork cannot use its connection. "
                "Make one in the child."
            )

    def _until_failure(self) -> Iterator[Batch]:
        """For TensorFlow, which turns what a generator raises into an error of its own.

        The end of the data makes Keras call `on_epoch_end`, which raises what came up here.
        """
        batches = _Batches(self)
        try:
            yield from batches
        except StreamError as failure:
            self._failure = failure


class _Batches(Iterator[Batch]):
    """Batches from the first untrained one on."""

    def __init__(self, feed: Feed, convert: Callable[[Batch], Batch] | None = None) -> None:
        self._index = feed.trained
        self._feed = feed
        self._convert = convert
        self._counts = not feed._peeking

    def __next__(self) -> Batch:
        if not self._counts:  # Keras wants the shapes
            batch = self._feed.example()
            return batch if self._convert is None else self._convert(batch)
        found = self._feed._batch(self._index)
        if found is None:
            raise StopIteration
        self._index += 1
        if not self._feed._marked:
            self._feed._forget(self._index)
        return found if self._convert is None else self._convert(found)


def _below(names: frozenset[str]) -> bool:
    """Whether the caller runs below a function of one of these names.

    There is no other sign: Keras pulls a batch for the shapes of an unbuilt model in the same way
    as for a step, and drops it.
    """
    frame: FrameType | None = sys._getframe(1)
    # fit -> _symbolic_build -> __next__ -> _enumerate_iterator -> on_epoch_begin: a few frames up.
    for _ in itertools.repeat(None, 12):
        if frame is None:
            return False
        if frame.f_code.co_name in names:
            return True
        frame = frame.f_back
    return False


def _refuse_ignored(frame: FrameType) -> None:
    """Raise if Keras' epoch iterator was given what it does not hand on to an adapter like ours."""
    for name in ("y", "sample_weight", "class_weight"):
        if frame.f_code.co_name == "__init__" and frame.f_locals.get(name) is not None:
            raise ValueError(
                f"`{name}` must not be given beside a stream, whose samples have fields `x`, `y` "
                f"and `sample_weight` of their own. Received: {name} of type "
                f"{type(frame.f_locals[name]).__name__}"
            )
    batch_size = frame.f_locals.get("batch_size")
    if frame.f_code.co_name != "__init__" or batch_size is None:
        return
    # `fit(arrays, batch_size=8, validation_data=stream)` is fine: that size is of the arrays.
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_name == "__init__":
        caller = caller.f_back
    if caller is not None and caller.f_locals.get("x") is frame.f_locals.get("x"):
        raise ValueError(
            "`batch_size` must not be given beside a stream, which has its own: "
            f"`hub.stream(topic, batch_size)`. Received: batch_size={batch_size!r}"
        )


def _no_look_ahead(frame: FrameType) -> None:
    """Have Keras' epoch iterator on jax take a batch only when a step needs it.

    On a GPU it takes batch N + 1 before step N, so that step N of a quiet stream would wait for
    data that it does not need. jax dispatches asynchronously: the next batch is sent to the device
    while the step runs anyway.
    """
    iterator: Any = frame.f_locals.get("self")
    if hasattr(iterator, "_one_batch_ahead_iterator"):
        iterator._one_batch_ahead_iterator = iter

"""What is private in Keras, and the only way to an order of one's own in `fit`.

`fit` shuffles a `PyDataset` by default: `PyDatasetAdapter` permutes the indices with Python's
`random`. It also counts batches once, calls `on_epoch_end` before the first epoch, and pulls a
batch that it never trains to build a model. All that this takes is here, with what happens without
it: if Keras changes, batches come in Keras' order, and a view that grows is cut off.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

# Keras builds an unbuilt model from the shapes of a batch that it never trains on.
_BUILDERS = frozenset({"_symbolic_build", "_maybe_symbolic_build"})

_ASKING = frozenset({"fit", "evaluate", "predict"})

#: TensorFlow turns what a generator raises into an error of its own.
HIDES_ERRORS = keras.backend.backend() == "tensorflow"


def adopt(
    frame: FrameType, dataset: keras.utils.PyDataset, batches: Callable[[Any], Iterator[Any]]
) -> None:
    """If the adapter of a `fit` asks (in `num_batches`), has it take the batches of an iterator.

    Each call of `batches` is one pass. The adapter's own generators would ask for shuffled indices,
    from as many threads as it has workers.

    Args:
        frame: of who asks.
        dataset: that is asked.
        batches: given the dataset, begins a pass.
    """
    if not adapts(frame, dataset):
        return
    adapter = frame.f_locals["self"]
    if "_get_iterator" in vars(adapter):
        return
    # TensorFlow never forgets a generator that it has called, nor what that refers to.
    weak, own = weakref.ref(adapter), weakref.ref(dataset)

    def standardized() -> Iterator[Any]:
        asked = own()
        for batch in () if asked is None else batches(asked):
            asking = weak()
            yield batch if asking is None else asking._standardize_batch(batch)

    adapter._get_iterator = standardized
    adapter.enqueuer = None


def epoch_iterator(frame: FrameType) -> Any:
    """The epoch iterator whose adapter calls `on_epoch_begin`; `None` if somebody else does."""
    caller = frame.f_back
    found = caller.f_locals.get("self") if caller is not None else None
    return found if isinstance(found, EpochIterator) else None


def begins_pass(iterator: Any) -> bool:
    """Whether the epoch that begins is a pass, and not the next part of one (steps_per_epoch)."""
    return (
        iterator.steps_per_epoch is None
        or iterator._current_iterator is None
        or not iterator._steps_seen
    )


def count(iterator: Any, batches: int) -> None:
    """Tells the epoch iterator how many batches there are, which it has asked once only."""
    iterator._num_batches = batches


def predicts(frame: FrameType | None) -> bool:
    """Whether it is a `predict` that asks: it drops labels, so samples need none."""
    while frame is not None:
        if frame.f_code.co_name in _ASKING and isinstance(frame.f_locals.get("self"), keras.Model):
            return frame.f_code.co_name == "predict"
        frame = frame.f_back
    return False


def adapts(frame: FrameType, dataset: keras.utils.PyDataset) -> bool:
    """Whether an adapter asks, for a model."""
    adapter = frame.f_locals.get("self")
    return isinstance(adapter, PyDatasetAdapter) and adapter.py_dataset is dataset


def builds(frame: FrameType | None) -> bool:
    """Whether Keras asks for a batch to build a model with: nothing is trained on it."""
    for _ in range(12):  # it is a few frames up
        if frame is None:
            return False
        if frame.f_code.co_name in _BUILDERS:
            return True
        frame = frame.f_back
    return False

"""Where a `fit` on arrays, a `PyDataset`, tf.data or a generator is in its data, and back there."""

from __future__ import annotations

import base64
import json
import random
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

# Private: what gives Keras' `fit` its batches. A callback gets no other sight of them.
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

_TENSORFLOW = keras.backend.backend() == "tensorflow"


def epoch_iterator(model: keras.Model) -> EpochIterator | None:
    """What gives batches to the `fit` of `model` under way, as seen from within a callback's hook.

    Keras tells callbacks nothing of the data; the iterator is a local variable of `fit`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("epoch_iterator")
        if isinstance(found, EpochIterator) and frame.f_locals.get("self") is model:
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


def provenance(model: keras.Model) -> dict[str, Any] | None:
    """What the data of the `fit` of `model` under way say of themselves, as a dataset's batches do.

    Returns:
        Plain values, with `dataset`, `query` and `snapshot`; `None` for data that say nothing.
    """
    iterator = epoch_iterator(model)
    source = getattr(iterator.data_adapter, "py_dataset", None) if iterator is not None else None
    found = getattr(source, "provenance", None)
    return dict(found) if isinstance(found, Mapping) and "dataset" in found else None


def before_batches(iterator: EpochIterator, call: Callable[[], None]) -> None:
    """Call it once, after all `on_epoch_begin` hooks and before any hook of a batch."""
    make = iterator._enumerate_iterator

    def once() -> Any:
        iterator._enumerate_iterator = make
        call()
        return make()

    iterator._enumerate_iterator = once


class Position:
    """Follows the epoch iterator of one `fit`, and can put that of another one to the same place.

    An iterator over the data lasts an epoch, or longer if `steps_per_epoch` is given. To get back
    to a batch, the random numbers are put back to what they were when its iterator gave its first
    batch, and the batches before it are drawn again and dropped.

    Args:
        iterator: the epoch iterator of the `fit`.
    """

    def __init__(self, iterator: EpochIterator) -> None:
        self.iterator = iterator
        self.adapter = iterator.data_adapter
        #: A batch that was drawn on the way to the position.
        self.example: Any = None
        self._source: Any = getattr(self.adapter, "py_dataset", None)
        self._dataset = _tf_dataset(self.adapter)
        self._now: dict[str, Any] | None = None
        self._started = 0  # iterators that gave a batch
        self._made = 0  # iterators that Keras asked for
        make = iterator._get_iterator

        def counted() -> Any:
            self._made += 1
            return make()

        iterator._get_iterator = counted
        self._place: dict[str, Any] = {}

    def begin(self) -> None:
        """From `on_epoch_begin`, if nothing is to be put back."""
        self._place = self._look()
        self._started += not self._place["drawn"]

    def note(self, batch: int, steps: int | None = None) -> dict[str, np.ndarray]:
        """The position before the batch `batch` of this epoch; 0 is the next epoch's beginning.

        Args:
            batch: batches of this epoch that were drawn.
            steps: batches of an epoch, if that is known.

        Returns:
            The place in the data and the states of random generators, as JSON in arrays of bytes:
            they hold numbers that no document can.
        """
        place = self._place if batch else self._look()
        states = {"origin": place["random"], "now": self._random() if batch else place["random"]}
        kept = {k: v for k, v in place.items() if k != "random"}
        states["place"] = {**kept, "steps": steps}
        return {k: _encode(v) for k, v in states.items()}

    def restore(self, noted: Mapping[str, np.ndarray], epoch: int, batch: int) -> None:
        """From `on_epoch_begin`: go to where `note` was called.

        Raises:
            ValueError: if whole executions do not lead there, or the data end before.
        """
        own, per_execution = self.iterator, self.iterator.steps_per_execution
        if batch % per_execution:
            raise ValueError(
                "`steps_per_execution` must divide the number of batches of the epoch that the "
                f"backup holds: {batch}. Received: steps_per_execution={per_execution}"
            )
        random_states = {k: json.loads(v.tobytes()) for k, v in noted.items()}
        place = random_states["place"]
        self._warn(place, epoch)
        if place["state"] is not None and hasattr(self._source, "set_state"):
            self._source.set_state(place["state"])
        if hasattr(self._source, "skip"):  # what is dropped below need not be read
            self._source.skip(place["drawn"] + batch)
        if self._dataset is not None:
            for _ in range(place["earlier"]):  # a shuffle with a seed has an order for each
                iter(own._distributed_dataset if _TENSORFLOW else self._dataset)
        if not own.steps_per_epoch or not (place["early"] or place["drawn"]):
            self._put_back(random_states["origin"])
        else:
            made = iter(own._get_iterator()) if place["early"] else None
            self._put_back(random_states["origin"])
            own._current_iterator = made or iter(own._get_iterator())
            self._drop(own._current_iterator, place["drawn"])
            own._steps_seen = place["drawn"]
        self._made = place["earlier"] + (own._current_iterator is not None)
        self._started = place["started"] + 1
        self._place = {**place, "random": random_states["origin"]}
        if batch:
            self._now = random_states["now"]
            own._enumerate_iterator = lambda: self._rest(batch)

    def arrive(self) -> None:
        """From `on_train_batch_begin` of the first batch after `restore`."""
        # TensorFlow reads data in other threads, which had drawn ahead when this was noted: there
        # the numbers that the dropped batches have drawn are the right ones.
        now, self._now = self._now, None
        if now is not None and not _TENSORFLOW:
            self._put_back(now)

    def _look(self) -> dict[str, Any]:
        """Where the next epoch begins, seen from between two epochs."""
        own = self.iterator
        there = bool(own.steps_per_epoch) and own._current_iterator is not None
        if there and own._steps_seen:
            return {**self._place, "drawn": own._steps_seen}
        return {
            "drawn": 0,
            "early": there,  # Keras made the iterator at the end of the epoch before
            "earlier": self._made - there if _TENSORFLOW else self._started,
            "started": self._started,
            "state": self._state(),
            "first": self._first(),
            "random": self._random(),
        }

    def _state(self) -> Any:
        """What the user's `PyDataset` remembers."""
        if not hasattr(self._source, "get_state"):
            return None
        try:
            return json.loads(json.dumps(self._source.get_state()))
        except (TypeError, ValueError, RecursionError) as error:
            warnings.warn(
                f"The state of {type(self._source).__name__} is not kept: `get_state` must return "
                f"what JSON can hold. Received: {error}",
                stacklevel=2,
            )
            return None

    def _rest(self, batch: int) -> Iterator[Any]:
        """The epoch from `batch` on, under the numbers that Keras gives to its batches."""
        own = self.iterator
        vars(own).pop(
            "_enumerate_iterator", None
        )  # the class's own again, for the epochs after this one
        for begin, end, batches in own._enumerate_iterator():
            if begin < batch:
                self._drop(batches, own.steps_per_execution)
            else:
                yield begin, end, batches

    def _drop(self, batches: Iterator[Any], count: int) -> None:
        for _ in range(count):
            try:
                self.example = next(batches)
            except StopIteration:
                raise ValueError(
                    "`x` must have the batches that it had when the backup was made. Received: "
                    "data that end before the batch where it stopped"
                ) from None

    def _generators(self) -> list[Any]:
        """Random generators that a torch `DataLoader` has of its own."""
        loader = getattr(self.adapter, "_dataloader", None)
        holders = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
        found = [getattr(holder, "generator", None) for holder in [loader, *holders]]
        return [g for i, g in enumerate(found) if g is not None and g not in found[:i]]

    def _random(self) -> dict[str, Any]:
        """The states of the random generators that shuffling and loading draw from."""
        states = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            found = [torch.get_rng_state(), *(g.get_state() for g in self._generators())]
            states["torch"] = [base64.b64encode(s.numpy().tobytes()).decode() for s in found]
            if torch.cuda.is_initialized():
                found = torch.cuda.get_rng_state_all()
                states["cuda"] = [base64.b64encode(s.numpy().tobytes()).decode() for s in found]
        return states

    def _put_back(self, states: Mapping[str, Any]) -> None:
        version, keys, gauss = states["python"]
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state(states["numpy"])
        if "torch" in states and "torch" in sys.modules:
            torch = sys.modules["torch"]

            def tensor(text: str) -> Any:
                return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)

            torch.set_rng_state(tensor(states["torch"][0]))
            for own, state in zip(self._generators(), states["torch"][1:], strict=False):
                own.set_state(tensor(state))
            if "cuda" in states and torch.cuda.is_available():
                torch.cuda.set_rng_state_all([tensor(state) for state in states["cuda"]])

    def _first(self) -> int | None:
        """A checksum of the batch that Keras has seen of a generator before `fit` began."""
        batches = getattr(self.adapter, "_first_batches", None)
        if not batches:
            return None
        arrays = [np.asarray(keras.ops.convert_to_numpy(a)) for a in keras.tree.flatten(batches[0])]
        return zlib.crc32(b"".join(a.tobytes() for a in arrays))

    def _warn(self, place: Mapping[str, Any], epoch: int) -> None:
        """Say it if the samples may come in another order than they would have come."""
        why = None
        hooks = ("on_epoch_begin", "on_epoch_end")
        own = [type(self._source), keras.utils.PyDataset]
        if place["first"] != self._first():
            why = "the generator begins with another batch than before: is it seeded?"
        elif getattr(self.adapter, "enqueuer", None) is not None:
            why = "Keras hands batches of a `PyDataset` with `workers` over from epoch to epoch"
        elif _unseeded(self.adapter):
            why = "TensorFlow shuffles without a seed: call `keras.utils.set_random_seed` before"
        elif self._source is not None and place["state"] is None and epoch:
            if any(len({getattr(one, name) for one in own}) > 1 for name in hooks):
                why = (
                    "a `PyDataset` that changes between epochs must have `get_state` and "
                    "`set_state` to be put back"
                )
        if why is not None:
            warnings.warn(
                f"`fit` goes on after the right number of steps, but its samples may come in "
                f"another order than in an unbroken run: {why}.",
                stacklevel=2,
            )


def noted_steps(noted: Mapping[str, np.ndarray]) -> int | None:
    """Batches of an epoch, as `Position.note` was told."""
    steps: int | None = json.loads(noted["place"].tobytes())["steps"]
    return steps


def _encode(states: Mapping[str, Any]) -> np.ndarray:
    text = json.dumps(states, default=lambda array: array.tolist())
    return np.frombuffer(text.encode(), np.uint8)


def _tf_dataset(adapter: Any) -> Any:
    return adapter._dataset if isinstance(adapter, TFDatasetAdapter) else None


def _unseeded(adapter: Any) -> bool:
    """Whether TensorFlow shuffles the data in an order that a new process cannot repeat."""
    dataset = _tf_dataset(adapter)
    if dataset is None and not (_TENSORFLOW and getattr(adapter, "_shuffle", False)):
        return False
    from tensorflow.python.eager import context

    if dataset is None:
        return context.global_seed() is None
    waiting = [dataset]
    while waiting:
        one = waiting.pop()
        if "Shuffle" in type(one).__name__ and not np.any([int(one._seed), int(one._seed2)]):
            return True
        waiting.extend(one._inputs() if hasattr(one, "_inputs") else ())
    return False

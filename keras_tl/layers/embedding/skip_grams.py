from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_tl.layers import arguments

__all__ = ["SkipGrams"]


class SkipGrams(keras.utils.PyDataset):
    """Batches of (word, context): each word with each that is at most a window away.

    For models with two inputs and no targets, as of `Word2VecEmbedding`: an item is
    `((words, contexts),)`. Every epoch has another order, and with `subsample` it keeps other
    occurrences of the frequent words: one of a word that is the part `f` of the corpus stays with
    the probability `sqrt(subsample / f)`, and the words around one that does not come closer
    (Mikolov et al., NIPS 2013, equation 5). Words are shuffled; the pairs of one stay together.
    No pair reaches over the end of a sequence. All batches have the same size: the last of an
    epoch is filled up with the epoch's first pairs. Pairs are made batch by batch: what is kept is
    some numbers for each word of the corpus. TensorLayer's `generate_skip_gram_batch`.

    Args:
        sequences: the corpus, each sequence of non-negative integers.
        window_size: how far away a context may be.
        batch_size: pairs in a batch.
        subsample: as above, 1e-3 to 1e-5 for large corpora; `None`: every occurrence stays.
        seed: an epoch is the same for the same seed; `None`: drawn from NumPy's, as
            `keras.utils.set_random_seed` sets it.
        **kwargs: as of `keras.utils.PyDataset`.

    Raises:
        ValueError: if an argument is none of these, or there is no pair.

    Example:
        >>> pairs = SkipGrams([[5, 6, 7]], window_size=1, batch_size=4, seed=0)
        >>> (words, contexts), = pairs[0]
        >>> sorted(zip(words.tolist(), contexts.tolist()))
        [(5, 6), (6, 5), (6, 7), (7, 6)]
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[int] | np.ndarray],
        window_size: int = 5,
        batch_size: int = 1024,
        subsample: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_size = arguments.integer("window_size", window_size)
        self.batch_size = arguments.integer("batch_size", batch_size)
        self.subsample = subsample
        if subsample is not None:
            self.subsample = arguments.number("subsample", subsample, 0, exclusive=True)
        # Drawn once, so that an epoch can be told by its number.
        self.seed = int(np.random.randint(2**31)) if seed is None else seed
        arguments.integer("seed", self.seed, 0)
        self.epoch = 0
        arrays = [checked(i, sequence) for i, sequence in enumerate(sequences)]
        lengths = [len(array) for array in arrays]
        self._ids = np.concatenate([np.zeros(0, "int32"), *arrays])
        self._owners = np.repeat(np.arange(len(arrays)), lengths)
        self._drawn = self._draw()
        if not self._pairs:
            raise ValueError(
                "`sequences` must have words of one sequence that `subsample` keeps. "
                f"Received: {len(arrays)} sequences of {len(self._ids)} words, "
                f"subsample={subsample}"
            )
        # Keras asks once, though how many pairs are kept differs a little by the epoch.
        self._batches = -(-self._pairs // self.batch_size)

    def _draw(self) -> tuple[np.ndarray, ...]:
        """An epoch's words, where their windows begin, their order, and in it their pairs' ends."""
        # Apart from `default_rng(seed)`, with which a corpus may have been made.
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        words, owners = self._ids, self._owners
        if self.subsample is not None:
            share = np.bincount(words)[words] / max(len(words), 1)
            kept = rng.random(len(words)) < np.sqrt(self.subsample / share)
            words, owners = words[kept], owners[kept]
        places = np.arange(len(words))
        low = np.maximum(np.searchsorted(owners, owners, "left"), places - self.window_size)
        high = np.minimum(np.searchsorted(owners, owners, "right"), places + self.window_size + 1)
        order = rng.permutation(len(words))
        return words, low, order, np.cumsum((high - low - 1)[order])

    @property
    def _pairs(self) -> int:
        return int(self._drawn[-1][-1]) if len(self._drawn[-1]) else 0

    def on_epoch_end(self) -> None:
        self.epoch += 1
        before, self._drawn = self._drawn, self._draw()
        if not self._pairs:  # a tiny corpus: the words that were kept, once more
            self._drawn = before

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray]]:
        words, low, order, ends = self._drawn
        first = index * self.batch_size
        pairs = np.arange(first, first + self.batch_size) % self._pairs
        slots = np.searchsorted(ends, pairs, "right")
        places = order[slots]
        others = low[places] + pairs - np.where(slots > 0, ends[slots - 1], 0)
        others += others >= places  # a word is not its own context
        return ((words[places], words[others]),)


def checked(number: int, sequence: Sequence[int] | np.ndarray) -> np.ndarray:
    ids = np.asarray(sequence)
    if ids.size == 0:
        ids = np.zeros(0, "int32")
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or np.any((ids < 0) | (ids >= 2**31)):
        raise ValueError(
            "Each of `sequences` must be a list of integers of 0 to 2**31 - 1. "
            f"Received: sequences[{number}]={sequence!r}"
        )
    return ids.astype("int32")

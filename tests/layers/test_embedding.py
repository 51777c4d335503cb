"""Skip-grams against brute force, planted analogies, and averages against NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from harness import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_tl.layers import AverageEmbedding, SkipGrams, Word2VecEmbedding

CORPUS = st.lists(st.lists(st.integers(0, 20), max_size=12), min_size=1, max_size=4)


def brute_force(corpus: list[list[int]], window: int) -> list[tuple[int, int]]:
    return sorted(
        (sequence[i], sequence[j])
        for sequence in corpus
        for i in range(len(sequence))
        for j in range(max(0, i - window), min(len(sequence), i + window + 1))
        if i != j
    )


def pairs_of(batches: SkipGrams) -> list[tuple[int, int]]:
    found = []
    for i in range(len(batches)):
        ((words, contexts),) = batches[i]
        assert len(words) == len(contexts) == batches.batch_size
        found += list(zip(words.tolist(), contexts.tolist(), strict=True))
    return found


@given(CORPUS, st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_pairs_are_those_of_brute_force(
    corpus: list[list[int]], window: int, batch_size: int, seed: int
) -> None:
    wanted = brute_force(corpus, window)
    kwargs: dict[str, Any] = {"window_size": window, "batch_size": batch_size}
    if not wanted:
        with pytest.raises(ValueError, match="`sequences` must .*Received"):
            SkipGrams(corpus, **kwargs)
        return
    batches = SkipGrams(corpus, seed=seed, **kwargs)
    orders = []
    for _ in range(2):
        found = pairs_of(batches)
        assert len(found) < len(wanted) + batch_size
        assert found[len(wanted) :] == (found * batch_size)[: len(found) - len(wanted)]
        assert sorted(found[: len(wanted)]) == wanted
        orders.append(found)
        batches.on_epoch_end()
    again = SkipGrams(corpus, seed=seed, **kwargs)
    assert pairs_of(again) == orders[0]


def test_epochs_differ() -> None:
    corpus = [list(range(50))]
    one, other = (SkipGrams(corpus, 2, 10, seed=s) for s in (0, 1))
    first = pairs_of(one)
    assert pairs_of(other) != first
    one.on_epoch_end()
    assert pairs_of(one) != first
    np.random.seed(3)
    first = pairs_of(SkipGrams(corpus, 2, 10))
    np.random.seed(3)
    assert pairs_of(SkipGrams(corpus, 2, 10)) == first != pairs_of(SkipGrams(corpus, 2, 10))


def test_frequent_words_are_dropped() -> None:
    """Mikolov's equation 5; and the words around a dropped one come closer."""
    corpus = [np.random.default_rng(0).choice(3, 30_000, p=(0.9, 0.09, 0.01))]
    batches = SkipGrams(corpus, 1, 64, subsample=0.04, seed=0)
    n = np.bincount(corpus[0])
    chance = np.minimum(1, np.sqrt(0.04 / (n / n.sum())))
    for epoch in range(2):
        words = batches._drawn[0]
        assert np.all(
            np.abs(np.bincount(words) - n * chance) <= 4 * np.sqrt(n * chance * (1 - chance))
        )
        if not epoch:  # whose length is that of all epochs
            wanted = brute_force([words.tolist()], 1)
            assert sorted(pairs_of(batches)[: len(wanted)]) == wanted
        batches.on_epoch_end()


def test_what_is_no_corpus_is_refused() -> None:
    for sequences in ([["a"]], [[1, -1]], [[1.5]], [[[1]]], [[2**31, 1]]):
        with pytest.raises(ValueError, match=r"`sequences` must .*Received: sequences\[0\]"):
            SkipGrams(sequences)
    for name, value in {
        "window_size": 0, "batch_size": 0, "subsample": 0, "seed": -1,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"`{name}` must .*Received"):
            SkipGrams([[1, 2]], **{name: value})


TOPICS, ROLES = 12, 3


def planted() -> tuple[list[list[int]], np.ndarray]:
    """Sentences of a word, with words of its topic and of its role; and the words' ids."""
    rng = np.random.default_rng(0)
    words = np.arange(TOPICS * ROLES).reshape(TOPICS, ROLES)
    of_topic = words.size + np.arange(TOPICS * 2).reshape(TOPICS, 2)
    of_role = of_topic.max() + 1 + np.arange(ROLES * 2).reshape(ROLES, 2)
    sentences = []
    for _ in range(4000):
        i, r = rng.integers(TOPICS), rng.integers(ROLES)
        sentence = [words[i, r], rng.choice(of_topic[i]), rng.choice(of_role[r])]
        sentences.append(rng.permutation(sentence))
    counts = np.bincount(np.concatenate(sentences))
    rank = np.argsort(np.argsort(-counts, kind="stable"))
    return [rank[s].tolist() for s in sentences], rank[words]


def test_planted_analogies_are_found() -> None:
    """a is to b as c is to the nearest of b - a + c: with the defaults of all there is."""
    corpus, words = planted()
    inputs = [keras.Input((), dtype="int32"), keras.Input((), dtype="int32")]
    layer = Word2VecEmbedding(max(map(max, corpus)) + 1, 16)
    model = keras.Model(inputs, layer(*inputs))
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(SkipGrams(corpus, batch_size=256), epochs=6, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]

    table = numpy(layer.normalized_embeddings)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-5)
    right = []
    for i in range(TOPICS):
        for j in range(TOPICS):
            a, b, c = words[i, 0], words[i, 1], words[j, 0]
            scores = table @ (table[b] - table[a] + table[c])
            scores[[a, b, c]] = -np.inf
            right += [np.argmax(scores) == words[j, 1]] if i != j else []
    assert np.mean(right) > 0.9


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([0, 3, -1]))
def test_averages(seed: int, pad_value: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 5, (4, 6)).astype("int32")
    ids[rng.random(ids.shape) < 0.4] = pad_value
    ids[1] = pad_value
    layer = AverageEmbedding(5, 3, "normal", pad_value=pad_value)
    layer.build(ids.shape)
    (table,) = layer.get_weights()
    wanted = [
        np.mean(table[row[row != pad_value]], axis=0) if np.any(row != pad_value) else np.zeros(3)
        for row in ids
    ]
    np.testing.assert_allclose(numpy(layer(ops.convert_to_tensor(ids))), wanted, atol=1e-6)


def test_averages_are_refused() -> None:
    with pytest.raises(ValueError, match="`pad_value` must be an integer.*Received"):
        AverageEmbedding(5, 3, pad_value="0")
    with pytest.raises(ValueError, match="`AverageEmbedding` must have an axis of words"):
        AverageEmbedding(5, 3)(np.zeros(4, "int32"))

"""The sampler against its exact distribution; the losses against TensorFlow's and the softmax."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from compiled import with_loss
from harness import BACKEND, compiled, numpy, with_gradients
from keras import ops
from scipy.stats import chisquare

from keras_tl.layers import Word2VecEmbedding
from keras_tl.layers.embedding.candidate_losses import nce_loss, sampled_softmax_loss
from keras_tl.layers.embedding.log_uniform import log_uniform_candidates

Arrays = list[np.ndarray]


def probabilities(size: int) -> np.ndarray:
    """TensorFlow's documentation of `log_uniform_candidate_sampler`."""
    ids = np.arange(size)
    return (np.log(ids + 2) - np.log(ids + 1)) / np.log(size + 1)


def draws(size: int, count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of n draws: the candidates and their expected counts, each (n, count)."""

    def draw(noise: Any) -> Any:
        ids, expected = log_uniform_candidates(noise, count)
        return ids, expected(ids)

    noise = keras.random.uniform((n, size), seed=keras.random.SeedGenerator(0))
    ids, expected = compiled(lambda given: ops.vectorized_map(draw, given[0]), [noise])
    return numpy(ids), numpy(expected)


def test_candidates_have_the_exact_distribution() -> None:
    """Of each ordered choice: that of drawing until enough different ones are found."""
    size, count, n = 5, 3, 20_000
    found, _ = draws(size, count, n)
    p = probabilities(size)
    wanted = {}
    for ids in itertools.permutations(range(size), count):
        left, chance = 1.0, 1.0
        for i in ids:
            chance, left = chance * p[i] / left, left - p[i]
        wanted[ids] = chance
    assert sum(wanted.values()) == pytest.approx(1)
    counts = dict.fromkeys(wanted, 0)
    for ids in found.tolist():
        counts[tuple(ids)] += 1
    assert chisquare(list(counts.values()), n * np.array(list(wanted.values()))).pvalue > 1e-3


def test_frequencies_are_log_uniform() -> None:
    size, n = 40, 20_000
    found, _ = draws(size, 1, n)
    counts = np.bincount(found[:, 0], minlength=size)
    assert chisquare(counts, n * probabilities(size)).pvalue > 1e-3
    assert chisquare(counts, np.full(size, n / size)).pvalue < 1e-9  # and the test can fail


def test_sums_over_candidates_are_unbiased() -> None:
    """Divided by the expected counts, whatever is summed."""
    size, count, n = 30, 6, 20_000
    values = np.random.default_rng(1).normal(1, 2, size)
    ids, expected = draws(size, count, n)
    sums = np.sum(values[ids] / expected, axis=1)
    assert abs(sums.mean() - values.sum()) < 4 * sums.std() / np.sqrt(n)


def test_all_ids_are_expected_once() -> None:
    ids, expected = draws(7, 7, 3)
    np.testing.assert_array_equal(np.sort(ids), np.tile(np.arange(7), (3, 1)))
    np.testing.assert_array_equal(expected, np.ones((3, 7)))


# ---- losses of given candidates


def problem(classes: int, features: int, n: int, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(2)
    kernel = rng.normal(0, scale, (classes, features))
    bias, inputs = rng.normal(0, 0.5, classes), rng.normal(0, 1, (n, features))
    return [a.astype("float32") for a in (kernel, bias, inputs)]


def gradients(loss: Callable[[Any, Any, Any], Any], arrays: Arrays) -> tuple[np.ndarray, Arrays]:
    """Of the losses' mean, by kernel, bias and inputs; and the losses."""

    def function(primals: Any) -> list[Any]:
        losses = loss(*map(ops.convert_to_tensor, primals))
        return [ops.mean(losses), ops.stop_gradient(losses)]

    outs, cotangents, found = with_gradients(function, seed=0)(arrays)
    return outs[1], [g / cotangents[0] for g in found]


def constant(array: np.ndarray, dtype: str) -> Any:
    return ops.convert_to_tensor(np.asarray(array, dtype))


def given(
    function: Callable[..., Any], labels: np.ndarray, ids: np.ndarray, counts: np.ndarray
) -> Callable[[Any, Any, Any], Any]:
    """The loss of these candidates; `counts` are those of all ids."""

    def loss(kernel: Any, bias: Any, inputs: Any) -> Any:
        return function(
            kernel,
            bias,
            constant(labels, "int32"),
            inputs,
            constant(ids, "int32"),
            constant(counts[labels], "float32"),
            constant(counts[ids], "float32"),
        )

    return loss


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares with TensorFlow's own")
@pytest.mark.parametrize("name", ["nce_loss", "sampled_softmax_loss"])
def test_losses_are_tensorflows(name: str) -> None:
    import tensorflow as tf

    classes, ours = 20, {"nce_loss": nce_loss, "sampled_softmax_loss": sampled_softmax_loss}[name]
    arrays = problem(classes, 5, 6)
    labels = np.array([0, 3, 7, 7, 1, 19])
    sampled = tf.random.log_uniform_candidate_sampler(labels[:, None], 1, 8, True, classes, seed=3)
    ids, true, expected = (v.numpy() for v in sampled)
    assert np.isin(labels, ids).any() and not np.isin(labels, ids).all()
    counts = np.full(classes, np.nan)
    counts[labels], counts[ids] = true[:, 0], expected

    def theirs(kernel: Any, bias: Any, inputs: Any) -> Any:
        return getattr(tf.nn, name)(
            kernel, bias, labels[:, None], inputs, 8, classes, sampled_values=sampled
        )

    losses, found = gradients(given(ours, labels, ids, counts), arrays)
    wanted_losses, wanted = gradients(theirs, arrays)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def by_numpy(name: str, arrays: Arrays, labels: Any, ids: Any, counts: np.ndarray) -> np.ndarray:
    kernel, bias, inputs = (a.astype("float64") for a in arrays)
    logits = inputs @ kernel.T + bias - np.log(counts)
    true, sampled = logits[np.arange(len(labels)), labels], logits[:, ids]
    if name == "nce":
        return np.log1p(np.exp(-true)) + np.log1p(np.exp(sampled)).sum(axis=1)
    weights = np.exp(sampled) * (ids[None, :] != labels[:, None])
    return np.log(np.exp(true) + weights.sum(axis=1)) - true


@pytest.mark.parametrize("name", ["nce", "sampled_softmax"])
def test_losses_are_the_papers(name: str) -> None:
    arrays, labels, ids = problem(20, 5, 4), np.array([0, 3, 7, 7]), np.array([3, 0, 12, 5, 19])
    counts = np.random.default_rng(0).random(20) + 0.05
    ours = {"nce": nce_loss, "sampled_softmax": sampled_softmax_loss}[name]
    function = given(ours, labels, ids, counts)
    (losses,) = compiled(lambda primals: function(*primals), arrays)
    wanted = by_numpy(name, arrays, labels, ids, counts)
    np.testing.assert_allclose(numpy(losses), wanted, rtol=1e-5)


def softmax_gradients(arrays: Arrays, labels: np.ndarray) -> Arrays:
    kernel, bias, inputs = (a.astype("float64") for a in arrays)
    logits = inputs @ kernel.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = (p - np.eye(len(kernel))[labels]) / len(labels)
    return [error.T @ inputs, error.sum(axis=0), error @ kernel]


def distance(found: Arrays, wanted: Arrays) -> float:
    squares = sum(np.sum((f - w) ** 2) for f, w in zip(found, wanted, strict=True))
    return float(np.sqrt(squares / sum(np.sum(w**2) for w in wanted)))


def test_sampled_softmax_becomes_the_softmax() -> None:
    classes = 256
    arrays = problem(classes, 4, 16, scale=0.5)
    labels = np.random.default_rng(3).integers(0, classes, 16)
    wanted = softmax_gradients(arrays, labels)
    noise = keras.random.uniform((2, classes), seed=keras.random.SeedGenerator(1))
    distances = []
    for count in (4, 64, classes):

        def loss(kernel: Any, bias: Any, inputs: Any, count: int = count) -> Any:
            total: Any = 0.0
            for i in range(2):
                ids, expected = log_uniform_candidates(noise[i], count)
                true = constant(labels, "int32")
                total += sampled_softmax_loss(
                    kernel, bias, true, inputs, ids, expected(true), expected(ids)
                )
            return total / 2

        distances.append(distance(gradients(loss, arrays)[1], wanted))
    assert distances == sorted(distances, reverse=True), distances
    assert distances[0] > 0.3 and distances[-1] < 1e-5, distances


def test_nce_becomes_the_softmax_where_that_is_normalised() -> None:
    """Mnih and Teh, 2012, equation 10: with ever more noise for each word."""
    classes = 30
    kernel, bias, inputs = problem(classes, 4, 1, scale=0.5)
    logits = inputs[0] @ kernel.T + bias
    bias = bias - np.log(np.exp(logits).sum())  # probabilities, without being divided
    labels = np.random.default_rng(4).integers(0, classes, 12)
    arrays = [kernel, bias.astype("float32"), np.repeat(inputs, 12, axis=0)]
    wanted, p = softmax_gradients(arrays, labels), probabilities(classes)
    distances = []
    for count in (10, 300, 30_000):
        ids = np.random.default_rng(5).choice(classes, count, p=p)
        distances.append(
            distance(gradients(given(nce_loss, labels, ids, count * p), arrays)[1], wanted)
        )
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.04, distances


# ---- the layer


def test_the_layers_loss() -> None:
    """With all words as candidates it is the softmax's; with some it is drawn in training."""
    words, contexts = np.array([[3, 1], [2, 0]]), np.array([[0, 5], [2, 11]])
    layer = Word2VecEmbedding(12, 3, "normal", num_sampled=12, loss="sampled_softmax")
    layer.build(words.shape)
    kernel, bias, embeddings = problem(12, 3, 12)
    layer.set_weights([embeddings, kernel, bias])
    embeddings = embeddings[words.ravel()]
    logits = embeddings @ kernel.T + bias
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), contexts.ravel()]
    outs, loss = with_loss(layer, words, contexts)
    np.testing.assert_array_equal(outs.reshape(4, 3), embeddings)
    assert loss == pytest.approx(wanted.mean(), rel=1e-5)

    layer = Word2VecEmbedding(12, 3, "normal", num_sampled=3, seed=4)
    drawn = [
        with_loss(layer, words, contexts, training=training)[1]
        for training in (True, True, False, False)
    ]
    assert len(set(drawn)) == 3 and drawn[2] == drawn[3]


def test_words_are_refused() -> None:
    for name, kwargs in {
        "num_sampled": {"input_dim": 63},
        "input_dim": {"input_dim": 0},
        "output_dim": {"output_dim": 2.5},
        "loss": {"loss": "softmax"},
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` must .*Received"):
            Word2VecEmbedding(**{"input_dim": 100, "output_dim": 2, **kwargs})
    with pytest.raises(ValueError, match="`words` and `contexts` must have the same shape"):
        Word2VecEmbedding(100, 2)(np.zeros((2, 3), "int32"), np.zeros((2,), "int32"))

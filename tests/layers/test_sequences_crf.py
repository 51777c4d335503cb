"""The CRF against all paths of short sequences, torchcrf, and what is known of long ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND, numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from keras.src.backend import get_keras_mask  # on jax no tensor has attributes: it is in a table

from keras_tl.layers import CRF

UNITS, STEPS = 3, 4
# On the right, on the left, in between, none, everywhere.
MASK = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
BATCH = len(MASK)
Arrays = tuple[np.ndarray, ...]


def crf_of(units: int = UNITS) -> CRF:
    layer = CRF(units)
    layer.build((None, None, units))
    return layer


def compiled(layer: CRF, xla: bool = True) -> Callable[..., tuple[Any, Any, Any, list[Any]]]:
    """Of scores, transitions, start, end, tags and mask: the likelihoods, the best tags, their
    scores, and the gradients of the likelihoods' sum by the first four; by XLA where there is one.
    """
    weights = (layer.transitions, layer.start, layer.end)

    def function(floats: Any, tags: Any, mask: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(weights, floats[1:], strict=True))):
            likelihood = layer.log_likelihood(floats[0], tags, mask)
            return likelihood, *layer.decode(floats[0], mask)

    if BACKEND == "jax":
        import jax

        def program(floats: Any, *others: Any) -> Any:
            gradients = jax.grad(lambda floats: function(floats, *others)[0].sum())(floats)
            return *function(floats, *others), gradients

        program = jax.jit(program) if xla else program

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        def program(floats: Any, *others: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(floats)
                found = function(floats, *others)
            return *found, tape.gradient(found[0], floats, unconnected_gradients="zero")

        program = tf.function(program, jit_compile=True) if xla else program

    else:

        def program(floats: Any, *others: Any) -> Any:
            floats = [one.requires_grad_() for one in floats]
            likelihood, *best = function(floats, *others)
            likelihood.sum().backward()
            return likelihood.detach(), *best, [one.grad for one in floats]

    def call(*given: np.ndarray) -> Any:
        tensors = [ops.convert_to_tensor(a) for a in given]
        *found, gradients = program(tensors[:4], *tensors[4:])
        return *map(numpy, found), [numpy(g) for g in gradients]

    return call


CRF_OF_ALL = compiled(crf_of())


def arrays(seed: int, scale: float = 1.0) -> Arrays:
    """Scores, transitions, start, end and tags."""
    rng = np.random.default_rng(seed)
    shapes = [(BATCH, STEPS, UNITS), (UNITS, UNITS), (UNITS,), (UNITS,)]
    floats = [(scale * rng.standard_normal(shape)).astype("float32") for shape in shapes]
    return *floats, rng.integers(0, UNITS, (BATCH, STEPS)).astype("int32")


def of_all_paths(floats: Arrays, tags: np.ndarray) -> tuple[Any, Any, Any, list[np.ndarray]]:
    """What `compiled` gives, by listing all paths."""
    scores, transitions, start, end = (a.astype("float64") for a in floats)
    likelihoods, best, top = np.zeros(BATCH), np.zeros((BATCH, STEPS), int), np.zeros(BATCH)
    gradients = [np.zeros(a.shape) for a in floats]
    for b in range(BATCH):
        (places,) = np.nonzero(MASK[b])
        if not len(places):
            continue
        paths = list(itertools.product(range(UNITS), repeat=len(places)))
        wanted = tuple(tags[b, places])
        weights = np.array(
            [
                scores[b, places, path].sum()
                + start[path[0]]
                + sum(transitions[pair] for pair in itertools.pairwise(path))
                + end[path[-1]]
                for path in paths
            ]
        )
        total = np.logaddexp.reduce(weights)
        likelihoods[b] = weights[paths.index(wanted)] - total
        top[b], best[b, places] = weights.max(), paths[int(weights.argmax())]
        for share, path in [(1.0, wanted), *zip(-np.exp(weights - total), paths, strict=True)]:
            gradients[0][b, places, path] += share
            for pair in itertools.pairwise(path):
                gradients[1][pair] += share
            gradients[2][path[0]] += share
            gradients[3][path[-1]] += share
    return likelihoods, best, top, gradients


def check(found: Any, given_: Arrays) -> None:
    likelihoods, best, top, gradients = of_all_paths(given_[:4], given_[4])
    np.testing.assert_allclose(found[0], likelihoods, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[1], best)
    np.testing.assert_allclose(found[2], top, rtol=1e-5, atol=1e-5)
    for one, other in zip(found[3], gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_it_is_the_sum_and_the_best_of_all_paths(seed: int, scale: float) -> None:
    given_ = arrays(seed, scale)
    check(CRF_OF_ALL(*given_, MASK), given_)


@pytest.mark.skipif(BACKEND == "jax", reason="jax compiles each operation of it by itself")
def test_it_is_so_where_nothing_is_compiled() -> None:
    given_ = arrays(1)
    check(compiled(crf_of(), xla=False)(*given_, MASK), given_)


@pytest.mark.skipif(BACKEND != "torch", reason="torchcrf is compared with where torch is in use")
def test_it_is_torchcrf() -> None:
    torch = pytest.importorskip("torch")
    torchcrf = pytest.importorskip("torchcrf", reason="pytorch-crf is not installed")
    rng = np.random.default_rng(0)
    batch, steps, units = 5, 17, 7
    scores = rng.standard_normal((batch, steps, units)).astype("float32") * 2
    floats = [
        rng.standard_normal(s).astype("float32") for s in [(units, units), (units,), (units,)]
    ]
    tags = rng.integers(0, units, (batch, steps))
    mask = np.arange(steps) < rng.integers(1, steps + 1, (batch, 1))
    found = compiled(crf_of(units))(scores, *floats, tags, mask)

    other = torchcrf.CRF(units, batch_first=True)
    weights = [other.transitions, other.start_transitions, other.end_transitions]
    for weight, value in zip(weights, floats, strict=True):
        weight.data = torch.tensor(value)
    emissions, valid = torch.tensor(scores, requires_grad=True), torch.tensor(mask)
    likelihood = other(emissions, torch.tensor(tags), valid, reduction="none")
    likelihood.sum().backward()
    np.testing.assert_allclose(found[0], likelihood.detach().numpy(), rtol=1e-5)
    for one, weight in zip(found[3], [emissions, *weights], strict=True):
        np.testing.assert_allclose(one, weight.grad.numpy(), atol=1e-4)
    for row, valid_row, best in zip(found[1], mask, other.decode(emissions, valid), strict=True):
        assert row[valid_row].tolist() == best and not row[~valid_row].any()


def test_what_is_masked_changes_nothing_bit_for_bit() -> None:
    scores, *weights, tags = arrays(2)
    clean = CRF_OF_ALL(scores, *weights, tags, MASK)
    for rubbish, tag in ((np.nan, -1), (np.inf, 99), (-1e30, 2)):
        scores[~MASK], tags[~MASK] = rubbish, tag
        found = CRF_OF_ALL(scores, *weights, tags, MASK)
        for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(clean), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not clean[3][0][~MASK].any()


def test_without_a_mask_all_steps_count() -> None:
    scores, transitions, start, end, tags = arrays(3)
    layer = crf_of()
    for weight, value in zip(
        (layer.transitions, layer.start, layer.end), (transitions, start, end), strict=True
    ):
        weight.assign(value)
    for steps in (STEPS, 1):
        given_ = scores[:, :steps], tags[:, :steps]
        ones = np.ones((BATCH, steps), bool)
        found = (layer.log_likelihood(*given_), *layer.decode(given_[0]))
        wanted = (layer.log_likelihood(*given_, ones), *layer.decode(given_[0], ones))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-5, atol=1e-6)
    alone = scores[:, 0] + start + end
    wanted = np.take_along_axis(alone, tags[:, :1], -1)[:, 0] - np.logaddexp.reduce(alone, axis=-1)
    np.testing.assert_allclose(numpy(found[0]), wanted, rtol=1e-5, atol=1e-6)


def test_a_long_sequence_neither_overflows_nor_vanishes() -> None:
    """Without transitions it is a softmax of each step; 3000 probabilities are their product."""
    layer = crf_of(4)
    rng = np.random.default_rng(0)
    scores = (50 * rng.standard_normal((2, 3000, 4))).astype("float32")
    tags = scores.argmax(-1).astype("int32")
    logs = scores - np.logaddexp.reduce(scores.astype("float64"), axis=-1, keepdims=True)
    wanted = np.take_along_axis(logs, tags[..., None], -1).sum((1, 2))
    weights = [np.zeros(v.shape, "float32") for v in (layer.transitions, layer.start, layer.end)]
    mask = np.ones(tags.shape, bool)
    likelihoods, best, top, gradients = compiled(layer)(scores, *weights, tags, mask)
    np.testing.assert_allclose(likelihoods, wanted, atol=0.2)  # of 10^5, in float32
    assert np.mean(best == tags) > 0.999  # of the same 10^5, the difference of two scores
    np.testing.assert_allclose(top, scores.max(-1).sum(-1), rtol=1e-5)
    wanted = np.eye(4)[tags] - np.exp(logs)
    np.testing.assert_allclose(gradients[0], wanted, atol=1e-4)


def test_transitions_that_cannot_be_are_never_taken() -> None:
    """-1e4 is what others write for it. That leaves one path a first tag: their softmax."""
    scores, transitions, start, end, _ = arrays(5)
    tags = np.tile(np.arange(STEPS, dtype="int32") % UNITS, (BATCH, 1))
    transitions[:] = np.where(np.roll(np.eye(UNITS), 1, axis=1) == 1, 0, -1e4)
    found = CRF_OF_ALL(scores, transitions, start, end, tags, np.ones_like(MASK))
    paths = (np.arange(UNITS)[:, None] + np.arange(STEPS)) % UNITS
    weights = np.stack([scores[:, np.arange(STEPS), path].sum(1) for path in paths], -1)
    weights += start + end[paths[:, -1]]
    wanted = weights[:, 0] - np.logaddexp.reduce(weights, axis=-1)
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    np.testing.assert_array_equal(found[1], paths[weights.argmax(-1)])
    assert all(np.isfinite(g).all() for g in found[3])


def test_a_tag_that_is_none_has_no_probability() -> None:
    *floats, tags = arrays(6)
    tags[0, 1], tags[1, 3], tags[2, 2] = UNITS, -1, UNITS  # the last one is masked
    likelihoods = CRF_OF_ALL(*floats, tags, MASK)[0]
    assert np.isneginf(likelihoods).tolist() == [True, True, False, False, False]


def chains(n: int, seed: int) -> Arrays:
    """Tags that go round in threes; what is seen tells one of them, and for the others nothing."""
    rng = np.random.default_rng(seed)
    tags = (rng.integers(0, 3, (n, 1)) + np.arange(8)) % 3
    return np.eye(2, dtype="float32")[(tags == 0).astype(int)], tags.astype("int32")


def test_a_fit_learns_transitions_and_the_model_is_saved(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    features, tags = keras.Input((None, 2)), keras.Input((None,), dtype="int32")
    crf = CRF(3, kernel_regularizer="l2", transitions_regularizer="l2", bias_constraint="non_neg")
    model = keras.Model([features, tags], crf(features, tags))
    model.compile(keras.optimizers.Adam(0.1), metrics=["accuracy"], jit_compile=BACKEND != "torch")
    x, y = chains(32, 0)
    model.fit([x, y], y, epochs=40, batch_size=32, verbose=0)
    x, y = chains(16, 1)
    scores = model.evaluate([x, y], y, verbose=0, return_dict=True)
    # A softmax of each step is right for the one that is seen, and for one of the two others.
    assert scores["accuracy"] > 0.95

    weights = (crf.scores.kernel, crf.transitions, crf.start, crf.end)
    regularization = 0.01 * sum(np.sum(np.square(numpy(w))) for w in weights)
    likelihood = numpy(crf.log_likelihood(crf.scores(x), y))
    assert regularization > 0.01
    np.testing.assert_allclose(scores["loss"], regularization - likelihood.mean(), rtol=1e-4)

    tagger = keras.Model(features, crf(features))
    wanted = tagger.predict(x, verbose=0)
    for saved, inputs in ((model, [x, y]), (tagger, x)):
        saved.save(path := tmp_path / "model.keras")
        found = keras.saving.load_model(path).predict(inputs, verbose=0)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == "int32" and found.shape == y.shape


def test_masks_come_from_the_layers_before_and_go_on() -> None:
    keras.utils.set_random_seed(0)
    words = np.array([[3, 1, 4, 0], [0, 0, 2, 6], [0, 0, 0, 0]])
    tags = np.array([[1, 2, 0, 2], [2, 2, 1, 0], [1, 1, 1, 1]])
    embedding, crf = keras.layers.Embedding(7, 5, mask_zero=True), CRF(3)
    vectors = embedding(words)
    alone, found = crf(vectors), crf(vectors, tags)
    (loss,) = crf.losses
    likelihood = crf.log_likelihood(crf.scores(vectors), tags, ops.convert_to_tensor(words != 0))
    np.testing.assert_allclose(numpy(loss), -numpy(likelihood)[:2].mean(), rtol=1e-5)
    plain = keras.layers.Embedding(7, 5, weights=embedding.get_weights())(words)
    given_ = crf(plain, mask=ops.convert_to_tensor(words != 0))
    assert not numpy(found)[words == 0].any()
    for one in (alone, given_):
        np.testing.assert_array_equal(numpy(one), numpy(found))
    np.testing.assert_array_equal(numpy(get_keras_mask(found)), words != 0)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("`units`", lambda x: CRF(0)),
        ("`units`", lambda x: CRF(2.5)),
        ("number of features", lambda x: CRF(3)(keras.Input((4, None)))),
        ("expected ndim=3", lambda x: CRF(3)(x[0])),
        ("`tags` must be of the shape", lambda x: CRF(3)(x, np.zeros((2, 5), "int32"))),
        ("`tags` must be of the shape", lambda x: CRF(3)(x, np.zeros((2, 4, 3), "int32"))),
        ("`tags` must be integers", lambda x: CRF(3)(x, np.zeros((2, 4), "float32"))),
        ("`tags` must be integers", lambda x: CRF(3)(keras.Input((4, 3)), keras.Input((4,)))),
        ("`mask` must be of type bool", lambda x: crf_of().decode(x, np.ones((2, 4)))),
        ("`mask` must be of the shape", lambda x: crf_of().decode(x, np.ones((1, 4), bool))),
        ("`scores` must be of shape", lambda x: crf_of(2).decode(x)),
        ("with a step at least", lambda x: CRF(3)(x[:, :0])),
        ("`scores` must be of shape", lambda x: crf_of(2).log_likelihood(x[0], x[0])),
    ],
)
def test_what_is_wrong_is_refused_by_name(message: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 4, 3), "float32"))

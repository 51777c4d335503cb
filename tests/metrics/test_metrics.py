"""Metrics against scikit-learn and sacrebleu, one batch or many, eager, in `fit` and saved."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_tl.metrics import BLEU, ConfusionMatrix, HardDice, HardIoU

RNG = np.random.default_rng(0)
BACKEND = keras.backend.backend()
ALL = [HardDice(0.3, (1, 2)), HardIoU(), ConfusionMatrix(3, "true", 0), BLEU(2, "exp", 1, 0)]


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
def test_a_config_makes_its_equal(metric: Any) -> None:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(metric) and again.get_config() == metric.get_config()


def value(metric: Any) -> np.ndarray:
    return ops.convert_to_numpy(metric.result())


# masks


@pytest.mark.parametrize("kind", [HardDice, HardIoU])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=3, max_size=3))
def test_overlaps_are_scikit_learns(kind: Any, masks: list[list[bool]]) -> None:
    true = np.array(masks)
    predicted = np.roll(true, 1, axis=0)
    score = {HardDice: sklearn.metrics.f1_score, HardIoU: sklearn.metrics.jaccard_score}[kind]
    pairs = list(zip(true, predicted, strict=True))
    wanted = [score(t, p, zero_division=1.0) for t, p in pairs]
    metric = kind()
    scores = np.where(predicted, 0.7, 0.4).reshape(-1, 2, 3, 1)
    metric.update_state(true.reshape(-1, 2, 3, 1), scores)
    np.testing.assert_allclose(value(metric), np.mean(wanted), rtol=1e-6)
    weight = np.arange(1, len(true) + 1)
    metric.reset_state()
    metric.update_state(true.reshape(-1, 2, 3, 1), scores, weight)
    np.testing.assert_allclose(value(metric), np.average(wanted, weights=weight), rtol=1e-6)


def test_overlaps_of_channels_and_batches_add_up() -> None:
    true, predicted = (RNG.integers(0, 2, (4, 3, 3, 2)) for _ in range(2))
    whole, parts = HardDice(axis=(1, 2)), HardDice(axis=(1, 2))
    whole.update_state(true, predicted)
    for i in range(4):
        parts.update_state(true[i : i + 1], predicted[i : i + 1])
    wanted = [
        sklearn.metrics.f1_score(true[i, :, :, c].ravel(), predicted[i, :, :, c].ravel())
        for i in range(4)
        for c in range(2)
    ]
    np.testing.assert_allclose([value(whole), value(parts)], np.mean(wanted), rtol=1e-6)


# classes


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_the_confusion_matrix_is_scikit_learns(normalize: str | None) -> None:
    y_true, scores = RNG.integers(0, 4, 50), RNG.random((50, 5))
    y_true[:3] = -1  # no class
    weight = RNG.random(50)
    metric = ConfusionMatrix(5, normalize)
    for part in (slice(20), slice(20, 50)):
        metric.update_state(y_true[part, None], scores[part], weight[part])
    wanted = sklearn.metrics.confusion_matrix(
        y_true[3:],
        scores[3:].argmax(1),
        labels=range(5),
        sample_weight=weight[3:],
        normalize=normalize,
    )
    np.testing.assert_allclose(value(metric), wanted, rtol=1e-5)


def test_the_confusion_matrix_of_sequences_leaves_a_class_out() -> None:
    y_true, scores = RNG.integers(0, 3, (6, 5)), RNG.random((6, 5, 3))
    metric = ConfusionMatrix(3, ignore_class=0)
    metric.update_state(y_true, scores)
    there = y_true != 0
    wanted = sklearn.metrics.confusion_matrix(
        y_true[there], scores.argmax(-1)[there], labels=range(3)
    )
    np.testing.assert_array_equal(value(metric), wanted)


def test_a_matrix_is_a_metric_of_fit_and_evaluate(capsys: Any) -> None:
    x, y = RNG.random((40, 3)), RNG.integers(0, 3, 40)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[ConfusionMatrix(3)])
    model.fit(x, y, validation_data=(x, y), epochs=2, verbose=2)
    found = model.evaluate(x, y, return_dict=True, verbose=0)["confusion_matrix"]
    wanted = sklearn.metrics.confusion_matrix(y, model.predict(x, verbose=0).argmax(1))
    np.testing.assert_array_equal(np.asarray(found), wanted)


# words


def bleu_of(references: list[list[list[int]]], predictions: list[list[int]], **options: Any) -> Any:
    sacrebleu = pytest.importorskip("sacrebleu")

    def text(words: list[int]) -> str:
        return " ".join(f"w{word}" for word in words)

    method = {None: "none", "exp": "exp"}[options.get("smoothing")]
    metric = sacrebleu.BLEU(
        tokenize="none",
        smooth_method=method,
        max_ngram_order=options.get("max_order", 4),
        force=True,
    )
    return (
        metric.corpus_score(
            [text(p) for p in predictions],
            [[text(r) for r in refs] for refs in zip(*references, strict=True)],
        ).score
        / 100
    )


def padded(sequences: list[list[int]], length: int, pad: int = 0) -> np.ndarray:
    return np.array([words + [pad] * (length - len(words)) for words in sequences])


words = st.lists(st.integers(2, 4), max_size=9)


@pytest.mark.parametrize("smoothing", [None, "exp"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.tuples(words, words), words), min_size=3, max_size=3))
def test_bleu_is_sacrebleus(smoothing: str | None, pairs: list[Any]) -> None:
    references = [[list(r) for r in refs] for refs, _ in pairs]
    predictions = [list(p) for _, p in pairs]
    metric = BLEU(smoothing=smoothing, ignore_class=0)
    true = np.array([padded(refs, 9) for refs in references])
    metric.update_state(true, padded(predictions, 10))
    wanted = bleu_of(references, predictions, smoothing=smoothing)
    np.testing.assert_allclose(value(metric), wanted, atol=1e-6)
    batches = BLEU(smoothing=smoothing, ignore_class=0)
    for i in range(3):  # the others are empty, and of the shape that is compiled
        alone = np.arange(3)[:, None] == i
        batches.update_state(true * alone[..., None], padded(predictions, 10) * alone)
    np.testing.assert_allclose(value(batches), value(metric), atol=1e-6)


def test_bleu_ends_with_the_end_and_takes_scores() -> None:
    references = [[5, 2, 7, 3, 9, 4], [3, 3, 5, 6]]
    predictions = [[5, 2, 7, 3, 4], [3, 3, 5, 6, 7]]
    wanted = bleu_of([[r] for r in references], predictions, max_order=2)
    behind = np.where(RNG.random((2, 8)) < 0.5, 5, 2)  # the words behind the end are the right ones
    true, predicted = behind.copy(), behind.copy()
    for i in range(2):
        true[i, : len(references[i]) + 1] = [*references[i], 1]
        predicted[i, : len(predictions[i]) + 1] = [*predictions[i], 1]
    metric = BLEU(2, end_class=1)
    metric.update_state(true, np.eye(10)[predicted])
    np.testing.assert_allclose(value(metric), wanted, atol=1e-6)


def test_bleu_of_nothing_and_of_less_than_an_n_gram() -> None:
    metric = BLEU(4, ignore_class=0)
    assert value(metric) == 0
    metric.update_state(np.array([[2, 3]]), np.array([[2, 3]]))
    assert value(metric) == 0
    metric.update_state(np.array([[2, 3, 4, 5]]), np.array([[2, 3, 4, 5]]))
    np.testing.assert_allclose(value(metric), 1, atol=1e-6)


# torch's compiler warns of itself, and jax without it takes seconds an operation.
@pytest.mark.parametrize("jit", {"jax": [True], "torch": [False]}.get(BACKEND, [True, False]))
def test_bleu_in_fit(jit: bool) -> None:
    y = RNG.integers(1, 4, (16, 6))
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(4, 8)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(hidden))
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=[BLEU(2)], jit_compile=jit)
    model.fit(y, y, batch_size=8, verbose=0)
    predicted = model.predict(y, verbose=0).argmax(-1)
    found = model.evaluate(y, y, batch_size=5, return_dict=True, verbose=0)["bleu"]
    wanted = bleu_of([[r] for r in y.tolist()], predicted.tolist(), max_order=2)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_is_no_argument_is_refused() -> None:
    for make, message in (
        (lambda: ConfusionMatrix(1), "`num_classes` must be .* Received: num_classes=1"),
        (lambda: ConfusionMatrix(3, "rows"), "`normalize` must be .* Received: normalize='rows'"),
        (lambda: BLEU(0), "`max_order` must be .* Received: max_order=0"),
        (lambda: BLEU(smoothing="floor"), "`smoothing` must be .* Received: smoothing='floor'"),
        (lambda: BLEU().update_state([[1]], [[1]], [1.0]), "`sample_weight` must be None"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

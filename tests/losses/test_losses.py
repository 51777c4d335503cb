"""Losses against NumPy and scikit-learn; what is masked does not count."""

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
from keras.src.backend import set_keras_mask

from keras_tl.losses import BerHu, Jaccard, NormalizedMeanSquaredError, SequenceCrossentropy

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def gradient(loss: Any, y_true: Any, y_pred: np.ndarray, weight: Any = None) -> np.ndarray:
    """Of the loss by the predictions."""
    y_pred = ops.convert_to_tensor(y_pred)
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda p: loss(y_true, p, weight))(y_pred))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred, weight)
        return tape.gradient(value, y_pred).numpy()
    y_pred.requires_grad_()
    loss(y_true, y_pred, weight).backward()
    return y_pred.grad.numpy()


LOSSES = [
    *(BerHu(), BerHu(0.7), BerHu(fraction=0.5, reduction="sum"), Jaccard(), Jaccard((1, 2))),
    *(NormalizedMeanSquaredError(), NormalizedMeanSquaredError(root=True, name="r")),
    *(SequenceCrossentropy(), SequenceCrossentropy(True, 0, "sum")),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_config_makes_its_equal(loss: keras.losses.Loss) -> None:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


def berhu(error: np.ndarray, delta: float) -> np.ndarray:
    return np.where(error <= delta, error, (error**2 + delta**2) / (2 * delta))


def test_berhu_is_its_equation() -> None:
    y_true, y_pred = normal(5, 7, 3), normal(5, 7, 3)
    error = np.abs(y_true - y_pred)
    for loss, delta in ((BerHu(0.7), 0.7), (BerHu(), 0.2 * error.max())):
        found = float(loss(y_true, y_pred))
        np.testing.assert_allclose(found, berhu(error, delta).mean(), rtol=1e-6)
    each = ops.convert_to_numpy(BerHu(0.7, reduction=None)(y_true, y_pred))
    np.testing.assert_allclose(each, berhu(error, 0.7).mean(-1), rtol=1e-5)


def test_berhu_has_the_slope_of_its_equation_and_none_of_its_threshold() -> None:
    y_true, y_pred = normal(4, 5), normal(4, 5)
    error = y_pred - y_true
    delta = 0.2 * np.abs(error).max()
    wanted = np.where(np.abs(error) <= delta, np.sign(error), error / delta) / error.size
    np.testing.assert_allclose(gradient(BerHu(), y_true, y_pred), wanted, rtol=1e-5)
    equal = gradient(BerHu(), y_true, y_true)
    assert np.isfinite(equal).all() and float(BerHu()(y_true, y_true)) == 0


def test_berhu_in_half_precision_does_not_overflow() -> None:
    found = BerHu(dtype="float16")(np.zeros((1, 2), "float16"), np.array([[300.0, 1.0]], "float16"))
    np.testing.assert_allclose(float(found), berhu(np.array([300.0, 1.0]), 60.0).mean(), rtol=1e-2)


@pytest.mark.parametrize("name", ["delta", "fraction"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_berhu_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        BerHu(**{name: value})


def test_normalized_mean_squared_error_is_its_quotient() -> None:
    y_true, y_pred = normal(4, 3, 2), normal(4, 3, 2)
    wanted = ((y_true - y_pred) ** 2).sum((1, 2)) / (y_true**2).sum((1, 2))
    found = NormalizedMeanSquaredError(reduction=None)(y_true, y_pred)
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=1e-5)
    # TensorLayer 1.11.1, cost.normalized_mean_square_error
    rooted = float(NormalizedMeanSquaredError(root=True)(y_true, y_pred))
    np.testing.assert_allclose(rooted, np.sqrt(wanted).mean(), rtol=1e-5)


def test_normalized_mean_squared_error_of_nothing_is_finite() -> None:
    zeros, some = np.zeros((2, 3), "float32"), normal(2, 3)
    for loss in (NormalizedMeanSquaredError(), NormalizedMeanSquaredError(root=True)):
        assert float(loss(zeros, zeros)) == 0 and float(loss(zeros, some)) > 0
        assert np.array_equal(gradient(loss, zeros, zeros), zeros)
        assert np.array_equal(gradient(loss, some, some), zeros)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=3, max_size=3))
def test_jaccard_of_hard_masks_is_scikit_learns(masks: list[list[bool]]) -> None:
    true = np.array(masks)
    predicted = np.roll(true, 1, axis=0)
    wanted = [
        1 - sklearn.metrics.jaccard_score(t, p, zero_division=1.0)
        for t, p in zip(true, predicted, strict=True)
    ]
    given_ = (m.reshape(-1, 2, 3, 1).astype("float32") for m in (true, predicted))
    found = ops.convert_to_numpy(Jaccard(reduction=None)(*given_))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_jaccard_by_axis_and_in_between() -> None:
    true, predicted = RNG.random((3, 4, 5, 2), "float32"), RNG.random((3, 4, 5, 2), "float32")
    both = (true * predicted).sum((1, 2))
    wanted = 1 - both / (true.sum((1, 2)) + predicted.sum((1, 2)) - both)
    found = ops.convert_to_numpy(Jaccard((1, 2), reduction=None)(true, predicted))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    empty = np.zeros_like(true)
    assert np.isfinite(gradient(Jaccard(), empty, empty)).all()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_sequence_crossentropy_divides_by_what_counts() -> None:
    y_true, logits = np.array([[1, 2, 0, 0], [3, 0, 0, 0]]), normal(2, 4, 5)
    logs = -np.log(np.take_along_axis(softmax(logits), y_true[..., None], -1))[..., 0]
    counts = y_true != 0
    loss = SequenceCrossentropy(True, ignore_class=0)
    np.testing.assert_allclose(float(loss(y_true, logits)), logs[counts].mean(), rtol=1e-5)
    weight = np.array([1.0, 3.0], "float32")
    spread = (weight[:, None] * counts)[counts]
    wanted = (logs[counts] * spread).sum() / spread.sum()
    np.testing.assert_allclose(float(loss(y_true, logits, weight)), wanted, rtol=1e-5)
    summed = SequenceCrossentropy(ignore_class=0, reduction="sum")(y_true, softmax(logits))
    np.testing.assert_allclose(float(summed), logs[counts].sum(), rtol=1e-5)
    each = ops.convert_to_numpy(SequenceCrossentropy(True, 0, None)(y_true, logits))
    np.testing.assert_allclose(each, logs * counts, rtol=1e-5)


@pytest.mark.parametrize("how", ["ignore_class", "sample_weight", "mask"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_what_is_masked_changes_no_bit(how: str, from_logits: bool) -> None:
    y_true, counts = np.array([[1, 2, 4, 4], [3, 4, 4, 4]]), np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    clean = normal(2, 4, 4) if from_logits else softmax(normal(2, 4, 4))
    dirty = np.where(counts[..., None] == 1, clean, np.nan).astype("float32")
    weight = counts.astype("float32") if how == "sample_weight" else None
    loss = SequenceCrossentropy(from_logits, ignore_class=4 if how == "ignore_class" else None)

    def masked(y_true: Any, y_pred: Any, weight: Any = None) -> Any:
        if how == "mask":
            set_keras_mask(y_pred, ops.convert_to_tensor(counts == 1))
        return loss(y_true, y_pred, weight)

    first, second = (
        float(masked(y_true, ops.convert_to_tensor(y), weight)) for y in (clean, dirty)
    )
    assert first == second and np.isfinite(first)
    if how != "mask":
        gradients = [gradient(loss, y_true, y, weight) for y in (clean, dirty)]
        assert np.array_equal(*gradients) and np.isfinite(gradients[1]).all()
        assert not gradients[1][counts == 0].any() and gradients[1][counts == 1].any()


def test_sequence_crossentropy_in_fit_sees_the_mask_of_the_model() -> None:
    keras.utils.set_random_seed(0)
    x = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Embedding(4, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(hidden))
    model.compile("sgd", SequenceCrossentropy(from_logits=True))
    y = np.where(x == 0, 4, x)
    logs = -np.log(np.take_along_axis(softmax(model.predict(x, verbose=0)), y[..., None], -1))
    found = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(found, logs[x != 0].mean(), rtol=1e-5)


def test_sequence_crossentropy_refuses_to_divide_by_padding() -> None:
    with pytest.raises(ValueError, match="`reduction` must be .* Received: reduction='mean'"):
        SequenceCrossentropy(reduction="mean")

"""Penalties against their formulas in NumPy, for kernels of any rank; they are finite at 0."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.regularizers import GroupLasso, MaxNorm

KERNEL = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype("float32")
ALL = [
    *(GroupLasso(), GroupLasso(0.3, "inputs"), MaxNorm(), MaxNorm(0.3, "inputs")),
    MaxNorm(0.2, "outputs"),
]


@pytest.mark.parametrize("regularizer", ALL, ids=lambda r: f"{type(r).__name__}-{r.group}")
def test_a_config_makes_its_equal(regularizer: Any) -> None:
    layer = keras.layers.Conv2D(5, (3, 2), kernel_regularizer=regularizer)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config).kernel_regularizer
    assert type(again) is type(regularizer) and again.get_config() == regularizer.get_config()


@pytest.mark.parametrize(("group", "axes"), [("inputs", (0, 1, 3)), ("outputs", (0, 1, 2))])
def test_penalties_are_their_formulas(group: str, axes: tuple[int, ...]) -> None:
    lasso = 0.3 * np.sqrt((KERNEL**2).sum(axes)).sum()
    np.testing.assert_allclose(float(GroupLasso(0.3, group)(KERNEL)), lasso, rtol=1e-5)
    largest = 0.3 * np.abs(KERNEL).max(axes).sum()
    np.testing.assert_allclose(float(MaxNorm(0.3, group)(KERNEL)), largest, rtol=1e-6)
    np.testing.assert_allclose(float(MaxNorm(0.3)(KERNEL)), 0.3 * np.abs(KERNEL).max(), rtol=1e-6)


def test_tensorlayers_formulas_of_a_dense_kernel() -> None:
    w = KERNEL[0, 0]  # cost.li_regularizer, lo_regularizer, maxnorm_o_regularizer of 1.11.1
    li, lo = np.sqrt((w**2).sum(1)).sum(), np.sqrt((w**2).sum(0)).sum()
    np.testing.assert_allclose(float(GroupLasso(1.0, "inputs")(w)), li, rtol=1e-5)
    np.testing.assert_allclose(float(GroupLasso(1.0, "outputs")(w)), lo, rtol=1e-5)
    np.testing.assert_allclose(float(MaxNorm(1.0, "outputs")(w)), np.abs(w).max(0).sum(), rtol=1e-5)


@pytest.mark.parametrize("regularizer", ALL, ids=lambda r: f"{type(r).__name__}-{r.group}")
def test_a_kernel_of_zeros_stays_finite(regularizer: Any) -> None:
    layer = keras.layers.Dense(3, kernel_initializer="zeros", kernel_regularizer=regularizer)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    history = model.fit(np.ones((4, 2)), np.ones((4, 3)), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(layer.kernel.numpy()).all()


def test_group_lasso_removes_the_neurons_that_nothing_needs() -> None:
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(1).standard_normal((256, 6)).astype("float32")
    y = x[:, :2] @ np.array([[1.0, -1.0], [2.0, 0.5]])
    layer = keras.layers.Dense(2, use_bias=False, kernel_regularizer=GroupLasso(0.1, "inputs"))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, y, batch_size=256, epochs=200, verbose=0)
    norms = np.linalg.norm(ops.convert_to_numpy(layer.kernel), axis=1)
    assert norms[:2].min() > 0.8 and norms[2:].max() < 0.02


@pytest.mark.parametrize("kind", [GroupLasso, MaxNorm])
def test_what_is_no_argument_is_refused(kind: Any) -> None:
    for factor in (-1, float("nan"), True, "0.1"):
        with pytest.raises(ValueError, match="`factor` must be .* Received: factor="):
            kind(factor)
    with pytest.raises(ValueError, match="`group` must be .* Received: group='rows'"):
        kind(0.1, "rows")
    with pytest.raises(
        ValueError, match=f"`{kind.__name__}` of groups .* Received: shape=\\(3,\\)"
    ):
        kind(0.1, "inputs")(np.ones(3, "float32"))

"""Reconstruction against the formula of its source; stacks before and after pre-training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from compiled import with_loss
from harness import numpy

from keras_tl.layers import Reconstruction, pretrain

X = np.random.default_rng(0).random((6, 5)).astype("float32")


def dense(units: int = 3, activation: str = "sigmoid", **kwargs: Any) -> keras.layers.Dense:
    return keras.layers.Dense(units, activation, bias_initializer="normal", **kwargs)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("penalty", ["kl", "l1", None])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_tutorial(tied: bool, penalty: str | None) -> None:
    layer = Reconstruction(
        dense(), "sigmoid", tied=tied, penalty=penalty, sparsity=0.15, weight_decay=0.1,
        bias_initializer="normal",
    )  # fmt: skip
    outs, loss = with_loss(layer, X, training=True)
    kernel, bias = (w.astype("float64") for w in layer.layer.get_weights())
    decoder = kernel.T if tied else numpy(layer.kernel).astype("float64")
    hidden = sigmoid(X @ kernel + bias)
    wanted = sigmoid(hidden @ decoder + numpy(layer.bias))
    np.testing.assert_allclose(outs, wanted, rtol=1e-5)

    total = 0.5 * np.sum((X - wanted) ** 2) / len(X)
    total += 0.1 / 2 * (np.sum(kernel**2) + np.sum(decoder**2))
    if penalty == "kl":
        rho, mean = 0.15, hidden.mean(axis=0)
        total += 3 * np.sum(rho * np.log(rho / mean) + (1 - rho) * np.log((1 - rho) / (1 - mean)))
    elif penalty == "l1":
        total += 1e-3 * hidden.mean()
    assert loss == pytest.approx(total, rel=1e-5)


def test_steps_of_sequences_are_samples() -> None:
    layer = Reconstruction(dense(), penalty="kl")
    outs, loss = with_loss(layer, X.reshape(2, 3, 5), training=False)
    flat, wanted = with_loss(layer, X, training=False)
    np.testing.assert_allclose(outs.reshape(flat.shape), flat, rtol=1e-5)
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_noise_is_taken_away_from_the_input_and_not_from_the_target() -> None:
    x = np.random.default_rng(1).random((500, 20)).astype("float32") + 1
    same = keras.layers.Dense(20, kernel_initializer="identity")
    layer = Reconstruction(same, noise=0.3, weight_decay=0, seed=0)
    outs, loss = with_loss(layer, x, training=True)
    gone = outs == 0
    np.testing.assert_allclose(outs[~gone], x[~gone], rtol=1e-6)
    assert abs(gone.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / x.size)
    assert loss == pytest.approx(np.sum(x[gone] ** 2) / 2 / len(x), rel=1e-5)
    outs, loss = with_loss(layer, x, training=False)
    np.testing.assert_allclose(outs, x, rtol=1e-6)
    assert loss == pytest.approx(0, abs=1e-6)


def test_saturated_units_have_a_finite_loss() -> None:
    layer = Reconstruction(dense(), penalty="kl")
    layer.build(X.shape)
    layer.layer.bias.assign(np.full(3, -1e3, "float32"))
    assert np.isfinite(with_loss(layer, X, training=True)[1])


def samples(n: int) -> np.ndarray:
    """Of few degrees of freedom, in [0, 1]."""
    mixing = np.random.default_rng(3).normal(0, 1.5, (3, 16))
    codes = np.random.default_rng(n).normal(0, 1, (n, 3))
    return sigmoid(codes @ mixing).astype("float32")


def unexplained(layers: list[Any], x: np.ndarray, test: np.ndarray) -> float:
    """What the best linear decoder of the stack's output leaves of the variance."""
    codes, others = (numpy(keras.Sequential(layers)(a)) for a in (x, test))
    codes, others = (np.column_stack([c, np.ones(len(c))]) for c in (codes, others))
    weights = np.linalg.lstsq(codes, x, rcond=None)[0]
    return float(np.mean((test - others @ weights) ** 2) / test.var(axis=0).mean())


def test_a_stack_is_pretrained() -> None:
    x, test = samples(512), samples(100)
    layers = [dense(8, "tanh"), keras.layers.Dropout(0.5), dense(4, "tanh")]
    head = dense(2, "softmax")
    model = keras.Sequential([keras.Input((16,)), *layers, head])
    before, untouched = unexplained(layers, x, test), head.get_weights()
    nodes, made = len(layers[0]._inbound_nodes), []

    def denoising(layer: keras.layers.Dense) -> Reconstruction:
        made.append(Reconstruction(layer, noise=0.1, seed=0))
        return made[-1]

    histories = pretrain(
        model.layers[:-1],
        x,
        epochs=20,
        batch_size=32,
        optimizer=keras.optimizers.Adam(0.01),
        reconstruction=denoising,
        verbose=0,
    )
    assert [r.layer for r in made] == [layers[0], layers[2]]
    assert len(histories) == 2
    for history in histories:
        losses = history.history["loss"]
        assert len(losses) == 20 and losses[-1] < 0.7 * losses[0]
    assert len(layers[0]._inbound_nodes) == nodes  # it is part of no other model
    assert unexplained(layers, x, test) < 0.7 * before
    for one, other in zip(head.get_weights(), untouched, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_pretrained_is_refused() -> None:
    with pytest.raises(ValueError, match="`stack` must have a `keras.layers.Dense`.*Received"):
        pretrain([keras.layers.ReLU()], X)
    inputs = keras.Input((5,))
    with pytest.raises(ValueError, match="`stack` must be a list of layers.*Received"):
        pretrain(keras.Model(inputs, dense()(inputs)), X)


def test_bad_arguments_are_refused() -> None:
    for name, value in {
        "noise": 1.0, "weight_decay": -1, "penalty": "l2", "sparsity": 0, "sparsity_weight": -1,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"`{name}` must .*Received"):
            Reconstruction(dense(), **{name: value})
    with pytest.raises(ValueError, match="`layer` must be a `keras.layers.Dense`.*Received"):
        Reconstruction(keras.layers.ReLU())

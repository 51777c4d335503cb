"""Stochastic depth, DropBlock, noisy nets and Gaussian noise against their papers' formulas."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.layers import DropBlock2D, GaussianNoise, NoisyDense, StochasticDepth


def trained(layer: Any, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(layer(x, training=True))


def test_stochastic_depth_drops_samples_and_scales_the_others() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 2, 3)).astype("float32")
    y = trained(StochasticDepth(0.3), x)
    dropped = (y == 0).all((1, 2))
    assert 0.25 < dropped.mean() < 0.35
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.7, rtol=1e-6)


def test_stochastic_depth_of_a_batch_drops_all_or_nothing() -> None:
    x = np.ones((3, 2), "float32")
    layer = StochasticDepth(0.5, per_sample=False, seed=0)
    results = {tuple(trained(layer, x).flat) for _ in range(40)}
    assert results == {(0.0,) * 6, (2.0,) * 6}


def test_stochastic_depth_of_rate_0_is_the_branch() -> None:
    x = np.ones((3, 2), "float32")
    np.testing.assert_array_equal(trained(StochasticDepth(0), x), x)


def algorithm_1(x: np.ndarray, starts: np.ndarray, block: int) -> np.ndarray:
    """DropBlock's algorithm 1, steps 5 to 7, written as loops."""
    mask = np.ones(x.shape)
    for b, i, j, c in zip(*np.nonzero(starts), strict=True):
        mask[b, i : i + block, j : j + block, c] = 0
    return x * mask * mask.size / mask.sum()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("block", [1, 2, 5])
def test_drop_block_is_the_algorithm_of_the_paper(
    block: int, data_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(block)
    x = rng.standard_normal((2, 8, 5, 3)).astype("float32")
    starts = (rng.uniform(size=(2, 9 - block, 6 - block, 3)) < 0.1).astype("float32")
    layer = DropBlock2D(0.1, block, data_format)

    def given(shape: Any) -> Any:
        assert tuple(shape) == x.shape
        return ops.convert_to_tensor(starts)

    monkeypatch.setattr(layer, "_starts", given)
    moved = x if data_format == "channels_last" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    y = trained(layer, moved)
    y = y if data_format == "channels_last" else y.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, algorithm_1(x, starts, block), rtol=1e-5, atol=1e-6)


def test_drop_block_starts_as_often_as_equation_1_says() -> None:
    layer = DropBlock2D(0.2, 3)
    starts = ops.convert_to_numpy(layer._starts((50, 10, 8, 20)))
    assert starts.shape == (50, 8, 6, 20)
    gamma = 0.2 / 3**2 * (10 * 8) / (8 * 6)  # 0.037
    assert gamma * 0.95 < starts.mean() < gamma * 1.05  # 48000 draws: 2 %
    y = trained(layer, np.ones((50, 10, 8, 20), "float32"))
    assert 0.16 < np.mean(y == 0) < 0.2  # somewhat less than the rate: blocks overlap
    np.testing.assert_allclose(y.mean(), 1, rtol=1e-4)


def test_drop_block_that_drops_all_is_finite() -> None:
    layer = DropBlock2D(0.99, 2, seed=0)
    for _ in range(5):
        assert np.all(np.isfinite(trained(layer, np.ones((1, 2, 2, 1), "float32"))))


def test_drop_block_refuses_an_image_smaller_than_a_block() -> None:
    with pytest.raises(ValueError, match="`block_size` must not exceed .* Received: block_size=7"):
        DropBlock2D(0.1, 7).build((None, 8, 6, 3))
    DropBlock2D(0.1, 7, "channels_first").build((None, 3, 8, None))


def noise(layer: NoisyDense) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's and the bias' noise of one training call, from the outputs for unit vectors."""
    features = layer.kernel.shape[0]
    x = np.concatenate([np.eye(features), np.zeros((1, features))]).astype("float32")
    y = trained(layer, x)
    kernel, bias, kernel_sigma, bias_sigma = layer.get_weights()
    bias_noise = (y[-1] - bias) / bias_sigma
    return (y[:-1] - y[-1] - kernel) / kernel_sigma, bias_noise


def noisy(**kwargs: Any) -> NoisyDense:
    layer = NoisyDense(40, **kwargs)
    layer.build((None, 30))
    return layer


def test_factorised_noise_is_a_product() -> None:
    layer = noisy()
    kernel_noise, bias_noise = noise(layer)
    inputs = kernel_noise @ bias_noise / (bias_noise @ bias_noise)
    np.testing.assert_allclose(kernel_noise, np.outer(inputs, bias_noise), atol=1e-3)
    again, _ = noise(layer)
    assert not np.allclose(kernel_noise, again, atol=1e-2)
    # f(z) = sign(z) sqrt(|z|) of a normal z: its square has the mean |z|, sqrt(2 / pi).
    squares = np.mean([noise(layer)[1] ** 2 for _ in range(30)])
    assert abs(squares - (2 / np.pi) ** 0.5) < 0.08


def test_independent_noise_is_normal() -> None:
    kernel_noise, bias_noise = noise(noisy(factorized=False, sigma=0.5))
    assert abs(kernel_noise.mean()) < 0.12 and abs(kernel_noise.std() - 1) < 0.1
    assert np.linalg.matrix_rank(kernel_noise, tol=1e-2) == 30
    assert 0.6 < bias_noise.std() < 1.4


@pytest.mark.parametrize(
    ("arguments", "limit", "sigma"),
    [
        ({}, 30**-0.5, 0.5 * 30**-0.5),
        ({"sigma": 0.1}, 30**-0.5, 0.1 * 30**-0.5),
        ({"factorized": False}, (3 / 30) ** 0.5, 0.017),
        ({"factorized": False, "sigma": 0.1}, (3 / 30) ** 0.5, 0.1),
    ],
)
def test_noisy_nets_start_as_in_the_paper(arguments: Any, limit: float, sigma: float) -> None:
    layer = noisy(**arguments)
    kernel, bias, kernel_sigma, bias_sigma = layer.get_weights()
    for mean in (kernel, bias):
        assert 0.8 * limit < np.abs(mean).max() <= limit * (1 + 1e-6)
    np.testing.assert_allclose(kernel_sigma, np.full((30, 40), sigma), rtol=1e-6)
    np.testing.assert_allclose(bias_sigma, np.full(40, sigma), rtol=1e-6)
    assert layer.get_config()["kernel_initializer"] is None


def test_noisy_dense_is_dense_in_inference() -> None:
    layer, plain = noisy(activation="tanh"), keras.layers.Dense(40, "tanh")
    plain.build((None, 30))
    plain.set_weights(layer.get_weights()[:2])
    x = np.random.default_rng(0).standard_normal((3, 30)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(plain(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoisyDense(3, seed=1, kernel_initializer="ones", bias_initializer="ones"),
        lambda: NoisyDense(3, seed=1, kernel_initializer="ones", factorized=False, use_bias=False),
        lambda: GaussianNoise(0.5, seed=1),
        lambda: StochasticDepth(0.3, seed=1),
        lambda: DropBlock2D(0.3, 2, seed=1),
    ],
)
def test_integers_are_as_floats(make: Any) -> None:
    """Images are often uint8; noise of an integer's dtype would be 0."""
    x = np.random.default_rng(0).integers(0, 255, (4, 5, 5, 2))
    for training in (True, False):
        found, wanted = (
            ops.convert_to_numpy(make()(x.astype(t), training=training))
            for t in ("uint8", "float32")
        )
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_gaussian_noise_is_that_of_keras_by_default() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    ours, keras_own = GaussianNoise(0.3, 7), keras.layers.GaussianNoise(0.3, 7)
    for _ in range(2):
        np.testing.assert_array_equal(trained(ours, x), trained(keras_own, x))
    np.testing.assert_array_equal(ops.convert_to_numpy(ours(x)), x)
    assert keras_own.get_config().keys() <= ours.get_config().keys()
    plain = {k: v for k, v in keras_own.get_config().items() if k != "name"}
    assert GaussianNoise.from_config(plain).get_config().items() >= plain.items()


def test_gaussian_noise_has_a_mean_and_is_always_on_if_wanted() -> None:
    x = np.zeros((1, 4000), "float32")
    layer = GaussianNoise(2.0, mean=-3.0, always=True)
    for y in (trained(layer, x), ops.convert_to_numpy(layer(x))):
        assert abs(y.mean() + 3) < 0.15 and abs(y.std() - 2) < 0.15
    np.testing.assert_array_equal(trained(GaussianNoise(0, mean=1.5), x), x + 1.5)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: StochasticDepth(1.0), "rate"),
        (lambda: DropBlock2D(-0.1), "rate"),
        (lambda: DropBlock2D(0.1, 0), "block_size"),
        (lambda: DropBlock2D(0.1, data_format="last"), "data_format"),
        (lambda: NoisyDense(0), "units"),
        (lambda: NoisyDense(3, sigma=-1), "sigma"),
        (lambda: GaussianNoise(-1.0), "stddev"),
        (lambda: GaussianNoise(1.0, mean=float("nan")), "mean"),
    ],
)
def test_bad_arguments_are_refused(make: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=rf"`{argument}` must be .* Received: {argument}="):
        make()

"""The wrappers that compute a kernel, against torch, NumPy and Keras' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cases.normalization import KernelBlock
from harness import BACKEND, Probe, numpy, values

from keras_tl.layers import SpectralNormalization, WeightNormalization

rng = np.random.default_rng(0)
X = rng.standard_normal((5, 4)).astype("float32")
WRAPPERS = (WeightNormalization, SpectralNormalization)


def out(layer: Any, x: np.ndarray = X, **kwargs: Any) -> np.ndarray:
    return numpy(layer(keras.ops.convert_to_tensor(x), **kwargs))


# ---- weight normalisation


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: keras.layers.Dense(3, bias_initializer="ones"), (2, 4)),
        (lambda: keras.layers.Conv1D(3, 2), (2, 5, 4)),
        (lambda: keras.layers.Conv2DTranspose(3, 2), (2, 3, 3, 4)),
        (lambda: keras.layers.DepthwiseConv2D(2, depth_multiplier=2), (2, 3, 3, 2)),
        (lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 5)), (2, 3, 4)),
    ],
)
def test_wrapping_changes_nothing_at_first(make: Any, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape).astype("float32")
    layer = make()
    wanted = out(layer, x)
    wrapped = WeightNormalization(layer)
    np.testing.assert_allclose(out(wrapped, x), wanted, rtol=1e-4, atol=1e-6)
    wrapped.gain.assign(2 * numpy(wrapped.gain))
    bias = numpy(layer.bias) if layer.bias is not None else 0
    np.testing.assert_allclose(out(wrapped, x) - bias, 2 * (wanted - bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, (-1,)])
def test_weight_norm_is_the_paper(axis: Any) -> None:
    layer = WeightNormalization(keras.layers.Dense(3, bias_initializer="ones"), axis)
    out(layer)
    gain = rng.uniform(1, 2, layer.gain.shape)
    layer.gain.assign(gain)
    v = numpy(layer.layer.kernel)
    kept = 0 if axis == 0 else 1
    w = np.expand_dims(gain, 1 - kept) * v / np.linalg.norm(v, axis=1 - kept, keepdims=True)
    np.testing.assert_allclose(out(layer), X @ w + 1, rtol=1e-4, atol=1e-5)
    layer.layer.kernel.assign(10 * v)  # only its direction counts
    np.testing.assert_allclose(out(layer), X @ w + 1, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="the reference is torch's")
def test_weight_norm_is_torchs() -> None:
    import torch

    reference = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3))
    layer = WeightNormalization(keras.layers.Dense(3))
    out(layer)
    g, v = (p.detach() for p in reference.parametrizations.weight.parameters())
    layer.gain.assign(g[:, 0])
    layer.layer.kernel.assign(v.T)
    layer.layer.bias.assign(reference.bias.detach())
    x = torch.tensor(X)
    np.testing.assert_allclose(numpy(layer(x)), reference(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_weight_norm_of_zeros_is_finite() -> None:
    layer = WeightNormalization(keras.layers.Dense(2, kernel_initializer="zeros"))
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)
    assert all(np.all(np.isfinite(numpy(v))) for v in model.weights)


# ---- spectral normalisation


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: keras.layers.Dense(6, use_bias=False), (2, 4)),
        (lambda: keras.layers.Conv2D(3, 2, use_bias=False), (2, 3, 3, 4)),
    ],
)
def test_the_spectral_norm_becomes_one(make: Any, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape).astype("float32")
    plain, wrapped = make(), SpectralNormalization(make(), power_iterations=20)
    plain.build(shape)
    wrapped.build(shape)
    wrapped.layer.set_weights(plain.get_weights())
    out(wrapped, x, training=True)
    kernel = numpy(plain.kernel)
    norm = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    np.testing.assert_allclose(out(wrapped, x), out(plain, x) / norm, rtol=1e-2, atol=1e-4)
    np.testing.assert_array_equal(numpy(wrapped.layer.kernel), kernel)


def test_a_fresh_layer_is_normalised_in_inference() -> None:
    layer = SpectralNormalization(keras.layers.Dense(6, use_bias=False))
    out(layer)
    norm = np.linalg.svd(numpy(layer.effective_kernel(False)), compute_uv=False)[0]
    assert 0.99 < norm < 1.1


def test_inference_after_a_training_step_gives_its_numbers() -> None:
    layer = SpectralNormalization(keras.layers.Dense(6))
    first = out(layer)
    layer.layer.kernel.assign(rng.standard_normal((4, 6)))
    trained = out(layer, training=True)
    np.testing.assert_allclose(out(layer), trained, rtol=1e-5, atol=1e-6)
    assert np.abs(first - trained).max() > 1e-3


@pytest.mark.parametrize("zeros", ["kernel", "vector_u"])
def test_spectral_norm_of_zeros_is_finite(zeros: str) -> None:
    """As Keras', it leaves a kernel of zeros alone, and recovers when it is not zero any more."""
    layer = SpectralNormalization(keras.layers.Dense(2, kernel_initializer="zeros"))
    model = keras.Sequential([keras.Input((4,)), layer])
    if zeros == "vector_u":
        layer.layer.kernel.assign([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        layer.vector_u.assign([[0.0, 1.0]])
        out(layer, training=True)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, X[:, :2], verbose=0, epochs=2)
    assert all(np.all(np.isfinite(numpy(v))) for v in model.weights)
    assert np.any(numpy(layer.vector_u))


def test_the_gradient_goes_through_the_norm() -> None:
    """The kernel's length has no effect, so the gradient is orthogonal to it."""
    layer = SpectralNormalization(keras.layers.Dense(3, use_bias=False), 20)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = numpy(layer.layer.kernel)
    model.fit(X, X[:, :3], verbose=0, batch_size=5)
    step = numpy(layer.layer.kernel) - before
    assert np.linalg.norm(step) > 0.01
    assert abs(np.vdot(step, before)) < 1e-2 * np.linalg.norm(step) * np.linalg.norm(before)


def test_it_takes_what_keras_takes(tmp_path: Path) -> None:
    """Config and weights of `keras.layers.SpectralNormalization`."""

    def model(cls: Any) -> keras.Model:
        wrapped = cls(keras.layers.Dense(3, name="dense"), power_iterations=2, name="spectral")
        return keras.Sequential([keras.Input((4,)), wrapped])

    theirs, ours = model(keras.layers.SpectralNormalization), model(SpectralNormalization)
    config = theirs.layers[0].get_config()
    assert set(config) == set(ours.layers[0].get_config())
    assert SpectralNormalization.from_config(config).power_iterations == 2
    for _ in range(10):
        theirs(X, training=True)  # eagerly, it normalises its kernel
    theirs.save_weights(path := tmp_path / "theirs.weights.h5")
    ours.load_weights(path)
    np.testing.assert_allclose(out(ours), out(theirs), rtol=2e-2, atol=1e-3)
    again = model(SpectralNormalization)
    ours.save_weights(path)
    again.load_weights(path)
    np.testing.assert_array_equal(out(again), out(ours))


# ---- both


@pytest.mark.parametrize("value", [0.0, 1e-4, 100.0])
@pytest.mark.parametrize("cls", WRAPPERS)
def test_a_kernel_of_half_precision(cls: Any, value: float) -> None:
    """Whose squares vanish or overflow in its own dtype."""
    constant = keras.initializers.Constant(value)
    dense = keras.layers.Dense(300, use_bias=False, kernel_initializer=constant, dtype="float16")
    layer = cls(dense, dtype="float16")
    layer.build((None, 400))
    kernel = numpy(layer.layer.kernel)
    norm = np.sqrt(400.0 * 300.0) * value if cls is SpectralNormalization and value else 1.0
    for training in (False, True):
        found = numpy(layer.effective_kernel(training))
        np.testing.assert_allclose(found, kernel / norm, rtol=3e-3)
    y = layer(keras.ops.ones((1, 400), "float16"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(numpy(y), 400 * value / norm, rtol=5e-3)


@pytest.mark.parametrize("cls", WRAPPERS)
def test_state_seeds_and_losses_of_the_layer_come_through_a_compiled_fit(cls: Any) -> None:
    block = KernelBlock(3, activity_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([keras.Input((4,)), cls(block)])
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    before = values(block.non_trainable_variables)
    kernel = numpy(block.kernel)
    loss = model.fit(X, 0 * X[:, :3], verbose=0, epochs=1, batch_size=5).history["loss"][0]
    after = values(block.non_trainable_variables)
    moved = {name for name in after if np.any(after[name] != before[name])}
    still = {name for name in after if "seed" in name and BACKEND == "torch"}  # torch has its own
    assert len(after) == 3 and moved | still == set(after)
    assert np.any(numpy(block.kernel) != kernel)
    # Batch normalisation gives squares of mean 1: the loss is 1 and the penalty 3 / 2.
    assert loss == pytest.approx(1 + 1.5, abs=0.3)


@pytest.mark.parametrize("cls", WRAPPERS)
def test_a_layer_keeps_its_own_precision_and_its_state_in_float32(cls: Any) -> None:
    layer = cls(KernelBlock(3, dtype="mixed_float16"), dtype="mixed_float16")
    outer = keras.Sequential([keras.Input((4,)), layer], name="outer")
    value = np.float32(1 + 2**-20)  # is 1 in half precision
    layer.layer.bias.assign([value] * 3)
    state = layer.layer.norm.moving_variance
    state.assign([value] * 3)
    if cls is SpectralNormalization:
        layer.vector_u.assign([[value] * 3])
    outer(X)
    assert layer(X).dtype == outer(X).dtype
    assert keras.backend.standardize_dtype(outer(X).dtype) == "float16"
    assert np.all(numpy(state) == value) and np.all(numpy(layer.layer.bias) == value)
    inner_half = cls(keras.layers.Dense(3, dtype="mixed_bfloat16"))
    symbol = inner_half(keras.Input((4,)))
    assert symbol.dtype == keras.backend.standardize_dtype(inner_half(X).dtype) == "bfloat16"


@pytest.mark.parametrize("cls", WRAPPERS)
def test_an_embedding_and_its_mask(cls: Any) -> None:
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    inputs = keras.Input((4,), dtype="int32")
    y = cls(embedding)(inputs)
    model = keras.Model(inputs, [y, Probe()(y)])
    ids = np.array([[1, 2, 0, 0]], "int32")
    found, mask = model(ids)
    np.testing.assert_array_equal(numpy(mask), [[1, 1, 0, 0]])
    table = numpy(model.layers[1].effective_kernel(False))
    np.testing.assert_allclose(numpy(found)[0], table[ids[0]], rtol=1e-6)


def test_one_inside_another() -> None:
    dense = keras.layers.Dense(3, use_bias=False)
    layer = WeightNormalization(SpectralNormalization(dense))
    x = keras.ops.convert_to_tensor(X)
    layer(x)
    layer.gain.assign(rng.uniform(1, 2, 3))
    wanted = SpectralNormalization(keras.layers.Dense(3, use_bias=False))
    wanted.build(X.shape)
    wanted.layer.kernel.assign(layer.effective_kernel(False))
    wanted.vector_u.assign(layer.layer.vector_u)
    np.testing.assert_allclose(out(layer), out(wanted), rtol=1e-5, atol=1e-6)


def test_bad_arguments() -> None:
    for cls in WRAPPERS:
        with pytest.raises(ValueError, match="isn't a supported layer"):
            cls("dense")
        for layer in (keras.layers.Activation("relu"), keras.layers.SeparableConv1D(2, 1)):
            with pytest.raises(ValueError, match="`layer` must have .* Received: layer=<"):
                cls(layer).build((None, 4, 4))
    with pytest.raises(ValueError, match="`power_iterations` must be .* Received: "):
        SpectralNormalization(keras.layers.Dense(2), power_iterations=0)
    for axis in ("last", 1.0, True, (0, None, "a")):
        with pytest.raises(ValueError, match="`axis` must be .* Received: axis="):
            WeightNormalization(keras.layers.Dense(2), axis=axis)
    for axis in (2, (0, 1), (0, 0)):
        with pytest.raises(ValueError, match="`axis` must name axes of the kernel, but not all"):
            WeightNormalization(keras.layers.Dense(2), axis=axis).build((None, 4))

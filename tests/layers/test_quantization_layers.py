"""What the layers of few bits promise, besides the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND, numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tl.layers import (
    BinaryConv2D,
    BinaryDense,
    DoReFaConv2D,
    DoReFaDense,
    FakeQuantConv2D,
    FakeQuantConv2DWithBatchNorm,
    FakeQuantDense,
    FakeQuantDenseWithBatchNorm,
    Sign,
    TernaryConv2D,
    TernaryDense,
    unpack_weights,
)
from keras_tl.layers.quantization.packing import pack
from keras_tl.layers.quantization.quantizers import Quantized

DENSE = (BinaryDense, TernaryDense, DoReFaDense, FakeQuantDense, FakeQuantDenseWithBatchNorm)
CONV = (BinaryConv2D, TernaryConv2D, DoReFaConv2D, FakeQuantConv2D, FakeQuantConv2DWithBatchNorm)
BITS = (1, 2, 3, 5, 5)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def bits_of(make: Any, bits: int) -> dict[str, int]:
    return {} if make in (*DENSE[:2], *CONV[:2]) else {"weight_bits": bits}


@pytest.mark.parametrize("make, bits", [*zip((*DENSE, *CONV), BITS * 2, strict=True)])
def test_packed_weights_give_the_same_outputs(make: Any, bits: int, tmp_path: Path) -> None:
    x = normal(4, 5, 6, 3)
    arguments = (4,) if make in DENSE else (4, 3)
    layer = make(*arguments, bias_initializer="ones", **bits_of(make, bits))
    for seed in range(2):
        layer(normal(4, 5, 6, 3, seed=seed), training=True)  # ranges and statistics
    wanted = numpy(layer(x, training=False))

    np.savez(tmp_path / "packed.npz", **layer.export_packed())
    with np.load(tmp_path / "packed.npz") as packed:
        size = int(np.prod(packed["kernel_shape"]))
        assert packed["kernel"].nbytes == -(-size * bits // 8)
        if "input_bits" in packed:
            scale, zero = packed["input_scale"], packed["input_zero"]
            codes = np.clip(np.round(x / scale + zero), 0, 2 ** packed["input_bits"] - 1)
            x = (scale * (codes - zero)).astype("float32")
        plain = keras.layers.Dense(4) if make in DENSE else keras.layers.Conv2D(4, 3)
        plain.build(x.shape)
        plain.set_weights(unpack_weights(packed))
    np.testing.assert_allclose(numpy(plain(x)), wanted, rtol=1e-5, atol=1e-5)
    assert not np.allclose(numpy(plain(x)), 0)


@settings(max_examples=30)
@given(st.data(), st.integers(1, 16), st.lists(st.integers(1, 4), max_size=4))
def test_codes_are_unpacked_as_they_were(data: Any, bits: int, shape: list[int]) -> None:
    codes = data.draw(
        st.lists(
            st.integers(0, 2**bits - 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
        )
    )
    codes = np.array(codes, "float32").reshape(shape)
    packed = pack(Quantized(keras.ops.convert_to_tensor(codes), 0.5, 3.0, None), bits)
    (kernel,) = unpack_weights(packed)
    np.testing.assert_array_equal(kernel, 0.5 * (codes - 3))
    assert kernel.dtype == "float32"


def test_nothing_is_exported_before_there_are_weights() -> None:
    with pytest.raises(ValueError, match="BinaryDense.*before it is built.*Received"):
        BinaryDense(2).export_packed()
    packed = BinaryDense(2, use_bias=False)
    packed.build((None, 3))
    assert "bias" not in packed.export_packed()


def test_latent_weights_are_saved_and_trained_to_the_teachers_signs(tmp_path: Path) -> None:
    signs = np.where(normal(8, 4) > 0, 1.0, -1.0)
    x = normal(256, 8, seed=1)
    layer = BinaryDense(4, kernel_initializer=keras.initializers.RandomUniform(-0.3, 0.3, seed=3))
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, x @ signs, epochs=8, batch_size=32, verbose=0)
    latent = layer.get_weights()[0]
    np.testing.assert_array_equal(np.sign(latent), signs)
    assert len(np.unique(np.abs(latent))) > 8, "what is kept is not latent"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    np.testing.assert_array_equal(loaded.get_weights()[0], latent)


def test_latent_weights_of_one_bit_are_clipped() -> None:
    layer = BinaryDense(4, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile(keras.optimizers.SGD(100.0), "mse")
    model.fit(normal(4, 8), normal(4, 4), epochs=1, verbose=0)
    latent = layer.get_weights()[0]
    assert latent.min() == -1, "not trained"
    assert set(np.abs(latent).ravel()) == {1}


def test_half_precision_does_not_move_a_weight_over_a_threshold() -> None:
    layer = BinaryDense(1, dtype="mixed_float16")
    layer.build((None, 2))
    layer.set_weights([np.array([[-1e-8], [1e-8]], "float32"), np.zeros(1, "float32")])
    assert numpy(layer(np.array([[3.0, 1.0]], "float32"))).item() == -2


def test_channels_first_is_channels_last_transposed() -> None:
    """The width is the number of filters: there Keras' Conv2D adds the bias along the width."""
    x = normal(2, 5, 4, 3)
    last, first = (
        FakeQuantConv2DWithBatchNorm(4, 3, padding="same", data_format=data_format)
        for data_format in ("channels_last", "channels_first")
    )
    last.build((None, 5, 4, 3))
    first.build((None, 3, 5, 4))
    weights = [normal(*w.shape, seed=i) for i, w in enumerate(last.get_weights())]
    last.set_weights([np.abs(w) for w in weights])
    first.set_weights([np.abs(w) for w in weights])
    for training in (False, True):
        found = numpy(first(np.moveaxis(x, -1, 1), training=training))
        wanted = numpy(last(x, training=training))
        np.testing.assert_allclose(np.moveaxis(found, 1, -1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", CONV)
def test_half_precision_takes_channels_first(make: Any) -> None:
    """TensorFlow has no such convolution on a CPU."""
    x = normal(2, 5, 4, 3)
    kwargs = {"padding": "same", "kernel_initializer": "ones", "dtype": "mixed_float16"}
    last = make(4, 3, data_format="channels_last", **kwargs)
    first = make(4, 3, data_format="channels_first", **kwargs)
    found = np.moveaxis(numpy(first(np.moveaxis(x, -1, 1), training=True)), 1, -1)
    np.testing.assert_allclose(found, numpy(last(x, training=True)), rtol=0.02, atol=0.05)


def test_sign_takes_integers() -> None:
    found = numpy(Sign()(np.array([-3, 0, 2], "int32")))
    np.testing.assert_array_equal(found, [-1, 1, 1])
    assert found.dtype == np.float32


# ---- ranges


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("first", [True, False])
def test_one_batch_that_is_not_finite_leaves_the_range(value: float, first: bool) -> None:
    layer, x = FakeQuantDense(2), normal(4, 3)
    if not first:
        layer(x, training=True)
    bad = np.full_like(x, value)
    before = layer.get_weights()[2:] if not first else [0, 0]
    layer(bad, training=True)
    np.testing.assert_array_equal(layer.get_weights()[2:], before)
    layer(x, training=True)
    np.testing.assert_allclose(layer.get_weights()[2:], [x.min(), x.max()], rtol=1e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="jax has float64 only if it is told so at its start")
@pytest.mark.parametrize("make", [FakeQuantDense, FakeQuantDenseWithBatchNorm])
def test_float64_is_trained(make: Any) -> None:
    x = normal(4, 3).astype("float64")
    layer = make(2, dtype="float64")
    assert numpy(layer(x, training=True, mask=np.array([1, 1, 0, 1], bool))).dtype == np.float64
    assert numpy(layer.input_max).item() == max(x[[0, 1, 3]].max(), 0)


def test_the_range_moves_in_training_only() -> None:
    layer = FakeQuantDense(2, range_momentum=0.75)
    batches = [normal(4, 3, seed=s) + 4 * s for s in range(3)]  # the last holds no 0
    low = high = 0.0
    for i, batch in enumerate(batches):
        layer(batch, training=True)
        momentum = 0.75 if i else 0.0  # the first range is taken as it is
        low = momentum * low + (1 - momentum) * min(0, batch.min())
        high = momentum * high + (1 - momentum) * max(0, batch.max())
        found = [numpy(layer.input_min), numpy(layer.input_max)]
        np.testing.assert_allclose(found, [low, high], rtol=1e-5)
        layer(10 * batch, training=False)
        layer.trainable = False
        layer(10 * batch, training=True)
        layer.trainable = True
        np.testing.assert_array_equal([numpy(layer.input_min), numpy(layer.input_max)], found)


def test_masked_steps_count_neither_in_the_range_nor_in_the_statistics() -> None:
    x, mask = normal(2, 4, 3), np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool)
    garbage = np.where(mask[..., None], x, 1e3).astype("float32")
    layers = [FakeQuantDenseWithBatchNorm(2, kernel_initializer="ones") for _ in range(2)]
    layers[0](garbage, training=True, mask=mask)
    layers[1](x[mask], training=True)
    for found, wanted in zip(layers[0].weights, layers[1].weights, strict=True):
        np.testing.assert_allclose(numpy(found), numpy(wanted), rtol=1e-5, err_msg=found.path)


def test_a_mask_of_the_first_axes_alone_is_for_what_is_behind_them() -> None:
    x, mask = normal(2, 4, 5, 3), np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool)
    for m in (mask, mask[:, 1] & [True, False]):
        layers = [FakeQuantDenseWithBatchNorm(2, kernel_initializer="ones") for _ in range(2)]
        layers[0](x, training=True, mask=m)
        layers[1](x[m], training=True)
        for found, wanted in zip(layers[0].weights, layers[1].weights, strict=True):
            np.testing.assert_allclose(numpy(found), numpy(wanted), rtol=1e-5, err_msg=found.path)


def test_a_convolution_takes_no_notice_of_a_mask() -> None:
    """Its outputs are at other places; Keras' own takes none either."""
    x = normal(2, 6, 6, 3)
    layers = [FakeQuantConv2DWithBatchNorm(2, 3, kernel_initializer="ones") for _ in range(2)]
    mask = np.arange(6) < 4
    wanted = numpy(layers[0](x, training=True))
    with pytest.warns(UserWarning, match="does not support masking"):  # Keras' own
        found = numpy(layers[1](x, training=True, mask=np.broadcast_to(mask, (2, 6, 6))))
    np.testing.assert_array_equal(found, wanted)


def test_inputs_are_not_rounded_before_a_range_was_seen() -> None:
    x, kernel = normal(4, 3), normal(3, 2, seed=1)
    layers = [FakeQuantDense(2, input_bits=2), FakeQuantDense(2, input_bits=None)]
    for layer in layers:
        layer.build((None, 3))
        layer.set_weights([kernel, np.zeros(2), *layer.get_weights()[2:]])
    first, second = (numpy(layer(x, training=False)) for layer in layers)
    np.testing.assert_array_equal(first, second)
    layers[0](np.zeros((4, 3), "float32"), training=True)  # zeros are no range
    np.testing.assert_array_equal(numpy(layers[0](x, training=False)), first)


def test_the_batch_range_is_tensorlayers_up_to_its_missing_zero() -> None:
    """There: round((x - min) / step) * step + min."""
    x, kernel = normal(4, 3), normal(3, 2, seed=1)
    layer = FakeQuantDense(2, weight_bits=6, input_bits=6, input_range="batch")
    layer.build((None, 3))
    layer.set_weights([kernel, np.zeros(2)])
    assert len(layer.weights) == 2

    def original(v: np.ndarray) -> np.ndarray:
        step = (v.max() - v.min()) / 63
        return np.round((v - v.min()) / step) * step + v.min()

    found = numpy(layer(x, training=False))
    steps = [(v.max() - v.min()) / 63 for v in (x, kernel)]
    atol = 3 * (steps[0] * np.abs(kernel).max() + steps[1] * np.abs(x).max())
    np.testing.assert_allclose(found, original(x) @ original(kernel), atol=atol)
    assert np.abs(found - x @ kernel).max() > 1e-3, "nothing is rounded"
    np.testing.assert_array_equal(numpy(layer(x, training=True)), found)


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_constant_inputs_give_no_nan(value: float) -> None:
    for layer in (FakeQuantDense(2, input_range="batch"), FakeQuantDense(2)):
        x = np.full((4, 3), value, "float32")
        outs = numpy(layer(x, training=True))
        np.testing.assert_allclose(outs, x @ layer.get_weights()[0], atol=1e-2)


def test_the_range_of_weights_is_symmetric() -> None:
    layer = FakeQuantDense(1, weight_bits=2)
    layer.build((None, 9))
    layer.set_weights([np.linspace(-1, 1, 9).reshape(9, 1), *layer.get_weights()[1:]])
    kernel = unpack_weights(layer.export_packed())[0]
    np.testing.assert_array_equal(np.unique(kernel), [-1, 0, 1])  # not -1, -1/3, 1/3, 1


@pytest.mark.parametrize("make", [FakeQuantDense, FakeQuantDenseWithBatchNorm])
def test_a_kernel_of_zeros_gives_zeros(make: Any) -> None:
    layer = make(2, kernel_initializer="zeros")
    for training in (True, False):
        outs = numpy(layer(normal(4, 3), training=training))
        np.testing.assert_array_equal(outs, np.zeros((4, 2)))


# ---- folded batch normalisation


@pytest.mark.parametrize("rank", [3, 4])
def test_folding_is_a_batch_normalization_after_the_layer(rank: int) -> None:
    """With bits enough, it is Keras' own; also what TensorLayer's moving mean of 1 breaks."""
    shape = (8, 5, 6, 3)[:1] + (8, 5, 6, 3)[5 - rank :]
    arguments: dict[str, Any] = {"weight_bits": 16, "input_bits": None, "momentum": 0.8}
    if rank == 4:
        layer: Any = FakeQuantConv2DWithBatchNorm(4, 3, **arguments)
        plain: Any = keras.layers.Conv2D(4, 3, use_bias=False)
    else:
        layer = FakeQuantDenseWithBatchNorm(4, **arguments)
        plain = keras.layers.Dense(4, use_bias=False)
    norm = keras.layers.BatchNormalization(momentum=0.8)
    layer.build(shape)
    plain.build(shape)
    norm.build((None, 4))
    untrained = layer.get_weights()
    kernel, beta, gamma = untrained[0], normal(4), normal(4, seed=1)
    plain.set_weights([kernel])
    np.testing.assert_array_equal(untrained[3:], [np.zeros(4), np.ones(4)])
    wanted = numpy(plain(normal(*shape)))
    found = numpy(layer(normal(*shape), training=False))  # untrained: a scale of about 1
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)

    layer.set_weights([kernel, beta, gamma, *untrained[3:]])
    norm = keras.layers.BatchNormalization(momentum=0.8)
    norm.build((None,) * (rank - 1) + (4,))
    norm.set_weights([gamma, beta, *norm.get_weights()[2:]])
    for seed in range(3):
        for training in (True, False):
            x = normal(*shape, seed=seed) + 0.5
            found = numpy(layer(x, training=training))
            wanted = numpy(norm(plain(x), training=training))
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
        for one, other in ((layer.moving_mean, norm.moving_mean),) + (
            (layer.moving_variance, norm.moving_variance),
        ):
            np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-4, atol=1e-5)


def test_without_gamma_and_beta() -> None:
    layer = FakeQuantDenseWithBatchNorm(2, scale=False, use_bias=False, input_bits=None)
    y = numpy(layer(normal(64, 5) + 3, training=True))
    np.testing.assert_allclose(y.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(y.std(0), 1, atol=0.1)
    assert [w.name for w in layer.trainable_weights] == ["kernel"]


# ---- what Keras has too


def test_keras_quantization_is_refused() -> None:
    layer = BinaryDense(2, name="binary")
    layer.build((None, 3))
    with pytest.raises(NotImplementedError):
        layer.quantize("int8")
    with pytest.raises(ValueError, match="`dtype` of `BinaryDense`.*Received: dtype='int8"):
        BinaryDense(2, dtype="int8_from_float32").build((None, 3))


@pytest.mark.parametrize("make, arguments", [(TernaryDense, (2,)), (TernaryConv2D, (2, 3))])
def test_lora_adapts_the_latent_kernel(make: Any, arguments: Any, tmp_path: Path) -> None:
    x = normal(4, 5, 5, 3)
    layer = make(*arguments)
    model = keras.Sequential([keras.Input((5, 5, 3)), layer])
    before = numpy(layer(x))
    layer.enable_lora(2)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    layer.lora_kernel_b.assign(0.5 * normal(*layer.lora_kernel_b.shape))
    after = numpy(layer(x))
    assert not np.allclose(after, before)
    assert len(np.unique(np.abs(unpack_weights(layer.export_packed())[0]))) == 2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(x)), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (DoReFaDense, {"weight_bits": 0}, "`weight_bits`.*at least 1.*Received: weight_bits=0"),
        (DoReFaDense, {"weight_bits": None}, "`weight_bits`.*Received: weight_bits=None"),
        (DoReFaDense, {"input_bits": 17}, "`input_bits`.*at most 16.*Received: input_bits=17"),
        (DoReFaDense, {"variant": "tanh"}, "`variant`.*'paper'.*Received: variant='tanh'"),
        (FakeQuantDense, {"weight_bits": 1}, "`weight_bits`.*at least 2.*Received"),
        (FakeQuantDense, {"input_bits": 2.5}, "`input_bits`.*Received: input_bits=2.5"),
        (FakeQuantDense, {"input_range": "ema"}, "`input_range`.*'moving'.*Received"),
        (FakeQuantDense, {"range_momentum": 1.0}, r"`range_momentum`.*\[0, 1\).*Received"),
        (FakeQuantDenseWithBatchNorm, {"momentum": -1}, "`momentum`.*Received: momentum=-1"),
        (FakeQuantDenseWithBatchNorm, {"epsilon": 0}, "`epsilon`.*above 0.*Received: epsilon=0"),
        (BinaryDense, {"units": 0}, "`units`.*Received: units=0"),
    ],
)
def test_bad_arguments_are_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"units": 2} | arguments)

"""DeformableConv2D against Keras' convolution and ONNX' operator."""

from __future__ import annotations

from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from compiled import compiled
from harness import numpy, with_gradients
from hypothesis import strategies as st
from keras import ops

from keras_tl.layers import DeformableConv2D

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize(
    ("data_format", "padding", "strides", "dilation"),
    [
        ("channels_last", "same", (3, 2), 1),
        ("channels_last", "valid", 1, (1, 2)),
        ("channels_first", "same", 1, 1),
    ],
)
def test_without_offsets_it_is_a_convolution(
    data_format: str, padding: str, strides: Any, dilation: Any
) -> None:
    # TensorLayer's sampled three of nine taps twice and three never.
    kwargs = {
        "strides": strides,
        "padding": padding,
        "data_format": data_format,
        "dilation_rate": dilation,
        "groups": 2,
        "bias_initializer": "glorot_uniform",
    }
    x = normal(*((2, 7, 9, 4) if data_format == "channels_last" else (2, 4, 7, 9)))
    layer = DeformableConv2D(6, (3, 2), offset_groups=4, **kwargs)
    reference = keras.layers.Conv2D(6, (3, 2), **kwargs)
    found = compiled(layer, x)
    reference.build(x.shape)
    reference.set_weights([numpy(layer.kernel), numpy(layer.bias)])
    np.testing.assert_allclose(found, numpy(reference(x)), atol=3e-6)


def test_modulation_starts_at_a_half() -> None:
    x = normal(2, 6, 5, 3)
    layer = DeformableConv2D(4, 3, modulated=True)
    found = compiled(layer, x)
    np.testing.assert_allclose(found, numpy(ops.conv(x, layer.kernel) / 2), atol=2e-6)


def onnx_deform_conv(
    layer: Any, x: np.ndarray, offsets: np.ndarray, mask: Any, pads: list[int]
) -> np.ndarray:
    """ONNX' DeformConv with the weights of a layer, on arrays whose channels are last."""
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    inputs = {"X": x, "offset": offsets} | ({} if mask is None else {"mask": mask})
    inputs = {name: np.moveaxis(value, -1, 1) for name, value in inputs.items()}
    inputs |= {"W": numpy(layer.kernel).transpose(3, 2, 0, 1), "B": numpy(layer.bias)}
    node = make_node(
        "DeformConv",
        ["X", "W", "offset", "B", "mask" if mask is not None else ""],
        ["Y"],
        group=layer.groups,
        offset_group=layer.offset_groups,
        strides=layer.strides,
        dilations=layer.dilation_rate,
        pads=pads,
    )
    (found,) = ReferenceEvaluator(node).run(None, inputs)
    return np.moveaxis(found, 1, -1)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    offset_groups=st.sampled_from([1, 2]),
    modulated=st.booleans(),
    same=st.booleans(),
)
def test_given_offsets_are_those_of_onnx(
    kernel: Any, strides: Any, dilation: int, groups: int, offset_groups: int, modulated: bool,
    same: bool,
) -> None:  # fmt: skip
    dilation = dilation if max(strides) == 1 else 1  # Keras' rule
    layer = DeformableConv2D(
        2, kernel, strides, "same" if same else "valid", None, dilation, groups,
        bias_initializer="ones", offset_groups=offset_groups, modulated=modulated,
    )  # fmt: skip
    x = normal(2, 5, 6, 2)
    _, height, width, _ = layer.compute_output_shape(x.shape)
    taps = offset_groups * kernel[0] * kernel[1]
    offsets = 1.5 * normal(2, height, width, 2 * taps)
    mask = normal(2, height, width, taps) if modulated else None
    found = compiled(layer, x, offsets, *([] if mask is None else [mask]))
    pads = []
    for size, out, k, s in zip((5, 6), (height, width), kernel, strides, strict=True):
        missing = max(0, (out - 1) * s + (k - 1) * dilation + 1 - size) if same else 0
        pads.append((missing // 2, missing - missing // 2))
    onnx_pads = [low for low, _ in pads] + [high for _, high in pads]
    wanted = onnx_deform_conv(layer, x, offsets, mask, onnx_pads)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_batch_gives_what_its_samples_give_with_learned_offsets() -> None:
    # TensorLayer's moved a sample by other samples' offsets.
    x = normal(3, 6, 5, 2)
    layer = DeformableConv2D(4, 3, padding="same")
    layer.build(x.shape)
    layer.offset_conv.kernel.assign(0.3 * normal(3, 3, 2, 18))
    whole = compiled(layer, x)
    for i in range(3):
        np.testing.assert_allclose(compiled(layer, x[i : i + 1]), whole[i : i + 1], atol=1e-5)
    assert np.abs(whole - compiled(layer, x[::-1].copy())).max() > 0.1


def test_far_from_the_image_there_are_zeros_and_no_gradient() -> None:
    layer = DeformableConv2D(2, 1, bias_initializer="ones")
    offsets = np.array([1e9, -1e9, np.inf, 5, -1, 2.5], "float32").repeat(2)[: 2 * 6]
    offsets = offsets.reshape(1, 2, 3, 2)
    x = np.ones((1, 2, 3, 1), "float32")
    np.testing.assert_array_equal(compiled(layer, x, offsets)[0, 0], 1)

    evaluate = with_gradients(lambda given: [layer(ops.convert_to_tensor(x), given[0])], seed=1)
    _, _, (gradient,) = evaluate([np.full((1, 2, 3, 2), 50, "float32")])
    np.testing.assert_array_equal(gradient, 0)


def test_nan_offsets_give_nan() -> None:
    offsets = np.full((1, 2, 3, 2), np.nan, "float32")
    assert np.isnan(
        compiled(DeformableConv2D(2, 1), np.ones((1, 2, 3, 1), "float32"), offsets)
    ).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
def test_given_offsets_are_not_of_half_precision(dtype: str) -> None:
    # A way of 100.25 pixels is one of 100 in bfloat16, and 1000.25 is 1000 in half precision.
    x = (np.arange(1024, dtype="float32") % 2).reshape(1, 1, 1024, 1)
    offsets = np.zeros((1, 1, 1024, 2), "float32")
    offsets[0, 0, 0, 1] = 1000.25 if dtype == "float16" else 100.25
    layer = DeformableConv2D(1, 1, kernel_initializer="ones", modulated=True, dtype=dtype)
    modulation = np.ones((1, 1, 1024, 1), "float32")
    assert compiled(layer, x, offsets, modulation)[0, 0, 0, 0] == 0.25


@pytest.mark.parametrize("modulated", [False, True])
def test_the_offsets_convolution_has_the_gradient_of_differences(modulated: bool) -> None:
    layer = DeformableConv2D(3, 2, modulated=modulated)
    x = normal(2, 5, 4, 2)
    layer.build(x.shape)
    layer.kernel.assign(normal(2, 2, 2, 3))
    conv = layer.offset_conv
    names = [v.path for v in layer.trainable_variables]

    def function(primals: Any) -> list[Any]:
        values = [primals[{conv.kernel.path: 0, conv.bias.path: 1}[n]] if "offset" in n else v.value
                  for n, v in zip(names, layer.trainable_variables, strict=True)]  # fmt: skip
        return [layer.stateless_call(values, [], ops.convert_to_tensor(x))[0]]

    evaluate = with_gradients(function, seed=2)
    filters = conv.filters
    # Offsets from 0.2 to 0.8: no kink is near.
    primals = [0.02 * normal(2, 2, 2, filters), np.full(filters, 0.5, "float32")]
    _, cotangents, gradients = evaluate(primals)
    for i, gradient in enumerate(gradients):
        direction = normal(*gradient.shape)
        sums = []
        for step in (1e-2, -1e-2):
            moved = list(primals)
            moved[i] = primals[i] + np.float32(step) * direction
            sums.append(np.vdot(evaluate(moved)[0][0].astype("float64"), cotangents[0]))
        wanted = (sums[0] - sums[1]) / 2e-2
        np.testing.assert_allclose(np.vdot(gradient, direction), wanted, rtol=5e-3, atol=5e-3)
        assert abs(wanted) > 0.1


def test_what_is_wrong_is_refused() -> None:
    x, offsets = np.ones((1, 4, 4, 3)), np.ones((1, 4, 4, 2))
    with pytest.raises(ValueError, match="`offset_groups` must be an integer .*Received"):
        DeformableConv2D(2, 1, offset_groups=0)
    with pytest.raises(ValueError, match="`offset_groups` must divide .*Received"):
        DeformableConv2D(2, 1, offset_groups=2).build((None, 4, 4, 3))
    with pytest.raises(ValueError, match=r"`offsets` must have the shape \(1, 4, 4, 2\)"):
        DeformableConv2D(2, 1)(x, offsets[..., :1])
    with pytest.raises(ValueError, match=r"`offsets` must have the shape \(1, 2, 2, 2\)"):
        DeformableConv2D(2, 1, strides=2)(x, offsets)
    layer = DeformableConv2D(2, 1, modulated=True)
    layer.build((None, None, None, 3), (None, None, None, 2), (None, None, None, 1))
    with pytest.raises(ValueError, match=r"`offsets` must have the shape \(1, 4, 4, 2\)"):
        layer(x, offsets[:, :3], offsets[..., :1])
    with pytest.raises(ValueError, match=r"`modulation` must have the shape \(1, 4, 4, 1\)"):
        layer(x, offsets, offsets[:, :3, :, :1])
    with pytest.raises(ValueError, match="`offsets` must be given in all calls or in none"):
        (layer := DeformableConv2D(2, 1))(x)
        layer(x, offsets)
    with pytest.raises(ValueError, match="`modulation` must be given if, and only if"):
        DeformableConv2D(2, 1, modulated=True)(x, offsets)
    with pytest.raises(ValueError, match="`modulation` must be given if, and only if"):
        DeformableConv2D(2, 1)(x, offsets, offsets[..., :1])

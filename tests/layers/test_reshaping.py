"""`ChannelShuffle`, `Padding` and `ElementwiseLambda`: what they do beyond the harness."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from keras_tl.layers import ChannelShuffle, ElementwiseLambda, Padding


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def outer(x: Any, y: Any) -> Any:
    return x[..., None] * y[:, None, :]


def numpy(value: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(value)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_shuffle_follows_its_paper(groups: int, data_format: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype("float32")
    wanted = x.reshape(2, 3, 4, groups, 6 // groups).swapaxes(3, 4).reshape(x.shape)
    if data_format == "channels_first":
        x, wanted = np.moveaxis(x, -1, 1), np.moveaxis(wanted, -1, 1)
    found = ChannelShuffle(groups, data_format=data_format)(x)
    np.testing.assert_array_equal(numpy(found), wanted)


def test_shuffle_with_the_other_number_of_groups_is_tensorlayers() -> None:
    """The original permuted the other way: 0 2 4 6 1 3 5 7 of 8 channels in 2 groups."""
    x = np.arange(8, dtype="float32").reshape(1, 1, 8)
    theirs = ChannelShuffle(4, "channels_last")(x)
    assert numpy(theirs).ravel().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    back = ChannelShuffle(2, "channels_last")(theirs)
    np.testing.assert_array_equal(numpy(back), x)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize(
    "padding", [((1, 2), 0, (3, 1)), (2, (0, 1), 0), (0, 0, 0), ((0, 3), (2, 0), 1)]
)
def test_padding_is_that_of_numpy(mode: str, padding: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype("float32")
    sides = [(0, 0)] + [(p, p) if isinstance(p, int) else p for p in padding]
    options = {"constant_values": -2} if mode == "constant" else {}
    wanted = np.pad(x, sides, mode=mode, **options)
    layer = Padding(padding, mode, value=-2)
    np.testing.assert_array_equal(numpy(layer(x)), wanted)
    integers = np.pad(x.astype("int32"), sides, mode=mode, **options)
    np.testing.assert_array_equal(numpy(layer(x.astype("int32"))), integers)


def test_padding_of_zeros_is_keras_layer() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype("float32")
    keras_layer = keras.layers.ZeroPadding2D(((1, 2), (0, 3)), data_format="channels_last")
    found = Padding(((1, 2), (0, 3), 0))(x)
    np.testing.assert_array_equal(numpy(found), numpy(keras_layer(x)))


def test_padding_with_what_no_pooling_takes() -> None:
    layer = Padding.from_config(json.loads(json.dumps(Padding((1,), value=-np.inf).get_config())))
    assert numpy(layer(np.ones((1, 2), "float32"))).ravel().tolist() == [-np.inf, 1, 1, -np.inf]
    edge = Padding((1,), "edge", value=0.5)(np.ones((1, 2), "int32"))
    assert numpy(edge).ravel().tolist() == [1, 1, 1, 1]


def test_the_largest_paddings() -> None:
    x = np.arange(3, dtype="float32").reshape(1, 3)
    assert numpy(Padding((2,), "reflect")(x)).ravel().tolist() == [2, 1, 0, 1, 2, 1, 0]
    assert numpy(Padding((3,), "symmetric")(x)).ravel().tolist() == [2, 1, 0, 0, 1, 2, 2, 1, 0]


def test_a_function_of_inputs_of_different_shapes() -> None:
    layer = ElementwiseLambda(outer)
    assert layer.compute_output_shape([(None, 3), (None, 4)]) == (None, 3, 4)
    x, y = np.ones((2, 3), "float32"), np.arange(8, dtype="float32").reshape(2, 4)
    np.testing.assert_array_equal(numpy(layer([x, y])), x[..., None] * y[:, None])


def test_one_input_is_a_list_of_one() -> None:
    layer = ElementwiseLambda(keras.activations.softplus)
    x = np.linspace(-2, 2, 5, dtype="float32")[None]
    np.testing.assert_allclose(numpy(layer(x)), np.log1p(np.exp(x)), rtol=1e-5)
    again = ElementwiseLambda.from_config(layer.get_config())
    assert again.fn is keras.activations.softplus


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (lambda: ChannelShuffle(0), "`groups`"),
        (lambda: ChannelShuffle(4).build((None, 3, 3, 6)), "`groups`"),
        (lambda: ChannelShuffle(2).build((None, 3, 3, None)), "`ChannelShuffle`"),
        (lambda: ChannelShuffle(2, "NHWC"), "`data_format`"),
        (lambda: Padding(2), "`padding`"),
        (lambda: Padding("12"), "`padding`"),
        (lambda: Padding((-1, 0)), "`padding`"),
        (lambda: Padding(((1, 2, 3),)), "`padding`"),
        (lambda: Padding((1,), "wrap"), "`mode`"),
        (lambda: Padding((1,), value="0"), "`value`"),
        (lambda: Padding((1,), value=float("nan")), "`value`"),
        (lambda: Padding((1,), value=0.5)(np.ones((1, 3), "int32")), "`value`"),
        (lambda: Padding((1,), value=0.5)(keras.Input((3,), dtype="int32")), "`value`"),
        (lambda: Padding((1,), value=-float("inf"))(np.ones((1, 3), "int32")), "`value`"),
        (lambda: Padding((1, 1)).build((None, 3)), "`padding`"),
        (lambda: Padding((3,), "reflect").build((None, 3)), "`padding`"),
        (lambda: Padding((4,), "symmetric").build((None, 3)), "`padding`"),
        (lambda: ElementwiseLambda(lambda x: x), "`fn`"),
    ],
)
def test_what_is_wrong_is_said(action: Callable[[], Any], fault: str) -> None:
    with pytest.raises(ValueError, match="Received: ") as error:
        action()
    assert fault in str(error.value)

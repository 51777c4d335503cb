"""`Rearrange`, `Reduce` and `EinMix` against einops on NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable

import einops
import keras
import numpy as np
import pytest
from einops.layers._einmix import _EinmixDebugger
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tl.layers import EinMix, Rearrange, Reduce

BACKEND = keras.backend.backend()

REARRANGED = [
    ("b h w c -> b c h w", (2, 3, 4, 5), {}),
    ("b (h p) (w q) c -> b (h w) (p q c)", (2, 4, 6, 3), {"p": 2, "q": 3}),
    ("b t (h d) -> (b h) t d", (2, 5, 6), {"h": 3}),
    ("... c -> c ...", (2, 3, 4), {}),
    ("b ... c -> b (c ...)", (2, 3, 4, 5), {}),
    ("b 1 c -> b c 1 1", (2, 1, 3), {}),
    ("b (s c) -> b s () c", (2, 12), {"c": 4}),
    ("a b c -> (a b c)", (2, 3, 4), {}),
    ("... -> ... 1", (2, 3), {}),
    ("b ... -> b ...", (2,), {}),
]
REDUCED = [
    ("b (h 2) (w 2) c -> b h w c", (2, 4, 6, 3), {}),
    ("b h w c -> b c", (2, 3, 4, 5), {}),
    ("b h w c -> b 1 1 c", (2, 3, 4, 5), {}),
    ("... (t s) c -> ... c t", (2, 3, 8, 4), {"s": 2}),
    ("b ... -> b", (2, 3, 4), {}),
    ("b t -> b t", (2, 3), {}),
]
MIXED = [
    ("b t c_in -> b t c_out", "c_in c_out", "c_out", (2, 5, 3), {"c_in": 3, "c_out": 4}),
    ("b h c -> b k c", "h k", "k c", (2, 3, 5), {"h": 3, "k": 4, "c": 5}),
    ("b t (h c) -> b h t d", "h c d", "d h", (2, 5, 6), {"h": 2, "c": 3, "d": 4}),
    ("b t c -> b t c", "c", None, (2, 5, 3), {"c": 3}),
    ("... c -> ... (d e)", "c d e", "e", (2, 3, 5), {"c": 5, "d": 2, "e": 3}),
    (
        "b (h p) (w q) c -> b (h w) d",
        "p q c d",
        "d",
        (2, 4, 6, 3),
        {"p": 2, "q": 2, "c": 3, "d": 4},
    ),
]


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def numpy(tensor: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(("pattern", "shape", "lengths"), REARRANGED)
def test_rearrange_is_einops(pattern: str, shape: tuple[int, ...], lengths: dict[str, int]) -> None:
    x = values(shape)
    found = Rearrange(pattern, **lengths)(x)
    wanted = einops.rearrange(x, pattern, **lengths)
    np.testing.assert_array_equal(numpy(found), wanted)


@pytest.mark.parametrize("reduction", ["max", "mean", "min", "prod", "sum"])
@pytest.mark.parametrize(("pattern", "shape", "lengths"), REDUCED)
def test_reduce_is_einops(
    pattern: str, shape: tuple[int, ...], lengths: dict[str, int], reduction: str
) -> None:
    x = values(shape)
    found = Reduce(pattern, reduction, **lengths)(x)
    wanted = einops.reduce(x, pattern, reduction, **lengths)
    np.testing.assert_allclose(numpy(found), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pattern", "weight", "bias", "shape", "lengths"), MIXED)
def test_einmix_is_einops(
    pattern: str, weight: str, bias: str | None, shape: tuple[int, ...], lengths: dict[str, int]
) -> None:
    """einops' own `EinMix` decides what is reshaped, summed and added; NumPy does it."""
    x = values(shape)
    layer = EinMix(pattern, weight, bias, **lengths)
    found = numpy(layer(x))
    peer = _EinmixDebugger(pattern, weight, bias, **lengths)
    y = x
    if peer.pre_reshape_pattern:
        y = einops.rearrange(y, peer.pre_reshape_pattern, **peer.pre_reshape_lengths)
    y = np.einsum(peer.einsum_pattern, y, numpy(layer.kernel))
    if bias is not None:
        output = [a for a in re.findall(r"\w+", pattern.split("->")[1]) if a in bias.split()]
        ordered = einops.rearrange(numpy(layer.bias), f"{bias} -> {' '.join(output)}")
        y = y + ordered.reshape(peer.saved_bias_shape)
    if peer.post_reshape_pattern:
        y = einops.rearrange(y, peer.post_reshape_pattern)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    assert tuple(layer.compute_output_shape(shape)) == found.shape


def test_einmix_starts_as_einops_does() -> None:
    """Uniform within sqrt(3 / n) and sqrt(1 / n), n being what is summed."""
    layer = EinMix("b (h c) -> b (h d)", "h c d", "h d", h=50, c=4, d=30)
    layer.build((None, 200))
    for weight, limit in ((layer.kernel, (3 / 4) ** 0.5), (layer.bias, 0.5)):
        largest = float(np.abs(numpy(weight)).max())
        assert 0.98 * limit < largest <= limit


@settings(max_examples=15)
@given(
    st.permutations(["a", "b", "c", "d"]),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_any_rearrangement_is_einops(
    order: list[str], sizes: list[int], split: int, join: int
) -> None:
    lengths = dict(zip("abcd", sizes, strict=True))
    left = ["a", "b", "c", "d"]
    grouped = [*left[:split], f"({' '.join(left[split:])})"]
    joined = [*order[:join], f"({' '.join(order[join:])})"]
    pattern = f"{' '.join(grouped)} -> {' '.join(joined)}"
    x = values((*sizes[:split], int(np.prod(sizes[split:]))))
    found = Rearrange(pattern, **lengths)(x)
    np.testing.assert_array_equal(numpy(found), einops.rearrange(x, pattern, **lengths))


def test_every_length_but_the_channels_may_be_unknown() -> None:
    """`keras.ops.rearrange` cannot do this on jax."""
    inputs = keras.Input((None, None, 3))
    x = Rearrange("b (h p) (w q) c -> b h w (p q c)", p=2, q=2)(inputs)
    assert tuple(x.shape) == (None, None, None, 12)
    x = EinMix("b h w c -> b (h w) d", "c d", "d", c=12, d=5)(x)
    assert tuple(x.shape) == (None, None, 5)
    x = Reduce("b (n 3) d -> b d n", "sum")(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    for batch, height, width in ((2, 4, 6), (3, 6, 4)):
        out = model.predict(values((batch, height, width, 3)), verbose=0)
        assert out.shape == (batch, 5, height * width // 12)


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_integers_stay_integers(reduction: str) -> None:
    x = np.arange(12, dtype="int32").reshape(2, 6)
    for layer in (Rearrange("b t -> t b"), Reduce("b (t 2) -> b t", reduction)):
        out = layer(keras.ops.convert_to_tensor(x))
        assert keras.backend.standardize_dtype(out.dtype) == "int32"
        assert layer(keras.Input((6,), dtype="int32")).dtype == "int32"


def test_sums_of_half_precision_are_not_rounded_on_their_way() -> None:
    x = np.full((1, 4096), 1.0, "float32")
    mean = Reduce("b t -> b", "mean", dtype="float16")(x)
    assert float(numpy(mean)[0]) == 1.0


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Rearrange("a b c"), "one `->`"),
        (lambda: Rearrange(3), "one `->`"),
        (lambda: Rearrange("a (b c -> a b c"), "open parenthesis"),
        (lambda: Rearrange("a b) -> a b"), "where an axis should be"),
        (lambda: Rearrange("a ((b)) -> a b"), "where an axis should be"),
        (lambda: Rearrange("a a -> a"), "an axis twice"),
        (lambda: Rearrange("a b -> a"), "same axes on both sides"),
        (lambda: Rearrange("a -> a b"), "same axes on both sides"),
        (lambda: Rearrange("a -> a 2"), "same axes on both sides"),
        (lambda: Rearrange("a (b c) -> a b c"), "open"),
        (lambda: Rearrange("a (b ...) -> a b ..."), "ellipsis in parentheses"),
        (lambda: Rearrange("a -> a ..."), "ellipsis on its right only"),
        (lambda: Rearrange("a b -> b a", c=3), "no axis 'c'"),
        (lambda: Rearrange("a b -> b a", b=0), "`b` must be an integer of at least 1"),
        (lambda: Rearrange("name b -> b name"), "'name'"),
        (lambda: Rearrange("a-b -> b a"), "where an axis should be"),
        (lambda: Rearrange("a b -> b a").compute_output_shape((2, 3, 4)), "needs 2 axes, not 3"),
        (lambda: Rearrange("a b ... -> b a ...").compute_output_shape((2,)), "2 axes or more"),
        (lambda: Rearrange("a (b 2) -> a b 2"), "same axes"),
        (lambda: Rearrange("a (b c) -> a b c", c=2).compute_output_shape((1, 3)), "times an"),
        (lambda: Rearrange("a b -> b a", b=4).compute_output_shape((None, 3)), "length of 4"),
        (lambda: Reduce("a b -> a c", "max"), "no axis on its right"),
        (lambda: Reduce("a b -> a", "median"), "`reduction`"),
        (lambda: EinMix("a b -> a c", "b c", b=2), "given length"),
        (lambda: EinMix("a b -> a c", "b d", b=2, d=2), "as output"),
        (lambda: EinMix("a b -> a c", "b c e", b=2, c=2, e=2), "`weight_shape`"),
        (lambda: EinMix("a b -> a c", "b c", "b", b=2, c=2), "`bias_shape`"),
        (lambda: EinMix("a b -> a c", "(b c)", b=2, c=2), "`weight_shape`"),
        (lambda: EinMix("a b -> a c", "b c", b=2, c=2).build((None, 3)), "length of 2"),
    ],
)
def test_what_is_wrong_is_said(make: object, fault: str) -> None:
    with pytest.raises(ValueError, match=r"Received: ") as error:
        make()  # type: ignore[operator]
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (lambda: EinMix("b c -> b activation", "c activation", c=2), "activation"),
        (lambda: EinMix("b pattern -> b c", "pattern c", c=2), "pattern"),
        (lambda: Reduce("b reduction -> b", "max"), "reduction"),
        (lambda: Rearrange("b name -> name b"), "name"),
    ],
)
def test_an_axis_may_not_be_named_as_an_argument(make: Callable[[], object], axis: str) -> None:
    """Its length could not be given."""
    with pytest.raises(ValueError, match=f"`pattern` may not .* argument, '{axis}'"):
        make()
    Rearrange("b reduction -> reduction b", reduction=2)  # an argument of another layer

"""The gallery page: it runs, it shows every layer, and it names all that TensorLayer had."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_tl.layers
from keras_tl.layers import Rearrange

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "examples" / "layers.md").read_text("utf-8")
REFERENCE = ROOT.parent / "shared" / "reference" / "original.md"
# Rows of the bridge to other frameworks.
TO_COME = {"SlimNetsLayer", "EstimatorLayer"}

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 5, 3)).astype("float32") * 4


def test_the_page_runs() -> None:
    text = re.sub(r"^```\w*$", "", PAGE, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, "layers.md", "layers.md", 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    assert test.examples and not runner.failures, "".join(report)


def shown(page: str) -> set[str]:
    """The names at the head of an example of at most three lines."""
    names: set[str] = set()
    for head, code in re.findall(r"^(`\w+`.*?): .*?\n\n```python\n(.*?)```", page, re.M | re.S):
        if len(re.findall(r"^>>> ", code, re.MULTILINE)) <= 3:
            names |= set(re.findall(r"`(\w+)`", head))
    return names


def test_each_layer_is_shown_in_three_lines() -> None:
    assert set(keras_tl.layers.__all__) - shown(PAGE) == set()
    assert shown(PAGE) - set(keras_tl.layers.__all__) == set()
    planted = "`Long`: text\n\n```python\n" + ">>> 1\n" * 4 + "```\n"
    assert shown(planted) == set()


def table() -> dict[tuple[str, ...], str]:
    """The rows of the page: the original's names, and what takes their place."""
    part = PAGE.split("## Coming from TensorLayer")[1]
    rows = re.findall(r"^\| ([A-Z].*?) \| (.*) \|$", part, re.MULTILINE)
    return {tuple(names.split(", ")): here for names, here in rows if names != "TensorLayer"}


def rows_of(reference: str) -> set[frozenset[str]]:
    """The names in each row of the reference's table whose verdict is NO or PART."""
    section = reference.split("### 1a")[1].split("### 1b")[0]
    found = set()
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 8 and cells[6] in ("**NO**", "PART"):
            names = re.sub(r"\([^)]*\)", "", ";".join(cells[1:4])).replace("**", "")
            found.add(frozenset(n.strip() for n in names.split(";")) - {"-", ""})
    return found


def test_every_row_of_the_reference_has_its_place() -> None:
    if not REFERENCE.exists():
        pytest.skip("the reference is not in this checkout")
    rows = rows_of(REFERENCE.read_text("utf-8"))
    assert len(rows) == 48
    assert {frozenset(names) for names in table()} == rows


def test_a_place_is_a_layer_or_an_equivalent_or_to_come() -> None:
    assert len(table()) == 48
    for names, here in table().items():
        if here.startswith("to come"):
            assert TO_COME & set(names), names
        elif here.startswith("Keras: "):
            checks = [check for name, check in EQUIVALENTS.items() if name in names]
            assert len(checks) == 1, names
            code = re.sub(r"\s", "", inspect.getsource(checks[0]))
            for expression in re.findall(r"`([^`]*\([^`]*)`", here):  # what is a call
                assert re.sub(r"\s", "", expression) in code, f"{expression} is not checked"
        else:
            (name,) = re.findall(r"`(\w+)`", here)
            assert name in keras_tl.layers.__all__, names


def numpy(value: object) -> np.ndarray:
    return ops.convert_to_numpy(value)


def close(found: object, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(numpy(found), wanted, rtol=1e-4, atol=1e-5)


def columns_of(x: np.ndarray, size: int) -> np.ndarray:
    """torch's layout, which TensorLayerX has: (batch, channels * taps, places)."""
    b, h, w, c = x.shape
    places = [
        x[:, i : i + size, j : j + size].transpose(0, 3, 1, 2).reshape(b, -1)
        for i in range(h - size + 1)
        for j in range(w - size + 1)
    ]
    return np.stack(places, axis=-1)


def unfold() -> None:
    x, size, c = X, 2, 3
    patches = keras.ops.image.extract_patches(x, size, strides=1)
    close(Rearrange("b h w (k c) -> b (c k) (h w)", c=c)(patches), columns_of(x, size))


def fold() -> None:
    """The sum of each pixel's copies."""
    columns = X.transpose(0, 3, 1, 2)[:, :, :3, :4].reshape(2, 3, 12).repeat(4, axis=1)
    columns = columns + RNG.standard_normal(columns.shape).astype("float32")  # (b, c * taps, n)
    wanted = np.zeros((2, 4, 5, 3), "float32")
    taps = columns.reshape(2, 3, 2, 2, 3, 4)
    for i in range(2):
        for j in range(2):
            wanted[:, i : i + 3, j : j + 4] += taps[:, :, i, j].transpose(0, 2, 3, 1)
    kernel = np.eye(12, dtype="float32").reshape(3, 2, 2, 12).transpose(1, 2, 0, 3)
    columns = Rearrange("b k (h w) -> b h w k", h=3)(columns)
    close(keras.ops.conv_transpose(columns, kernel), wanted)


def prelu() -> None:
    layer = keras.layers.PReLU(shared_axes=[1, 2])
    layer.build(X.shape)
    old = RNG.standard_normal(3).astype("float32")
    slope = 1 / (1 + np.exp(-old))
    layer.set_weights([slope.reshape(1, 1, 3)])
    close(layer(X), np.maximum(X, 0) + slope * np.minimum(X, 0))


def ramp() -> None:
    v_max = 2.5
    close(keras.layers.ReLU(max_value=v_max)(X), np.clip(X, 0, v_max))
    v_min = -1.5
    steps = [
        keras.layers.Rescaling(1, -v_min),
        keras.layers.ReLU(max_value=v_max - v_min),
        keras.layers.Rescaling(1, v_min),
    ]
    close(keras.Sequential(steps)(X), np.clip(X, v_min, v_max))


def leaky_relu6() -> None:
    alpha = 0.2
    layer = keras.layers.ReLU(max_value=6, negative_slope=alpha)
    assert X.max() > 6
    close(layer(X), np.minimum(np.maximum(X, alpha * X), 6))


def model_of(function: Callable[..., object], count: int = 1) -> object:
    """What the function gives in a functional model of unknown batch, loaded from its config."""
    inputs = [keras.Input(X.shape[1:]) for _ in range(count)]
    model = keras.Model(inputs, function(*inputs))
    again = keras.Model.from_config(model.get_config())
    return again([ops.convert_to_tensor((i + 1) * X) for i in range(count)])


def transpose() -> None:
    perm = (3, 0, 2, 1)
    close(model_of(lambda x: keras.ops.transpose(x, perm)), X.transpose(perm))
    x = (X + 1j * X[::-1]).astype("complex64")
    np.testing.assert_allclose(numpy(keras.ops.conj(x)), np.conj(x))


def expand_dims() -> None:
    axis = 2
    close(model_of(lambda x: keras.ops.expand_dims(x, axis)), np.expand_dims(X, axis))


def tile() -> None:
    multiples = (1, 2, 1, 3)
    close(model_of(lambda x: keras.ops.tile(x, multiples)), np.tile(X, multiples))


def stack() -> None:
    axis = 1
    found = model_of(lambda *xs: keras.ops.stack(xs, axis), 2)
    close(found, np.stack([X, 2 * X], axis))


def unstack() -> None:
    num, axis = 5, 2
    found = model_of(lambda x: keras.ops.unstack(x, num, axis))
    assert len(found) == num
    for i in range(num):
        close(found[i], X[:, :, i])


def transformer() -> None:
    """The blocks of Vaswani et al., 2017, in their order: attention, addition, normalisation."""
    heads, size, units = 2, 3, 6
    x = RNG.standard_normal((2, 5, units)).astype("float32")
    memory = RNG.standard_normal((2, 4, units)).astype("float32")

    def attend(layer: keras.layers.Layer, q: np.ndarray, k: np.ndarray, causal: bool) -> np.ndarray:
        w = [numpy(v) for v in layer.weights]
        query, key, value = (
            np.einsum("btc,chd->bthd", of, w[i]) + w[i + 1] for i, of in ((0, q), (2, k), (4, k))
        )
        scores = np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(size)
        if causal:
            scores = np.where(np.tri(q.shape[1], k.shape[1]), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("bhts,bshd,hdc->btc", weights, value, w[6]) + w[7]

    def normalised(y: np.ndarray) -> np.ndarray:
        centred = y - y.mean(-1, keepdims=True)
        return centred / np.sqrt(y.var(-1, keepdims=True) + 1e-5)

    array, x = x, ops.convert_to_tensor(x)
    found = keras.layers.LayerNormalization(epsilon=1e-5)(
        x + keras.layers.MultiHeadAttention(heads, size)(x, x)
    )
    assert tuple(found.shape) == array.shape
    own, cross = (keras.layers.MultiHeadAttention(heads, size) for _ in range(2))
    norms = [keras.layers.LayerNormalization(epsilon=1e-5) for _ in range(3)]
    wide, narrow = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(units)
    y = norms[0](x + own(x, x, use_causal_mask=True))
    y = norms[1](y + cross(y, memory))
    y = norms[2](y + narrow(wide(y)))
    wanted = normalised(array + attend(own, array, array, causal=True))
    wanted = normalised(wanted + attend(cross, wanted, memory, causal=False))
    hidden = np.maximum(wanted @ numpy(wide.kernel) + numpy(wide.bias), 0)
    wanted = normalised(wanted + hidden @ numpy(narrow.kernel) + numpy(narrow.bias))
    close(y, wanted)


EQUIVALENTS: dict[str, Callable[[], None]] = {
    "Unfold": unfold,
    "Fold": fold,
    "PReluLayer": prelu,
    "Ramp": ramp,
    "LeakyReLU6": leaky_relu6,
    "TransposeLayer": transpose,
    "ExpandDimsLayer": expand_dims,
    "TileLayer": tile,
    "StackLayer": stack,
    "UnStackLayer": unstack,
    "Transformer": transformer,
}


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_an_equivalent_is_one(name: str) -> None:
    EQUIVALENTS[name]()

"""The cells against their papers' formulas in NumPy, Keras' own cell, and what masks promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import keras
import numpy as np
import pytest
from compiled import compiled
from harness import BACKEND, numpy

from keras_tl.layers import LayerNormLSTMCell, PeepholeLSTMCell

CELLS = [LayerNormLSTMCell, PeepholeLSTMCell]
FEATURES, UNITS, STEPS = 3, 4, 5


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def randomised(layer: Any) -> dict[str, np.ndarray]:
    """Random weights, by their names."""
    rng = np.random.default_rng(6)
    found = {}
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape).astype("float32"))
        found[weight.name] = numpy(weight).astype("float64")
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalised(x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)


def layer_norm(w: dict[str, np.ndarray], x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Ba et al., 2016, equations 20 to 22."""
    z = normalised(x @ w["kernel"], 0.01) * w["kernel_gamma"] + w["bias"]
    z = z + normalised(h @ w["recurrent_kernel"], 0.01) * w["recurrent_gamma"]
    i, f, g, o = np.split(z, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    state = normalised(c, 0.01) * w["state_gamma"] + w["state_beta"]
    return sigmoid(o) * np.tanh(state), c


def peepholes(w: dict[str, np.ndarray], x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Greff et al., 2015, section 2."""
    z_i, z_f, z_g, z_o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, 1)
    i, f = sigmoid(z_i + w["peephole"][0] * c), sigmoid(z_f + w["peephole"][1] * c)
    c = i * np.tanh(z_g) + f * c
    return sigmoid(z_o + w["peephole"][2] * c) * np.tanh(c), c


@pytest.mark.parametrize(
    "cell, formula",
    [(LayerNormLSTMCell(UNITS, epsilon=0.01), layer_norm), (PeepholeLSTMCell(UNITS), peepholes)],
    ids=["LayerNorm", "Peephole"],
)
def test_the_formula_of_the_paper(cell: Any, formula: Any) -> None:
    layer = keras.layers.RNN(cell, return_sequences=True)
    (x,) = arrays((2, STEPS, FEATURES))
    layer.build(x.shape)
    weights = randomised(cell)
    h = c = np.zeros((2, UNITS))
    wanted = []
    for t in range(STEPS):
        h, c = formula(weights, x[:, t].astype("float64"), h, c)
        wanted.append(h)
    np.testing.assert_allclose(compiled(layer, x), np.stack(wanted, 1), rtol=1e-4, atol=1e-5)


class NotNormalised(LayerNormLSTMCell):
    def _normalized(self, x: Any, gamma: Any) -> Any:
        return x


@pytest.mark.parametrize("make", [NotNormalised, PeepholeLSTMCell])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"use_bias": False, "activation": "relu", "recurrent_activation": "hard_sigmoid"}],
    ids=["default", "relu"],
)
def test_without_its_addition_it_is_keras_cell(make: Any, arguments: dict[str, Any]) -> None:
    x, h, c = arrays((2, FEATURES), (2, UNITS), (2, UNITS))
    cell, plain = make(UNITS, **arguments), keras.layers.LSTMCell(UNITS, **arguments)
    cell.build(x.shape)
    plain.build(x.shape)
    plain.set_weights([numpy(w) for w in cell.weights[: len(plain.weights)]])
    if not arguments:
        np.testing.assert_array_equal(numpy(cell.bias), [0] * 4 + [1] * 4 + [0] * 8)
    for found, wanted in zip(cell(x, [h, c])[1], plain(x, [h, c])[1], strict=True):
        np.testing.assert_allclose(numpy(found), numpy(wanted), rtol=1e-5, atol=1e-6)


def test_dropout_is_keras() -> None:
    """The same seeds draw the same masks; what is dropped is what Keras drops."""
    (x,) = arrays((2, STEPS, FEATURES))
    outputs = []
    for make in (PeepholeLSTMCell, keras.layers.LSTMCell):
        keras.utils.set_random_seed(3)
        cell = make(UNITS, dropout=0.5, recurrent_dropout=0.3, seed=1)
        cell.build((2, FEATURES))
        randomised(cell)
        if make is PeepholeLSTMCell:
            cell.peephole.assign(np.zeros((3, UNITS)))
        layer = keras.layers.RNN(cell)
        outputs.append(numpy(layer(x, training=True)))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs[0], numpy(layer(x)))


@pytest.mark.parametrize("make", CELLS)
def test_masked_steps_change_nothing(make: Any) -> None:
    """Bit for bit, whatever they hold, in both directions."""
    x, junk = arrays((3, STEPS, FEATURES), (3, STEPS, FEATURES))
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 1, 1, 1]], bool)
    layer = keras.layers.Bidirectional(keras.layers.RNN(make(UNITS)))
    layer.build(x.shape)
    randomised(layer)
    rows = np.concatenate([x, np.where(mask[..., None], x, 1e3 * junk), x])
    masks = np.concatenate([mask, mask, np.ones_like(mask)])
    (outs,) = harness.compiled(lambda given: layer(given[0], mask=given[1]), [rows, masks])
    found, other, unmasked = np.split(numpy(outs), 3)
    np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:1], compiled(layer, x[:1, :3]), rtol=1e-5, atol=1e-6)
    assert not np.any(np.all(np.isclose(found[:2], unmasked[:2]), axis=1))
    np.testing.assert_allclose(found[2], unmasked[2], rtol=1e-5, atol=1e-6)


def test_they_train_in_a_model_compiled_by_xla_and_are_loaded(tmp_path: Path) -> None:
    (x,) = arrays((4, STEPS, FEATURES))
    rnn = keras.layers.RNN(LayerNormLSTMCell(UNITS), return_sequences=True)
    dropping = PeepholeLSTMCell(UNITS, dropout=0.1, recurrent_dropout=0.1)
    backwards = keras.layers.RNN(dropping, go_backwards=True)
    inputs = keras.Input((None, FEATURES))
    model = keras.Model(inputs, backwards(rnn(inputs)))
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    before = [numpy(w).copy() for w in model.trainable_weights]
    model.fit(x, x[:, 0, :1] * np.ones((1, UNITS), "float32"), epochs=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.all(np.isfinite(numpy(weight))) and not np.array_equal(old, numpy(weight))
    model.save(path := tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    for one, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))


def test_a_stateful_layer_goes_on() -> None:
    (x,) = arrays((2, STEPS, FEATURES))
    layer = keras.layers.RNN(PeepholeLSTMCell(UNITS), stateful=True)
    layer.build(x.shape)
    randomised(layer.cell)
    layer(x[:, :2])
    found = numpy(layer(x[:, 2:]))
    layer.reset_state()
    np.testing.assert_allclose(found, numpy(layer(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": 0}, "`units` must be an integer of at least 1. Received: units=0"),
        ({"dropout": 1.0}, "`dropout` must be a number in"),
        ({"recurrent_dropout": -0.1}, "`recurrent_dropout` must be a number in"),
        ({"epsilon": 0}, "`epsilon` must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerNormLSTMCell(**{"units": 4, **arguments})

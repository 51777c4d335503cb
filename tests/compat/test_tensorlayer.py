"""Old weights: files are written here as TensorLayer wrote them, and its maths is in NumPy."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import h5py
import keras
import numpy as np
import pytest

from keras_tl import layers
from keras_tl.compat import load_tensorlayer, read_tensorlayer

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def save_npz(path: Path, arrays: dict[str, np.ndarray], protocol: int = 3) -> Path:
    """`save_npz`: `np.savez(name, params=list)`; `protocol` is that of the writer's NumPy."""
    values = np.empty(len(arrays), dtype=object)
    values[:] = list(arrays.values())
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(file, header)
    pickle.dump(values, file, protocol=protocol)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("params.npy", file.getvalue())
    return path


def save_npz_dict(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **{f"{name}:0": array for name, array in arrays.items()})
    return path


def save_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """`save_weights_to_hdf5` of 2.x, whose layers name their variables after themselves."""
    names = list(dict.fromkeys(name.split("/")[0] for name in arrays))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ["input", *names]]
        file.create_group("input").attrs["weight_names"] = []
        for layer in names:
            group = file.create_group(layer)
            own = {f"{n}:0": a for n, a in arrays.items() if n.split("/")[0] == layer}
            group.attrs["weight_names"] = [name.encode() for name in own]
            for name, array in own.items():
                group.create_dataset(name, data=array)
    return path


FORMATS: dict[str, Callable[..., Path]] = {
    "model.npz": save_npz,
    "dict.npz": save_npz_dict,
    "model.hdf5": save_hdf5,
}


def outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def cnn() -> tuple[dict[str, np.ndarray], keras.Model, np.ndarray, np.ndarray]:
    """Convolution, normalisation, activation and dense, by NumPy."""
    x = draw(2, 5, 5, 3)
    arrays = {
        "conv/W_conv2d": draw(1, 1, 3, 4),
        "conv/b_conv2d": draw(4),
        "bn/beta": draw(4),
        "bn/gamma": draw(4),
        "bn/moving_mean": draw(4),
        "bn/moving_variance": draw(4) ** 2 + 0.1,
        "prelu/alpha": draw(4),
        "out/W": draw(100, 2),
        "out/b": draw(2),
    }
    w, b, beta, gamma, mean, variance, alpha, out, out_b = arrays.values()
    y = x @ w[0, 0] + b
    y = (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    y = np.where(y > 0, y, sigmoid(alpha) * y)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 3)),
            keras.layers.Conv2D(4, 1, padding="same"),
            keras.layers.BatchNormalization(epsilon=1e-5),
            keras.layers.PReLU(shared_axes=[1, 2]),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    return arrays, model, x, y.reshape(2, -1) @ out + out_b


@pytest.mark.parametrize("name", FORMATS)
def test_a_network_gives_its_old_outputs(name: str, tmp_path: Path) -> None:
    arrays, model, x, wanted = cnn()
    path = FORMATS[name](tmp_path / name, arrays)
    found = read_tensorlayer(path)
    for array, known in zip(found.values(), arrays.values(), strict=True):
        np.testing.assert_array_equal(array, known)
    load_tensorlayer(model, path, version="1.11.1")
    np.testing.assert_allclose(outputs(model, x), wanted, rtol=1e-4, atol=1e-4)


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 did: as its `str`."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_str


@pytest.mark.parametrize("protocol", ["Python 2", 2, 3, 4])
def test_lists_pickled_by_any_python_are_read(
    protocol: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"a": draw(2, 3), "b": draw(3), "c": np.asfortranarray(draw(4, 5))}
    if protocol == "Python 2":
        monkeypatch.setattr(pickle, "dump", lambda v, f, protocol: Python2(f, 2).dump(v))
    path = save_npz(tmp_path / "old.npz", arrays, 2 if protocol == "Python 2" else protocol)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("params.npy")
    assert (b"_codecs" in content) == (protocol == 2)
    found = read_tensorlayer(path)
    assert list(found) == ["0", "1", "2"]
    for array, known in zip(found.values(), arrays.values(), strict=True):
        np.testing.assert_array_equal(array, known)


def test_a_list_of_equal_shapes_is_not_pickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "same.npz", params=[np.eye(3), 2 * np.eye(3)])
    model = keras.Sequential([keras.Input((3,))])
    for _ in range(2):
        model.add(keras.layers.Dense(3, use_bias=False))
    load_tensorlayer(model, tmp_path / "same.npz")
    np.testing.assert_allclose(outputs(model, np.eye(3)), 2 * np.eye(3))


class Bomb:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("bomb", "name"),
    [
        (Bomb(os.system, "echo x"), "system"),
        (Bomb(eval, "1"), "eval"),
        (Bomb(np.load, "x"), "load"),
        (Bomb(getattr, "a", "upper"), "getattr"),
    ],
)
def test_a_pickle_that_calls_is_refused(bomb: Bomb, name: str, tmp_path: Path) -> None:
    path = save_npz(tmp_path / "bomb.npz", {"a": bomb})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=rf"names \w+(\.\w+)*\.{name}"):
        read_tensorlayer(path)


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "bomb.npz", {"a": Bomb(np.ndarray, (1 << 40,))})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="what no array pickles to"):
        read_tensorlayer(path)


@pytest.mark.parametrize("old", [True, False])
def test_a_lstm_of_tensorflow_1_and_2(old: bool, tmp_path: Path) -> None:
    """BasicLSTMCell: gates i, j, f, o, and 1 added to f at each step; 2.x has Keras' cells."""
    x, units = draw(2, 4, 3), 5
    kernel, bias = draw(3 + units, 4 * units), draw(4 * units)
    h = c = np.zeros((2, units), "float32")
    for t in range(4):
        i, j, f, o = np.split(np.concatenate([x[:, t], h], -1) @ kernel + bias, 4, -1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
    arrays = {"lstm/kernel": kernel, "lstm/bias": bias}
    if not old:
        i, j, f, o = (slice(k * units, (k + 1) * units) for k in range(4))
        order = np.r_[i, f, j, o]
        shifted = bias + np.repeat([0, 0, 1, 0], units).astype("float32")
        arrays = {"k": kernel[:3, order], "r": kernel[3:, order], "b": shifted[order]}
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(units)])
    load_tensorlayer(model, save_npz(tmp_path / "lstm.npz", arrays))
    np.testing.assert_allclose(outputs(model, x), h, atol=1e-5)


def test_a_bidirectional_gru_of_tensorflow_1(tmp_path: Path) -> None:
    x, units = draw(2, 4, 3), 2
    arrays, ends = {}, []
    for way, steps in (("fw", range(4)), ("bw", reversed(range(4)))):
        gates, candidate = draw(3 + units, 2 * units), draw(3 + units, units)
        gates_bias, candidate_bias = draw(2 * units), draw(units)
        h = np.zeros((2, units), "float32")
        for t in steps:
            both = np.concatenate([x[:, t], h], -1)
            r, u = np.split(sigmoid(both @ gates + gates_bias), 2, -1)
            new = np.tanh(np.concatenate([x[:, t], r * h], -1) @ candidate + candidate_bias)
            h = u * h + (1 - u) * new
        ends.append(h)
        arrays |= {
            f"rnn/{way}/gates/kernel": gates,
            f"rnn/{way}/gates/bias": gates_bias,
            f"rnn/{way}/candidate/kernel": candidate,
            f"rnn/{way}/candidate/bias": candidate_bias,
        }
    path = save_npz_dict(tmp_path / "gru.npz", arrays)
    for reset_after in (False, True):
        gru = keras.layers.GRU(units, reset_after=reset_after)
        model = keras.Sequential([keras.Input((None, 3)), keras.layers.Bidirectional(gru)])
        if reset_after:
            with pytest.raises(ValueError, match="`reset_after=False`"):
                load_tensorlayer(model, path)
        else:
            load_tensorlayer(model, path)
            np.testing.assert_allclose(outputs(model, x), np.concatenate(ends, -1), atol=1e-5)


def test_a_simple_rnn_of_tensorflow_1(tmp_path: Path) -> None:
    x, kernel, bias = draw(2, 4, 3), draw(5, 2), draw(2)
    h = np.zeros((2, 2), "float32")
    for t in range(4):
        h = np.tanh(np.concatenate([x[:, t], h], -1) @ kernel + bias)
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.SimpleRNN(2)])
    load_tensorlayer(model, save_npz(tmp_path / "rnn.npz", {"k": kernel, "b": bias}))
    np.testing.assert_allclose(outputs(model, x), h, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "names", "version", "gamma"),
    [
        (keras.layers.LayerNormalization, None, None, 1),
        (keras.layers.LayerNormalization, ("beta", "gamma"), None, 1),
        (keras.layers.LayerNormalization, ("gamma", "beta"), None, 0),
        (layers.InstanceNormalization, None, "1.11.1", 0),
        (layers.InstanceNormalization, None, "2.2.4", 1),
        (layers.InstanceNormalization, ("scale", "offset"), None, 0),
        (layers.InstanceNormalization, ("beta", "gamma"), None, 1),
        (lambda: keras.layers.GroupNormalization(2), None, None, 0),
    ],
)
def test_gamma_and_beta_are_told_apart(
    make: Any, names: Any, version: str | None, gamma: int, tmp_path: Path
) -> None:
    model = keras.Sequential([keras.Input((3, 3, 2)), make()])
    values = [draw(2), draw(2)]
    if names is None:
        path = save_npz(tmp_path / "norm.npz", dict(zip("ab", values, strict=True)))
    else:
        named = {f"norm/{name}": v for name, v in zip(names, values, strict=True)}
        path = save_npz_dict(tmp_path / "norm.npz", named)
    load_tensorlayer(model, path, version=version)
    found = {w.name: keras.ops.convert_to_numpy(w) for w in model.weights}
    np.testing.assert_array_equal(found["gamma"], values[gamma])
    np.testing.assert_array_equal(found["beta"], values[1 - gamma])


@pytest.mark.parametrize("name", ["alpha", "alphas"])
def test_slopes_are_a_sigmoid_unless_they_are_called_alphas(name: str, tmp_path: Path) -> None:
    alpha = draw(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.PReLU()])
    load_tensorlayer(model, save_npz_dict(tmp_path / "a.npz", {f"prelu/{name}": alpha}))
    slope = alpha if name == "alphas" else sigmoid(alpha)
    np.testing.assert_allclose(outputs(model, -np.ones((1, 4))), -np.tile(slope, (1, 4)), rtol=1e-6)


@pytest.mark.parametrize("order", ["depth_to_space", "torch", "tensorlayer_1.5"])
def test_channels_before_1_6_are_put_in_order(order: str, tmp_path: Path) -> None:
    r, x = 3, draw(1, 2, 2, 4)
    kernel, bias = draw(1, 1, 4, 2 * r * r), draw(2 * r * r)
    flat = x @ kernel[0, 0] + bias
    wanted = np.zeros((1, 2 * r, 2 * r, 2), "float32")
    for c in range(2):
        for i in range(r):
            for j in range(r):  # original.md 1b, 6: in[c r^2 + j r + i]
                wanted[:, i::r, j::r, c] = flat[..., c * r * r + j * r + i]
    model = keras.Sequential(
        [
            keras.Input((2, 2, 4)),
            keras.layers.Conv2D(2 * r * r, 1),
            keras.layers.ReLU(),
            layers.SubpixelConv2D(r, order=order),
        ]
    )
    path = save_npz(tmp_path / "sr.npz", {"w": kernel, "b": bias})
    load_tensorlayer(model, path, version="1.5.4")
    np.testing.assert_allclose(outputs(model, x), np.maximum(wanted, 0), atol=1e-5)
    if order == "tensorlayer_1.5":
        return
    for version in (None, "1.6.3"):
        with pytest.raises(ValueError, match="`version` must tell in which order"):
            load_tensorlayer(model, path, version=version)
    if order == "depth_to_space":
        load_tensorlayer(model, path, version="1.11.1")
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.weights[0]), kernel)


def test_parts_by_name(tmp_path: Path) -> None:
    arrays, model, *_ = cnn()
    dense = model.layers[-1]
    before = [keras.ops.convert_to_numpy(w) for w in model.layers[0].weights]
    for name in ("dict.npz", "model.hdf5"):
        path = FORMATS[name](tmp_path / name, arrays)
        load_tensorlayer(model, path, layers={"out": dense})
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(dense.kernel), arrays["out/W"])
        for weight, value in zip(model.layers[0].weights, before, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)
        with pytest.raises(ValueError, match="must name layers of the file.*'nope'"):
            load_tensorlayer(model, path, layers={"nope": dense})


def test_a_model_within_the_model(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False)])
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(2, use_bias=False)])
    a, b = draw(2, 3), draw(3, 2)
    load_tensorlayer(model, save_npz(tmp_path / "nested.npz", {"a": a, "b": b}))
    np.testing.assert_allclose(outputs(model, np.eye(2)), a @ b, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("out/b"), "needs 2 more arrays. Received: a file with 1 left"),
        (lambda a: a.update(more=draw(2)), "need 9 arrays. Received: 10 in the file"),
        (lambda a: a.update({"out/W": draw(99, 2)}), r"shape \(100, 2\). Received: .*\(99, 2\)"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    change: Any, message: str, tmp_path: Path
) -> None:
    arrays, model, x, _ = cnn()
    change(arrays)
    before = outputs(model, x)
    with pytest.raises(ValueError, match=message):
        load_tensorlayer(model, save_npz(tmp_path / "model.npz", arrays), version="2.0")
    np.testing.assert_array_equal(outputs(model, x), before)


def test_what_a_file_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    arrays, model, *_ = cnn()
    path = save_npz(tmp_path / "model.npz", arrays)
    with pytest.raises(ValueError, match="`version` must tell which TensorLayer"):
        load_tensorlayer(model, path)
    with pytest.raises(ValueError, match="`version` must be a TensorLayer version"):
        load_tensorlayer(model, path, version="new")
    with pytest.raises(ValueError, match="`layers` must be a list"):
        load_tensorlayer(model, path, layers={"out": model.layers[-1]})
    with pytest.raises(ValueError, match="`model` must be built"):
        load_tensorlayer(keras.Sequential([keras.layers.Dense(2)]), path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x89HDF\r\n\x1a\nbroken"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`filepath` must be a `.npz`"):
        read_tensorlayer(path)
    with pytest.raises(FileNotFoundError, match="`filepath` must exist"):
        read_tensorlayer(tmp_path / "nothing")


def test_damaged_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "model.npz", {"a": draw(2, 3), "b": draw(3)})
    with zipfile.ZipFile(path) as archive:
        content = archive.read("params.npy")
    for cut in range(100, len(content), 7):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("params.npy", content[:cut])
        with pytest.raises(ValueError, match="Received"):
            read_tensorlayer(path)
    np.savez(path, words=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="of the dtype <U1"):
        read_tensorlayer(path)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(
        tmp_path / "keras.weights.h5"
    )
    with pytest.raises(ValueError, match="without the attribute `layer_names`"):
        read_tensorlayer(tmp_path / "keras.weights.h5")

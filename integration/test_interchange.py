"""Versions as files of other tools and back, read by those tools."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from runner import X, Y, network

import keras_tl as ktl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def net(mongodb: str, project: str) -> Iterator[Any]:
    with ktl.Hub(mongodb, project=project) as hub:
        yield hub.models["net"]


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    model = network()
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    return model


def arrays(variables: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]


def assert_equal(a: Any, b: Any) -> None:
    for one, other in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(one, other)


def mixed(dtype: str) -> keras.Model:
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, dtype=dtype, name="low")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, name="high")(outputs))


def test_keras_files_hold_all(net: Any, trained: keras.Model, tmp_path: Path) -> None:
    net.save(trained, {"loss": 1.0})
    path = tmp_path / "net.keras"
    net.to_keras(path)
    assert list(tmp_path.iterdir()) == [path]
    opened = keras.models.load_model(path, safe_mode=True)
    assert_equal(opened.weights, trained.weights)
    assert_equal(opened.optimizer.variables, trained.optimizer.variables)
    # It goes on as the model would have with seeds that begin anew: Keras stores none.
    copy = net.load(roles=("trainable", "non_trainable", "optimizer"))
    for model in (opened, copy):
        model.fit(X, Y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    assert_equal(opened.trainable_variables, copy.trainable_variables)
    back = net.from_keras(path, {"loss": 1.0}, {"from": "file"})
    assert back.number == 2 and back.tags == {"from": "file"}
    assert back.step == int(trained.optimizer.iterations)
    assert {change.role for change in net.diff(1, 2).tensors} == {"seed"}


def test_a_file_that_keras_alone_made(net: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [2.0]]), np.array([3.0])])
    model.save(tmp_path / "other.keras")
    net.from_keras(tmp_path / "other.keras")
    np.testing.assert_array_equal(net.load().predict(np.ones((1, 2)), verbose=0), [[6.0]])


def test_a_keras_file_runs_no_code(net: Any, tmp_path: Path) -> None:
    path = tmp_path / "evil.keras"
    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((2,)), layer]).save(path)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        net.from_keras(path)
    assert len(net) == 0


def test_safetensors_are_read_by_their_library(
    net: Any, trained: keras.Model, tmp_path: Path
) -> None:
    from safetensors import safe_open

    net.save(trained)
    path = tmp_path / "net.safetensors"
    net.to_safetensors(path)
    with safe_open(path, "np") as file:
        assert file.metadata().items() >= {"model": "net", "version": "1"}.items()
        assert set(file.keys()) == {w.path for w in trained.weights}
        for weight in trained.weights:
            found = file.get_tensor(weight.path)
            np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(weight))
    every = ("trainable", "non_trainable", "seed", "optimizer")
    net.to_safetensors(path, 1, roles=every)  # takes the place of the first
    with safe_open(path, "np") as file:
        kept = {v.path for v in [*trained.variables, *trained.optimizer.variables]}
        metrics = {v.path for v in trained.metrics_variables}
        assert set(file.keys()) == kept - metrics
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_come_back(net: Any, trained: keras.Model, tmp_path: Path) -> None:
    net.save(trained)
    path = tmp_path / "net.safetensors"
    net.to_safetensors(path)
    other = net.load(roles=("seed",))
    before = arrays(other.weights)
    version = net.from_safetensors(path, other, {"loss": 2.0}, {"kind": "import"})
    assert (version.metrics, version.tags) == ({"loss": 2.0}, {"kind": "import"})
    for one, held in zip(arrays(other.weights), before, strict=True):
        np.testing.assert_array_equal(one, held)
    loaded = net.load(version)
    assert_equal(loaded.weights, trained.weights)
    # What was not in the file is as the model initialises it.
    assert int(loaded.optimizer.iterations) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_preserved(net: Any, tmp_path: Path, dtype: str) -> None:
    from safetensors.numpy import load_file

    model = mixed(dtype)
    net.save(model)
    net.to_safetensors(tmp_path / "net.safetensors")
    found = load_file(tmp_path / "net.safetensors")
    assert {name: a.dtype.name for name, a in found.items()} == {
        **{"low/kernel": dtype, "low/bias": dtype},
        **{"high/kernel": "float32", "high/bias": "float32"},
    }
    version = net.from_safetensors(tmp_path / "net.safetensors", mixed(dtype))
    assert not net.diff(1, version).tensors
    net.to_keras(tmp_path / "net.keras")
    for back in (net.load(), keras.models.load_model(tmp_path / "net.keras")):
        assert keras.backend.standardize_dtype(back.get_layer("low").kernel.dtype) == dtype
        assert_equal(
            [keras.ops.cast(w, "float32") for w in back.weights],
            [keras.ops.cast(w, "float32") for w in model.weights],
        )


def test_a_wrapped_layer_goes_to_safetensors_and_back(net: Any, tmp_path: Path) -> None:
    layers = [keras.layers.Bidirectional(keras.layers.GRU(3)), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((5, 3)), *layers])
    net.save(model)
    net.to_safetensors(tmp_path / "net.safetensors")
    again = net.load(roles=("seed",))  # its paths lack the wrapper
    net.from_safetensors(tmp_path / "net.safetensors", again)
    assert_equal(net.load().weights, model.weights)


def test_what_does_not_fit_is_named(net: Any, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model = mixed("float32")
    path = tmp_path / "x.safetensors"
    fits = {w.path: np.asarray(keras.ops.convert_to_numpy(w)) for w in model.weights}
    for wrong, says in (
        ({k: v for k, v in fits.items() if k != "low/bias"}, r"without low/bias and .*\(none\)"),
        ({**fits, "extra": np.zeros(1)}, r"without \(none\) and .*unknown extra"),
        ({**fits, "low/bias": np.zeros(7)}, r"'low/bias' in the shape \(3,\).*\(7,\)"),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=says):
            net.from_safetensors(path, model)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="safetensors bundle"):
        net.from_safetensors(path, model)
    with pytest.raises(ValueError, match="must be built"):
        net.from_safetensors(path, keras.Sequential([keras.layers.Dense(1)]))
    assert len(net) == 0
    net.save(model)
    with pytest.raises(ValueError, match="`path` must end in '.keras'"):
        net.to_keras(tmp_path / "net.h5")
    with pytest.raises(ValueError, match="`roles`"):
        net.to_safetensors(path, roles=("weights",))
    with pytest.raises(KeyError):
        net.to_keras(tmp_path / "net.keras", 7)
    assert not (tmp_path / "net.keras").exists()


def test_a_failed_export_leaves_the_old_file(
    net: Any, trained: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.save(trained)
    path = tmp_path / "net.keras"
    net.to_keras(path)
    before = path.read_bytes()

    def fail(self: Any, *args: Any, **options: Any) -> None:
        Path(args[0]).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        net.to_keras(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert zipfile.is_zipfile(path)

"""What a model is made of, out of Keras and back, on the backend of this run."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_tl.models import buffers, state

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def network(units: int = 5, prefix: str | None = None, dtype: str | None = None) -> keras.Model:
    def name(part: str) -> str | None:
        return prefix and f"{prefix}_{part}"

    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, name=name("dense"), dtype=dtype),
            keras.layers.BatchNormalization(name=name("norm"), dtype=dtype),
            keras.layers.Dropout(0.3, seed=3, name=name("drop"), dtype=dtype),
            keras.layers.Dense(1, name=name("out"), dtype=dtype),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def train(model: keras.Model, epochs: int = 1) -> keras.Model:
    model.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """Trained for an epoch at least; what a test does to it must leave it so."""
    return train(network())


def values(model: keras.Model, *roles: str) -> list[np.ndarray]:
    roles = roles or state.ROLES[:4]
    return [
        np.array(keras.ops.convert_to_numpy(v.value))
        for role, v in state.variables(model)
        if role in roles
    ]


def assert_equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_every_variable_has_one_role(trained: keras.Model) -> None:
    model = trained
    roles = [role for role, _ in state.variables(model)]
    assert {role: roles.count(role) for role in state.ROLES} == {
        "trainable": 6,
        "non_trainable": 2,
        "seed": 1,
        "optimizer": 2 + 2 * 6,  # iterations, learning rate, two moments for each weight
        "metric": roles.count("metric"),
    }
    assert roles.count("metric") >= 4
    assert roles == sorted(roles, key=state.ROLES.index)
    found = [id(v) for _, v in state.variables(model)]
    assert len(set(found)) == len(found)
    expected = [*model.variables, *model.optimizer.variables]
    assert {id(v) for v in expected} <= set(found)


def test_a_capture_is_a_copy(trained: keras.Model) -> None:
    model = trained
    manifest, arrays = state.capture(model)
    before = {name: array.copy() for name, array in arrays.items()}
    train(model)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
    assert [entry["name"] for entry in manifest] == sorted(arrays)
    after = state.capture(model)[1]
    assert any(not np.array_equal(after[n], arrays[n]) for n in arrays)


def test_released_memory_is_used_again_and_never_beneath_a_capture(trained: keras.Model) -> None:
    buffers.clear()
    first, second = state.capture(trained)[1], state.capture(trained)[1]
    kept = {name: array.copy() for name, array in second.items()}
    where = {array.ctypes.data for array in first.values()}
    first.release()  # type: ignore[attr-defined]
    assert not first  # nobody can look at what the next capture writes
    first.release()  # type: ignore[attr-defined]  # twice is once
    train(trained)
    third, fourth = state.capture(trained)[1], state.capture(trained)[1]
    assert {array.ctypes.data for array in third.values()} == where
    assert not any(np.shares_memory(a, b) for a in fourth.values() for b in third.values())
    assert_equal(list(second.values()), list(kept.values()))
    assert any(not np.array_equal(third[name], kept[name]) for name in kept)
    assert_equal(list(third.values()), values(trained, *state.ROLES))
    other = network(units=7)
    third.release()  # type: ignore[attr-defined]
    captured = state.capture(other)[1]  # of another size
    assert_equal(list(captured.values()), values(other, *state.ROLES))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "bfloat16", "float8_e4m3fn"])
def test_variables_of_every_dtype_are_captured_as_they_are(dtype: str) -> None:
    """Also scalars and empty ones, which share their place with their neighbours."""
    made = [
        keras.Variable(np.ones(shape), dtype=dtype, trainable=False)
        for shape in ((), (3, 5), (0, 2), (1,))
    ]
    found = buffers.copy(zip("abcd", buffers.views(made), strict=True))
    assert [array.dtype.name for array in found.values()] == [dtype] * 4
    assert [array.shape for array in found.values()] == [(), (3, 5), (0, 2), (1,)]
    assert all((array.astype("float32") == 1).all() for array in found.values())


@pytest.mark.parametrize("renamed", [False, True])
def test_what_is_restored_trains_on_as_the_original(trained: keras.Model, renamed: bool) -> None:
    model = trained
    manifest, arrays = state.capture(model)
    captured = values(model)
    other = network(prefix="other" if renamed else None)
    state.restore(other, [(entry, arrays[entry["name"]]) for entry in manifest])
    assert_equal(values(other), captured)
    # Dropout's seed and the moments of Adam, too, or the next epoch would differ.
    assert_equal(values(train(other)), values(train(model)))


def test_variables_are_found_by_path_before_position() -> None:
    """Two layers of one shape in another order: positions would swap them without a word."""

    def branches(first: str, second: str) -> keras.Model:
        inputs = keras.Input((4,))
        made = {n: keras.layers.Dense(4, name=n)(inputs) for n in (first, second)}
        return keras.Model(inputs, keras.layers.Add()([made["left"], made["right"]]))

    one, two = branches("left", "right"), branches("right", "left")
    manifest, arrays = state.capture(one)
    state.restore(two, [(entry, arrays[entry["name"]]) for entry in manifest])
    for name in ("left", "right"):
        np.testing.assert_array_equal(
            two.get_layer(name).get_weights()[0], one.get_layer(name).get_weights()[0]
        )


def test_roles_are_restored_apart(trained: keras.Model) -> None:
    model, other = trained, network()
    before = values(other, "seed")
    manifest, arrays = state.capture(model)
    weights = [e for e in manifest if e["role"] in ("trainable", "non_trainable")]
    state.restore(other, [(e, arrays[e["name"]]) for e in weights])  # a version of weights only
    assert_equal(values(other, "trainable", "non_trainable"), [arrays[e["name"]] for e in weights])
    assert_equal(values(other, "seed"), before)
    metrics = [(e, arrays[e["name"]]) for e in manifest if e["role"] == "metric"]
    train(other)
    state.restore(other, metrics, ("metric",))
    assert_equal(values(other, "metric"), [array for _, array in metrics])


def test_another_model_is_refused_and_nothing_is_assigned(
    trained: keras.Model,
) -> None:
    manifest, arrays = state.capture(trained)
    stored = [(entry, arrays[entry["name"]]) for entry in manifest]
    wider = network(units=6)
    wider.optimizer.build(wider.trainable_variables)
    before = values(wider)
    with pytest.raises(
        ValueError, match=r"`model` must have the stored shape \(4, 5\) for .* Received: \(4, 6\)"
    ):
        state.restore(wider, stored)
    assert_equal(values(wider), before)
    deeper = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), network()])
    with pytest.raises(ValueError, match="`model` must have the 6 trainable variables .* Received"):
        state.restore(deeper, stored)


def test_part_of_a_version_is_restored_by_path() -> None:
    def model(head: int) -> keras.Model:
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(5, name="body")(inputs)
        return keras.Model(inputs, keras.layers.Dense(head, name="head")(hidden))

    old, new = model(1), model(3)
    manifest, arrays = state.capture(old)
    stored = [(entry, arrays[entry["name"]]) for entry in manifest]
    head = new.get_layer("head").get_weights()
    state.restore(new, stored, match=["body/ker*", "gone/*"])
    np.testing.assert_array_equal(
        new.get_layer("body").get_weights()[0], old.get_layer("body").get_weights()[0]
    )
    assert_equal(new.get_layer("head").get_weights(), head)
    with pytest.raises(ValueError, match="stored shape"):
        state.restore(new, stored, match="*")
    with pytest.raises(ValueError, match="`match` must name tensors .* Received: match='gone/"):
        state.restore(new, stored, match="gone/*")
    for wrong in ([], ["a", 1]):
        with pytest.raises(ValueError, match="`match` must be a glob or a list"):
            state.restore(new, stored, match=wrong)  # type: ignore[arg-type]


def stored(model: keras.Model) -> list[tuple[dict[str, str], np.ndarray]]:
    manifest, arrays = state.capture(model)
    return [(entry, arrays[entry["name"]]) for entry in manifest]


def recurrent() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Bidirectional(keras.layers.GRU(3)),
            keras.layers.Dense(1),
        ]
    )


def test_part_of_a_version_is_restored_where_keras_names_it_otherwise() -> None:
    """The path of a wrapped layer in a model made of its config is without the wrapper's."""
    model = recurrent()
    text = state.describe(model)
    assert text is not None
    for match, roles in (("*", state.ROLES[:4]), ("*gru*", ("trainable",))):
        revived = state.revive(text)
        before = values(revived, "trainable")
        state.restore(revived, stored(model), match=match)
        found, wanted = values(revived, *roles), values(model, *roles)
        if match == "*gru*":
            wanted = before[:3] + wanted[3:9] + before[9:]
        assert_equal(found, wanted)
    other = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, name="other")])
    with pytest.raises(ValueError, match="`match` must name tensors that .* without .*lstm"):
        state.restore(other, stored(model), match="*lstm*")


def test_names_that_say_otherwise_are_no_positions() -> None:
    def model(*names: str) -> keras.Model:
        return keras.Sequential(
            [keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)]
        )

    old, new = model("a", "b", "c"), model("b", "c", "z")
    before = values(new)
    with pytest.raises(ValueError, match="stored order. Received: .*b/kernel in the place of .*a/"):
        state.restore(new, stored(old))
    with pytest.raises(ValueError, match="`match` must name tensors that .* without .*a/kernel"):
        state.restore(new, stored(old), match="*")
    assert_equal(values(new), before)
    new = state.revive(state.describe(new) or "")  # its paths begin with the layers' names
    state.restore(new, stored(old), match=["*b/*", "*c/*"])
    np.testing.assert_array_equal(
        new.get_layer("b").get_weights()[0], old.get_layer("b").get_weights()[0]
    )
    # Keras' own numbers say nothing: those of another process begin elsewhere.
    old, new = model("dense", "dense_1", "c"), model("dense_1", "dense_2", "c")
    for made in (old, new):
        made.compile("adam", "mse")
    state.restore(new, stored(old))
    assert_equal(values(new), values(old))


def test_what_a_layer_makes_of_its_variables_is_made_again() -> None:
    inputs = keras.Input((4,))
    layer = keras.layers.Normalization()
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    text = state.describe(model)
    assert text is not None
    revived = state.revive(text)
    before = revived.predict(X, verbose=0)  # compiled with the mean that there is
    layer.adapt(X * 3 + 1)
    state.restore(revived, stored(model))
    wanted = keras.ops.convert_to_numpy(model(X))
    assert not np.allclose(before, wanted)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(revived(X)), wanted)
    np.testing.assert_allclose(revived.predict(X, verbose=0), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_other_dtypes_bit_for_bit(dtype: str) -> None:
    model = network(dtype=dtype)
    manifest, arrays = state.capture(model)
    kernel = arrays[manifest[0]["name"]]
    assert kernel.dtype.name == ("float32" if dtype.startswith("mixed") else dtype)
    other = network(dtype=dtype)
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    state.restore(other, [(e, arrays[e["name"]]) for e in manifest])
    assert_equal(values(other), [arrays[e["name"]] for e in manifest if e["role"] != "metric"])


def test_describe_and_revive(trained: keras.Model) -> None:
    model = trained
    text = state.describe(model)
    assert text is not None
    revived = state.revive(text)
    assert revived.built and type(revived.optimizer).__name__ == "Adam"
    assert [w.shape for w in revived.weights] == [w.shape for w in model.weights]
    manifest, arrays = state.capture(model)
    state.restore(revived, [(e, arrays[e["name"]]) for e in manifest])
    np.testing.assert_array_equal(revived.predict(X, verbose=0), model.predict(X, verbose=0))


def test_what_keras_cannot_describe_or_will_not_run() -> None:
    class Own(keras.Model):
        def __init__(self, thing: object) -> None:
            super().__init__()

    assert state.describe(Own(object())) is None
    loose = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    text = state.describe(loose)
    assert text is not None
    with pytest.raises(ValueError, match="`load` could not make the model.*Received:"):
        state.revive(text)  # a lambda is code, and a store holds none
    with pytest.raises(ValueError, match="register its classes"):
        state.revive(
            '{"module": null, "class_name": "Nowhere", "config": {}, "registered_name": 1}'
        )

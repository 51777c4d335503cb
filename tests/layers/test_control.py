"""`Control`, `Multiplexer` and `Shared`: what they do beyond the harness."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.layers import Control, Multiplexer, Shared

BACKEND = keras.backend.backend()
JIT = BACKEND != "torch"

traced: list[str] = []


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def gated(x: Any, step: Any, gain: Any, shut: Any) -> Any:
    traced.append("gated")
    return ops.where(shut, ops.zeros_like(x), gain * x)


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def schedule(x: Any, step: Any) -> Any:
    return x * 0.5 ** ops.cast(step, x.dtype)


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def anything(x: Any, step: Any, **controls: Any) -> Any:
    return x


GATE = {"gain": 1.0, "shut": False}


def unregistered(x: Any, step: Any) -> Any:
    return x


def numpy(value: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(value))


def compiled(layer: Any) -> Any:
    """A model that gives what the layer gives of ones, and has a weight that no step moves."""
    scale = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), layer, scale])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=JIT)
    return model


ONES, ZEROS = np.ones((12, 1), "float32"), np.zeros((12, 1), "float32")


class Losses(keras.callbacks.Callback):
    """The losses of the single steps; Keras logs their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.traces: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append((batch + 1) * logs["loss"] - sum(self.steps[len(self.steps) - batch :]))
        self.traces.append(len(traced))


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("by", ["layer", "model"])
def test_a_callback_sets_variables_and_nothing_is_traced_again(hook: str, by: str) -> None:
    gate = Control(gated, {"gain": 1.0, "shut": False}, name="gate")
    model, losses = compiled(gate), Losses()
    due: dict[int, dict[str, Any]] = {1: {"gain": 2.0}, 3: {"gain": 3.0}, 4: {"shut": True}}

    class Setter(keras.callbacks.Callback):
        def set(self, batch: int) -> None:
            layer = self.model.get_layer("gate") if by == "model" else gate
            layer.assign(**due.get(batch, {}))

    setter = Setter()
    if hook == "on_train_batch_begin":
        setattr(setter, hook, lambda batch, logs=None: setter.set(batch))
    else:
        setattr(setter, hook, lambda batch, logs=None: setter.set(batch + 1))
    options = {"batch_size": 2, "shuffle": False, "verbose": 0}
    model.fit(ONES, ZEROS, callbacks=[losses, setter], **options)
    np.testing.assert_allclose(losses.steps, [1, 4, 4, 9, 0, 0], atol=1e-5)
    if JIT:  # torch is eager: there is nothing to trace
        assert losses.traces == losses.traces[:1] * 6
    model.fit(ONES, ZEROS, callbacks=[losses], **options)
    assert not any(losses.steps[6:])
    assert JIT is False or len(traced) == losses.traces[0]
    read = gate.read()
    assert (int(read["step"]), float(read["gain"]), bool(read["shut"])) == (12, 3.0, True)


def test_setting_one_variable_loses_no_training() -> None:
    """On jax the whole state comes out of the trainer and goes in again."""

    def train(set_it: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        gate = Control(gated, {"gain": 1.0, "shut": False})
        dense, norm = keras.layers.Dense(3), keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((1,)), dense, norm, gate, keras.layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=JIT)
        x = np.linspace(-1, 1, 12, dtype="float32")[:, None]
        set_gain = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs=None: gate.assign(gain=1.0) if set_it else None
        )
        model.fit(x, x, batch_size=3, epochs=2, shuffle=False, verbose=0, callbacks=[set_gain])
        return [numpy(v) for v in [*model.variables, *model.optimizer.variables]]

    for one, other in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_caller_sets_variables_between_two_steps() -> None:
    gate = Control(gated, {"gain": 1.0, "shut": False})
    model = compiled(gate)
    losses = []
    for gain in (1.0, 2.0, 3.0):
        gate.assign(gain=np.float32(gain))
        model.reset_metrics()
        losses.append(float(np.ravel(model.train_on_batch(ONES, ZEROS))[0]))
    np.testing.assert_allclose(losses, [1, 4, 9], rtol=1e-5)
    gate.assign(gain=2.0, step=0)
    assert int(gate.read()["step"]) == 0
    model.reset_metrics()
    assert float(np.ravel(model.test_on_batch(ONES, ZEROS))[0]) == pytest.approx(4)
    assert int(gate.read()["step"]) == 0  # inference is no step


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere a variable is always within reach")
def test_on_jax_what_would_be_lost_is_refused() -> None:
    gate = Control(gated, {"gain": 1.0, "shut": False})
    model = compiled(gate)
    errors: list[str] = []

    def attempt() -> None:
        for action in (lambda: gate.assign(gain=5.0), gate.read):
            try:
                action()
            except RuntimeError as error:
                errors.append(str(error))

    class Data(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: int) -> Any:
            if i == 1:
                attempt()
                (thread := threading.Thread(target=attempt)).start()
                thread.join()
            return ONES, ZEROS

    history = model.fit(Data(), shuffle=False, verbose=0)
    assert len(errors) == 4 and all("callback" in error for error in errors)
    # Keras 3.14 looks at a batch before it takes the values: what is set then is not lost.
    gain = float(gate.read()["gain"])
    assert history.history["loss"] == pytest.approx([gain**2])


def test_the_step_counts_training_calls() -> None:
    layer = Control(schedule)
    x = np.ones((1, 1), "float32")
    found = [float(numpy(layer(x, training=t))[0, 0]) for t in (True, False, True, True)]
    assert found == [1, 0.5, 0.5, 0.25]
    layer.trainable = False
    assert [float(numpy(layer(x, training=True))[0, 0]) for _ in range(2)] == [0.125, 0.125]


def test_an_inner_model_sees_its_controls_in_evaluation_within_fit() -> None:
    gate = Control(gated, {"gain": 1.0, "shut": False})
    model = compiled(gate)
    begin = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs=None: gate.assign(gain=2.0)
    )
    history = model.fit(ONES, ZEROS, validation_data=(ONES, ZEROS), verbose=0, callbacks=[begin])
    assert history.history["val_loss"] == pytest.approx([4.0])


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (lambda: Control(unregistered), "`fn`"),
        (lambda: Control(lambda x, step: x), "`fn`"),
        (lambda: Control("gated"), "`fn`"),
        (lambda: Control(gated, {"step": 1}), "`controls`"),
        (lambda: Control(gated, {"not a name": 1}), "`controls`"),
        (lambda: Control(gated, {"gain": "high"}), "`controls`"),
        (lambda: Control(gated), "`controls`"),
        (lambda: Control(gated, {"gain": 1.0}), "missing a required argument: 'shut'"),
        (lambda: Control(schedule, {"loss": 1.0}), "unexpected keyword argument 'loss'"),
        (lambda: Control(schedule, {"x": 1.0}), "multiple values for argument 'x'"),
        (lambda: Control(anything, {"a": [[1, 2], [3]]}), "`controls`"),
        (lambda: Control(anything, {"a": 2**31}), "`controls`"),
        (lambda: Control(anything, {"a": [0, -(2**31) - 1]}), "`controls`"),
        (lambda: Control(anything, {"a": 1}).assign(a=2**40), "`a`"),
        (lambda: Control(anything, {"a": 1}).assign(a=np.uint64(2**63)), "`a`"),
        (lambda: Control(anything, {"a": [1, 2]}).assign(a=[[1], [2, 3]]), "`a`"),
        (lambda: Control(gated, GATE).assign(loss=1.0), "`loss`"),
        (lambda: Control(gated, GATE).assign(gain=[1.0]), "`gain`"),
        (lambda: Control(gated, GATE).assign(gain="high"), "`gain`"),
        (lambda: Control(gated, GATE).assign(shut=1), "`shut`"),
        (lambda: Control(schedule).assign(step=0.5), "`step`"),
        (lambda: Multiplexer([]), "`layers`"),
        (lambda: Multiplexer([keras.layers.Dense, 1]), "`layers`"),
        (lambda: Multiplexer([keras.layers.Dense(1)], 1), "`selected`"),
        (lambda: Multiplexer([keras.layers.Dense(1)]).select(1), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1)]).select(-1), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1)])(ONES, index=1), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1)])(ONES, index=np.int64(1)), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1)])(keras.Input((1,)), index=5), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1)])(ONES, index=np.array([0])), "`index`"),
        (lambda: Multiplexer([keras.layers.Dense(1), keras.layers.Dense(2)])(ONES), "`layers`"),
        (lambda: Shared()("", keras.layers.Dense, 1), "`name`"),
    ],
)
def test_what_is_wrong_is_said(action: Callable[[], Any], fault: str) -> None:
    with pytest.raises(ValueError, match="Received: ") as error:
        action()
    assert fault in str(error.value)


def test_numpy_arrays_are_controls_and_are_loaded_again(tmp_path: Any) -> None:
    controls = {"gain": np.array([2.0, 3.0], "float32"), "shut": np.False_}
    model = keras.Sequential([keras.Input((2,)), Control(gated, controls)])
    model.save(path := tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(numpy(loaded(np.ones((1, 2), "float32"))), [[2, 3]])
    assert loaded.layers[0].get_config()["controls"] == {"gain": [2.0, 3.0], "shut": False}
    largest = Control(anything, {"a": [2**31 - 1, -(2**31)]})
    assert largest.read()["a"].tolist() == [2**31 - 1, -(2**31)]


def test_values_that_do_not_fit_change_none() -> None:
    layer = Control(gated, {"gain": 1.0, "shut": False})
    with pytest.raises(ValueError, match="`shut`"):
        layer.assign(gain=2.0, shut=[True])
    assert float(layer.read()["gain"]) == 1.0


def branch(seed: int) -> Any:
    return keras.Sequential(
        [
            keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=seed),
        ]
    )


def test_only_the_chosen_layer_changes_and_nothing_is_compiled_again() -> None:
    layer = Multiplexer([branch(1), branch(2)], selected=1)
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=JIT)
    x = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")

    def changed(selected: int) -> list[int]:
        """How many variables of each branch change in a step: six, and the state of the seed."""
        layer.select(selected)
        before = [[numpy(v) for v in one.variables] for one in layer.layers]
        model.fit(x, ZEROS[:1].repeat(16, 0), batch_size=16, verbose=0)
        after = [[numpy(v) for v in one.variables] for one in layer.layers]
        return [
            sum(not np.array_equal(a, b) for a, b in zip(*pair, strict=True))
            for pair in zip(before, after, strict=True)
        ]

    # The bias before a normalisation has no gradient but for rounding.
    (still, some), (more, calm) = changed(1), changed(0)
    assert (still, calm) == (0, 0) and min(some, more) >= 6


def test_it_is_what_the_chosen_layer_is() -> None:
    """Outputs, moving statistics, noise and losses, in training and in inference."""
    x = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
    alone, chosen, other = branch(1), branch(1), branch(2)
    layer = Multiplexer([other, chosen], selected=1)
    alone(x), layer(x)
    weights = alone.get_weights()
    for one in (chosen, other):
        one.set_weights([*weights[:-1], one.get_weights()[-1]] if len(weights) > 6 else weights)
    for training in (True, True, False):
        for one in (alone, layer):
            one._clear_losses()
        wanted, found = numpy(alone(x, training=training)), numpy(layer(x, training=training))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        losses = [sum(float(numpy(v)) for v in one.losses) for one in (layer, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 0
    for one, same in zip(chosen.weights, alone.weights, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(same), rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable(package="keras_tl_tests")
class Counting(keras.layers.Layer):
    """Counts, by the host, how often the compiled step evaluates it."""

    counts: dict[str, int] = {}

    def call(self, x: Any) -> Any:
        if BACKEND == "jax":
            import jax

            jax.debug.callback(self.count)
        elif BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.control_dependencies([tf.py_function(self.count, [], [])]):
                x = tf.identity(x)
        else:
            self.count()
        return x * 1.0

    def count(self) -> None:
        self.counts[self.name] = self.counts.get(self.name, 0) + 1

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_what_is_not_chosen_is_not_evaluated() -> None:
    layer = Multiplexer([Counting(name="first"), Counting(name="second")])
    model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1)])
    # XLA on a CPU has no host call from TensorFlow; its graph does.
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    model.predict(ONES, batch_size=12, verbose=0)
    for index, wanted in enumerate(["first", "second"]):
        layer.select(index)
        Counting.counts.clear()
        model.fit(ONES, ZEROS, batch_size=4, verbose=0)
        if BACKEND == "jax":
            import jax

            jax.effects_barrier()
        assert list(Counting.counts) == [wanted]
        assert Counting.counts[wanted] >= 3  # on torch Keras finds a shape by it as well


def test_the_index_may_be_an_argument() -> None:
    layers = [keras.layers.Rescaling(scale) for scale in (2.0, 3.0, 5.0)]
    layer = Multiplexer(layers, selected=2)
    x, index = keras.Input((1,)), keras.Input(batch_shape=(), dtype="int32")
    model = keras.Model([x, index], layer(x, index=index))
    for number, wanted in ((0, 2), (1, 3), (2, 5), (7, 5), (-3, 2)):
        out = model([ops.convert_to_tensor(v) for v in (ONES, np.int32(number))])
        np.testing.assert_allclose(numpy(out), wanted)
    assert [float(numpy(layer(ONES, index=i))[0, 0]) for i in range(3)] == [2, 3, 5]
    assert float(numpy(layer(ONES))[0, 0]) == 5


def test_masks_reach_the_chosen_layer() -> None:
    lstm = keras.layers.LSTM(3)
    layer = Multiplexer([keras.layers.GRU(3), lstm], selected=1)
    x = np.random.default_rng(0).standard_normal((2, 4, 2)).astype("float32")
    x[0, 2:] = 0
    masked = keras.layers.Masking()(x)
    found = layer(masked)
    np.testing.assert_allclose(numpy(found), numpy(lstm(masked)), rtol=1e-5, atol=1e-6)
    assert not np.allclose(numpy(found)[0], numpy(lstm(x))[0])


def test_shared_layers_are_trained_and_saved_once(tmp_path: Any) -> None:
    scope = Shared()

    def tower(x: Any) -> Any:
        return scope("out", keras.layers.Dense, 2)(
            scope("hidden", keras.layers.Dense, units=8, activation="relu")(x)
        )

    left, right = keras.Input((4,)), keras.Input((4,))
    a, b = tower(left), tower(right)
    model = keras.Model([left, right], keras.layers.Subtract()([a, b]))
    assert [w.path for w in model.weights] == [
        "hidden/kernel", "hidden/bias", "out/kernel", "out/bias",
    ]  # fmt: skip
    model.compile("sgd", "mse", jit_compile=JIT)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    model.save(path := tmp_path / "model.keras")
    h5py = pytest.importorskip("h5py")
    with zipfile.ZipFile(path) as archive:
        names: list[str] = []
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
    assert len([n for n in names if "hidden" in n or "out" in n or "dense" in n]) == 4
    loaded = keras.saving.load_model(path)
    assert len(loaded.weights) == 4
    loaded.fit([x, x[::-1]], np.ones((8, 2), "float32"), verbose=0)
    same = loaded([x, x])  # both towers have the same weights still
    np.testing.assert_allclose(numpy(same), 0, atol=1e-6)


def test_a_name_is_one_layer_with_one_recipe() -> None:
    scope = Shared()
    layer = scope("a", keras.layers.Dense, 4, activation="relu")
    assert scope("a", keras.layers.Dense, units=4, activation="relu") is layer
    assert Shared()("a", keras.layers.Dense, 4, activation="relu") is not layer
    with pytest.raises(ValueError, match=r"`a` is shared.*units=5, not 4"):
        scope("a", keras.layers.Dense, 5, activation="relu")
    with pytest.raises(ValueError, match=r"`a` is shared.*Received: Conv1D"):
        scope("a", keras.layers.Conv1D, 4, 3)
    assert list(scope.layers) == ["a"]


def perceptron(name: str, units: int = 2, inner: str | None = None) -> Any:
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name=inner)(inputs)
    return keras.Model(inputs, keras.layers.Dense(units)(x) + 1.0, name=name)


@pytest.mark.parametrize(
    ("make", "shape", "other"),
    [
        (
            lambda name, groups=-1: keras.layers.GroupNormalization(groups, name=name),
            (2, 3),
            {"groups": 3},
        ),
        (
            lambda name, units=8: keras.layers.TimeDistributed(
                keras.layers.Dense(units), name=name
            ),
            (2, 4, 3),
            {"units": 9},
        ),
        (
            lambda name, units=2: keras.layers.Bidirectional(keras.layers.GRU(units), name=name),
            (2, 4, 3),
            {"units": 3},
        ),
        (
            lambda name, units=2: keras.Sequential([keras.layers.Dense(units)], name=name),
            (2, 3),
            {"units": 3},
        ),
        (perceptron, (2, 3), {"units": 3}),
        (perceptron, (2, 3), {"inner": "named"}),
    ],
)
def test_a_recipe_is_what_was_asked_for(make: Any, shape: Any, other: dict[str, Any]) -> None:
    """Not what building made of it, nor the names that Keras numbers."""
    scope = Shared()
    layer = scope("a", make)
    assert scope("a", make) is layer
    layer(np.ones(shape, "float32"))
    assert scope("a", make) is layer
    with pytest.raises(ValueError, match="`a` is shared"):
        scope("a", make, **other)

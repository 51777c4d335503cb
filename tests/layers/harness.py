"""One table of layers, one set of properties: every layer goes through all of them.

A family lists its layers as `CASES` in `cases/<room>.py`; `PROPERTIES` are functions of a case
that raise AssertionError. What only one family promises is in its own test.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
HERE = Path(__file__).parent
Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Case:
    """A layer, and what is true of it.

    name: unique, e.g. "DropBlock2D-channels_first"; it is the name of the golden file too.
    make: a fresh layer; name, dtype and trainable reach its constructor.
    shapes: of the inputs, with the batch axis first.
    call: "single": layer(x); "list": layer([x1, x2]); "args": layer(x1, x2); "cell": a recurrent
        cell's layer(x, [state1, state2]).
    inputs: makes special inputs (integers, boxes); default: standard normal, float32.
    free: axes of the first input that may be None besides the batch.
    fixed: axes of the first input where None is a ValueError at build that names the layer.
    random: training draws fresh noise.
    differs_in_training: training gives other outputs than inference; random layers do.
    gradient: "exact": compared with finite differences; "surrogate": straight-through, checked by
        the family's own test; "none".
    differentiable: the inputs that have a gradient; default: all of a float type.
    masks: a mask is passed on.
    mixed: the outputs of mixed_float16 and mixed_bfloat16 are close to those of float32.
    custom_objects: what the case needs to be loaded, besides what is registered.
    tolerance: of outputs that should be equal, relative to the largest.
    jitted: arrays go through `called`, for what is slow op by op: on jax a loop is compiled anew.
    """

    name: str
    make: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    call: str = "single"
    inputs: Callable[[np.random.Generator], Arrays] | None = None
    free: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    random: bool = False
    differs_in_training: bool = False
    gradient: str = "exact"
    differentiable: tuple[int, ...] | None = None
    masks: bool = False
    time_distributed: bool = True
    mixed: bool = True
    custom_objects: dict[str, Any] = field(default_factory=dict, hash=False)
    tolerance: float = 1e-5
    jitted: bool = False

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(len(self.name))
        if self.inputs is not None:
            return tuple(self.inputs(rng))
        return tuple(rng.standard_normal(shape).astype("float32") for shape in self.shapes)

    def apply(self, layer: Any, values: Any, **kwargs: Any) -> list[Any]:
        """The layer's outputs, flat, of arrays, tensors or symbolic tensors."""
        if self.jitted and all(isinstance(v, np.ndarray) for v in values):
            return called(layer, *self.arguments(values), **kwargs)
        values = [ops.convert_to_tensor(v) if isinstance(v, np.ndarray) else v for v in values]
        return keras.tree.flatten(layer(*self.arguments(values), **kwargs))

    def arguments(self, values: Any) -> list[Any]:
        """What the layer is called with, of its inputs or of their shapes."""
        if self.call == "cell":
            return [values[0], list(values[1:])]
        return [list(values)] if self.call == "list" else list(values)

    def declared(self, layer: Any, shapes: Any) -> list[tuple[int | None, ...]]:
        """What `compute_output_shape` says, flat."""
        return flat_shapes(layer.compute_output_shape(*self.arguments(shapes)))

    def built(self, **kwargs: Any) -> Any:
        """A layer whose trainable weights are not those of its initializers."""
        layer = self.make(**kwargs)
        if self.jitted:
            layer.build(*(a.shape for a in self.arrays()))
        else:
            self.apply(layer, self.arrays())
        rng = np.random.default_rng(1)
        for weight in layer.trainable_weights:
            value = numpy(weight)
            weight.assign(value + 0.1 * rng.standard_normal(value.shape).astype(value.dtype))
        return layer

    def model(self, layer: Any, none: tuple[int, ...] = ()) -> Any:
        """A functional model of the layer, with axes of its first input unknown."""
        return keras.Model(inputs := self.symbols(none), self.apply(layer, inputs))

    def symbols(self, none: tuple[int, ...] = ()) -> list[Any]:
        symbols = []
        for i, array in enumerate(self.arrays()):
            shape = [None, *array.shape[1:]]
            for axis in none if i == 0 else ():
                shape[axis] = None
            symbols.append(keras.Input(batch_shape=shape, dtype=array.dtype.name))
        return symbols


def cases() -> list[Case]:
    """All cases of all families."""
    found = []
    for path in sorted((HERE / "cases").glob("*.py")):
        found += importlib.import_module(f"cases.{path.stem}").CASES
    return found


def flat_shapes(shape: Any) -> list[tuple[int | None, ...]]:
    if isinstance(shape, dict):
        shape = [shape[name] for name in sorted(shape)]  # as `tree.flatten` orders them
    if all(n is None or isinstance(n, int) for n in shape):
        return [tuple(shape)]
    return [flat for one in shape for flat in flat_shapes(one)]


def numpy(value: Any) -> np.ndarray:
    """Of a tensor or variable; the half types as float32, so that NumPy can compare them."""
    if isinstance(value, keras.Variable):
        value = value.value
    if keras.backend.standardize_dtype(value.dtype) in ("bfloat16", "float16"):
        value = ops.cast(value, "float32")
    return keras.ops.convert_to_numpy(value)


def run(case: Case, layer: Any, arrays: Any = None, **kwargs: Any) -> list[np.ndarray]:
    values = case.arrays() if arrays is None else arrays
    return [numpy(out) for out in case.apply(layer, values, **kwargs)]


def of_model(case: Case, model: Any, arrays: Any) -> list[np.ndarray]:
    """What a functional model of the layer gives in inference."""
    if case.jitted:
        outs = compiled(lambda given: model(given, training=False), arrays)
    else:
        outs = keras.tree.flatten(model(list(arrays), training=False))
    return [numpy(out) for out in outs]


def compiled(function: Callable[..., Any], arrays: Any) -> list[Any]:
    """What a function that assigns nothing gives, flat; on jax one compilation, not one an op."""
    given = [ops.convert_to_tensor(a) for a in arrays]
    if BACKEND != "jax":
        return keras.tree.flatten(function(given))
    import jax

    return keras.tree.flatten(jax.jit(function)(given))


def called(layer: Any, *arguments: Any, **kwargs: Any) -> list[Any]:
    """What a layer gives for arrays, flat; on jax compiled once for all layers that are its equal.

    What the call assigns, to whatever variable, is assigned.
    """
    if BACKEND != "jax":
        arguments = keras.tree.map_structure(ops.convert_to_tensor, arguments)
        return keras.tree.flatten(layer(*arguments, **kwargs))
    if not layer.built:
        layer.build(*keras.tree.map_structure(lambda a: a.shape, arguments))
    variables = layer.variables
    outs, after = jitted_call(layer, **kwargs)([v.value for v in variables], arguments)
    for variable, value in zip(variables, after, strict=True):
        variable.assign(value)
    return keras.tree.flatten(outs)


JITTED: dict[str, Callable[..., Any]] = {}


def jitted_call(layer: Any, **kwargs: Any) -> Callable[..., Any]:
    import jax

    def function(values: Any, arguments: Any) -> Any:
        variables = layer.variables
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            outs = layer(*arguments, **kwargs)
        return outs, [scope.get_current_value(v) for v in variables]

    config = {**layer.get_config(), "name": None}
    weights = [(v.shape, v.dtype, v.trainable) for v in layer.variables]
    key = repr((type(layer), config, layer.get_build_config(), weights, kwargs))
    return JITTED.setdefault(key, jax.jit(function))


def values(variables: Any) -> dict[str, np.ndarray]:
    return {f"{i} {v.path}": np.array(numpy(v)) for i, v in enumerate(variables)}


def close(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    """Equal numbers, up to a part of the largest."""
    assert len(found) == len(wanted), f"{what}: {len(found)} outputs, not {len(wanted)}"
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape, f"{what}: shape {one.shape}, not {other.shape}"
        scale = max(1.0, float(np.max(np.abs(other), initial=0)))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=what)


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str) -> None:
    assert found.keys() == wanted.keys(), what
    moved = [name for name in wanted if not np.array_equal(found[name], wanted[name])]
    assert not moved, f"{what}: {moved}"


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# ---- the properties


class Outer(keras.layers.Layer):
    """A layer that traces what it calls, as a user's own model does that declares no shape."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, given: Any) -> Any:
        return self.function(given)


def config(case: Case) -> None:
    """Every argument is in the config and an attribute; the config is JSON and makes its equal."""
    layer = case.make(name="subject")
    before = json.loads(json.dumps(layer.get_config()))
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if name != "self" and parameter.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            assert hasattr(layer, name), f"the layer has no attribute `{name}`"
            given = getattr(layer, name) is not None  # Keras leaves some out if they are None
            assert name in before or not given, f"the config has no `{name}`"
    case.apply(layer, case.arrays())
    after = json.loads(json.dumps(layer.get_config()))
    assert after == before, "build changes the config"
    with keras.saving.custom_object_scope(case.custom_objects):
        again = type(layer).from_config(json.loads(json.dumps(before)))
    assert json.loads(json.dumps(again.get_config())) == before, "the config does not come back"


def saved(case: Case, tmp_path: Path) -> None:
    """A `.keras` file, loaded with Keras' defaults, has the same weights and gives the same."""
    layer = case.built()
    case.apply(layer, case.arrays(), training=True)  # the state is not the initial one either
    model = case.model(layer)
    model.save(path := tmp_path / "model.keras")
    loaded = keras.saving.load_model(path, custom_objects=case.custom_objects)
    assert [v.path for v in loaded.weights] == [v.path for v in model.weights]
    for one, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other), err_msg=one.path)
    arrays = case.arrays()
    close(
        of_model(case, loaded, arrays), run(case, layer, training=False), case.tolerance, "reloaded"
    )


def golden(case: Case) -> None:
    """What jax wrote gives the same here."""
    path = golden_path(case)
    assert path.exists(), "no golden file; KERAS_BACKEND=jax python tests/layers/golden.py"
    loaded = keras.saving.load_model(path, custom_objects=case.custom_objects)
    with zipfile.ZipFile(path) as archive, np.load(io.BytesIO(archive.read(GOLDEN))) as stored:
        arrays = [stored[f"input{i}"] for i in range(len(case.shapes))]
        wanted = [stored[name] for name in stored.files if name.startswith("output")]
    close(of_model(case, loaded, arrays), wanted, max(case.tolerance, 2e-5), "golden")


GOLDEN = "golden.npz"  # the member of a golden file with the inputs and outputs


def golden_path(case: Case) -> Path:
    return HERE / "golden" / f"{case.name}.keras"


def shapes(case: Case) -> None:
    """Shapes and types are as declared, for known and unknown axes; the others are refused."""
    layer = case.built()
    arrays = case.arrays()
    given = [a.shape for a in arrays]
    for training in (False, True):
        outs = case.apply(layer, arrays, training=training)
        assert [tuple(o.shape) for o in outs] == case.declared(layer, given)
    batchless = [(None, *shape[1:]) for shape in given]
    assert case.declared(layer, batchless) == [(None, *tuple(o.shape)[1:]) for o in outs]

    for none in [(), case.free] if case.free else [()]:
        symbols = case.symbols(none)
        fresh = case.make()
        declared = case.apply(fresh, symbols)  # it is built by the symbolic call
        for symbol, out in zip(declared, outs, strict=True):
            fits = [n in (None, m) for n, m in zip(symbol.shape, out.shape, strict=True)]
            assert all(fits), f"symbolic shape {symbol.shape}, really {tuple(out.shape)}"
            really = keras.backend.standardize_dtype(out.dtype)
            assert symbol.dtype == really, f"symbolic type {symbol.dtype}, really {really}"
        traced = keras.tree.flatten(
            Outer(lambda given, fresh=fresh: case.apply(fresh, given))(symbols)
        )
        for symbol, trace in zip(declared, traced, strict=True):
            assert (symbol.shape, symbol.dtype) == (trace.shape, trace.dtype), (
                f"declared {symbol.shape} {symbol.dtype}, traced {trace.shape} {trace.dtype}"
            )
        fresh.set_weights(layer.get_weights())
        wanted = run(case, layer, training=False)
        close(run(case, fresh, training=False), wanted, case.tolerance, "built with None")
        if none and len(arrays) == 1:  # and any other length will do
            longer = np.concatenate([arrays[0]] * 2, axis=none[0])
            shape = [tuple(o.shape) for o in case.apply(fresh, [longer], training=False)]
            assert shape == case.declared(fresh, [longer.shape])

    for axis in case.fixed:
        fresh = case.make()
        try:
            case.apply(fresh, case.symbols((axis,)))
        except ValueError as error:
            assert type(fresh).__name__ in str(error), f"the error does not name the layer: {error}"
        else:
            raise AssertionError(f"axis {axis} may be None")


def samples(case: Case) -> None:
    """In inference a sample's output does not depend on the others."""
    layer = case.built()
    arrays = case.arrays()
    whole = run(case, layer, arrays, training=False)
    for i in range(len(arrays[0])):
        alone = run(case, layer, [a[i : i + 1] for a in arrays], training=False)
        close(alone, [out[i : i + 1] for out in whole], case.tolerance, f"sample {i} alone")


def training(case: Case) -> None:
    """Noise is fresh in training; inference draws none and changes nothing."""
    layer = case.built()
    everything, state = layer.variables, layer.non_trainable_weights
    before = values(everything)
    inference = run(case, layer, training=False)
    again = run(case, layer, training=False)
    assert equal(inference, again), "two calls in inference differ"
    same(values(everything), before, "inference changes")

    restore = [np.array(numpy(v)) for v in state]
    first = run(case, layer, training=True)
    for variable, value in zip(state, restore, strict=True):
        variable.assign(value)
    second = run(case, layer, training=True)
    assert equal(first, second) != case.random, (
        "two calls in training are equal" if case.random else "two calls in training differ"
    )
    if case.random or case.differs_in_training:
        assert not equal(first, inference), "training does what inference does"
    else:
        close(first, inference, case.tolerance, "training does not do what inference does")


def assigns(case: Case) -> None:
    """A call never assigns what is trainable, and a frozen layer changes nothing."""
    layer = case.built()
    before = values(layer.trainable_weights)
    case.apply(layer, case.arrays(), training=True)
    same(values(layer.trainable_weights), before, "a call assigns a trainable weight")
    layer.trainable = False
    assert layer.trainable_weights == []
    before = values(layer.weights)
    case.apply(layer, case.arrays(), training=True)
    same(values(layer.weights), before, "a frozen layer changes")


def mixed(case: Case) -> None:
    """Half precision: weights stay float32, the outputs are of the half type and close."""
    wanted = run(case, layer := case.built(), training=False)
    for dtype, tolerance in (("mixed_bfloat16", 4e-2), ("mixed_float16", 6e-3)):
        half = case.make(dtype=dtype)
        symbols = case.apply(half, case.symbols())
        half.set_weights(layer.get_weights())
        for weight in half.trainable_weights:
            assert weight.dtype == "float32", f"{weight.path} is {weight.dtype}"
        outs = compiled(lambda given, half=half: case.apply(half, given), case.arrays())
        kinds = [keras.backend.standardize_dtype(o.dtype) for o in outs]
        assert kinds == [s.dtype for s in symbols], f"{dtype}: {kinds}"
        if case.mixed:
            assert "float32" not in kinds, f"{dtype}: an output is float32"
            close([numpy(o) for o in outs], wanted, tolerance, dtype)


@keras.saving.register_keras_serializable(package="keras_tl_tests")
class Probe(keras.layers.Layer):
    """Gives the mask that reached it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x: Any, mask: Any = None) -> Any:
        assert mask is not None, "no mask comes out"
        return ops.cast(mask, "int32")


def masks(case: Case) -> None:
    """The mask of the first input comes out: as it went in, if the time axis is as it was."""
    if not case.masks:
        return
    layer, arrays = case.built(), case.arrays()
    for array in arrays:
        array[0, -1] = 0
    symbols = case.symbols()
    masked = [keras.layers.Masking()(s) for s in symbols]
    outs = case.apply(layer, masked)
    model = keras.Model(symbols, [Probe()(masked[0]), *outs, *(Probe()(out) for out in outs)])
    wanted, *found = map(numpy, compiled(lambda given: model(given), arrays))
    assert not np.any(wanted[0, -1])
    outs, masks = found[: len(outs)], found[len(outs) :]
    for found, out in zip(masks, outs, strict=True):
        assert tuple(found.shape) == tuple(out.shape)[: len(found.shape)]
        if found.shape == wanted.shape:
            np.testing.assert_array_equal(numpy(found), wanted)


def time_distributed(case: Case) -> None:
    """`TimeDistributed` gives what the layer gives of each step."""
    if not case.time_distributed or case.call != "single" or len(case.arrays()) > 1:
        return
    layer, (array,) = case.built(), case.arrays()
    steps = np.stack([array, array[::-1]], axis=1)
    wrapped = keras.layers.TimeDistributed(layer)
    wrapped.build(steps.shape)
    (found,) = compiled(lambda given: wrapped(given[0], training=False), [steps])
    singles = [run(case, layer, [steps[:, i]], training=False)[0] for i in range(2)]
    close([numpy(found)], [np.stack(singles, axis=1)], case.tolerance, "TimeDistributed")
    assert tuple(wrapped.compute_output_shape(steps.shape)) == tuple(found.shape)


def gradient(case: Case) -> None:
    """Along a direction in each input and each weight: the difference of outputs, in training."""
    if case.gradient != "exact":
        return
    layer, arrays = case.built(), case.arrays()
    chosen = case.differentiable
    if chosen is None:
        chosen = tuple(i for i, a in enumerate(arrays) if a.dtype.kind == "f")
    state = [np.array(numpy(v)) for v in layer.non_trainable_variables]
    weights = [np.array(numpy(v)) for v in layer.trainable_variables]
    names = [f"input {i}" for i in chosen] + [v.path for v in layer.trainable_variables]
    primals = [arrays[i] for i in chosen] + weights
    takes_training = "training" in inspect.signature(layer.call).parameters

    def function(primals: Any) -> list[Any]:
        given = [ops.convert_to_tensor(a) for a in arrays]
        for i, primal in zip(chosen, primals[: len(chosen)], strict=True):
            given[i] = primal
        weights = list(primals[len(chosen) :])
        outs, _ = layer.stateless_call(
            weights,
            [ops.convert_to_tensor(v) for v in state],
            *case.arguments(given),
            **({"training": True} if takes_training else {}),
        )
        return [o for o in keras.tree.flatten(outs) if keras.backend.is_float_dtype(o.dtype)]

    evaluate = with_gradients(function, seed=2)
    outs, cotangents, gradients = evaluate(primals)
    assert any(np.any(g) for g in gradients), "all gradients are zero"
    size = np.sqrt(sum(np.sum(np.square(o, dtype="float64")) for o in outs))
    rng = np.random.default_rng(3)
    step = 2e-3

    def along(i: int, direction: np.ndarray) -> float:
        sums = []
        for sign in (1, -1):
            moved = list(primals)
            moved[i] = primals[i] + np.float32(sign * step) * direction
            sums.append(
                sum(
                    np.vdot(o.astype("float64"), c)
                    for o, c in zip(evaluate(moved)[0], cotangents, strict=True)
                )
            )
        return (sums[0] - sums[1]) / (2 * step)

    for i, name in enumerate(names):
        tries = []
        for _ in range(3):  # a kink may lie on a direction's way, hardly on three
            direction = rng.standard_normal(primals[i].shape).astype("float32")
            wanted, found = along(i, direction), float(np.vdot(gradients[i], direction))
            tries.append((found, wanted))
            if abs(found - wanted) <= 1e-2 * max(abs(found), abs(wanted)) + 1e-4 * size:
                break
        else:
            raise AssertionError(f"{name}: (gradient, difference) = {tries}")


def with_gradients(function: Callable[..., list[Any]], seed: int) -> Callable[..., Any]:
    """Of arrays: the outputs, random cotangents, and the gradients of their products' sum."""
    cotangents: list[np.ndarray] = []

    def loss(outs: list[Any]) -> Any:
        if not cotangents:
            rng = np.random.default_rng(seed)
            cotangents.extend(rng.standard_normal(o.shape).astype("float32") for o in outs)
        tensors = [ops.convert_to_tensor(c) for c in cotangents]
        return sum(ops.sum(o * c) for o, c in zip(outs, tensors, strict=True))

    if BACKEND == "jax":
        import jax

        def both(primals: Any) -> Any:
            outs = function(primals)
            return loss(outs), outs

        compiled = jax.jit(jax.value_and_grad(both, has_aux=True))

        def evaluate(primals: Any) -> Any:
            (_, outs), gradients = compiled(primals)
            return [np.asarray(o) for o in outs], cotangents, [np.asarray(g) for g in gradients]

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        def evaluate(primals: Any) -> Any:
            primals = [tf.convert_to_tensor(p) for p in primals]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(primals)
                outs = function(primals)
                total = loss(outs)
            gradients = tape.gradient(total, primals, unconnected_gradients="zero")
            gradients = [tf.convert_to_tensor(g).numpy() for g in gradients]
            return [o.numpy() for o in outs], cotangents, gradients

    else:
        import torch

        def evaluate(primals: Any) -> Any:
            torch.manual_seed(0)  # what draws there ignores the layer's seed
            primals = [torch.tensor(p, requires_grad=True) for p in primals]
            outs = function(primals)
            gradients = torch.autograd.grad(loss(outs), primals, allow_unused=True)
            gradients = [
                np.zeros(p.shape, "float32") if g is None else g.numpy()
                for p, g in zip(primals, gradients, strict=True)
            ]
            return [o.detach().numpy() for o in outs], cotangents, gradients

    return evaluate


@keras.saving.register_keras_serializable(package="keras_tl_tests")
class Gain(keras.layers.Layer):
    """A trainable factor before a layer, so that the gradient passes through it in `fit`."""

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x: Any) -> Any:
        return x * ops.cast(self.gain, x.dtype)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@functools.lru_cache(maxsize=4)
def fitted(case: Case, devices: int) -> dict[str, np.ndarray]:
    """The variables after two steps of a `fit` compiled by XLA (torch: eager)."""
    keras.utils.set_random_seed(0)
    with distributed(devices):
        # An even batch, and built with no array of one device only.
        arrays = [np.concatenate([a, a]) for a in case.arrays()]
        layer, symbols = case.make(), case.symbols()
        given = list(symbols)
        if keras.backend.is_float_dtype(symbols[0].dtype):
            given[0] = Gain()(given[0])
        outs = case.apply(layer, given)
        floats = [Gain()(o) for o in outs if keras.backend.is_float_dtype(o.dtype)]
        model = keras.Model(symbols, floats or outs)  # without any, the layer adds a loss itself
        rng = np.random.default_rng(4)
        for weight in layer.trainable_weights:
            noise = rng.standard_normal(weight.shape).astype("float32")
            weight.assign(numpy(weight) + 0.1 * noise)
        before = values(layer.trainable_weights)
        model.compile(
            optimizer=keras.optimizers.SGD(0.05),
            loss="mse" if floats else None,
            jit_compile=BACKEND != "torch",
        )
        n = len(arrays[0])
        shapes = case.declared(layer, [a.shape for a in arrays])
        kinds = [o.dtype for o in case.apply(layer, symbols)]
        targets = [
            rng.standard_normal(shape).astype("float32")
            for shape, kind in zip(shapes, kinds, strict=True)
            if keras.backend.is_float_dtype(kind)
        ]
        history = model.fit(
            arrays, targets or None, batch_size=n, epochs=2, shuffle=False, verbose=0
        )
        assert np.all(np.isfinite(history.history["loss"])), history.history
        after = values(layer.trainable_weights)
        still = [name for name in after if np.array_equal(after[name], before[name])]
        assert case.gradient == "none" or not still, f"training does not move {still}"
        if BACKEND == "tensorflow":  # elsewhere `mixed` has compiled it, or nothing is compiled
            predicted = keras.tree.flatten(model.predict(arrays, batch_size=n, verbose=0))
            eager = [numpy(o) for o in keras.tree.flatten(model(arrays, training=False))]
            close(predicted, eager, max(case.tolerance, 2e-5), "compiled inference")
        return values(layer.variables)


@contextlib.contextmanager
def distributed(devices: int) -> Iterator[None]:
    if devices == 1:
        yield
        return
    found = keras.distribution.list_devices()
    assert len(found) >= devices, "tests/conftest.py asks for two devices"
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=found[:devices]))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def fit(case: Case) -> None:
    """A compiled `fit` moves every trainable weight; compiled inference is what eager gives."""
    fitted(case, 1)


def data_parallel(case: Case) -> None:
    """On jax: two steps on two devices give the weights and the state of one device."""
    if BACKEND != "jax":
        return
    one, two = fitted(case, 1), fitted(case, 2)
    close(list(two.values()), list(one.values()), 1e-4, "DataParallel")


PROPERTIES: dict[str, Callable[..., None]] = {
    p.__name__: p
    for p in (
        config, saved, golden, shapes, samples, training, assigns, mixed, masks,
        time_distributed, gradient, fit, data_parallel,
    )
}  # fmt: skip

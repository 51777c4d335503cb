"""The harness finds what it is there to find: a sound layer passes, each planted fault fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden as golden_tool
import harness
import keras
import numpy as np
import pytest
from harness import BACKEND, PROPERTIES, Case
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tl_tests")
class Sound(keras.layers.Layer):
    """factor * x * kernel + offset, noisy in training, with a count of its steps."""

    def __init__(self, factor: float = 2.0, noise: float = 0.1, seed: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor, self.noise, self.seed = factor, noise, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones", name="kernel")
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def call(self, x: Any, training: bool = False) -> Any:
        y = self.factor * x * ops.cast(self.kernel, x.dtype)
        if training and self.noise:
            y = y + self.noise * keras.random.normal(
                ops.shape(x), dtype=x.dtype, seed=self.seed_generator
            )
        if training and self.trainable:
            self.steps.assign(self.steps + 1)
        return y

    def compute_output_shape(self, shape: Any) -> Any:
        return shape

    def get_config(self) -> dict[str, Any]:
        own = {"factor": self.factor, "noise": self.noise, "seed": self.seed}
        return super().get_config() | own


def planted(cls: type) -> type:
    return keras.saving.register_keras_serializable(package="keras_tl_tests")(cls)


SOUND = {"shapes": ((3, 4, 5),), "free": (1,), "fixed": (2,), "random": True, "masks": True}


def case(layer: type, **changes: Any) -> Case:
    facts: dict[str, Any] = {"name": layer.__name__, "make": layer} | SOUND | changes
    return Case(**facts)


@planted
class Fixed(Sound):
    """Sound, and refuses an unknown channel axis."""

    def build(self, shape: Any) -> None:
        if shape[-1] is None:
            raise ValueError(f"`{type(self).__name__}` must know its channels. Received: {shape}")
        super().build(shape)


def check(name: str, subject: Case, tmp_path: Path) -> None:
    PROPERTIES[name](subject, **({"tmp_path": tmp_path} if name == "saved" else {}))


@pytest.fixture
def golden_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "golden").mkdir()
    monkeypatch.setattr(harness, "HERE", tmp_path)


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_sound_layer_passes(name: str, tmp_path: Path, golden_here: None) -> None:
    subject = case(Fixed)
    if name == "golden":
        golden_tool.write(subject, harness.golden_path(subject))
    check(name, subject, tmp_path)


@planted
class LosesArgument(Fixed):
    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["noise"]
        return config

    def __init__(self, factor: float = 2.0, noise: float = 0.1, seed: Any = None, **kwargs: Any):
        super().__init__(factor, noise, seed, **kwargs)


@planted
class ConfigChangesInBuild(Fixed):
    def __init__(self, factor: float = 2.0, **kwargs: Any) -> None:
        super().__init__(factor, **kwargs)

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.factor = 3.0


@planted
class StateOutsideOfVariables(Fixed):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.hidden = float(np.random.default_rng().standard_normal())

    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x, training=training) + self.hidden


@planted
class DeclaresAnotherShape(Fixed):
    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], 7)


@planted
class DeclaresAnotherType(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        return ops.cast(super().call(x, training=training), "int32")


@planted
class KeepsTheFirstLength(Fixed):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.length = shape[1] or 4

    def call(self, x: Any, training: bool = False) -> Any:
        return ops.reshape(super().call(x, training=training), (-1, self.length, 5))


@planted
class MixesSamples(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x - ops.mean(x, axis=0, keepdims=True), training=training)


@planted
class NoiseInInference(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x, training=True)


@planted
class SameNoise(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        y = super().call(x)
        if training:
            y = y + keras.random.normal((1, 4, 5), dtype=x.dtype, seed=7)
        return y


@planted
class CountsInInference(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        self.steps.assign(self.steps + 1)
        return super().call(x, training=training)


@planted
class AssignsTrainable(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        self.kernel.assign(self.kernel * 0.5)
        return super().call(x, training=training)


@planted
class CountsWhileFrozen(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.steps.assign(self.steps + 1)
        return super().call(x)


@planted
class AlwaysFloat32(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        return ops.cast(super().call(x, training=training), "float32")


@planted
class HalfWeights(Fixed):
    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        return super().add_weight(*args, **kwargs, dtype=self.compute_dtype)


@planted
class LosesMask(Fixed):
    def compute_mask(self, x: Any, previous_mask: Any) -> None:
        return None


@planted
class WorksInDunderCall(Fixed):
    def __call__(self, x: Any, **kwargs: Any) -> Any:
        return 2 * super().__call__(x, **kwargs)


@planted
class WrongGradient(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        y = super().call(x, training=training)
        return y + ops.stop_gradient(y)


@planted
class UnusedWeight(Fixed):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.unused = self.add_weight(shape=(2,), name="unused")


@planted
class BranchesOnValues(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x if ops.mean(x) > 0 else -x, training=training)


@planted
class AsksForTheDistribution(Fixed):
    def call(self, x: Any, training: bool = False) -> Any:
        alone = keras.distribution.distribution() is None
        return super().call(x if alone else 2 * x, training=training)


FAULTS: list[tuple[str, type, dict[str, Any]]] = [
    ("config", LosesArgument, {}),
    ("config", ConfigChangesInBuild, {}),
    ("saved", StateOutsideOfVariables, {}),
    ("golden", StateOutsideOfVariables, {}),
    ("golden", Fixed, {}),  # no file
    ("shapes", DeclaresAnotherShape, {}),
    ("shapes", DeclaresAnotherType, {}),
    ("shapes", KeepsTheFirstLength, {}),
    ("shapes", Sound, {}),  # does not refuse what is said to be fixed
    ("samples", MixesSamples, {}),
    ("training", NoiseInInference, {}),
    ("training", SameNoise, {}),
    ("training", CountsInInference, {}),
    ("training", Fixed, {"random": False}),
    ("assigns", AssignsTrainable, {}),
    ("assigns", CountsWhileFrozen, {}),
    ("mixed", AlwaysFloat32, {}),
    ("mixed", HalfWeights, {}),
    ("masks", LosesMask, {}),
    ("time_distributed", WorksInDunderCall, {}),
    ("gradient", WrongGradient, {}),
    ("fit", UnusedWeight, {}),
    pytest.param(
        *("fit", BranchesOnValues, {}),
        marks=pytest.mark.skipif(BACKEND == "torch", reason="torch: `fit` is not compiled"),
    ),
    pytest.param(
        *("data_parallel", AsksForTheDistribution, {}),
        marks=pytest.mark.skipif(BACKEND != "jax", reason="simulated devices are jax's"),
    ),
]


# What a backend itself refuses to trace or warns of; all else is the harness' own finding.
OTHERS: dict[type, Any] = {
    BranchesOnValues: Exception,
    KeepsTheFirstLength: Exception,
    UnusedWeight: (AssertionError, UserWarning),
}


@pytest.mark.parametrize(("name", "layer", "changes"), FAULTS)
def test_a_planted_fault_is_found(
    name: str, layer: type, changes: dict[str, Any], tmp_path: Path, golden_here: None
) -> None:
    subject = case(layer, **changes)
    if layer is StateOutsideOfVariables:
        golden_tool.write(subject, harness.golden_path(subject))
    with pytest.raises(OTHERS.get(layer, AssertionError)):
        check(name, subject, tmp_path)

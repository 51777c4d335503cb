"""What the layers cost beside their maths written by hand in the backend's own language.

`NAME.forward` is a call in training, `NAME.train` its gradient with respect to weights and inputs,
`NAME.memory` (jax) what `memory_analysis` says that the train step allocates. Ours and the peers
take the same weights, state and inputs, their results are compared first, and their timed calls
take turns; the median counts. Where there are several ways to write the maths, the peer is the
fastest of them. Under XLA; on TensorFlow without it as well.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from common import Report, main

GOAL = "<= 1.10x the fastest hand-written version under XLA, on calls over 5 ms"
LIMIT = 1.10
MIB = 2**20


@dataclass
class Compiled:
    """A function that is compiled, with its arguments."""

    call: Callable[[], Any]
    memory: float | None = None


def measure(
    options: argparse.Namespace, report: Report, cases: str = "cases", peers_in: str = "in"
) -> None:
    """The cases of the module `layer_peers.{cases}`, and peers of `layer_peers.{peers_in}_...`."""
    if options.backend == "torch":
        report.missing("layers", None, "ms", "torch: no compiler as XLA to be measured under", GOAL)
        return
    peers = importlib.import_module(f"layer_peers.{peers_in}_{options.backend}").PEERS
    for case in importlib.import_module(f"layer_peers.{cases}").CASES:
        if case.quick or not options.quick:
            measure_case(report, options, case, peers[case.name][: 1 if options.quick else None])


def measure_case(report: Report, options: argparse.Namespace, case: Any, peers: list[Any]) -> None:
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    layer, inputs = case.make(), case.inputs(rng)
    together = case.name == "CornerPooling2D"
    arguments = [inputs] if together else inputs
    outputs = case.output(layer(*keras.tree.map_structure(symbol, arguments)))  # builds it
    weights, state, inputs = (
        [tensor(v) for v in values]
        for values in (layer.trainable_variables, layer.non_trainable_variables, inputs)
    )
    cotangent = tensor(rng.standard_normal(outputs.shape).astype("float32"))
    takes = {"training": True} if layer._call_has_training_arg else {}

    def ours(weights: Any, state: Any, inputs: Any) -> Any:
        given = [inputs] if together else inputs
        return case.output(layer.stateless_call(weights, state, *given, **takes)[0])

    compilers = {"jax": [jax_compiled], "tensorflow": [tf_xla, tf_plain]}[options.backend]
    for compiled in compilers[: 1 if options.quick else None]:
        for kind in case.kinds:
            makes = [
                partial(compiled, f, kind, weights, state, inputs, case.differentiable, cotangent)
                for f in (ours, *peers)
            ]
            made = usable(f"{case.name}.{kind}", makes)
            took = times(made, 3 if options.quick else 11)
            add(report, f"{case.name}.{kind}", took, compiled, options.backend)
            if kind == "train" and made[0].memory is not None:
                peer = made[took.index(min(took[1:]), 1)].memory or 0.0  # of the fastest
                report.add(
                    f"{case.name}.memory", made[0].memory, "MiB", "jax.lax", peer, GOAL,
                    lambda v, peer=peer: v <= LIMIT * peer,
                )  # fmt: skip


def tensor(value: Any) -> Any:
    import keras

    return keras.ops.convert_to_tensor(value)


def symbol(value: np.ndarray) -> Any:
    """What a layer is built with, and nothing compiled for: a call of it runs each operation."""
    import keras

    return keras.KerasTensor(value.shape, str(value.dtype))


def usable(what: str, makes: list[Callable[[], Compiled]]) -> list[Compiled]:
    """Ours and the peers that XLA knows all operators of; their results are equal."""
    import keras

    made: list[Compiled] = []
    wanted: list[np.ndarray] = []
    for i, make in enumerate(makes):
        try:
            one = make()
            found = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(one.call())]
        except Exception as error:
            if i == 0 or type(error).__name__ != "InvalidArgumentError":
                raise
            print(f"{what}: peer {i} is left out: {str(error).splitlines()[0][:100]}")
            continue
        wanted = wanted or found
        for x, y in zip(found, wanted, strict=True):
            scale = max(1.0, float(np.abs(y).max()))
            wrong = float(np.mean(np.abs(x - y) > 1e-2 * scale))  # a rounding may fall otherwise
            if x.shape != y.shape or wrong > 0.02:
                raise SystemExit(f"{what}: peer {i} differs in {wrong:.2%} of {x.shape}")
        made.append(one)
    return made


def times(made: list[Compiled], rounds: int) -> list[float]:
    """The median milliseconds of each, measured in turns."""
    taken: list[list[float]] = [[] for _ in made]
    for _ in range(rounds):
        for one, its in zip(made, taken, strict=True):
            begin = time.perf_counter()
            one.call()
            its.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(its) for its in taken]


def add(report: Report, what: str, took: list[float], compiled: Any, backend: str) -> None:
    ours, peer = took[0], min(took[1:])
    name = {"jax": "jax.lax", "tensorflow": "tf.nn"}[backend]
    if compiled is tf_plain:
        report.add(what, ours, "ms", f"{name} without XLA", peer)
        return
    report.add(what, ours, "ms", f"{name}, XLA", peer, GOAL, lambda v: v <= LIMIT * peer)


def jax_compiled(
    f: Any, kind: str, weights: Any, state: Any, inputs: Any, n: int, cotangent: Any
) -> Compiled:
    import jax
    import jax.numpy as jnp

    def train(weights: Any, state: Any, inputs: Any, cotangent: Any) -> Any:
        def loss(weights: Any, moved: Any) -> Any:
            return jnp.sum(f(weights, state, [*moved, *inputs[n:]]) * cotangent)

        return jax.grad(loss, (0, 1))(weights, inputs[:n])

    def forward(weights: Any, state: Any, inputs: Any, cotangent: Any) -> Any:
        return f(weights, state, inputs)

    arguments = (weights, state, inputs, cotangent)
    program = jax.jit(train if kind == "train" else forward).lower(*arguments).compile()
    needs = program.memory_analysis()
    memory = (needs.temp_size_in_bytes + needs.output_size_in_bytes) / MIB
    return Compiled(lambda: jax.block_until_ready(program(*arguments)), memory)


def tf_xla(*args: Any) -> Compiled:
    return tf_compiled(*args, jit_compile=True)


def tf_plain(*args: Any) -> Compiled:
    return tf_compiled(*args, jit_compile=False)


def tf_compiled(
    f: Any,
    kind: str,
    weights: Any,
    state: Any,
    inputs: Any,
    n: int,
    cotangent: Any,
    jit_compile: bool,
) -> Compiled:
    import tensorflow as tf

    @tf.function(jit_compile=jit_compile, autograph=False)
    def program(weights: Any, state: Any, inputs: Any, cotangent: Any) -> Any:
        if kind == "forward":
            return f(weights, state, inputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weights, inputs[:n]])
            total = tf.reduce_sum(f(weights, state, inputs) * cotangent)
        return tape.gradient(total, [weights, inputs[:n]])

    return Compiled(lambda: program(weights, state, inputs, cotangent))


if __name__ == "__main__":
    main(__doc__, measure)

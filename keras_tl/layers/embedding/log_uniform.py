"""Candidates for losses that look at some of the classes: frequent ones more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

__all__ = ["log_uniform_candidates", "log_uniform_probability"]


def log_uniform_probability(ids: Any, size: int) -> Any:
    """How probable an id is in one draw: `log((id + 2) / (id + 1)) / log(size + 1)`.

    Zipf's law, nearly, for ids in the order of falling frequency.
    """
    return ops.log1p(1 / (ops.cast(ids, "float32") + 1)) / ops.log(float(size + 1))


def log_uniform_candidates(noise: Any, count: int) -> tuple[Any, Callable[[Any], Any]]:
    """`count` different ids below `len(noise)`, and a function of ids to their expected counts.

    The ids are those that drawing until `count` different ones are found gives, in the same
    order, as `tf.random.log_uniform_candidate_sampler(unique=True)` does. Here each id has a
    clock, exponential with the id's probability as its rate, and the clocks that ring first win:
    a fixed amount of work, which XLA can compile. (Efraimidis and Spirakis, "Weighted random
    sampling with a reservoir", 2006.)

    An id's expected count is the probability that its clock rings before the first that lost,
    `1 - exp(-time * probability)`. TensorFlow has the number of tries for the time, which makes
    sums over the candidates divided by their expected counts slightly too small or large; these
    are unbiased, and exact when all ids are candidates. (Cohen and Kaplan, "Summarizing data using
    bottom-k sketches", 2007.)

    Args:
        noise: uniform in [0, 1), float32, a number for each id.
        count: at most as many as there are ids.
    """
    size = noise.shape[0]
    clocks = -ops.log1p(-noise) / log_uniform_probability(ops.arange(size), size)
    times, ids = ops.top_k(-clocks, min(count + 1, size))

    def expected(ids: Any) -> Any:
        if count == size:
            return ops.ones(ops.shape(ids), "float32")
        return -ops.expm1(times[count] * log_uniform_probability(ids, size))

    return ops.cast(ids[:count], "int32"), expected

"""The layers for sequences in jax, by hand: as `in_jax.py`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from layer_peers.sequence_cases import BEAMS, END, LENGTH, START, named

sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


def steps_first(x):
    return jnp.swapaxes(x, 0, 1)


# ---- cells


def run(gates, product, width, ahead, unroll, x):
    """`gates(z, h, c)` of each step; z = product(x), of all steps ahead of the loop or of one."""
    zero = jnp.zeros((x.shape[0], width))
    x = steps_first(x)

    def step(state, z):
        h, c = gates(z if ahead else product(z), *state)
        return (h, c), h

    return steps_first(lax.scan(step, (zero, zero), product(x) if ahead else x, unroll=unroll)[1])


def layer_norm_lstm(ahead, unroll, weights, state, inputs):
    kernel, recurrent, bias, kernel_gamma, recurrent_gamma, gamma, beta = weights

    def norm(x, gamma):
        mean = jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-3) * gamma

    def gates(z, h, c):
        i, f, g, o = jnp.split(z + norm(h @ recurrent, recurrent_gamma), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(norm(c, gamma) + beta), c

    return run(
        gates, lambda x: norm(x @ kernel, kernel_gamma) + bias, len(gamma), ahead, unroll, *inputs
    )


def peephole_lstm(ahead, unroll, weights, state, inputs):
    kernel, recurrent, bias, (to_i, to_f, to_o) = weights

    def gates(z, h, c):
        i, f, g, o = jnp.split(z + h @ recurrent, 4, -1)
        new = sigmoid(f + to_f * c) * c + sigmoid(i + to_i * c) * tanh(g)
        return sigmoid(o + to_o * new) * tanh(new), new

    return run(gates, lambda x: x @ kernel + bias, len(recurrent), ahead, unroll, *inputs)


# ---- CRF


def path_score(scores, tags, transitions, start, end):
    steps = jnp.take_along_axis(scores, tags[..., None], -1).sum((1, 2))
    return (
        steps + transitions[tags[:, :-1], tags[:, 1:]].sum(1) + start[tags[:, 0]] + end[tags[:, -1]]
    )


def by_products(scores, transitions, start, end):
    """The logarithm of a product a step; units^2 exponentials a step take ten times as long."""
    top = lax.stop_gradient(transitions.max())
    weights = jnp.exp(transitions - top)

    def step(alpha, score):
        most = lax.stop_gradient(alpha.max(-1, keepdims=True))
        return jnp.log(jnp.exp(alpha - most) @ weights) + most + top + score, None

    scores = steps_first(scores)
    alpha = lax.scan(step, start + scores[0], scores[1:])[0]
    return jax.nn.logsumexp(alpha + end, -1)


def by_weights(scores, transitions, start, end):
    """A product a step; the logarithms of what it is divided by are summed afterwards."""
    top = lax.stop_gradient(transitions.max())
    weights = jnp.exp(transitions - top)
    scores = scores.at[:, 0].add(start).at[:, -1].add(end)
    most = lax.stop_gradient(scores.max(-1, keepdims=True))
    scores = steps_first(jnp.exp(scores - most))

    def step(paths, score):
        paths = (paths @ weights) * score
        total = paths.sum(-1, keepdims=True)
        return paths / total, total

    paths, totals = lax.scan(step, scores[0], scores[1:])
    ends = jnp.log(paths.sum(-1)) + top * len(totals)
    return ends + jnp.log(totals[..., 0]).sum(0) + most.sum((1, 2))


def likelihood(partition, weights, state, inputs):
    transitions, start, end, kernel, bias = weights
    features, tags = inputs
    scores = features @ kernel + bias
    path = path_score(scores, tags, transitions, start, end)
    return path - partition(scores, transitions, start, end)


def viterbi(weights, state, inputs):
    """Where the path's tag came from is looked up on the way back; to keep it takes ten times as
    long."""
    transitions, start, end, kernel, bias = weights
    scores = steps_first(inputs[0] @ kernel + bias)
    came = transitions.T

    def forward(best, score):
        return (best[:, None] + came).max(-1) + score, best

    def backward(tag, best):
        return (best + came[tag]).argmax(-1).astype("int32"), tag

    best, history = lax.scan(forward, start + scores[0], scores[1:])
    last = (best + end).argmax(-1).astype("int32")
    first, tags = lax.scan(backward, last, history, reverse=True)
    return jnp.concatenate([first[:, None], tags.T], 1)


# ---- Seq2Seq


def cell(z, h, c, kernel):
    i, f, g, o = jnp.split(z + h @ kernel, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def lstm(ahead, x, weights, mask=None, reverse=False, first=None):
    """Outputs and last states; a step that is masked keeps the states."""
    kernel, recurrent, bias = weights
    zero = jnp.zeros((len(x), len(recurrent)))
    x = steps_first(x)

    def step(state, given):
        x, valid = given
        new = cell(x if ahead else x @ kernel + bias, *state, recurrent)
        if valid is not None:
            new = tuple(jnp.where(valid, *pair) for pair in zip(new, state, strict=True))
        return new, new[0]

    valid = None if mask is None else steps_first(mask)[..., None]
    given = (x @ kernel + bias if ahead else x, valid)
    last, outputs = lax.scan(step, first or (zero, zero), given, reverse=reverse)
    return steps_first(outputs), last


def encoded(ahead, weights, source):
    mask, x = source != 0, weights["source"][source]
    there, first = lstm(ahead, x, weights["forward"], mask)
    back, last = lstm(ahead, x, weights["backward"], mask, reverse=True)
    states = tuple(jnp.concatenate(pair, -1) for pair in zip(first, last, strict=True))
    memory = jnp.concatenate([there, back], -1)
    return memory, memory @ weights["keys"], mask, states


def logits(weights, h, memory, keys, mask):
    scores = jnp.where(mask[:, None], h @ jnp.swapaxes(keys, 1, 2), -1e9)
    context = jax.nn.softmax(scores, -1) @ memory
    seen = tanh(jnp.concatenate([context, h], -1) @ weights["combine"])
    return seen @ weights["out"] + weights["out_bias"]


def seq2seq(ahead, weights, state, inputs):
    weights = named(weights)
    source, target = inputs
    *memory, states = encoded(ahead, weights, source)
    h, _ = lstm(ahead, weights["target"][target], weights["decoder"], first=states)
    return logits(weights, h, *memory)


def beam(weights, state, inputs):
    weights = named(weights)
    *memory, states = encoded(True, weights, inputs[0])
    kernel, recurrent, bias = weights["decoder"]
    batch, classes = len(inputs[0]), len(weights["out_bias"])
    rows = jnp.arange(batch)[:, None] * BEAMS
    at_end = jnp.where(jnp.arange(classes) == 0, 0.0, -1e9)

    def step(t, carry):
        token, totals, done, ids, (h, c) = carry
        x = weights["target"][token.reshape(-1)]
        h, c = cell(x @ kernel + bias, h, c, recurrent)
        scores = logits(weights, h.reshape(batch, BEAMS, -1), *memory)
        scores = jax.nn.log_softmax(jnp.where(jnp.arange(classes) == 0, -1e9, scores))
        scores = totals[..., None] + jnp.where(done[..., None], at_end, scores)
        totals, best = lax.top_k(scores.reshape(batch, -1), BEAMS)
        token, beams = best % classes, (rows + best // classes).reshape(-1)
        ids = ids[beams].at[:, t].set(token.reshape(-1))
        done = done.reshape(-1)[beams].reshape(token.shape) | (token == END)
        return token, totals, done, ids, (h[beams], c[beams])

    carry = (
        jnp.full((batch, BEAMS), START),
        jnp.where(jnp.arange(BEAMS) == 0, 0.0, -1e9) * jnp.ones((batch, 1)),
        jnp.zeros((batch, BEAMS), bool),
        jnp.zeros((batch * BEAMS, LENGTH), "int32"),
        tuple(jnp.repeat(s, BEAMS, 0) for s in states),
    )
    carry = lax.while_loop(
        lambda tc: (tc[0] < LENGTH) & ~tc[1][2].all(),
        lambda tc: (tc[0] + 1, step(*tc)),
        (0, carry),
    )[1]
    return carry[3].reshape(batch, BEAMS, LENGTH)[:, 0]


def cells(cell):
    """The inputs' product ahead of the loop or within it; one step a round or several."""
    return [partial(cell, ahead, unroll) for ahead in (True, False) for unroll in (1, 4)]


PEERS = {
    "LayerNormLSTMCell": cells(layer_norm_lstm),
    "PeepholeLSTMCell": cells(peephole_lstm),
    "CRF": [partial(likelihood, way) for way in (by_products, by_weights)],
    "CRF.decode": [viterbi],
    "Seq2Seq": [partial(seq2seq, ahead) for ahead in (False, True)],
    "Seq2Seq.beam": [beam],
}

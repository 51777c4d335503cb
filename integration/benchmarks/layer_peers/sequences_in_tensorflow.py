"""The layers for sequences in TensorFlow, by hand: as `sequences_in_jax.py`."""

from __future__ import annotations

from functools import partial

import tensorflow as tf

from layer_peers.in_tensorflow import stop
from layer_peers.sequence_cases import BEAMS, END, LENGTH, START, named

sigmoid, tanh = tf.sigmoid, tf.tanh


def steps_first(x):
    return tf.transpose(x, [1, 0, *range(2, len(x.shape))])


def loop(step, state, xs, reverse=False):
    """`state, y = step(state, *x)` of each step: arrays that the loop reads and writes."""
    count = xs[0].shape[0]
    given = [tf.TensorArray(x.dtype, count, element_shape=x.shape[1:]).unstack(x) for x in xs]
    kind = state[0] if isinstance(state, tuple) else state
    taken = tf.TensorArray(kind.dtype, count, element_shape=kind.shape)

    def body(i, state, taken):
        place = count - 1 - i if reverse else i
        state, y = step(state, *(array.read(place) for array in given))
        return i + 1, state, taken if y is None else taken.write(place, y)

    _, state, taken = tf.while_loop(
        lambda i, *_: i < count, body, (0, state, taken), maximum_iterations=count
    )
    return state, taken


# ---- cells


def run(gates, product, width, ahead, x):
    zero = tf.zeros((x.shape[0], width))
    x = steps_first(x)

    def step(state, z):
        h, c = gates(z if ahead else product(z), *state)
        return (h, c), h

    return steps_first(loop(step, (zero, zero), [product(x) if ahead else x])[1].stack())


def layer_norm_lstm(ahead, weights, state, inputs):
    kernel, recurrent, bias, kernel_gamma, recurrent_gamma, gamma, beta = weights

    def norm(x, gamma):
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-3) * gamma

    def gates(z, h, c):
        i, f, g, o = tf.split(z + norm(h @ recurrent, recurrent_gamma), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(norm(c, gamma) + beta), c

    return run(
        gates, lambda x: norm(x @ kernel, kernel_gamma) + bias, gamma.shape[0], ahead, *inputs
    )


def peephole_lstm(ahead, weights, state, inputs):
    kernel, recurrent, bias, peephole = weights
    to_i, to_f, to_o = tf.unstack(peephole)

    def gates(z, h, c):
        i, f, g, o = tf.split(z + h @ recurrent, 4, -1)
        new = sigmoid(f + to_f * c) * c + sigmoid(i + to_i * c) * tanh(g)
        return sigmoid(o + to_o * new) * tanh(new), new

    return run(gates, lambda x: x @ kernel + bias, recurrent.shape[0], ahead, *inputs)


# ---- CRF


def path_score(scores, tags, transitions, start, end):
    b, t, k = scores.shape
    places = tf.reshape(tf.range(b * t), (b, t)) * k + tags
    steps = tf.reduce_sum(tf.gather(tf.reshape(scores, [-1]), places), 1)
    jumps = tf.gather(tf.reshape(transitions, [-1]), tags[:, :-1] * k + tags[:, 1:])
    ends = tf.gather(start, tags[:, 0]) + tf.gather(end, tags[:, -1])
    return steps + tf.reduce_sum(jumps, 1) + ends


def by_products(scores, transitions, start, end):
    top = stop(tf.reduce_max(transitions))
    weights = tf.exp(transitions - top)

    def step(alpha, score):
        most = stop(tf.reduce_max(alpha, -1, keepdims=True))
        return tf.math.log(tf.exp(alpha - most) @ weights) + most + top + score, None

    scores = steps_first(scores)
    alpha = loop(step, start + scores[0], [scores[1:]])[0]
    return tf.reduce_logsumexp(alpha + end, -1)


def by_weights(scores, transitions, start, end):
    top = stop(tf.reduce_max(transitions))
    weights = tf.exp(transitions - top)
    scores = steps_first(scores)
    scores = tf.concat([scores[:1] + start, scores[1:-1], scores[-1:] + end], 0)
    most = stop(tf.reduce_max(scores, -1, keepdims=True))
    scores = tf.exp(scores - most)

    def step(state, score):
        paths, logs = state
        paths = (paths @ weights) * score
        total = stop(tf.reduce_sum(paths, -1, keepdims=True))
        return (paths / total, logs + tf.math.log(total)), None

    zero = tf.zeros_like(scores[0, :, :1])
    paths, logs = loop(step, (scores[0], zero), [scores[1:]])[0]
    ends = tf.math.log(tf.reduce_sum(paths, -1)) + top * (scores.shape[0] - 1)
    return ends + logs[:, 0] + tf.reduce_sum(most, (0, 2))


def likelihood(partition, weights, state, inputs):
    transitions, start, end, kernel, bias = weights
    features, tags = inputs
    scores = features @ kernel + bias
    path = path_score(scores, tags, transitions, start, end)
    return path - partition(scores, transitions, start, end)


def viterbi(weights, state, inputs):
    transitions, start, end, kernel, bias = weights
    scores = steps_first(inputs[0] @ kernel + bias)
    came = tf.transpose(transitions)

    def forward(best, score):
        return tf.reduce_max(best[:, None] + came, -1) + score, best

    def backward(tag, best):
        return tf.argmax(best + tf.gather(came, tag), -1, tf.int32), tag

    best, history = loop(forward, start + scores[0], [scores[1:]])
    last = tf.argmax(best + end, -1, tf.int32)
    first, tags = loop(backward, last, [history.stack()], reverse=True)
    return tf.concat([first[:, None], tf.transpose(tags.stack())], 1)


# ---- Seq2Seq


def cell(z, h, c, kernel):
    i, f, g, o = tf.split(z + h @ kernel, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def lstm(ahead, x, weights, mask=None, reverse=False, first=None):
    kernel, recurrent, bias = weights
    zero = tf.zeros((x.shape[0], recurrent.shape[0]))
    x = steps_first(x)

    def step(state, x, *valid):
        new = cell(x if ahead else x @ kernel + bias, *state, recurrent)
        if valid:
            new = tuple(tf.where(*valid, *pair) for pair in zip(new, state, strict=True))
        return new, new[0]

    xs = [x @ kernel + bias if ahead else x]
    xs += [] if mask is None else [steps_first(mask[..., None])]
    last, outputs = loop(step, first or (zero, zero), xs, reverse)
    return steps_first(outputs.stack()), last


def encoded(ahead, weights, source):
    mask, x = source != 0, tf.gather(weights["source"], source)
    there, first = lstm(ahead, x, weights["forward"], mask)
    back, last = lstm(ahead, x, weights["backward"], mask, reverse=True)
    states = tuple(tf.concat(pair, -1) for pair in zip(first, last, strict=True))
    memory = tf.concat([there, back], -1)
    return memory, memory @ weights["keys"], mask, states


def logits(weights, h, memory, keys, mask):
    scores = tf.where(mask[:, None], tf.matmul(h, keys, transpose_b=True), -1e9)
    context = tf.nn.softmax(scores) @ memory
    seen = tanh(tf.concat([context, h], -1) @ weights["combine"])
    return seen @ weights["out"] + weights["out_bias"]


def seq2seq(ahead, weights, state, inputs):
    weights = named(weights)
    source, target = inputs
    *memory, states = encoded(ahead, weights, source)
    x = tf.gather(weights["target"], target)
    return logits(weights, lstm(ahead, x, weights["decoder"], first=states)[0], *memory)


def beam(weights, state, inputs):
    weights = named(weights)
    *memory, states = encoded(True, weights, inputs[0])
    kernel, recurrent, bias = weights["decoder"]
    batch, classes = inputs[0].shape[0], weights["out_bias"].shape[0]
    rows = tf.range(batch)[:, None] * BEAMS
    at_end = tf.where(tf.range(classes) == 0, 0.0, -1e9)

    def step(t, token, totals, done, ids, h, c):
        x = tf.gather(weights["target"], tf.reshape(token, [-1]))
        h, c = cell(x @ kernel + bias, h, c, recurrent)
        scores = logits(weights, tf.reshape(h, (batch, BEAMS, -1)), *memory)
        scores = tf.nn.log_softmax(tf.where(tf.range(classes) == 0, -1e9, scores))
        scores = totals[..., None] + tf.where(done[..., None], at_end, scores)
        totals, best = tf.math.top_k(tf.reshape(scores, (batch, BEAMS * classes)), BEAMS)
        token, beams = best % classes, tf.reshape(rows + best // classes, [-1])
        here = tf.range(LENGTH) == t
        ids = tf.where(here, tf.reshape(token, (-1, 1)), tf.gather(ids, beams))
        done = tf.reshape(tf.gather(tf.reshape(done, [-1]), beams), (batch, BEAMS))
        done = done | (token == END)
        return t + 1, token, totals, done, ids, tf.gather(h, beams), tf.gather(c, beams)

    carry = (
        0,
        tf.fill((batch, BEAMS), START),
        tf.zeros((batch, 1)) + tf.where(tf.range(BEAMS) == 0, 0.0, -1e9),
        tf.fill((batch, BEAMS), False),
        tf.zeros((batch * BEAMS, LENGTH), tf.int32),
        *(tf.repeat(s, BEAMS, 0) for s in states),
    )
    carry = tf.while_loop(
        lambda t, token, totals, done, *_: ~tf.reduce_all(done),
        step,
        carry,
        maximum_iterations=LENGTH,
    )
    return tf.reshape(carry[4], (batch, BEAMS, LENGTH))[:, 0]


PEERS = {
    "LayerNormLSTMCell": [partial(layer_norm_lstm, ahead) for ahead in (True, False)],
    "PeepholeLSTMCell": [partial(peephole_lstm, ahead) for ahead in (True, False)],
    "CRF": [partial(likelihood, way) for way in (by_products, by_weights)],
    "CRF.decode": [viterbi],
    "Seq2Seq": [partial(seq2seq, ahead) for ahead in (False, True)],
    "Seq2Seq.beam": [beam],
}

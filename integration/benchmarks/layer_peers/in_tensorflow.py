"""The layers' maths in TensorFlow, by hand: as `in_jax.py`, with TensorFlow's own operators."""

from __future__ import annotations

from functools import partial

import tensorflow as tf

stop = tf.stop_gradient


def conv(x, kernel, bias):
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)


def real(x):
    return tf.cast(x, "float32")


def whole(x):
    return tf.cast(x, "int32")


# ---- sampling


def hat(place, pixel):
    return tf.nn.relu(1 - tf.abs(place - real(pixel)))


def by_corners(x, py, px):
    """x (b, h, w, c) at points (b, n), zeros outside: a gather for each corner."""
    b, h, w, c = x.shape
    y0, x0 = (whole(tf.floor(stop(p))) for p in (py, px))
    flat, out = tf.reshape(x, (b * h * w, c)), 0
    image = tf.range(b)[:, None] * (h * w)
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            weight = tf.where(inside, hat(py, i) * hat(px, j), 0)
            index = image + tf.clip_by_value(i, 0, h - 1) * w + tf.clip_by_value(j, 0, w - 1)
            out = out + tf.gather(flat, index) * weight[..., None]
    return out


def by_quads(x, py, px):
    """The same with one gather, of four neighbours that lie together."""
    b, h, w, c = x.shape
    x = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    quads = tf.concat([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)
    y0 = tf.clip_by_value(whole(tf.floor(stop(py))), -1, h - 1)
    x0 = tf.clip_by_value(whole(tf.floor(stop(px))), -1, w - 1)
    index = (tf.range(b)[:, None] * (h + 1) + y0 + 1) * (w + 1) + x0 + 1
    found = tf.gather(tf.reshape(quads, (-1, 4 * c)), index)
    found = tf.reshape(found, (*index.shape, 4, c))
    rows, columns = (hat(py, y0), hat(py, y0 + 1)), (hat(px, x0), hat(px, x0 + 1))
    weights = tf.stack([r * s for r in rows for s in columns], -1)
    return tf.reduce_sum(found * weights[..., None], 2)


def deformable(sample, weights, state, inputs):
    (kernel, bias), (x, offsets, modulation) = weights, inputs
    b, h, w, c = x.shape
    offsets = tf.reshape(offsets, (b, h, w, 3, 3, 2))
    tap = tf.range(3.0) - 1
    py = offsets[..., 0] + tf.range(float(h))[:, None, None, None] + tap[:, None]
    px = offsets[..., 1] + tf.range(float(w))[:, None, None] + tap
    samples = sample(x, tf.reshape(py, (b, -1)), tf.reshape(px, (b, -1)))
    samples = samples * tf.reshape(modulation, (b, -1, 1))
    return tf.reshape(samples, (b, h, w, 9 * c)) @ tf.reshape(kernel, (9 * c, -1)) + bias


def transformer(sample, weights, state, inputs):
    x, theta = inputs
    b, h, w, c = x.shape
    gy, gx = ((2 * tf.range(float(n)) + 1) / n - 1 for n in (h, w))
    gx, gy = tf.meshgrid(gx, gy)
    grid = tf.stack([gx, gy, tf.ones_like(gx)], -1)
    points = tf.reshape(tf.einsum("hwk,bik->bihw", grid, theta), (b, 2, -1))
    py, px = ((points[:, i] + 1) * (n / 2) - 0.5 for i, n in ((1, h), (0, w)))
    return tf.reshape(sample(x, py, px), (b, h, w, c))


# ---- regions


def align_points(boxes, axis, length):
    start, size = boxes[..., axis] - 0.5, boxes[..., axis + 2] - boxes[..., axis]
    place = start[..., None] + (tf.range(14.0) + 0.5) * size[..., None] / 14
    inside = real((place >= -1) & (place <= length))
    return tf.clip_by_value(place, 0, length - 1), inside


def align_by_corners(weights, state, inputs):
    x, boxes = inputs
    b, h, w, c = x.shape
    (py, iny), (px, inx) = align_points(boxes, 1, h), align_points(boxes, 0, w)
    n = boxes.shape[1]
    y0, x0 = (tf.minimum(whole(p), m - 2) for p, m in ((py, h), (px, w)))
    flat, out = tf.reshape(x, (b * h * w, c)), 0
    image = tf.range(b)[:, None, None] * h
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            row, column = hat(py, i) * iny, hat(px, j) * inx
            weight = (row[..., None] * column[..., None, :])[..., None]
            index = ((image + i) * w)[..., None] + j[..., None, :]
            out = out + tf.gather(flat, index) * weight
    return tf.reduce_mean(tf.reshape(out, (b, n, 7, 2, 7, 2, c)), (3, 5))


def align_by_matmul(weights, state, inputs):
    x, boxes = inputs
    b, h, w, c = x.shape
    n = boxes.shape[1]

    def shares(axis, length):
        place, inside = align_points(boxes, axis, length)
        weight = hat(place[..., None], tf.range(length)) * inside[..., None]
        return tf.reduce_mean(tf.reshape(weight, (b, n, 7, 2, length)), 3)

    rows = tf.matmul(tf.reshape(shares(1, h), (b, n * 7, h)), tf.reshape(x, (b, h, w * c)))
    rows = tf.reshape(rows, (b, n, 7, w, c))
    return tf.matmul(shares(0, w)[:, :, None], rows)


def pool_bins(boxes, axis, length):
    low, high = (whole(tf.floor(boxes[..., i] + 0.5)) for i in (axis, axis + 2))
    size, i = tf.maximum(high - low + 1, 1)[..., None], tf.range(7)
    first = tf.clip_by_value(low[..., None] + i * size // 7, 0, length)
    last = tf.clip_by_value(low[..., None] - (-(i + 1) * size // 7), 0, length)
    return first, last - first


def pool_in_place(weights, state, inputs):
    """Where the largest are is found in a loop; one gather takes them."""
    x, boxes = inputs
    b, h, w, c = x.shape
    (top, rows), (left, columns) = pool_bins(boxes, 1, h), pool_bins(boxes, 0, w)
    flat, most = tf.reshape(x, (b * h * w, c)), tf.reduce_max(columns)
    values, image = stop(flat), tf.range(b)[:, None, None] * h

    def pixel(step):
        row = tf.minimum(top + tf.minimum(step // most, rows - 1), h - 1)
        column = tf.minimum(left + tf.minimum(step % most, columns - 1), w - 1)
        return tf.reshape(((image + row) * w)[..., None] + column[..., None, :], (-1,))

    def compare(step, largest, where):
        here = pixel(step)
        value = tf.gather(values, here)
        larger = value > largest
        return step + 1, tf.maximum(value, largest), tf.where(larger, here[:, None], where)

    here = pixel(tf.constant(0))
    loop = tf.constant(1), tf.gather(values, here), tf.repeat(here[:, None], c, 1)
    steps = tf.reduce_max(rows) * most
    _, _, where = tf.while_loop(lambda step, *_: step < steps, compare, loop)
    found = tf.gather(tf.reshape(flat, (-1,)), stop(where) * c + tf.range(c))
    return tf.reshape(found, (b, -1, 7, 7, c))


# ---- few bits


def straight(values, surrogate):
    return stop(values) + (surrogate - stop(surrogate))


@tf.custom_gradient
def sign(w):
    return tf.where(w >= 0, 1.0, -1.0), lambda g: tf.where(tf.abs(w) <= 1, g, 0)


def binary(weights, state, inputs):
    return conv(inputs[0], sign(weights[0]), weights[1])


def ternary(weights, state, inputs):
    kernel, bias = weights
    size = tf.abs(kernel)
    kept = real(size > 0.7 * tf.reduce_mean(size))
    alpha = tf.reduce_sum(kept * size) / tf.reduce_sum(kept)
    return inputs[0] @ straight(alpha * kept * tf.sign(kernel), kernel) + bias


@tf.custom_gradient
def four_bits(x):
    y = tf.round(tf.clip_by_value(x, 0, 1) * 15) / 15
    return y, lambda g: tf.where((x >= 0) & (x <= 1), g, 0)


def dorefa(weights, state, inputs):
    squashed = tf.tanh(weights[0])
    bounded = squashed / tf.reduce_max(tf.abs(squashed))
    kernel = straight(2 / 3 * (tf.round((bounded + 1) * 1.5) - 1.5), bounded)
    return conv(four_bits(inputs[0]), kernel, weights[1])


def fake_quant(x, levels):
    low, high = stop(tf.reduce_min(x)), stop(tf.reduce_max(x))
    scale = (high - low) / levels
    zero = tf.round(-low / scale)

    @tf.custom_gradient
    def rounded(x):
        y = scale * (tf.clip_by_value(tf.round(x * (1 / scale) + zero), 0, levels) - zero)
        within = (x >= -zero * scale) & (x <= (levels - zero) * scale)
        return y, lambda g: tf.where(within, g, 0)

    return rounded(x)


def fake_quant_fused(x, levels):
    """TensorFlow's own operator."""
    low, high = stop(tf.reduce_min(x)), stop(tf.reduce_max(x))
    return tf.quantization.fake_quant_with_min_max_vars(
        x, low, high, num_bits=8, narrow_range=levels == 254
    )


def quantized(rounded, weights, state, inputs):
    (kernel, bias), x = weights, inputs[0]
    return conv(rounded(x, 255), rounded(kernel, 254), bias)


# ---- normalisation


def affine(x, mean, variance, gamma, beta):
    factor = tf.math.rsqrt(variance + 1e-5) * gamma
    return x * factor + (beta - mean * factor)


def two_passes(x):
    return tf.nn.moments(x, (1, 2), keepdims=True)


def one_pass(x):
    """Cancels where the mean is large; fast."""
    mean = tf.reduce_mean(x, (1, 2), keepdims=True)
    return mean, tf.reduce_mean(tf.square(x), (1, 2), keepdims=True) - tf.square(mean)


def instance(moments, weights, state, inputs):
    return affine(inputs[0], *moments(inputs[0]), *weights)


def switch(moments, weights, state, inputs):
    gamma, beta, mean_weights, variance_weights = weights
    mean, variance = moments(inputs[0])
    square = variance + tf.square(mean)
    means, variances = [mean], [variance]
    for axis in (0, 3):
        means.append(tf.reduce_mean(mean, axis, keepdims=True))
        variances.append(tf.reduce_mean(square, axis, keepdims=True) - tf.square(means[-1]))
    means[:2], variances[:2] = means[1::-1], variances[1::-1]
    by_mean, by_variance = tf.nn.softmax(mean_weights), tf.nn.softmax(variance_weights)
    mean = sum(by_mean[i] * m for i, m in enumerate(means))
    variance = sum(by_variance[i] * v for i, v in enumerate(variances))
    return affine(inputs[0], mean, variance, gamma, beta)


def filter_response(weights, state, inputs):
    (gamma, beta, tau), x = weights, inputs[0]
    square = tf.reduce_mean(tf.square(x), (1, 2), keepdims=True)
    return tf.maximum(x * (tf.math.rsqrt(square + 1e-6) * gamma) + beta, tau)


def local_response_fused(weights, state, inputs):
    """TensorFlow's own operator."""
    return tf.nn.local_response_normalization(inputs[0], 5, 1.0, 1.0, 0.75)


def by_slices(x):
    n, x = x.shape[-1], tf.pad(x, ((0, 0),) * 3 + ((5, 5),))
    return sum(x[..., i : i + n] for i in range(11))


def by_matmul(x):
    n = x.shape[-1]
    return x @ tf.linalg.band_part(tf.ones((n, n)), 5, 5)


def local_response(sums, weights, state, inputs):
    root = tf.math.rsqrt(1 + sums(tf.square(inputs[0])))
    return inputs[0] * (root * tf.sqrt(root))


def weight_norm(weights, state, inputs):
    gain, kernel, bias = weights
    kernel = kernel * (gain * tf.math.rsqrt(tf.reduce_sum(tf.square(kernel), 0)))
    return inputs[0] @ kernel + bias


def weight_norm_late(weights, state, inputs):
    """Each column's factor after the product."""
    gain, kernel, bias = weights
    return inputs[0] @ kernel * (gain * tf.math.rsqrt(tf.reduce_sum(tf.square(kernel), 0))) + bias


def spectral_norm(weights, state, inputs):
    kernel, bias = weights
    matrix, u = tf.reshape(kernel, (-1, kernel.shape[-1])), state[0]
    fixed = stop(matrix)
    v = tf.matmul(u, fixed, transpose_b=True)
    u = (v / tf.norm(v)) @ fixed
    u = u / tf.norm(u)
    norm = tf.math.rsqrt(tf.reduce_sum(tf.square(tf.matmul(u, matrix, transpose_b=True))))
    return conv(inputs[0], kernel * norm, bias)


# ---- the rest


def masked(kernel, shape, seed):
    draws = tf.random.stateless_uniform(shape, tf.cast(tf.math.floormod(seed, 2**31 - 2), "int32"))
    return tf.where(draws >= 0.5, 2 * kernel, 0)


def drop_dense(weights, state, inputs):
    return inputs[0] @ masked(weights[0], weights[0].shape, state[0]) + weights[1]


def drop_each(weights, state, inputs):
    kernels = masked(weights[0], (inputs[0].shape[0], *weights[0].shape), state[0])
    return tf.matmul(inputs[0][:, None], kernels)[:, 0] + weights[1]


def drop_conv(weights, state, inputs):
    return conv(inputs[0], masked(weights[0], weights[0].shape, state[0]), weights[1])


def subpixel(weights, state, inputs):
    return tf.nn.depth_to_space(inputs[0], 2)


def subpixel_transposed(weights, state, inputs):
    b, h, w, c = inputs[0].shape
    x = tf.transpose(tf.reshape(inputs[0], (b, h, w, 2, 2, c // 4)), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (b, 2 * h, 2 * w, c // 4))


def line_by_line(x, axis):
    lines = tf.unstack(x, axis=axis)
    for i in range(len(lines) - 2, -1, -1):
        lines[i] = tf.maximum(lines[i], lines[i + 1])
    return tf.stack(lines, axis=axis)


def doubled(x, axis):
    """The maximum with the one 1, 2, 4, ... further on."""
    step = 1
    while step < x.shape[axis]:
        rest = x[:, step:] if axis == 1 else x[:, :, step:]
        pads = [(0, step if i == axis else 0) for i in range(4)]
        x = tf.maximum(x, tf.pad(rest, pads, constant_values=x.dtype.min))
        step *= 2
    return x


def corner(largest, weights, state, inputs):
    return largest(inputs[0], 1) + largest(inputs[1], 2)


def suppress_fused(weights, state, inputs):
    """TensorFlow's own operator, image by image; XLA has none."""
    boxes, scores = inputs
    found = []
    for i in range(boxes.shape[0]):
        chosen = tf.image.non_max_suppression(boxes[i], scores[i], 100, 0.5)
        found.append(tf.pad(chosen, [(0, 100 - tf.size(chosen))], constant_values=-1))
    return tf.stack(found)


def suppress_padded(weights, state, inputs):
    """TensorFlow's, for XLA."""
    chosen, count = tf.image.non_max_suppression_padded(
        *inputs, 100, 0.5, pad_to_max_output_size=True, sorted_input=False
    )
    return tf.where(tf.range(100) < count[:, None], chosen, -1)


def suppress(weights, state, inputs):
    boxes, scores = inputs
    area = tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], -1)
    found = tf.TensorArray("int32", 100, element_shape=boxes.shape[:1])

    def choose(step, scores, found):
        best = tf.argmax(scores, 1, "int32")
        one = tf.gather(boxes, best, batch_dims=1)[:, None]
        low, high = (
            tf.maximum(one[..., :2], boxes[..., :2]),
            tf.minimum(one[..., 2:], boxes[..., 2:]),
        )
        both = tf.reduce_prod(tf.nn.relu(high - low), -1)
        union = tf.gather(area, best, batch_dims=1)[:, None] + area - both
        left = tf.gather(scores, best, batch_dims=1) > 0
        found = found.write(step, tf.where(left, best, -1))
        drop = (both > 0.5 * union) | (tf.range(scores.shape[1]) == best[:, None])
        return step + 1, tf.where(drop, 0.0, scores), found

    loop = (tf.constant(0), scores, found)
    *_, found = tf.while_loop(lambda step, *_: step < 100, choose, loop, maximum_iterations=100)
    return tf.transpose(found.stack())


PEERS = {
    "DeformableConv2D": [partial(deformable, by_corners), partial(deformable, by_quads)],
    "SpatialTransformer2D": [partial(transformer, by_corners), partial(transformer, by_quads)],
    "ROIAlign2D": [align_by_corners, align_by_matmul],
    "ROIPooling2D": [pool_in_place],
    "BinaryConv2D": [binary],
    "TernaryDense": [ternary],
    "DoReFaConv2D": [dorefa],
    "FakeQuantConv2D": [partial(quantized, fake_quant), partial(quantized, fake_quant_fused)],
    "InstanceNormalization": [partial(instance, one_pass), partial(instance, two_passes)],
    "SwitchNormalization": [partial(switch, one_pass), partial(switch, two_passes)],
    "FilterResponseNormalization": [filter_response],
    "LocalResponseNormalization": [
        local_response_fused,
        partial(local_response, by_slices),
        partial(local_response, by_matmul),
    ],
    "WeightNormalization": [weight_norm, weight_norm_late],
    "SpectralNormalization": [spectral_norm],
    "DropConnectDense": [drop_dense],
    "DropConnectDense per sample": [drop_each],
    "DropConnectConv2D": [drop_conv],
    "SubpixelConv2D": [subpixel, subpixel_transposed],
    "CornerPooling2D": [partial(corner, doubled), partial(corner, line_by_line)],
    "NonMaxSuppression": [suppress, suppress_padded, suppress_fused],
}

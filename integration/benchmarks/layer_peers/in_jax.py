"""The layers' maths in jax, by hand: PEERS[name] are functions (weights, state, inputs) -> output.

Where it is not plain which way is the fastest there are several; the fastest counts.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

stop = lax.stop_gradient


def conv(x, kernel, bias):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims) + bias


# ---- sampling


def hat(place, pixel):
    return jnp.maximum(0, 1 - jnp.abs(place - pixel))


def take_each(x, index):
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))(x, index)


def by_corners(x, py, px):
    """x (b, h, w, c) at points (b, n), zeros outside: a gather for each corner."""
    b, h, w, c = x.shape
    y0, x0 = (jnp.floor(stop(p)).astype("int32") for p in (py, px))
    flat, out = x.reshape(b, h * w, c), 0
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            weight = jnp.where(inside, hat(py, i) * hat(px, j), 0)
            index = jnp.clip(i, 0, h - 1) * w + jnp.clip(j, 0, w - 1)
            out = out + take_each(flat, index) * weight[..., None]
    return out


def by_quads(x, py, px):
    """The same with one gather, of four neighbours that lie together."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    quads = jnp.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)
    y0 = jnp.clip(jnp.floor(stop(py)).astype("int32"), -1, h - 1)
    x0 = jnp.clip(jnp.floor(stop(px)).astype("int32"), -1, w - 1)
    index = (y0 + 1) * (w + 1) + x0 + 1
    found = take_each(quads.reshape(b, -1, 4 * c), index).reshape(*index.shape, 4, c)
    rows, columns = (hat(py, y0), hat(py, y0 + 1)), (hat(px, x0), hat(px, x0 + 1))
    weights = jnp.stack([r * s for r in rows for s in columns], -1)
    return jnp.einsum("bnkc,bnk->bnc", found, weights)


def deformable(sample, weights, state, inputs):
    (kernel, bias), (x, offsets, modulation) = weights, inputs
    b, h, w, c = x.shape
    offsets = offsets.reshape(b, h, w, 3, 3, 2)
    tap = jnp.arange(3) - 1.0
    py = offsets[..., 0] + jnp.arange(h)[:, None, None, None] + tap[:, None]
    px = offsets[..., 1] + jnp.arange(w)[:, None, None] + tap
    samples = sample(x, py.reshape(b, -1), px.reshape(b, -1)) * modulation.reshape(b, -1, 1)
    return samples.reshape(b, h, w, 9 * c) @ kernel.reshape(9 * c, -1) + bias


def transformer(sample, weights, state, inputs):
    x, theta = inputs
    b, h, w, c = x.shape
    gy, gx = ((2 * jnp.arange(n) + 1) / n - 1 for n in (h, w))
    grid = jnp.stack(jnp.broadcast_arrays(gx, gy[:, None], jnp.ones(())), -1)
    points = jnp.einsum("hwk,bik->bihw", grid, theta, precision="highest").reshape(b, 2, -1)
    py, px = ((points[:, i] + 1) * (n / 2) - 0.5 for i, n in ((1, h), (0, w)))
    return sample(x, py, px).reshape(b, h, w, c)


# ---- regions


def align_points(boxes, axis, length):
    start, size = boxes[..., axis] - 0.5, boxes[..., axis + 2] - boxes[..., axis]
    place = start[..., None] + (jnp.arange(14) + 0.5) * size[..., None] / 14
    inside = (place >= -1) & (place <= length)
    return jnp.clip(place, 0, length - 1), inside


def align_by_corners(weights, state, inputs):
    x, boxes = inputs
    b, h, w, c = x.shape
    (py, iny), (px, inx) = align_points(boxes, 1, h), align_points(boxes, 0, w)
    n, points = boxes.shape[1], (*boxes.shape[:2], 14, 14)
    y0, x0 = (jnp.minimum(p.astype("int32"), m - 2) for p, m in ((py, h), (px, w)))
    flat, out = x.reshape(b, h * w, c), 0
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            row, column = hat(py, i) * iny, hat(px, j) * inx
            weight = (row[..., None] * column[..., None, :])[..., None]
            index = (i * w)[..., None] + j[..., None, :]
            out = out + take_each(flat, index.reshape(b, -1)).reshape(*points, c) * weight
    return out.reshape(b, n, 7, 2, 7, 2, c).mean((3, 5))


def align_by_matmul(weights, state, inputs):
    x, boxes = inputs
    b, h, w, c = x.shape

    def shares(axis, length):
        place, inside = align_points(boxes, axis, length)
        weight = hat(place[..., None], jnp.arange(length)) * inside[..., None]
        return weight.reshape(*boxes.shape[:2], 7, 2, length).mean(3)

    rows = jnp.einsum("bnph,bhwc->bnpwc", shares(1, h), x)
    return jnp.einsum("bnpwc,bnqw->bnpqc", rows, shares(0, w))


def pool_bins(boxes, axis, length):
    low, high = (jnp.floor(boxes[..., i] + 0.5).astype("int32") for i in (axis, axis + 2))
    size, i = jnp.maximum(high - low + 1, 1)[..., None], jnp.arange(7)
    first = jnp.clip(low[..., None] + i * size // 7, 0, length)
    last = jnp.clip(low[..., None] - (-(i + 1) * size // 7), 0, length)
    return first, last - first


def pool_in_place(weights, state, inputs):
    """Where the largest are is found in a loop; one gather takes them."""
    x, boxes = inputs
    b, h, w, c = x.shape
    (top, rows), (left, columns) = pool_bins(boxes, 1, h), pool_bins(boxes, 0, w)
    flat, most = x.reshape(b * h * w, c), jnp.max(columns)
    values, image = stop(flat), jnp.arange(b)[:, None, None] * h

    def pixel(step):
        row = jnp.minimum(top + jnp.minimum(step // most, rows - 1), h - 1)
        column = jnp.minimum(left + jnp.minimum(step % most, columns - 1), w - 1)
        return (((image + row) * w)[..., None] + column[..., None, :]).reshape(-1)

    def compare(step, state):
        largest, where = state
        here = pixel(step)
        value = values.at[here].get(mode="promise_in_bounds")
        larger = value > largest
        return jnp.where(larger, value, largest), jnp.where(larger, here[:, None], where)

    here = pixel(0)
    state = values[here], jnp.broadcast_to(here[:, None], (len(here), c))
    _, where = lax.fori_loop(1, jnp.max(rows) * most, compare, state)
    found = flat.reshape(-1).at[where * c + jnp.arange(c)].get(mode="promise_in_bounds")
    return found.reshape(*boxes.shape[:2], 7, 7, c)


# ---- few bits


def straight(values, surrogate):
    return stop(values) + (surrogate - stop(surrogate))


def inside(x, low, high):
    return jnp.where((x >= low) & (x <= high), x, 0)


@jax.custom_vjp
def sign(w):
    return jnp.where(w >= 0, 1.0, -1.0)


sign.defvjp(lambda w: (sign(w), w), lambda w, g: (jnp.where(jnp.abs(w) <= 1, g, 0),))


def binary(weights, state, inputs):
    return conv(inputs[0], sign(weights[0]), weights[1])


def ternary(weights, state, inputs):
    kernel, bias = weights
    size = jnp.abs(kernel)
    kept = size > 0.7 * jnp.mean(size)
    alpha = jnp.sum(jnp.where(kept, size, 0)) / jnp.sum(kept)
    return inputs[0] @ straight(alpha * jnp.where(kept, jnp.sign(kernel), 0), kernel) + bias


@jax.custom_vjp
def four_bits(x):
    return jnp.round(jnp.clip(x, 0, 1) * 15) / 15


four_bits.defvjp(lambda x: (four_bits(x), x), lambda x, g: (jnp.where((x >= 0) & (x <= 1), g, 0),))


def dorefa(weights, state, inputs):
    squashed = jnp.tanh(weights[0])
    bounded = squashed / jnp.max(jnp.abs(squashed))
    kernel = straight(2 / 3 * (jnp.round((bounded + 1) * 1.5) - 1.5), bounded)
    return conv(four_bits(inputs[0]), kernel, weights[1])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def fake_quant(x, low, high, levels):
    scale = (high - low) / levels
    zero = jnp.round(-low / scale)
    return scale * (jnp.clip(jnp.round(x * (1 / scale) + zero), 0, levels) - zero)


def fake_quant_backward(levels, kept, g):
    x, low, high = kept
    scale = (high - low) / levels
    zero = jnp.round(-low / scale)
    within = (x >= -zero * scale) & (x <= (levels - zero) * scale)
    return jnp.where(within, g, 0), None, None


fake_quant.defvjp(
    lambda x, low, high, n: (fake_quant(x, low, high, n), (x, low, high)), fake_quant_backward
)


def quantized(weights, state, inputs):
    (kernel, bias), x = weights, inputs[0]
    x = fake_quant(x, stop(jnp.min(x)), stop(jnp.max(x)), 255)  # the first batch's range is kept
    kernel = fake_quant(kernel, stop(jnp.min(kernel)), stop(jnp.max(kernel)), 254)
    return conv(x, kernel, bias)


# ---- normalisation


def affine(x, mean, variance, gamma, beta):
    factor = lax.rsqrt(variance + 1e-5) * gamma
    return x * factor + (beta - mean * factor)


def two_passes(x):
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), (1, 2), keepdims=True)


def one_pass(x):
    """Cancels where the mean is large; fast."""
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return mean, jnp.mean(jnp.square(x), (1, 2), keepdims=True) - jnp.square(mean)


def instance(moments, weights, state, inputs):
    return affine(inputs[0], *moments(inputs[0]), *weights)


def switch(moments, weights, state, inputs):
    gamma, beta, mean_weights, variance_weights = weights
    mean, variance = moments(inputs[0])
    square = variance + jnp.square(mean)
    means, variances = [mean], [variance]
    for axis in (0, 3):
        means.append(jnp.mean(mean, axis, keepdims=True))
        variances.append(jnp.mean(square, axis, keepdims=True) - jnp.square(means[-1]))
    means[:2], variances[:2] = means[1::-1], variances[1::-1]
    mean = sum(w * m for w, m in zip(jax.nn.softmax(mean_weights), means, strict=True))
    variance = sum(w * v for w, v in zip(jax.nn.softmax(variance_weights), variances, strict=True))
    return affine(inputs[0], mean, variance, gamma, beta)


def filter_response(weights, state, inputs):
    (gamma, beta, tau), x = weights, inputs[0]
    square = jnp.mean(jnp.square(x), (1, 2), keepdims=True)
    return jnp.maximum(x * (lax.rsqrt(square + 1e-6) * gamma) + beta, tau)


def by_slices(x):
    n, x = x.shape[-1], jnp.pad(x, ((0, 0),) * 3 + ((5, 5),))
    return sum(x[..., i : i + n] for i in range(11))


def by_windows(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 1, 1, 11), (1,) * 4, ((0, 0),) * 3 + ((5, 5),))


@jax.custom_vjp
def by_both(x):
    return by_slices(x)


by_both.defvjp(lambda x: (by_slices(x), None), lambda _, g: (by_windows(g),))


def local_response(sums, weights, state, inputs):
    root = lax.rsqrt(1 + sums(jnp.square(inputs[0])))
    return inputs[0] * (root * jnp.sqrt(root))


def weight_norm(weights, state, inputs):
    gain, kernel, bias = weights
    kernel = kernel * (gain * lax.rsqrt(jnp.sum(jnp.square(kernel), 0)))
    return inputs[0] @ kernel + bias


def weight_norm_late(weights, state, inputs):
    """Each column's factor after the product."""
    gain, kernel, bias = weights
    return inputs[0] @ kernel * (gain * lax.rsqrt(jnp.sum(jnp.square(kernel), 0))) + bias


def spectral_norm(weights, state, inputs):
    kernel, bias = weights
    matrix, u = kernel.reshape(-1, kernel.shape[-1]), state[0]
    fixed = stop(matrix)
    v = u @ fixed.T
    u = (v / jnp.linalg.norm(v)) @ fixed
    u = u / jnp.linalg.norm(u)
    return conv(inputs[0], kernel * lax.rsqrt(jnp.sum(jnp.square(u @ matrix.T))), bias)


# ---- the rest


def masked(kernel, shape, seed):
    return jnp.where(jax.random.uniform(seed, shape) >= 0.5, 2 * kernel, 0)


def drop_dense(weights, state, inputs):
    return inputs[0] @ masked(weights[0], weights[0].shape, state[0]) + weights[1]


def drop_each(weights, state, inputs):
    kernels = masked(weights[0], (len(inputs[0]), *weights[0].shape), state[0])
    return jnp.einsum("bi,bio->bo", inputs[0], kernels) + weights[1]


def drop_conv(weights, state, inputs):
    return conv(inputs[0], masked(weights[0], weights[0].shape, state[0]), weights[1])


def subpixel(weights, state, inputs):
    b, h, w, c = inputs[0].shape
    x = inputs[0].reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def cummax(x, axis):
    return lax.cummax(x, axis, reverse=True)


def scanned(x, axis):
    return lax.associative_scan(jnp.maximum, x, reverse=True, axis=axis)


def doubled(x, axis):
    """The maximum with the one 1, 2, 4, ... further on."""
    step = 1
    while step < x.shape[axis]:
        rest = lax.slice_in_dim(x, step, None, axis=axis)
        pads = [(0, step if i == axis else 0, 0) for i in range(x.ndim)]
        x, step = jnp.maximum(x, lax.pad(rest, -jnp.inf, pads)), 2 * step
    return x


def corner(largest, weights, state, inputs):
    return largest(inputs[0], 1) + largest(inputs[1], 2)


def overlap(one, boxes):
    low, high = jnp.maximum(one[:2], boxes[:, :2]), jnp.minimum(one[2:], boxes[:, 2:])
    both = jnp.prod(jnp.maximum(high - low, 0), -1)
    area = jnp.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return both / (jnp.prod(one[2:] - one[:2]) + area - both)


def suppress(weights, state, inputs):
    def of_image(boxes, scores):
        def choose(scores, _):
            best = jnp.argmax(scores)
            keep = overlap(boxes[best], boxes) <= 0.5
            found = jnp.where(scores[best] > 0, best, -1)
            return jnp.where(keep, scores, 0).at[best].set(0), found

        return lax.scan(choose, scores, None, 100)[1]

    return jax.vmap(of_image)(*inputs)


PEERS = {
    "DeformableConv2D": [partial(deformable, by_corners), partial(deformable, by_quads)],
    "SpatialTransformer2D": [partial(transformer, by_corners), partial(transformer, by_quads)],
    "ROIAlign2D": [align_by_corners, align_by_matmul],
    "ROIPooling2D": [pool_in_place],
    "BinaryConv2D": [binary],
    "TernaryDense": [ternary],
    "DoReFaConv2D": [dorefa],
    "FakeQuantConv2D": [quantized],
    "InstanceNormalization": [partial(instance, one_pass), partial(instance, two_passes)],
    "SwitchNormalization": [partial(switch, one_pass), partial(switch, two_passes)],
    "FilterResponseNormalization": [filter_response],
    "LocalResponseNormalization": [
        partial(local_response, sums) for sums in (by_windows, by_slices, by_both)
    ],
    "WeightNormalization": [weight_norm, weight_norm_late],
    "SpectralNormalization": [spectral_norm],
    "DropConnectDense": [drop_dense],
    "DropConnectDense per sample": [drop_each],
    "DropConnectConv2D": [drop_conv],
    "SubpixelConv2D": [subpixel],
    "CornerPooling2D": [partial(corner, largest) for largest in (scanned, cummax, doubled)],
    "NonMaxSuppression": [suppress],
}

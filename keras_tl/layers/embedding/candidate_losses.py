"""Losses over many classes that look at the label and at some candidates."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["nce_loss", "sampled_softmax_loss"]


def corrected_logits(
    kernel: Any,
    bias: Any,
    labels: Any,
    inputs: Any,
    candidates: Any,
    label_counts: Any,
    candidate_counts: Any,
) -> tuple[Any, Any]:
    """Logits of the labels and of the candidates, less the logarithms of their expected counts."""
    count = candidates.shape[0]
    rows = ops.take(kernel, ops.concatenate([candidates, labels]), axis=0)  # one gradient for both
    rows = ops.cast(rows, inputs.dtype)
    true = ops.cast(ops.sum(inputs * rows[count:], axis=-1), "float32")
    sampled = ops.cast(ops.matmul(inputs, ops.transpose(rows[:count])), "float32")
    true = true + ops.take(bias, labels, axis=0) - ops.log(label_counts)
    return true, sampled + ops.take(bias, candidates, axis=0) - ops.log(candidate_counts)


def nce_loss(
    kernel: Any,
    bias: Any,
    labels: Any,
    inputs: Any,
    candidates: Any,
    label_counts: Any,
    candidate_counts: Any,
) -> Any:
    """Noise-contrastive estimation, as `tf.nn.nce_loss`: one loss for each input.

    Logistic regression that tells the label from the candidates. A candidate that happens to be
    the label stays. Gutmann and Hyvarinen, AISTATS 2010; Mnih and Teh, ICML 2012.

    Args:
        kernel, bias: `(classes, features)` and `(classes,)`.
        labels, inputs: `(n,)` and `(n, features)`.
        candidates: different classes, `(count,)`.
        label_counts, candidate_counts: how often labels and candidates were expected to be drawn.
    """
    true, sampled = corrected_logits(
        kernel, bias, labels, inputs, candidates, label_counts, candidate_counts
    )
    return ops.softplus(-true) + ops.sum(ops.softplus(sampled), axis=-1)


def sampled_softmax_loss(
    kernel: Any,
    bias: Any,
    labels: Any,
    inputs: Any,
    candidates: Any,
    label_counts: Any,
    candidate_counts: Any,
) -> Any:
    """Cross-entropy of a softmax over label and candidates, as `tf.nn.sampled_softmax_loss`.

    With more candidates its gradient nears that of the softmax over all classes. A candidate that
    happens to be the label does not count. Jean et al., ACL 2015. Arguments as of `nce_loss`.
    """
    true, sampled = corrected_logits(
        kernel, bias, labels, inputs, candidates, label_counts, candidate_counts
    )
    same = candidates == labels[:, None]
    sampled = ops.where(same, ops.full((), -1e30, "float32"), sampled)
    everything = ops.concatenate([true[:, None], sampled], axis=-1)
    return ops.logsumexp(everything, axis=-1) - true

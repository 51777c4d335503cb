"""What is measured of the layers for sequences, and on what: as in `cases.py`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_tl import layers
from layer_peers.cases import Arrays, Case, normal

TAGS, START, END, BEAMS, LENGTH = 32, 1, 2, 4, 32


def named(weights: Any) -> dict[str, Any]:
    """Those of `Seq2Seq`: of an LSTM they are a kernel, a recurrent kernel and a bias."""
    source, target, *cells, keys, combine, out, out_bias = weights
    forward, backward, decoder = cells[:3], cells[3:6], cells[6:]
    return dict(locals())


class Likelihood(keras.layers.Layer):
    """What `CRF` adds as a loss, for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.crf = layers.CRF(TAGS, transitions_initializer="random_normal")

    def build(self, features_shape: Any, tags_shape: Any) -> None:
        self.crf.build(features_shape)

    def call(self, features: Any, tags: Any) -> Any:
        return self.crf.log_likelihood(self.crf.scores(features), tags)


class Beam(keras.layers.Layer):
    """The loop that `Seq2Seq.generate` compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = seq2seq()

    def build(self, source_shape: Any) -> None:
        self.layer.build(source_shape)
        bias = np.zeros(self.layer.output_dim)
        bias[END] = -100  # no target ends before `LENGTH`
        self.layer.logits.bias.assign(bias)

    def call(self, source: Any) -> Any:
        ids = keras.ops.convert_to_tensor(np.array([START, END], "int32"))
        penalty = keras.ops.zeros(())
        return self.layer._decoder("beam", LENGTH, BEAMS, None)(source, ids[0], ids[1], penalty)


def seq2seq() -> layers.Seq2Seq:
    return layers.Seq2Seq(1000, 1000, 128, embeddings_initializer=keras.initializers.RandomNormal())


def tagged(rng: np.random.Generator) -> Arrays:
    features = rng.standard_normal((256, 100, 64)).astype("float32")
    return [features, rng.integers(0, TAGS, (256, 100)).astype("int32")]


def translated(rng: np.random.Generator) -> Arrays:
    lengths = rng.integers(8, 33, (32, 1))
    source = rng.integers(3, 1000, (32, 32)) * (np.arange(32) < lengths)
    return [a.astype("int32") for a in (source, rng.integers(3, 1000, (32, 32)))]


def recurrent(cell: Any) -> Any:
    return lambda: keras.layers.RNN(cell(128), return_sequences=True)


CASES = [
    Case("LayerNormLSTMCell", recurrent(layers.LayerNormLSTMCell), normal(32, 64, 128), quick=True),
    Case("PeepholeLSTMCell", recurrent(layers.PeepholeLSTMCell), normal(32, 64, 128)),
    Case("CRF", Likelihood, tagged, quick=True),
    Case("CRF.decode", lambda: layers.CRF(TAGS, transitions_initializer="random_normal"),
         lambda rng: tagged(rng)[:1], quick=True, kinds=("forward",)),
    Case("Seq2Seq", seq2seq, translated, quick=True, differentiable=0),
    Case("Seq2Seq.beam", Beam, lambda rng: translated(rng)[:1], quick=True, differentiable=0,
         kinds=("forward",), output=lambda outputs: outputs[0]),
]  # fmt: skip

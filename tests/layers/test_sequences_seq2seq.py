"""Seq2Seq: what it computes, what padding may be, and decoding against all sequences there are."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import harness
import keras
import numpy as np
import pytest
from compiled import compiled
from harness import BACKEND, numpy

from keras_tl.layers import Seq2Seq
from keras_tl.layers.sequences import decoding
from keras_tl.layers.sequences.attention import LookBack
from keras_tl.losses import SequenceCrossentropy

START, END, CLASSES, LENGTH = 1, 2, 5, 3
SOURCE = np.array([[5, 6, 3, 0], [3, 0, 4, 6], [6, 0, 0, 0]], "int32")
BATCH = len(SOURCE)


@functools.cache
def model_of(attention: str | None = "luong", num_layers: int = 1) -> Seq2Seq:
    """With weights that make the distributions uneven, and a dropout that is for training alone."""
    layer = Seq2Seq(7, CLASSES, 4, 3, num_layers, attention, dropout=0.5, seed=2)
    layer.build((None, None), (None, None))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape).astype("float32"))
    return layer


def generate(layer: Seq2Seq, length: int = LENGTH, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    ids, scores = layer.generate(SOURCE, START, END, length, **how)
    return numpy(ids), numpy(scores)


def forced(layer: Seq2Seq, sequences: list[tuple[int, ...]]) -> np.ndarray:
    """Log-probabilities (sequences, batch, steps, classes) of what follows, by teacher forcing."""
    n = len(sequences)
    targets = np.array([(START, *ids[:-1]) for ids in sequences], "int32")
    logits = compiled(layer, np.tile(SOURCE, (n, 1)), np.repeat(targets, BATCH, axis=0))
    return log_softmax(logits).reshape(n, BATCH, *logits.shape[1:])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the classes but that of padding, which has no probability."""
    logits = logits.astype("float64")
    logits[..., 0] = -np.inf
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@functools.cache
def everything(layer: Seq2Seq) -> dict[tuple[int, ...], np.ndarray]:
    """Each prefix of at most LENGTH ids: log-probabilities (batch, classes) of the next id."""
    sequences = list(itertools.product(range(1, CLASSES), repeat=LENGTH))
    table = {}
    for ids, scores in zip(sequences, forced(layer, sequences), strict=True):
        for t in range(LENGTH):
            table[ids[:t]] = scores[:, t]
    return table


def beam(table: Any, row: int, width: int, penalty: float, length: int) -> tuple[Any, float]:
    """Beam search as one would write it by hand: lists of (ids, score, has ended)."""

    def rank(beam: Any) -> float:
        ids, score, _ = beam
        return score / ((5 + len(ids)) / 6) ** penalty

    beams = [((), 0.0, False)]
    for _ in range(length):
        grown = []
        for ids, score, ended in beams:
            if ended:
                grown.append((ids, score, True))
                continue
            grown += [((*ids, i), score + table[ids][row, i], i == END) for i in range(1, CLASSES)]
        beams = sorted(grown, key=rank, reverse=True)[:width]
    return beams[0][0], rank(beams[0])


def padded(ids: tuple[int, ...]) -> list[int]:
    return [*ids, *[0] * (LENGTH - len(ids))]


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_beam_search_is_that_in_python(penalty: float) -> None:
    layer, width = model_of(), 3
    ids, scores = generate(layer, method="beam", num_beams=width, length_penalty=penalty)
    for row in range(BATCH):
        wanted, score = beam(everything(layer), row, width, penalty, LENGTH)
        assert ids[row].tolist() == padded(wanted)
        np.testing.assert_allclose(scores[row], score, rtol=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_a_beam_as_wide_as_the_vocabulary_finds_the_best(penalty: float) -> None:
    """Of all sequences, where it need not drop one: as many beams as there are prefixes."""
    layer = model_of("bahdanau", 2)
    how = {"method": "beam", "num_beams": CLASSES**2, "length_penalty": penalty}
    ids, scores = generate(layer, **how)
    table = everything(layer)
    for row in range(BATCH):
        wanted, best = (), -np.inf
        for full in itertools.product(range(1, CLASSES), repeat=LENGTH):
            one = full[: full.index(END) + 1] if END in full else full
            score = sum(table[one[:t]][row, i] for t, i in enumerate(one))
            score /= ((5 + len(one)) / 6) ** penalty
            if score > best:
                wanted, best = one, score
        assert ids[row].tolist() == padded(wanted)
        np.testing.assert_allclose(scores[row], best, rtol=1e-4)


@pytest.mark.parametrize("attention, layers", [("luong", 1), ("bahdanau", 2), (None, 1)])
def test_greedy_is_the_argmax_of_teacher_forcing(attention: str | None, layers: int) -> None:
    layer = model_of(attention, layers)
    ids, scores = generate(layer)
    table = everything(layer)
    for row in range(BATCH):
        wanted: tuple[int, ...] = ()
        score = 0.0
        while len(wanted) < LENGTH and END not in wanted:
            probabilities = table[wanted][row]
            score += probabilities.max()
            wanted = (*wanted, int(probabilities.argmax()))
        assert ids[row].tolist() == padded(wanted)
        np.testing.assert_allclose(scores[row], score, rtol=1e-4)


def test_a_temperature_near_zero_is_greedy() -> None:
    layer = model_of()
    ids, scores = generate(layer)
    found = generate(layer, method="sample", temperature=1e-6)
    np.testing.assert_array_equal(found[0], ids)
    np.testing.assert_allclose(found[1], scores, rtol=1e-5)


def test_a_seed_draws_the_same_and_none_draws_anew() -> None:
    layer = model_of()
    first, again = (generate(layer, method="sample", seed=7)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    drawn = [generate(layer, method="sample", temperature=9.0)[0] for _ in range(3)]
    assert any(not np.array_equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize("k", [3, None])
def test_what_is_drawn_has_the_probabilities_of_the_softmax(k: int | None) -> None:
    """Of the k best alone: a chi-square test of one step (99.9th percentiles, 2 and 5 degrees)."""
    logits = np.array([0.5, -1.0, 2.0, decoding.NEVER, 1.0, 0.0, 1.5], "float32")
    n = 4000
    uniform = np.random.default_rng(1).random(n, "float32")
    (found,) = map(
        numpy,
        harness.compiled(
            lambda given: decoding.drawn(given[0], k, given[1]), [np.tile(logits, (n, 1)), uniform]
        ),
    )
    weights = np.exp(logits.astype("float64"))
    if k is not None:
        weights[np.argsort(logits)[:-k]] = 0
    wanted = n * weights / weights.sum()
    counts = np.bincount(found, minlength=len(logits))
    assert np.all(counts[wanted == 0] == 0)
    kept = wanted > 0
    chi_square = np.sum((counts - wanted)[kept] ** 2 / wanted[kept])
    assert chi_square < (13.82 if k else 20.52)


def test_top_k_never_leaves_the_k_best() -> None:
    layer = model_of()
    table = everything(layer)
    for seed in range(5):
        ids, scores = generate(layer, method="top_k", top_k=2, temperature=3.0, seed=seed)
        for row in range(BATCH):
            written = ids[row][ids[row] > 0].tolist()
            total = 0.0
            for t, i in enumerate(written):
                probabilities = table[tuple(written[:t])][row]
                assert i in np.argsort(probabilities)[-2:]
                total += probabilities[i]
            np.testing.assert_allclose(scores[row], total, rtol=1e-4)


@pytest.mark.parametrize("kind", ["luong", "bahdanau"])
def test_attention_is_the_formula_of_its_paper(kind: str) -> None:
    layer = LookBack(4, kind, "glorot_uniform")
    layer.build()
    rng = np.random.default_rng(4)
    queries, memory = (rng.standard_normal((BATCH, n, 4)).astype("float32") for n in (2, 4))
    valid = SOURCE != 0
    (found,) = map(
        numpy,
        harness.compiled(
            lambda given: layer(*given[:2], layer.keys(given[1]), given[2]),
            [queries, memory, valid],
        ),
    )
    weights = {w.path.split("/")[-2]: numpy(w) for w in layer.weights}
    keys = memory @ weights["keys"]
    for row, query in np.ndindex(BATCH, 2):
        h, ms, ks = queries[row, query], memory[row][valid[row]], keys[row][valid[row]]
        if kind == "luong":
            scores = ks @ h
        else:
            scores = np.tanh(ks + h @ weights["queries"]) @ weights["score"][:, 0]
        share = np.exp(scores) / np.exp(scores).sum()
        wanted = np.tanh(np.concatenate([share @ ms, h]) @ weights["combine"])
        np.testing.assert_allclose(found[row, query], wanted, rtol=1e-4, atol=1e-5)


def test_what_padding_is_embedded_as_changes_nothing() -> None:
    """Bit for bit; a source has the same logits with less of it, and may be nothing else."""
    layer = model_of("bahdanau", 2)
    source = np.concatenate([SOURCE, 0 * SOURCE[:1]])
    target = np.array([[1, 3, 4], [1, 4, 0], [1, 0, 0], [1, 2, 0]], "int32")
    before = compiled(layer, source, target)
    assert np.all(np.isfinite(before))
    table = layer.source_embedding.embeddings
    old = numpy(table).copy()
    table.assign(np.concatenate([100 * np.ones((1, 3), "float32"), old[1:]]))
    np.testing.assert_array_equal(compiled(layer, source, target), before)
    table.assign(old)
    short = compiled(layer, source[2:3, :1], target[2:3, :1])
    np.testing.assert_allclose(short, before[2:3, :1], rtol=1e-4, atol=1e-5)


def test_the_decoder_starts_where_the_encoder_ends() -> None:
    """After one step an LSTM's hidden state is its output, in each direction."""
    (outputs, *_), (hidden, _) = model_of()._encoded(
        keras.ops.convert_to_tensor(SOURCE[:, :1]), False
    )
    np.testing.assert_array_equal(numpy(outputs)[:, 0], numpy(hidden))


def test_it_learns_to_reverse_and_is_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4, 256)
    source, target = np.zeros((256, 3), "int32"), np.zeros((256, 5), "int32")
    for row, n in enumerate(lengths):
        source[row, :n] = rng.integers(3, 6, n)
        target[row, : n + 2] = [START, *source[row, :n][::-1], END]
    keras.utils.set_random_seed(1)
    layer = Seq2Seq(6, 6, 32)
    inputs = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, layer(*inputs))
    loss = SequenceCrossentropy(from_logits=True, ignore_class=0)
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=BACKEND != "torch")
    data = ((source, target[:, :-1]), target[:, 1:])
    history = model.fit(*data, batch_size=64, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.2 < history[0]
    model.save(path := tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    (again,) = (one for one in loaded.layers if isinstance(one, Seq2Seq))
    ids = numpy(again.generate(source[:64], START, END, 4)[0])
    assert np.mean(np.all(ids == target[:64, 1:], axis=1)) > 0.9


def test_what_changes_the_layer_changes_what_it_writes() -> None:
    """Other values, and other variables: what is compiled must not outlive them."""
    layer = Seq2Seq(7, CLASSES, 4)
    layer.build((None, None), (None, None))
    found = [generate(layer, 2)[1]]
    layer.logits.bias.assign(np.arange(CLASSES, dtype="float32"))
    found.append(generate(layer, 2)[1])
    layer.logits.enable_lora(1)
    layer.logits.lora_kernel_a.assign(np.full((4, 1), 9.0))
    layer.logits.lora_kernel_b.assign(np.array([[0.0, 90.0, -90.0, 50.0, 0.0]]))
    found.append(generate(layer, 2)[1])
    for one, other in itertools.combinations(found, 2):
        assert not np.any(np.isclose(one, other, atol=1e-3))


def test_two_weights_of_one_shape_start_differently() -> None:
    layer = Seq2Seq(5, 5, 4, num_layers=2)
    layer.build((None, None), (None, None))
    values = [numpy(w) for w in layer.trainable_weights if len(w.shape) == 2]
    for one, other in itertools.combinations(values, 2):
        assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": 5}, "`units` must be even.*Received: units=5"),
        ({"attention": "dot"}, "`attention` must be one of 'luong', 'bahdanau'"),
        ({"output_dim": 1}, "`output_dim` must be an integer of at least 2"),
        ({"dropout": 1}, "`dropout` must be a number in"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2Seq(**{"input_dim": 5, "output_dim": 5, "units": 4, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "nucleus"}, "`method` must be one of 'greedy', 'top_k', 'sample', 'beam'"),
        ({"method": "top_k", "top_k": 5}, "`top_k` must be at most 4. Received: top_k=5"),
        ({"method": "sample", "temperature": 0}, "`temperature` must be a finite number above 0"),
        ({"method": "beam", "num_beams": 0}, "`num_beams` must be an integer of at least 1"),
        ({"length_penalty": -1.0}, "`length_penalty` must be a finite number of at least 0"),
        ({"max_length": 0}, "`max_length` must be an integer of at least 1"),
        ({"end_id": 0}, "`end_id` must be an integer of at least 1"),
        ({"start_id": 5}, "`start_id` must be below 5. Received: start_id=5"),
        ({"source": SOURCE.astype("float32")}, "`source` must be integers of .batch, steps.,"),
        ({"source": SOURCE[:, :0]}, "`source` must be integers.*Received: int32 of shape .3, 0."),
        ({"source": SOURCE[:0]}, "`source` must be integers.*Received: int32 of shape .0, 4."),
        ({"source": SOURCE + 1}, "`source` must have ids from 0 to 6. Received: ids from 1 to 7"),
        ({"source": -SOURCE}, "`source` must have ids from 0 to 6. Received: ids from -6 to 0"),
        ({"method": "sample", "seed": -1}, "`seed` must be an integer of at least 0"),
        ({"source": SOURCE[0]}, "`source` must be integers.*Received: int32 of shape .4,."),
    ],
)
def test_bad_decoding_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"source": SOURCE, "start_id": START, "end_id": END, "max_length": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        model_of().generate(**given)


def test_targets_must_be_integers() -> None:
    with pytest.raises(ValueError, match="`target` must be integers.*Received: float32"):
        model_of()(SOURCE, np.ones((BATCH, 2), "float32"))

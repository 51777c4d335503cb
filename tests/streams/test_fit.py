"""A stream in `fit`, on the backend of this run: what is trained, counted, waited for, raised."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest
from memory_source import Topic, filled, samples, stream

from keras_tl.streams import Stream, StreamError, fitting

BATCH = 8
BACKEND = keras.backend.backend()

# What `keras.ops.convert_to_numpy` does to a tensor on NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def network(**options: Any) -> keras.Model:
    """Built, and the same in every run; dropout, so that seeds matter too."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dropout(0.2, seed=5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v.value) for v in variables]


@functools.cache
def trained_on_arrays(steps: int) -> list[np.ndarray]:
    x, y = samples(steps * BATCH)
    model = network()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    return state(model)


def assert_equal(model: keras.Model, expected: list[np.ndarray]) -> None:
    for found, wanted in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@contextmanager
def guarded(source: Stream) -> Iterator[None]:
    """Ends a `fit` that waits for a batch that never comes, and fails then."""
    hung = threading.Event()
    timer = threading.Timer(60, lambda: (hung.set(), source.close()))
    timer.start()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Your input ran out of data")  # how it would end
            yield
    finally:
        timer.cancel()
        assert not hung.is_set(), "`fit` waited for a batch that it did not need"
        source.close()


@pytest.mark.parametrize("block", [1, 5, 32])
def test_the_same_numbers_as_from_arrays(block: int) -> None:
    source = stream(filled(12 * BATCH, block))
    model = network()
    with guarded(source):
        model.fit(source, steps_per_epoch=6, epochs=2, verbose=0)
        assert source.trained == 12
    assert_equal(model, trained_on_arrays(12))


def test_a_second_fit_goes_on_where_the_first_ended() -> None:
    """Trap 1: what was pulled ahead and not trained must not be lost."""
    source = stream(filled(40 * BATCH))
    model = network()
    with guarded(source):
        for fits in range(1, 4):
            model.fit(source, steps_per_epoch=4, verbose=0)
            assert source.trained == 4 * fits
        np.testing.assert_array_equal(source.peek()[1], samples(104)[1][96:])
    assert_equal(model, trained_on_arrays(12))


ONE_STEP = pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer: one step only")


@pytest.mark.parametrize("per_execution", [1, pytest.param(3, marks=ONE_STEP)])
def test_a_stream_that_goes_quiet_after_the_last_step_ends_fit(per_execution: int) -> None:
    """Trap 2: nothing may wait for batch N + 1."""
    source = stream(filled(6 * BATCH))
    model = network(steps_per_execution=per_execution)
    with guarded(source):
        model.fit(source, steps_per_epoch=3, epochs=2, verbose=0)
        assert (source.trained, source.handed_out) == (6, 6)
    assert_equal(model, trained_on_arrays(6))


@pytest.mark.skipif(BACKEND != "jax", reason="only jax: looks one batch ahead")
def test_a_quiet_stream_ends_fit_on_an_accelerator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    source = stream(filled(6 * BATCH))
    model = network()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # what Keras asks
    with guarded(source):
        model.fit(source, steps_per_epoch=3, epochs=2, verbose=0)
        assert (source.trained, source.handed_out) == (6, 6)


def test_a_look_at_the_shapes_does_not_count() -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Dense(1)])  # not built: Keras looks at a batch
    model.compile("sgd", "mse", metrics=["mae"])
    source = stream(filled(4 * BATCH))
    source.peek()
    with guarded(source):
        model.fit(source, steps_per_epoch=4, verbose=0)
        assert source.trained == 4


class Mark(keras.callbacks.Callback):
    """What a checkpoint does: marks by step number, and captures weights with the cursor."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.captured: tuple[dict[str, Any], list[np.ndarray]] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        fitting.expect(self)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            found = fitting.attached(self)
            assert found is not None
            self.source, self.before = found, found.trained
        self.source.mark_trained(self.before + batch)
        if self.stop_at == self.source.trained:
            if BACKEND == "jax":
                # Trap 3: inside a step the variables hold nothing until jax's state is synced.
                self.model.jax_state_sync()
            self.captured = self.source.cursor, state(self.model)
            raise KilledError

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.source.mark_trained(self.before + self.params["steps"])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("step", [4, 12])
def test_weights_and_cursor_of_any_step_resume_exactly(step: int) -> None:
    """Trap 3, and what a version is: killed at `step`, the end is the same to the bit."""
    topic = filled(15 * BATCH, 5, partitions=3)
    whole, source = network(), stream(topic)
    with guarded(source):
        whole.fit(source, steps_per_epoch=5, epochs=3, verbose=0)
    expected = state(whole)

    model, source, mark = network(), stream(topic), Mark(step)
    with guarded(source), pytest.raises(KilledError):
        model.fit(source, steps_per_epoch=5, epochs=3, verbose=0, callbacks=[mark])
    assert mark.captured is not None
    cursor, weights = mark.captured

    model, source = network(), stream(topic, cursor=cursor)
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(
        [*model.variables, *model.optimizer.variables], weights, strict=True
    ):
        variable.assign(value)
    with guarded(source):
        model.fit(source, steps_per_epoch=15 - step, verbose=0, callbacks=[Mark()])
        assert source.trained == 15 - step
    assert_equal(model, expected)


def test_what_was_not_marked_comes_again() -> None:
    source = stream(filled(20 * BATCH))
    model, mark = network(), Mark(2)
    with guarded(source):
        with pytest.raises(KilledError):
            model.fit(source, steps_per_epoch=5, verbose=0, callbacks=[mark])
        assert source.trained == 2
        np.testing.assert_array_equal(source.peek()[1], samples(3 * BATCH)[1][2 * BATCH :])
        # Without the checkpoint what Keras pulls counts again.
        network().fit(source, steps_per_epoch=5, verbose=0)
        assert source.trained == 7


class StopOnce(keras.callbacks.Callback):
    """Ends the first epoch early, as a resume in the middle of an epoch does."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.steps = getattr(self, "steps", [])
        self.steps += [0] if batch == 0 else []
        self.steps[-1] += 1
        if len(self.steps) == 1 and batch == 2:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = False


@pytest.mark.parametrize("marked", [False, True])
def test_an_epoch_that_was_stopped_is_followed_by_whole_ones(marked: bool) -> None:
    class MarkSteps(Mark):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.source.mark_trained(self.before + stop.steps[-1])

    source = stream(filled(40 * BATCH))
    model, stop = network(), StopOnce()
    callbacks = [stop, MarkSteps()] if marked else [stop]
    with guarded(source):
        model.fit(source, steps_per_epoch=7, epochs=3, verbose=0, callbacks=callbacks)
        assert stop.steps == [3, 7, 7]
        assert source.trained == 17
        model.fit(source, steps_per_epoch=3, verbose=0)
        assert source.trained == 20
    assert_equal(model, trained_on_arrays(20))


def test_a_fit_that_was_stopped_counts_its_last_batch() -> None:
    source = stream(filled(40 * BATCH))
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(model, "stop_training", batch == 2)
    )
    model = network()
    with guarded(source):
        model.fit(source, steps_per_epoch=7, verbose=0, callbacks=[stop])
        assert source.trained == 3
        model.fit(source, steps_per_epoch=7, verbose=0)
        assert source.trained == 10
    assert_equal(model, trained_on_arrays(10))


def test_a_bounded_stream_trains_its_last_shorter_batch() -> None:
    x, y = samples(20)
    source = stream(filled(20), end={0: 4})
    model = network()
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(source, verbose=0)
    assert source.trained == 3
    source.close()
    reference = network()
    reference.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    # Not the seeds: TensorFlow draws the next one before it finds that no batch is left.
    for found, wanted in zip(model.trainable_variables, reference.trainable_variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(wanted)
        )


def test_a_bad_record_is_a_stream_error_in_fit() -> None:
    topic = filled(2 * BATCH, BATCH)
    topic.add_raw(0, b"not a bundle", [])
    source = stream(topic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow ends the data before the error is raised
        with pytest.raises(StreamError, match="offset 2: .*`headers` must hold"):
            network().fit(source, steps_per_epoch=4, verbose=0)
    source.close()


def test_evaluate_and_predict() -> None:
    x, y = samples(4 * BATCH)
    model = network()
    source = stream(filled(8 * BATCH))
    with guarded(source):
        loss = model.evaluate(source, steps=4, verbose=0)
        wanted = model.evaluate(x, y, batch_size=BATCH, verbose=0)
        assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
        found = model.predict(source, steps=2, verbose=0)
    wanted = model.predict(samples(6 * BATCH)[0][4 * BATCH :], batch_size=BATCH, verbose=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_validation_stream_is_not_the_stream_of_a_checkpoint() -> None:
    training, validation = stream(filled(20 * BATCH)), stream(filled(20 * BATCH))

    class Expecting(keras.callbacks.Callback):
        found: list[Any] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            fitting.expect(self)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 0:
                self.found.append(fitting.attached(self))

    x, y = samples(2 * BATCH)
    options: dict[str, Any] = {"validation_steps": 2, "epochs": 2, "verbose": 0}
    options |= {"validation_data": validation, "callbacks": [Expecting()]}
    with guarded(training), guarded(validation):
        network().fit(x, y, batch_size=BATCH, **options)
        assert Expecting.found == [None, None]
        network().fit(training, steps_per_epoch=2, **options)
        assert Expecting.found[2:] == [training, training]
        assert validation.trained == 8


def test_inputs_of_other_names_are_a_dict() -> None:
    topic = Topic()
    x, y = samples(2 * BATCH)
    topic.add(0, a=x[:, :1], b=x[:, 1:], y=y, sample_weight=np.ones(2 * BATCH, "float32"))
    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((3,), name="b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    source = stream(topic)
    with guarded(source):
        model.fit(source, steps_per_epoch=2, verbose=0)
        assert source.trained == 2


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float64", "bfloat16", "bool"])
def test_dtypes_arrive(dtype: str) -> None:
    import ml_dtypes

    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    topic = Topic()
    topic.add(0, x=np.ones((BATCH, 4), numpy_dtype), y=np.ones((BATCH, 1), "float32"))
    source = stream(topic)
    model = network()
    with guarded(source):
        model.fit(source, steps_per_epoch=1, verbose=0)
        assert source.trained == 1


def test_what_keras_would_ignore_is_refused() -> None:
    source = stream(filled(64))
    for name, value in [("class_weight", {0: 2.0}), ("sample_weight", np.ones(8))]:
        with pytest.raises(ValueError, match=f"`{name}` must not be given beside a stream"):
            network().fit(source, steps_per_epoch=1, verbose=0, **{name: value})
    source.close()


def test_a_batch_size_beside_a_stream_is_refused_and_beside_arrays_is_theirs() -> None:
    source, model, (x, y) = stream(filled(64)), network(), samples(16)
    refused = pytest.raises(ValueError, match="`batch_size` must not .* Received: batch_size=999")
    with refused:
        model.fit(source, steps_per_epoch=1, verbose=0, batch_size=999)
    with refused:
        model.evaluate(source, steps=1, verbose=0, batch_size=999)
    with refused:
        model.predict(source, steps=1, verbose=0, batch_size=999)
    assert source.trained == 0
    model.fit(
        source,
        steps_per_epoch=1,
        verbose=0,
        validation_data=(x, y),
        validation_batch_size=4,
    )
    model.fit(x, y, batch_size=4, verbose=0, validation_data=source, validation_steps=2)
    assert source.trained == 3
    source.close()


def test_a_resumed_stream_needs_its_checkpoint() -> None:
    class Restored(keras.callbacks.Callback):
        """As a checkpoint that has put the model back to where `awaited` starts."""

        def __init__(self, awaited: Stream) -> None:
            super().__init__()
            self.awaited = awaited

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            fitting.expect(self)

    source, other = stream(filled(64)), stream(filled(64))
    for callbacks in ([], [Restored(other)]):
        source.resumed = "m"
        fitting.forget()
        with pytest.raises(ValueError, match="must hold the `MongoCheckpoint` .* resume='m'"):
            network().fit(source, steps_per_epoch=1, verbose=0, callbacks=callbacks)
    fitting.forget()
    network().fit(source, steps_per_epoch=1, verbose=0, callbacks=[Restored(source)])
    assert source.resumed is None  # it was told once
    source.close()
    other.close()

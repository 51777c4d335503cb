"""Orders to a run as its `fit` carries them out, without a server: the inbox is filled by hand."""

from __future__ import annotations

import datetime
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import keras
import numpy as np
import offline
import pytest
from bson import ObjectId

from keras_tl.callbacks import MongoLogger, orders
from keras_tl.models.orders import Inbox
from keras_tl.storage import hooks
from keras_tl.storage.connection import Connection

BACKEND = keras.backend.backend()
BATCH, STEPS = 8, 8

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


@keras.saving.register_keras_serializable("keras_tl_tests")
class Gate(keras.layers.Layer):
    """Multiplies by a number that is set from outside."""

    def build(self, shape: Any) -> None:
        self.alpha = self.add_weight(shape=(), initializer="ones", trainable=False, name="alpha")
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="count", dtype="int32"
        )
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        return x * self.alpha * self.scale


def network(optimizer: Any = None, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), Gate(name="gate")])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return model


def weights(model: keras.Model) -> list[bytes]:
    found = [*model.weights, *model.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in found]


def order(action: str = "set", **values: Any) -> dict[str, Any]:
    return {"_id": ObjectId(), "run": "r", "action": action, "values": values, "state": "pending"}


def applied(step: int, second: int = 0, **values: Any) -> dict[str, Any]:
    at = datetime.datetime(2026, 1, 1, 0, 0, second, tzinfo=datetime.UTC)
    report = {"attempt": "earlier", "step": step, "at": at}
    return {**order(**values), "state": "applied", "applied": report}


class At(keras.callbacks.Callback):
    """Hands orders to the logger's inbox before step `at` of the `fit`, counted from 1."""

    def __init__(self, logger: MongoLogger, at: int, *given: dict[str, Any]) -> None:
        super().__init__()
        self.logger, self.at, self.given, self.steps = logger, at, list(given), 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.given and self.steps + batch + 1 >= self.at:
            self.logger._inbox.put(self.given)
            self.given = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.steps += STEPS


@pytest.fixture
def connection() -> Iterator[Connection]:
    with offline.connected() as made:
        yield made


def fit(
    connection: Connection,
    model: keras.Model,
    *given: tuple[int, dict[str, Any]],
    epochs: int = 1,
    before: Callable[[MongoLogger], Any] | None = None,
) -> MongoLogger:
    # Keras then leaves the trained values with the trainer on JAX.
    logger = MongoLogger(connection, async_safe=True, flush_timeout=0.0)
    senders = [At(logger, at, one) for at, one in given]
    others = [before(logger)] if before else []
    model.fit(
        *(X, Y),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*others, *senders, logger],
    )
    return logger


def in_two(first: int, change: Callable[[keras.Model], None], **options: Any) -> keras.Model:
    """What Keras alone makes of a model that is changed after so many steps: the oracle."""
    model = network(**options)
    cut = first * BATCH
    about = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(X[:cut], Y[:cut], **about)
    change(model)
    model.fit(X[cut:], Y[cut:], **about)
    return model


def events(connection: Connection) -> list[tuple[int, str, dict[str, Any]]]:
    found = offline.rows(connection, "order")
    if not found:
        return []
    columns = (found[name].tolist() for name in ("step", "action", "values"))
    return list(zip(*columns, strict=True))


def reports(connection: Connection) -> list[dict[str, Any]]:
    found = offline.documents(connection)
    return [d["update"]["set"] for d in found if d["collection"] == "orders"]


@pytest.mark.parametrize("execution, jit", [(1, False), (1, True), (4, True)])
def test_a_rate_set_at_a_step_trains_as_in_a_fit_cut_there(
    connection: Connection, execution: int, jit: Any
) -> None:
    options = {"steps_per_execution": execution, "jit_compile": jit}
    if BACKEND == "torch":
        if execution > 1:
            pytest.skip("Keras has no `steps_per_execution` on torch")
        options = {}

    def change(model: keras.Model) -> None:
        model.optimizer.learning_rate = 0.5

    expected = in_two(4, change, **options)
    model = network(**options)
    fit(connection, model, (5, order(learning_rate=0.5)))
    assert weights(model) == weights(expected)
    assert weights(model) != weights(in_two(4, lambda model: None, **options))
    assert events(connection) == [(5, "set", {"learning_rate": 0.5})]
    (report,) = reports(connection)
    assert (report["state"], report["applied"]["step"]) == ("applied", 5)


@pytest.mark.parametrize("name", ["alpha", "gate/alpha"])
def test_a_control_variable_of_the_model_is_seen_by_the_compiled_step(
    connection: Connection, name: str
) -> None:
    def change(model: keras.Model) -> None:
        model.get_layer("gate").alpha.assign(0.25)

    model = network()
    fit(connection, model, (4, order(**{name: 0.25})))
    assert weights(model) == weights(in_two(3, change))
    assert model.get_layer("gate").alpha.dtype == "float32"


def test_the_inner_optimizer_of_loss_scaling_gets_the_rate(connection: Connection) -> None:
    def scaled() -> Any:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))

    def change(model: keras.Model) -> None:
        model.optimizer.inner_optimizer.learning_rate = 0.0

    model = network(scaled())
    fit(connection, model, (4, order(learning_rate=0.0)))
    assert weights(model) == weights(in_two(3, change, optimizer=scaled()))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gamma": 1.0}, "gate/alpha.*Received: gamma"),
    ({"weight_decay": 0.5}, "`weight_decay` is a constant of the compiled step"),
    ({"kernel": 1.0}, "Received: kernel"),
    ({"scale": 1.0}, "Received: scale"),  # the optimizer trains it
    ({"iterations": 0}, "`iterations` is|Received: iterations"),
    ({"iteration": 0}, "Received: iteration"),
    ({"alpha": 1e300}, "`alpha` must be a finite float32. Received: 1e\\+300"),
    ({"alpha": True}, "`alpha` must be a finite float32. Received: True"),
    ({"count": 1.5}, "`count` must be a finite int32. Received: 1.5"),
    ({"count": 2**40}, "`count` must be a finite int32. Received"),
    ({"alpha": 0.5, "gamma": 1.0}, "Received: gamma"),
]


def test_what_cannot_be_set_is_refused_whole_and_training_goes_on(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def optimizer() -> keras.optimizers.Optimizer:
        return keras.optimizers.AdamW(0.01, weight_decay=0.1)

    model = network(optimizer())
    with caplog.at_level(logging.WARNING, "keras_tl"):
        fit(connection, model, *((4, order(**values)) for values, _ in REFUSED))
    assert weights(model) == weights(in_two(3, lambda model: None, optimizer=optimizer()))
    said = [r.getMessage() for r in caplog.records if "is refused" in r.getMessage()]
    for (_, reason), report, line in zip(REFUSED, reports(connection), said, strict=True):
        assert report["state"] == "refused"
        assert re.search(reason, report["reason"])
        assert report["reason"] in line
    assert events(connection) == []


def test_a_rate_that_follows_a_schedule_is_refused(connection: Connection) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    fit(connection, network(keras.optimizers.SGD(schedule)), (2, order(learning_rate=1.0)))
    (report,) = reports(connection)
    assert report["state"] == "refused" and "schedule" in report["reason"]


def test_a_name_of_two_variables_is_refused_and_its_path_is_not(connection: Connection) -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((4,)), Gate(name="one"), Gate(name="two"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    fit(connection, model, (2, order(alpha=0.5)), (3, order(**{"two/alpha": 0.5})))
    first, second = reports(connection)
    assert first["state"] == "refused" and re.search("one/alpha, .*two/alpha", first["reason"])
    assert second["state"] == "applied"
    assert [float(model.get_layer(name).alpha.value) for name in ("one", "two")] == [1.0, 0.5]


def test_stop_ends_the_fit_and_names_the_state(connection: Connection) -> None:
    model = network()
    logger = fit(connection, model, (3, order("stop")), epochs=5)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3
    assert events(connection) == [(3, "stop", {})]
    ends = [d["update"].get("set", {}) for d in offline.documents(connection)]
    assert [s["state"] for s in ends if "ended" in s] == ["stopped"]
    assert logger.run.outcome == "stopped"


def test_pause_waits_obeys_and_goes_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    logger = MongoLogger(connection, flush_timeout=0.0)
    waits = threading.Semaphore(0)

    class Paused(Inbox):
        def wait(self) -> None:
            waits.release()
            super().wait()

    monkeypatch.setattr(orders, "Inbox", Paused)
    with futures.ThreadPoolExecutor(1) as pool:

        def resume() -> None:
            for one in (order(learning_rate=0.5), order("resume")):
                assert waits.acquire(timeout=60)  # it waits, the second time after obeying
                logger._inbox.put([one])

        resumed = pool.submit(resume)
        sender = At(logger, 3, order("pause"))
        model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[sender, logger])
        resumed.result()

    def change(model: keras.Model) -> None:
        model.optimizer.learning_rate = 0.5

    assert weights(model) == weights(in_two(2, change))
    assert events(connection) == [
        (3, "pause", {}),
        (3, "set", {"learning_rate": 0.5}),
        (3, "resume", {}),
    ]
    runs = [d for d in offline.documents(connection) if d["collection"] == "runs"]
    states = [d["update"]["set"]["state"] for d in runs if "state" in d["update"].get("set", {})]
    assert states == ["running", "paused", "running", "finished"]


def test_closing_the_connection_frees_a_paused_fit(connection: Connection) -> None:
    from keras_tl.models import current

    logger = MongoLogger(connection, flush_timeout=0.0)
    model = network()
    started = threading.Event()

    class Tell(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                logger._inbox.put([order("pause")])
                started.set()

    def close() -> None:
        assert started.wait(60)
        current.close(connection, 0.0)

    closer = threading.Thread(target=close)
    closer.start()
    model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[Tell(), logger])
    closer.join(60)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == STEPS


class Resumed(keras.callbacks.Callback):
    """Makes the run a resumed one, before the logger starts it."""

    def __init__(self, logger: MongoLogger, step: int, *known: dict[str, Any]) -> None:
        super().__init__()
        self.logger, self.step, self.known = logger, step, list(known)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch:
            return
        self.logger.run.resume({"run": "r", "number": 0, "step": self.step, "batch": 0})
        real = self.logger.run.outbox.listen

        def listen(inbox: Inbox) -> None:
            assert inbox.start_step == self.step
            inbox.put(self.known)  # as the first answer of the server
            real(inbox)

        self.logger.run.outbox.listen = listen  # type: ignore[method-assign]


def rates(connection: Connection, *known: dict[str, Any], given: Any = ()) -> list[float]:
    """The learning rate that each of the steps 101 to 108 is trained with."""
    seen: list[float] = []
    model = network(keras.optimizers.SGD(1.0))

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if BACKEND == "jax":
                self.model.jax_state_sync()
            seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    logger = MongoLogger(connection, flush_timeout=0.0)
    model.fit(
        *(X[: STEPS * BATCH] * 0, Y * 0),
        batch_size=BATCH,
        verbose=0,
        callbacks=[
            Resumed(logger, 100, *known),
            *(At(logger, at - 100, one) for at, one in given),
            logger,
            Watch(),
        ],
    )
    return seen


def test_a_resumed_run_applies_again_at_the_step_of_the_first_time(connection: Connection) -> None:
    # In the order of steps, and of application within one.
    known = [
        applied(106, learning_rate=4.0),
        applied(103, 2, learning_rate=3.0),
        applied(103, 1, learning_rate=2.0),
    ]
    assert rates(connection, *known) == [1.0, 1.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0]
    assert [(step, values["learning_rate"]) for step, _, values in events(connection)] == [
        (103, 2.0),
        (103, 3.0),
        (106, 4.0),
    ]
    documents = [d for d in offline.documents(connection) if d["collection"] == "orders"]
    # Only where nobody has reported otherwise meanwhile.
    assert {d["only"]["applied.attempt"] for d in documents} == {"earlier"}
    assert [d["update"]["set"]["applied"]["step"] for d in documents] == [103, 103, 106]


def test_a_newer_order_is_not_undone_by_an_older_one_that_is_applied_again(
    connection: Connection,
) -> None:
    known = [applied(105, learning_rate=4.0), applied(106, learning_rate=5.0, alpha=0.5)]
    newer = order(learning_rate=9.0)
    assert rates(connection, *known, given=[(103, newer)]) == [1.0, 1.0, *([9.0] * 6)]
    assert events(connection) == [
        (103, "set", {"learning_rate": 9.0}),
        (106, "set", {"alpha": 0.5}),
    ]
    replaced = [r for r in reports(connection) if "replaced" in r]
    assert replaced == [
        {"state": "replaced", "replaced": ["learning_rate"]},
        {"replaced": ["learning_rate"]},
    ]


def test_a_resumed_run_waits_for_its_orders_and_says_if_there_is_no_answer(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Inbox, "wait_known", lambda self, timeout: waited.append(timeout))
    logger = MongoLogger(connection, flush_timeout=0.0)
    with caplog.at_level(logging.WARNING, "keras_tl"):
        network().fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[logger])
        assert waited == []  # a run that is new has none
        resumed = MongoLogger(connection, flush_timeout=0.0)

        class Resume(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                resumed.run.resume({"run": "r", "number": 0, "step": 8, "batch": 0})

        network().fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[Resume(), resumed])
    assert waited == [5.0]
    assert sum("what orders the resumed run" in r.getMessage() for r in caplog.records) == 1


def test_killed_before_it_was_reported_an_order_is_still_pending(connection: Connection) -> None:
    class Killed(BaseException):
        pass

    def die(phase: str) -> None:
        if phase == "order-applied":
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(hooks, "hook", die)
        fit(connection, network(), (3, order(learning_rate=0.5)))
    assert reports(connection) == [] and events(connection) == []


def test_a_logger_that_takes_no_orders_asks_for_none(connection: Connection) -> None:
    logger = MongoLogger(connection, flush_timeout=0.0, takes_orders=False)
    network().fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[logger])
    assert logger._inbox is orders.NONE and not logger.run.outbox._over

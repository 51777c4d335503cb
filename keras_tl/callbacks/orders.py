"""Orders to a run, as its `fit` carries them out: in the main thread, between two steps."""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_tl.models import state
from keras_tl.models.orders import Inbox
from keras_tl.models.runs import Run
from keras_tl.storage import hooks

log = logging.getLogger("keras_tl")

_PATIENCE = 5.0  # s

#: The inbox of who takes no orders.
NONE = Inbox("", "")


class Orders:
    """Applies the orders to a run, and again after a resume what the version does not hold yet.

    An order that was first trained with in step `s` is in each version of step `s` or later: a
    learning rate is a variable of the optimizer, a control variable one of the model. An attempt
    that resumes from an earlier version applies it again before step `s`, unless a newer order
    sets the same variable first. `pause` and `stop` are not applied again: nobody could go on.

    Args:
        run: the run of the `fit` under way, started.

    Attributes:
        inbox: where orders arrive; `inbox.waiting` tells whether to call `obey`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._paused = False
        self._again: list[dict[str, Any]] = []
        self.inbox = Inbox(run.id, run.attempt, run.start_step if run.number else None)
        run.outbox.listen(self.inbox)
        # It must not train past a step at which an earlier attempt had applied an order.
        if run.number and not self.inbox.wait_known(_PATIENCE):
            run.outbox.warn(
                "orders",
                "MongoDB did not say within %d s what orders the resumed run was given. It goes "
                "on; they are applied when they are known.",
                _PATIENCE,
            )

    def obey(self, owner: keras.callbacks.Callback, step: int, epoch: int) -> None:
        """Apply what has arrived and what is due; returns when the run is not paused.

        Args:
            owner: the callback whose model is trained; it is read only for an order that is due,
                since on JAX that brings the trained values out of the trainer.
            step: the step that comes next, counted from 1.
            epoch: its epoch.
        """
        while True:
            fresh: list[dict[str, Any]] = []
            for order in self.inbox.take():
                (self._again if "applied" in order else fresh).append(order)
            self._again.sort(key=lambda order: (order["applied"]["step"], order["applied"]["at"]))
            while self._again and self._again[0]["applied"]["step"] <= step:
                self._apply(self._again.pop(0), owner.model, step, epoch)
            for order in fresh:
                self._apply(order, owner.model, step, epoch)
            if not self._paused or self.inbox.closed:
                break
            self.inbox.wait()
        if self._again:
            self.inbox.waiting = True  # to look at each step whether they are due

    def _apply(self, order: dict[str, Any], model: keras.Model, step: int, epoch: int) -> None:
        action, replaced = order["action"], order.get("replaced", ())
        values = {name: v for name, v in order["values"].items() if name not in replaced}
        try:
            if _processes() > 1:
                raise ValueError("Several processes train this model, and only one takes orders.")
            if action == "set":
                changed = assign(model, values)
                if "applied" not in order:
                    self._replace(changed, model)
        except Exception as error:  # whatever is wrong with an order, `fit` goes on
            log.warning(
                "An order to run %s is refused (%s %s): %s", self._run.id, action, values, error
            )
            return self._report(order, state="refused", reason=str(error)[:1000])
        if action == "stop":
            model.stop_training = True
            self._run.outcome = "stopped"
        if action != "set":
            self._pause(action == "pause")
        hooks.phase("order-applied")
        # Killed before this is written, the order is pending, and the next attempt applies it.
        self._run.event("order", step, epoch, action=action, values=values, id=str(order["_id"]))
        hooks.phase("order-logged")
        now = datetime.datetime.now(datetime.UTC)
        applied = {"attempt": self._run.attempt, "step": step, "at": now}
        self._report(order, state="applied", applied=applied)

    def _replace(self, changed: set[int], model: keras.Model) -> None:
        """What waits to be applied again must not undo a newer order."""
        for order in list(self._again):
            replaced = list(order.get("replaced", ()))
            for name in order["values"]:
                if name not in replaced and id(_find(model, name)) in changed:
                    replaced.append(name)
            if len(replaced) == len(order["values"]):
                self._again.remove(order)
                self._report(order, state="replaced", replaced=replaced)
            elif replaced != order.get("replaced", []):
                order["replaced"] = replaced
                self._report(order, replaced=replaced)

    def _pause(self, paused: bool) -> None:
        if paused == self._paused:
            return
        self._paused = paused
        run, named = self._run, "paused" if paused else "running"
        run.outbox.document("runs", run.id, {"attempt": run.attempt}, set={"state": named})
        run.outbox.beat(run.id, run.attempt, named)

    def _report(self, order: Mapping[str, Any], **fields: Any) -> None:
        # Not over what another attempt has reported: a killed one's journal may be sent late.
        known = order.get("applied", {}).get("attempt")
        seen = {"state": order["state"], "applied.attempt": known}
        self._run.outbox.document("orders", order["_id"], seen, set=fields)


def assign(model: keras.Model, values: Mapping[str, Any]) -> set[int]:
    """Set scalar variables of a model that is being trained; all of them or none.

    Args:
        model: the model, in a hook between two steps.
        values: numbers by name, as `keras_tl.models.orders.send` takes them.

    Returns:
        The ids of the variables.

    Raises:
        ValueError: if a name is not that of one variable that can be set, or a value does not
            fit its dtype.
    """
    found = []
    for name, value in values.items():
        variable = _find(model, name)
        if isinstance(variable, str):
            raise ValueError(variable)
        found.append((variable, _cast(variable, name, value)))
    state.synchronise(model)  # on JAX the trainer then reads the variables anew
    for variable, value in found:
        variable.assign(value)
    return {id(variable) for variable, _ in found}


def _find(model: keras.Model, name: str) -> keras.Variable | str:
    """The variable of this name, or why there is none."""
    optimizer = getattr(model, "optimizer", None)
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer  # the outer one has a rate that nobody reads
    rate = getattr(optimizer, "_learning_rate", None)
    if name == "learning_rate" and hasattr(optimizer, "learning_rate"):
        if not isinstance(rate, keras.Variable):
            return "`learning_rate` follows a schedule, which would set it again in each step."
        return rate
    variables = [v for v in getattr(optimizer, "variables", ()) if v.name != "iteration"]
    if not hasattr(optimizer, "learning_rate"):  # made of several: nobody reads its own rate
        variables = [v for v in variables if v is not rate]
    settable = [
        [v for v in group if tuple(v.shape) == ()]
        for group in (variables, model.non_trainable_variables)
    ]
    for group in settable:
        named = [v for v in group if v.path == name or v.path.endswith(f"/{name}")]
        if len(named) == 1:
            return named[0]
        if named:
            paths = ", ".join(v.path for v in named[:5])
            return f"`{name}` must be the name of one variable. Received: that of {paths}"
    if isinstance(getattr(optimizer, name, None), (int, float)):
        return f"`{name}` is a constant of the compiled step: what is set later has no effect."
    paths = ", ".join([v.path for group in settable for v in group][:20])
    return (
        "A name must be `learning_rate`, or that of a scalar variable of the optimizer or of a "
        f"non-trainable one of the model: {paths or 'there is none'}. Received: {name}"
    )


def _cast(variable: keras.Variable, name: str, value: Any) -> Any:
    """The value as the variable's dtype holds it, or an error."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype == "bool" or isinstance(value, bool):
        fits = dtype == "bool" and isinstance(value, bool)
    elif "int" in dtype:
        about = np.iinfo(dtype)
        fits = isinstance(value, int) and about.min <= value <= about.max
    else:
        with np.errstate(over="ignore"):
            fits = math.isfinite(np.float64(value).astype(dtype))
    if not fits:
        raise ValueError(f"`{name}` must be a finite {dtype}. Received: {value!r}")
    return value


def _processes() -> int:
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return int(jax.process_count())

"""What a run takes of its machine: CPU, memory and GPUs, as rows of the kind `"system"`."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.models.runs import Run

log = logging.getLogger("keras_tl")

_PATIENCE = 60_000  # ms that other ranks wait for the first one's run

# The same for the same `fit` in each process of a data-parallel training.
_starts = itertools.count()


class System:
    """Logs a row now and then, from a thread, until the run ends.

    Each row has, as far as they can be known: `cpu_percent` of the process (200 is two cores),
    `rss_bytes` of the process, `machine_cpu_percent`, `machine_memory_percent`, and for each GPU
    `gpu0_percent` and `gpu0_memory_bytes`. Without psutil nothing is logged.

    Args:
        run: whose rows they are; of another rank than the first, it becomes the first one's run.
        interval: time between rows, in s; one more comes at the end.
        position: method that tells the training's step and epoch.
    """

    def __init__(self, run: Run, interval: float, position: Callable[[], tuple[int, int]]) -> None:
        self.run = run
        self.interval = interval
        # The thread must not keep a model alive whose `fit` has raised.
        self._position = weakref.WeakMethod(position)
        self._number = next(_starts)
        self._stopped = threading.Event()
        self._late = False
        self._thread = threading.Thread(target=self._work, name="keras_tl-system", daemon=True)
        self._thread.start()
        run.on_end.append(self.stop)

    def stop(self) -> None:
        """Log the last row and end the thread; waits a second at most."""
        self._stopped.set()
        self._thread.join(1.0)
        self._late = True  # what comes now would open the run's journal again

    def _work(self) -> None:
        try:
            import psutil
        except ImportError:
            return
        try:
            _join(self.run, self._number)
            samples = _samples(psutil)
            next(samples)  # the load is that between two looks
            ended = False
            while not ended:
                ended = self._stopped.wait(self.interval)
                position = self._position()
                if position is None:
                    return
                (step, epoch), sample = position(), next(samples)
                if self._late:
                    return
                self.run.log(step, epoch, -1, sample, kind="system")
                del position
        except Exception as error:
            log.warning("CPU and memory are not logged: %s: %s", type(error).__name__, error)


def _join(run: Run, number: int) -> None:
    """Make the run of another rank that of the first one, which tells its id."""
    import sys

    jax = sys.modules.get("jax")
    if jax is None or jax.process_count() == 1:
        return
    from jax._src import distributed

    client, key = distributed.global_state.client, f"keras_tl/runs/{number}"
    if run.rank == 0:
        client.key_value_set(key, f"{run.id} {run.attempt}")
    else:
        run.id, run.attempt = client.blocking_key_value_get(key, _PATIENCE).split()


def _samples(psutil: Any) -> Iterator[dict[str, float]]:
    process, gpus = psutil.Process(), _gpus()
    while True:
        found = {
            "cpu_percent": process.cpu_percent(),
            "rss_bytes": process.memory_info().rss,
            "machine_cpu_percent": psutil.cpu_percent(),
            "machine_memory_percent": psutil.virtual_memory().percent,
        }
        for i, look in enumerate(gpus):
            found[f"gpu{i}_percent"], found[f"gpu{i}_memory_bytes"] = look()
        yield found


def _gpus() -> list[Callable[[], tuple[float, float]]]:
    """A function for each GPU that tells its load in percent and its memory in use."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # not installed, or no such GPU or driver here
        return []

    def look(handle: Any) -> tuple[float, float]:
        load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        return load, pynvml.nvmlDeviceGetMemoryInfo(handle).used

    return [functools.partial(look, handle) for handle in handles]

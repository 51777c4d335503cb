"""Rows of the machine, in a journal; `integration/test_events.py` reads them from a server."""

from __future__ import annotations

import builtins
import gc
import logging
import mmap
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from keras_tl.callbacks import MongoLogger
from keras_tl.models import system
from keras_tl.storage.connection import Connection


class Run:
    """What `System` needs of a run."""

    rank = 0

    def __init__(self) -> None:
        self.on_end: list[Any] = []
        self.rows: list[tuple[Any, ...]] = []
        self.second = threading.Event()

    def log(self, step: int, epoch: int, batch: int, logs: dict[str, float], kind: str) -> None:
        self.rows.append((step, epoch, batch, kind, dict(logs)))
        if len(self.rows) == 2:
            self.second.set()


class Training:
    """Where a training is."""

    step = 0

    def position(self) -> tuple[int, int]:
        self.step += 10
        return self.step, 3


def alive() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "keras_tl-system" and t not in _earlier]


_earlier: list[threading.Thread] = []


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Other tests leave runs behind that never end."""
    _earlier[:] = threading.enumerate()


def test_rows_come_until_the_run_ends_and_once_more() -> None:
    psutil = pytest.importorskip("psutil", reason="the extra `system` is not installed")
    run, training = Run(), Training()
    watch = system.System(run, 0.01, training.position)  # type: ignore[arg-type]
    assert alive() == [watch._thread] and watch._thread.daemon
    assert run.second.wait(60)
    # Pages that are new to the process: `malloc` may give out again what others have freed.
    block = mmap.mmap(-1, 64 << 20)
    for i in range(0, len(block), 4096):
        block[i] = 1
    (stop,) = run.on_end
    stop()
    assert alive() == []
    assert [row[0] for row in run.rows] == [10 * i for i in range(1, len(run.rows) + 1)]
    assert {row[1:4] for row in run.rows} == {(3, -1, "system")}
    first, last = run.rows[0][4], run.rows[-1][4]
    assert last["rss_bytes"] - first["rss_bytes"] > 32 << 20
    assert abs(last["rss_bytes"] - psutil.Process().memory_info().rss) < 32 << 20
    assert 0 < last["machine_memory_percent"] < 100
    assert 0 <= last["machine_cpu_percent"] <= 100
    assert last["cpu_percent"] >= 0
    block.close()


def test_one_row_comes_even_if_the_run_is_short() -> None:
    pytest.importorskip("psutil", reason="the extra `system` is not installed")
    run, training = Run(), Training()
    system.System(run, 3600.0, training.position).stop()  # type: ignore[arg-type]
    assert len(run.rows) == 1


def test_the_thread_keeps_no_training_alive() -> None:
    """A `fit` that raised tells nobody; its run is ended when its model is gone."""
    pytest.importorskip("psutil", reason="the extra `system` is not installed")
    run, training = Run(), Training()
    watch = system.System(run, 0.01, training.position)  # type: ignore[arg-type]
    assert run.second.wait(60)
    del training
    gc.collect()
    watch._thread.join(60)
    assert not watch._thread.is_alive()


def test_without_psutil_nothing_is_logged_or_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "psutil":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    run, training = Run(), Training()
    system.System(run, 0.01, training.position)._thread.join(60)  # type: ignore[arg-type]
    assert (run.rows, alive(), caplog.records) == ([], [], [])


def test_what_fails_is_said_once_and_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("psutil", reason="the extra `system` is not installed")

    def broken(psutil: Any) -> Iterator[dict[str, float]]:
        raise OSError("no /proc here")
        yield {}

    monkeypatch.setattr(system, "_samples", broken)
    run, training = Run(), Training()
    with caplog.at_level(logging.WARNING, "keras_tl"):
        system.System(run, 0.01, training.position)._thread.join(60)  # type: ignore[arg-type]
    assert [r.getMessage() for r in caplog.records] == [
        "CPU and memory are not logged: OSError: no /proc here"
    ]


def test_gpus_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML as it answers for two GPUs; without one, or without a driver, there are no columns."""
    psutil = pytest.importorskip("psutil", reason="the extra `system` is not installed")

    def nvml(init: Any) -> SimpleNamespace:
        return SimpleNamespace(
            nvmlInit=init,
            nvmlDeviceGetCount=lambda: 2,
            nvmlDeviceGetHandleByIndex=lambda i: i,
            nvmlDeviceGetUtilizationRates=lambda i: SimpleNamespace(gpu=50 + i),
            nvmlDeviceGetMemoryInfo=lambda i: SimpleNamespace(used=(1 + i) << 30),
        )

    def no_driver() -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(lambda: None))
    found = next(system._samples(psutil))
    assert {name: found[name] for name in found if name.startswith("gpu")} == {
        **{"gpu0_percent": 50, "gpu0_memory_bytes": 1 << 30},
        **{"gpu1_percent": 51, "gpu1_memory_bytes": 2 << 30},
    }
    monkeypatch.setitem(sys.modules, "pynvml", nvml(no_driver))
    assert not any(name.startswith("gpu") for name in next(system._samples(psutil)))


@pytest.mark.parametrize("interval", [0, -1.0])
def test_an_interval_is_positive(interval: float) -> None:
    connection = Connection("mongodb://127.0.0.1:1")
    with pytest.raises(ValueError, match="`system` must be more than 0 s, or `None`. Received: "):
        MongoLogger(connection, system=interval)

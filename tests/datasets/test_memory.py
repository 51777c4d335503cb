"""Memory that is given again: never while somebody still sees it."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_tl.datasets.reading import memory
from keras_tl.datasets.reading.memory import Memory, aligned, shared


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool", "complex64"])
def test_arrays_are_aligned_and_of_any_kind(dtype: str) -> None:
    kind = np.dtype(dtype)
    for make in (aligned, Memory().empty):
        for shape in ((), (3,), (0, 4), (5, 7, 3), (memory._SMALL, 1)):
            array = make(shape, kind)
            assert array.shape == shape and array.dtype == kind and array.flags.writeable
            assert array.size == 0 or array.__array_interface__["data"][0] % 64 == 0
            array[...] = 1
            assert (array == 1).all()


@given(steps=st.lists(st.tuples(st.sampled_from(["make", "view", "drop"]), st.integers(0, 9))))
def test_what_somebody_sees_is_not_given_again(steps: list[tuple[str, int]]) -> None:
    giver, seen, number = Memory(), [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_SMALL", 0)
        for step, which in steps:
            if step == "make":
                number += 1
                array = giver.empty((10 + which,), np.dtype("int32"))
                array[:] = number
                seen.append((array, number))
                del array
            elif seen and step == "drop":
                seen.pop(which % len(seen))
            elif seen:
                array, own = seen.pop(which % len(seen))
                seen.append((array[which % len(array) :], own))
                del array
            for array, own in seen:
                assert (array == own).all()
    assert sum(m.nbytes for m in giver._free) <= memory._KEPT_BYTES


def test_memory_is_used_again() -> None:
    giver = Memory()
    first = giver.empty((2 * memory._SMALL,), np.dtype("uint8"))
    place = first.__array_interface__["data"][0]
    part = first[5:9]
    del first
    other = giver.empty((2 * memory._SMALL,), np.dtype("uint8"))
    assert other.__array_interface__["data"][0] != place  # a part is still seen
    del part
    again = giver.empty((2 * memory._SMALL - 100,), np.dtype("uint8"))
    assert again.__array_interface__["data"][0] == place


def test_threads_share_it() -> None:
    giver, wrong = Memory(), []

    def work(number: int) -> None:
        for i in range(50):
            array = giver.empty((memory._SMALL,), np.dtype("uint8"))
            array[:: 1 << 16] = number + i
            if (array[:: 1 << 16] != (number + i) % 256).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(50 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_process_keeps_what_one_view_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_shared", weakref.WeakValueDictionary())
    monkeypatch.setattr(memory, "_KEPT_BYTES", 4 << 20)
    uint8, first, other = np.dtype("uint8"), shared(), shared()
    assert first is other  # what one has given back, another one takes
    small = [first.empty((500_000,), uint8) for _ in range(8)]
    del small
    assert sum(m.nbytes for m in first._free) > 3 << 20
    large = other.empty((3 << 20,), uint8)  # what fits nobody any more gives way
    place = large.__array_interface__["data"][0]
    del large
    assert first.empty((3 << 20,), uint8).__array_interface__["data"][0] == place
    assert sum(m.nbytes for m in first._free) <= 4 << 20


def test_nothing_is_kept_once_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_shared", weakref.WeakValueDictionary())
    free = shared()._free
    assert shared()._free is not free


def test_arrays_may_outlive_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    array = Memory().empty((memory._SMALL,), np.dtype("uint8"))
    for name in ("_KEPT_BYTES", "_SMALL", "_size", "_Lent"):
        monkeypatch.setattr(memory, name, None)  # as the interpreter does when it ends
    del array  # a warning, of an exception that is ignored, would be an error

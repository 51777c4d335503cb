"""Batches, cursors, bounds and failures of a stream, without Keras and without a broker."""

from __future__ import annotations

import gc
import os
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_source import MemorySource, Topic, filled, samples, stream

from keras_tl.streams import Stream, StreamError, TopicChanged
from keras_tl.streams.batcher import to_keras
from keras_tl.streams.cursor import Cursor


def take(source: Stream, count: int) -> list[np.ndarray]:
    """Trains on `count` batches; their targets."""
    taken = []
    for _ in range(count):
        taken.append(source.peek()[1])
        source.mark_trained(source.trained + 1)
    return taken


@pytest.mark.parametrize("block", [1, 5, 8, 64])
def test_batches_are_the_samples_in_order(block: int) -> None:
    x, y = samples(64)
    source = stream(filled(64, block))
    for i in range(8):
        batch = source.peek()
        np.testing.assert_array_equal(batch[0], x[8 * i : 8 * i + 8])
        np.testing.assert_array_equal(batch[1], y[8 * i : 8 * i + 8])
        source.mark_trained(i + 1)
    source.close()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=12),
    partitions=st.integers(1, 3),
    batch=st.integers(1, 7),
    cut=st.integers(0, 30),
    other=st.integers(1, 7),
)
def test_a_resumed_stream_goes_on_with_the_next_sample(
    sizes: list[int], partitions: int, batch: int, cut: int, other: int
) -> None:
    topic = Topic(partitions)
    total = 0
    for i, size in enumerate(sizes):
        numbers = np.arange(total, total + size)
        topic.add(i % partitions, x=numbers, y=numbers)
        total += size
    whole = np.concatenate([b[1] for b in _all(stream(topic, 1, end=_ends(topic)))])
    assert sorted(whole) == list(range(total))

    first = stream(topic, batch)
    done = take(first, cut % (total // batch + 1))
    cursor = first.cursor
    first.close()
    rest = _all(stream(topic, other, cursor=cursor, end=_ends(topic)))
    np.testing.assert_array_equal(np.concatenate([*done, *(b[1] for b in rest)]), whole)


def _ends(topic: Topic) -> dict[int, int]:
    return {p: len(log) for p, log in enumerate(topic.logs)}


def _all(source: Stream) -> list[tuple[np.ndarray, ...]]:
    batches = list(source.get_numpy_iterator())
    source.close()
    return batches


def test_a_bounded_stream_ends_with_a_shorter_batch() -> None:
    sizes = [len(b[1]) for b in _all(stream(filled(20, 5, 2), 8, end={0: 2, 1: 2}))]
    assert sizes == [8, 8, 4]
    assert _all(stream(filled(20, 5, 2), 8, end={0: 0, 1: 0})) == []


def test_the_cursor_says_where_it_stands() -> None:
    topic = filled(40, 5, 2)
    source = stream(topic)
    assert source.cursor["partitions"][0] == {
        "partition": 0,
        "topic_id": "id-1",
        "offset": 0,
        "row": 0,
        "checksum": None,
    }
    take(source, 2)  # 16 samples: 3 blocks of 5, and one sample of the fourth
    cursor = source.cursor
    assert (cursor["turn"], cursor["last"], cursor["active"]) == (4, 1, [0, 1])
    assert cursor["schedule"] == [[0, "join", 0], [0, "join", 1]]
    assert cursor["partitions"] == [
        {
            "partition": p,
            "topic_id": "id-1",
            "offset": offset,
            "row": row,
            "checksum": zlib.crc32(topic.logs[p][offset - 1].value),
        }
        for p, offset, row in [(0, 2, 0), (1, 1, 1)]
    ]
    fields = cursor.pop("fields")
    assert Cursor.from_dict(cursor).to_dict() == cursor
    source.close()
    # A resumed stream knows the shapes before any record comes: a model can be built on it.
    quiet = stream(filled(40, 5, 2), cursor={**cursor, "fields": fields})
    for zeros, batch in zip(quiet.example(), quiet.peek(), strict=True):
        assert (zeros.shape, zeros.dtype) == (batch.shape, batch.dtype)
        assert not zeros.any() and batch.any()
    quiet.close()


def test_peeks_and_unmarked_batches_come_again() -> None:
    source = stream(filled(64))
    for _ in range(2):
        np.testing.assert_array_equal(source.peek()[1], samples(64)[1][:8])
    assert (source.trained, source.handed_out) == (0, 1)
    with pytest.raises(ValueError, match="`n` must be between 0.*and 1.*Received: n=2"):
        source.mark_trained(2)
    source.mark_trained(1)
    with pytest.raises(ValueError, match="Received: n=0"):
        source.mark_trained(0)
    assert source.trained == 1
    source.close()


def test_read_ahead_is_bounded_and_partitions_are_paused() -> None:
    topic = filled(4000, 5, 2)
    size = sum(len(record.value) for log in topic.logs for record in log)
    inner = MemorySource(topic)
    source = stream(topic, prefetch_bytes=size // 10, source=inner)
    take(source, 1)
    reader = source._reader
    # It stops reading by itself: what is read stays below the bound although nobody takes more.
    with reader._ready:
        reader._ready.wait_for(lambda: len(inner.most_paused) == 2 or inner.closed.is_set(), 0.2)
    assert sum(inner.at.values()) < 0.4 * sum(len(log) for log in topic.logs)
    got = take(source, 499)
    np.testing.assert_array_equal(np.concatenate(got), samples(4000)[1][8:])
    source.close()


def test_a_large_batch_passes_a_small_bound() -> None:
    source = stream(filled(64), 32, prefetch_bytes=1)
    assert len(take(source, 2)) == 2
    source.close()


def test_a_new_partition_joins() -> None:
    topic = filled(10)
    source = stream(topic, 5)
    take(source, 2)
    topic.grow()
    topic.add(1, x=np.ones((5, 4), "float32"), y=np.ones((5, 1), "float32"))
    np.testing.assert_array_equal(take(source, 1)[0], np.ones((5, 1)))
    assert source.cursor["schedule"][-1] == [2, "join", 1]
    source.close()


def test_a_resumed_stream_reads_added_partitions_from_their_beginning() -> None:
    topic = filled(20)
    first = stream(topic, 5)
    take(first, 2)
    cursor = first.cursor
    first.close()
    topic.grow()
    topic.add(1, x=np.ones((5, 4), "float32"), y=np.ones((5, 1), "float32"))
    rest = np.concatenate([b[1] for b in _all(stream(topic, 5, cursor=cursor, end=_ends(topic)))])
    assert len(rest) == 15 and (rest[:, 0] == 1).sum() == 5


def test_a_replay_repeats_what_the_clock_decided() -> None:
    topic = Topic(2)
    for i in range(6):
        topic.add(0, x=[[i]], y=[i])
    now = iter(range(10**6))
    source = stream(topic, 2, idle_timeout=1.0, clock=lambda: float(next(now)))
    first = take(source, 3)  # partition 1 had nothing and left
    topic.add(1, x=[[100]], y=[100])
    topic.add(0, x=[[6]], y=[6])
    first += take(source, 1)
    cursor = source.cursor
    source.close()
    assert [[what, p] for _, what, p in cursor["schedule"]] == [
        ["join", 0],
        ["join", 1],
        ["leave", 1],
        ["join", 1],
    ]
    plain = stream(topic, 2)
    assert not np.array_equal(take(plain, 1)[0], first[0])
    plain.close()
    again = stream(topic, 2, replay=cursor)
    np.testing.assert_array_equal(take(again, 4), first)
    assert again.cursor["schedule"] == cursor["schedule"]
    again.close()


def test_a_record_that_cannot_be_read_is_named_after_the_batches_before_it() -> None:
    topic = filled(10)
    topic.add_raw(0, b"not a bundle", topic.logs[0][0].headers)
    source = stream(topic, 10)
    take(source, 1)
    for _ in range(2):
        with pytest.raises(StreamError, match="'memory', partition 0, offset 2: ") as caught:
            source.peek()
        assert isinstance(caught.value.__cause__, ValueError)
    source.close()


@pytest.mark.parametrize(
    "columns",
    [
        {"x": np.zeros((1, 4), "float64"), "y": np.zeros((1, 1), "float32")},
        {"x": np.zeros((1, 5), "float32"), "y": np.zeros((1, 1), "float32")},
        {"x": np.zeros((1, 4), "float32")},
    ],
)
def test_another_schema_is_refused(columns: dict[str, np.ndarray]) -> None:
    topic = filled(10)
    topic.add(0, **columns)
    source = stream(topic, 10)
    take(source, 1)
    with pytest.raises(StreamError, match=r"offset 2.*must be.*Received: "):
        source.peek()
    source.close()


def test_a_topic_that_changed_takes_the_batches_that_were_read_with_it() -> None:
    topic = filled(64)
    source = stream(topic)
    take(source, 1)
    topic.failure = TopicChanged("another one")
    with topic.changed:
        topic.changed.notify_all()
    source._reader._thread.join()  # type: ignore[union-attr]
    with pytest.raises(TopicChanged, match="another one"):
        take(source, 8)
    source.close()


def test_an_unexpected_failure_is_a_stream_error_with_its_cause() -> None:
    topic = Topic()
    topic.failure = OSError("wires cut")
    source = stream(topic)
    with pytest.raises(StreamError, match="OSError: wires cut") as caught:
        source.peek()
    assert caught.value.__cause__ is topic.failure
    source.close()


def test_a_cursor_of_another_topic_is_refused() -> None:
    topic = filled(20)
    first = stream(topic, 5)
    take(first, 1)
    cursor = first.cursor
    first.close()
    with pytest.raises(TopicChanged, match="'memory', partition 0.*was id-1 and is id-2.*earliest"):
        stream(Topic(1, "id-2"), 5, cursor=cursor)
    with pytest.raises(TopicChanged, match="offset 1 with 1 rows"):
        cut = {**cursor, "partitions": [{**cursor["partitions"][0], "row": 3}]}
        short = filled(20)
        short.logs[0][1] = short.logs[0][1]._replace(value=b"")
        short.logs[0] = short.logs[0][:1]
        short.add(0, x=np.zeros((1, 4), "float32"), y=np.zeros((1, 1), "float32"))
        stream(short, 5, cursor=cut).peek()
    with pytest.raises(ValueError, match="one of 'memory'"):
        Stream(None, "other", 5, cursor=cursor, source=MemorySource(topic))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"prefetch_bytes": 0},
        {"idle_timeout": 0},
        {"start": "middle"},
        {"end": "later"},
        {"cursor": {"topic": "memory"}},
        {"cursor": {**Cursor("memory", 1, {}, {}).to_dict(), "partitions": [{}]}},
        {"replay": {**Cursor("memory", 1, {}, {}, since=3).to_dict()}},
    ],
)
def test_bad_arguments_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"`{next(iter(options))}` must .*Received: "):
        stream(filled(5), **options)  # type: ignore[arg-type]


def test_close_ends_a_wait_and_the_thread() -> None:
    inner = MemorySource(Topic())
    source = stream(inner.topic, source=inner)
    ended: list[object] = []
    waiter = threading.Thread(target=lambda: ended.append(source._batch(0)))
    waiter.start()
    source.close()
    waiter.join()
    assert ended == [None]
    assert inner.closed.wait(10)


def test_a_stream_that_nobody_holds_stops_reading() -> None:
    inner = MemorySource(filled(64))
    source = stream(inner.topic, source=inner)
    take(source, 1)
    del source
    gc.collect()
    assert inner.closed.wait(10)


def test_a_fork_is_told_to_make_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    source = stream(filled(64))
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(StreamError, match="process that made it"):
            source.peek()
    source.close()


def test_other_inputs_become_a_dict() -> None:
    assert to_keras({"a": 1, "b": 2, "y": 3, "sample_weight": 4}) == ({"a": 1, "b": 2}, 3, 4)  # type: ignore[dict-item]
    topic = Topic()
    topic.add(0, y=[1, 2], sample_weight=[1.0, 1.0])
    source = stream(topic, 2)
    with pytest.raises(StreamError, match="needs an input field"):
        source.peek()
    source.close()

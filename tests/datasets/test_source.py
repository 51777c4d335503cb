"""Where values come from: right from anywhere, each pack read once, and only what is wanted."""

from __future__ import annotations

import logging
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import Made, numbered, pictures
from pymongo.errors import AutoReconnect, OperationFailure

from keras_tl.datasets import Array, Bytes, Label
from keras_tl.datasets.batches.order import epoch_order
from keras_tl.datasets.reading import fetching, spans
from keras_tl.datasets.reading.source import Source
from keras_tl.datasets.reading.spans import cut
from keras_tl.datasets.storing.packs import Blob
from keras_tl.storage.cache import shared

CACHES = ["auto", "memory", None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path))
    monkeypatch.setattr(fetching, "_FIRST_WAIT", 0.0)


def check(dataset: Made, at: np.ndarray, found: dict[str, np.ndarray]) -> None:
    place = {address: i for i, address in enumerate(dataset.at.tolist())}
    for name, column in found.items():
        assert len(column) == len(at)
        for address, value in zip(at.tolist(), column, strict=True):
            np.testing.assert_array_equal(value, dataset.columns[name][place[address]])


@given(
    packs=st.lists(st.integers(0, 30), max_size=120),
    first=st.integers(1, 9),
    row_bytes=st.sampled_from([1, 1 << 20, 5 << 20, 100 << 20]),
)
def test_spans_cover_all_and_share_no_pack(packs: list[int], first: int, row_bytes: int) -> None:
    at = np.array([pack * 4 + i % 4 for i, pack in enumerate(packs)], np.int64)
    found = list(cut(at, 4, first, lambda: row_bytes))
    assert [end for _, end in found[:-1]] == [begin for begin, _ in found[1:]]
    assert not len(at) or (found[0][0], found[-1][1]) == (0, len(at))
    most = max(first, spans._MOST_BYTES // row_bytes)
    for begin, end in found:
        assert 0 < end - begin <= most
        if end - begin < most:  # not cut by force
            assert not set(packs[begin:end]) & set(packs[end:])
            assert not set(packs[begin:end]) & set(packs[:begin]) or most < len(at)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("most", [spans._MOST_BYTES, 160])
def test_any_rows_in_any_order(
    cache: str | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "_MOST_BYTES", most)
    monkeypatch.setattr(spans, "_TARGET_BYTES", min(most, spans._TARGET_BYTES))
    dataset = numbered(100, gap=3)
    source = Source(dataset, ["x"], cache)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    for _ in range(3):
        at = random.permutation(dataset.at)[: random.integers(1, 100)]
        check(dataset, at, source.take(at))
    dataset.insert({"x": np.ones((30, 4)), "y": [0] * 30}, gap=20)
    at = random.permutation(dataset.at)
    seen = 0
    for begin, end, found in source.stream(at, 7):
        assert begin == seen and (end - begin) % 7 * (len(at) - end) == 0
        check(dataset, at[begin:end], found)
        seen = end
    assert seen == len(at)
    check(dataset, dataset.at[:0], source.take(dataset.at[:0]))


@pytest.mark.parametrize("cache", CACHES)
def test_values_of_any_kind(cache: str | None) -> None:
    dataset = pictures(10)
    source = Source(dataset, list(dataset.schema.tensors), cache)  # type: ignore[arg-type]
    for at in (dataset.at, dataset.at[[7, 2, 9]], dataset.at[[4]]):
        found = source.take(at)
        check(dataset, at, found)
        assert found["image"].dtype == np.uint8 and found["image"].shape == (len(at), 8, 8, 1)
        assert found["boxes"].dtype == object and found["name"][0].startswith("sample")


def test_half_floats_and_no_numbers_at_all() -> None:
    fields = {"half": Array((2,), "bfloat16"), "none": Array((0, 3)), "b": Array((), "bool")}
    dataset = Made({**fields, "y": Label(2)})
    half = np.arange(20).reshape(10, 2)
    dataset.insert(
        {"half": half, "none": np.ones((10, 0, 3)), "b": np.arange(10) % 2 > 0, "y": [0] * 10}
    )
    source = Source(dataset, ["half", "none", "b"])  # type: ignore[arg-type]
    for _ in range(2):
        found = source.take(dataset.at[::-1])
        assert found["half"].dtype.name == "bfloat16" and found["none"].shape == (10, 0, 3)
        np.testing.assert_array_equal(found["half"].astype(int), half[::-1])
        assert found["b"].tolist() == [True, False] * 5


def asked(dataset: Made) -> list[int]:
    """The packs that were read from the server since the last time."""
    found = sorted(number for numbers in dataset.packs.asked for number in numbers)
    dataset.packs.asked.clear()
    return found


@pytest.mark.parametrize("cache", CACHES)
def test_packs_of_varying_sizes_are_kept(cache: str | None) -> None:
    dataset = pictures(10)
    names = ["boxes", "name"]
    source = Source(dataset, names, cache)  # type: ignore[arg-type]
    source.take(dataset.at)
    assert asked(dataset) == [0, 1, 2]
    shared().flush()
    check(dataset, dataset.at, source.take(dataset.at))
    assert asked(dataset) == ([0, 1, 2] if cache is None else [])
    if cache == "auto":
        again = Source(dataset, [*names, "image"], cache)  # type: ignore[arg-type]
        check(dataset, dataset.at, again.take(dataset.at))
        assert asked(dataset) == [0, 1, 2]  # the image
        more = Source(dataset, [*names, "classes"], cache)  # type: ignore[arg-type]
        check(dataset, dataset.at, more.take(dataset.at))
        assert asked(dataset) == [0, 1, 2]
        shared().flush()
        check(dataset, dataset.at, again.take(dataset.at))
        assert asked(dataset) == []


def test_a_damaged_copy_is_read_again(tmp_path: Path) -> None:
    dataset = pictures(10)
    source = Source(dataset, ["boxes"])  # type: ignore[arg-type]
    source.take(dataset.at)
    shared().flush()
    dataset.packs.asked.clear()
    (first, *_) = [path for path in tmp_path.glob("??/*") if path.is_file()]
    first.write_bytes(b"?" + first.read_bytes()[1:])
    check(dataset, dataset.at, source.take(dataset.at))
    assert len(asked(dataset)) == 1


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pack_is_read_once(cache: str | None, shuffle: bool) -> None:
    dataset = numbered(400)
    source = Source(dataset, ["x"], cache)  # type: ignore[arg-type]
    for epoch in range(3):
        at = dataset.at
        if shuffle:
            at = at[epoch_order(at, 8, 0, epoch, 10)]
        dataset.packs.asked.clear()
        for begin, end, found in source.stream(at, 8):
            check(dataset, at[begin:end], found)
        assert asked(dataset) == (list(range(50)) if cache is None or not epoch else [])


def test_only_what_is_wanted_is_read_and_verified() -> None:
    dataset = pictures()
    for document in dataset.packs.documents.values():
        document["fields"]["image"]["data"] = b"damaged"
    found = Source(dataset, ["mask"]).take(dataset.at)  # type: ignore[arg-type]
    check(dataset, dataset.at, found)
    with pytest.raises(ValueError, match="Pack 0 must have the hash .* it is damaged"):
        Source(dataset, ["image"]).take(dataset.at[:1])  # type: ignore[arg-type]


def test_the_first_batch_waits_for_one_pack() -> None:
    dataset = numbered(400)
    rows = Source(dataset, ["x"], None).stream(dataset.at, 8)  # type: ignore[arg-type]
    begin, end, _ = next(rows)
    assert begin == 0 and dataset.packs.asked[0] == [0]
    rows.close()


def test_what_follows_is_read_ahead() -> None:
    dataset = numbered(400)
    rows = Source(dataset, ["x"], None).stream(dataset.at, 8)  # type: ignore[arg-type]
    next(rows)
    deadline = time.monotonic() + 60
    while len(dataset.packs.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(dataset.packs.asked) > 1
    rows.close()


@pytest.mark.parametrize("cache", CACHES)
def test_what_was_handed_over_is_forgotten(
    cache: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: weakref.WeakSet[spans.Span] = weakref.WeakSet()

    class Noted(spans.Span):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            begun.add(self)

    monkeypatch.setattr("keras_tl.datasets.reading.source.Span", Noted)
    for name in ("_TARGET_BYTES", "_AHEAD_BYTES"):
        monkeypatch.setattr(spans, name, 256)  # of 6,400
    monkeypatch.setattr("keras_tl.datasets.reading.source._PIECE_BYTES", 256)
    dataset = numbered(400)
    source = Source(dataset, ["x"], cache)  # type: ignore[arg-type]
    for _ in range(2):
        for _ in source.stream(dataset.at, 8):
            assert len(begun) <= 6


def test_values_of_varying_size_count_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TARGET_BYTES", "_AHEAD_BYTES"):
        monkeypatch.setattr(spans, name, 1 << 20)
    dataset = Made({"v": Bytes(), "y": Label(2)})
    dataset.insert({"v": [bytes([n]) * 100_000 for n in range(240)], "y": [0] * 240})
    source, number = Source(dataset, ["v"], None), 0  # type: ignore[arg-type]
    for begin, end, found in source.stream(dataset.at, 2):
        check(dataset, dataset.at[begin:end], found)
        assert (end - begin) * 100_000 <= 4 << 20
        read = 8 * sum(map(len, dataset.packs.asked))
        assert (read - end) * 100_000 <= 5 << 20  # a piece and what is ahead, in whole packs
        number += 1
    assert number >= 240 * 100_000 / (4 << 20)


def test_a_pack_of_large_values_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_MOST_BYTES", 1 << 20)
    dataset = Made({"v": Bytes(), "y": Label(2)})
    dataset.insert({"v": [bytes([n]) * 50_000 for n in range(160)], "y": [0] * 160})
    at = dataset.at[epoch_order(dataset.at, 8, 0, 0)]
    source = Source(dataset, ["v"], None)  # type: ignore[arg-type]
    for begin, end, found in source.stream(at, 2):
        check(dataset, at[begin:end], found)
    assert asked(dataset) == list(range(20))


def test_blobs_are_read_for_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def contents(source: Source, names: set[str]) -> dict[str, memoryview]:
        asked.append(len(names))
        return {name: memoryview(name[:1].encode()) for name in names}

    monkeypatch.setattr(Source, "_blobs", contents)
    dataset = Made({"v": Bytes(), "y": Label(2)})
    values = [Blob(f"{n % 10}" * 64, 3 << 20) for n in range(40)]
    with monkeypatch.context() as patch:
        patch.setattr(Bytes, "check_column", lambda self, values, where: values)
        dataset.insert({"v": values, "y": [0] * 40})
    source = Source(dataset, ["v"], None)  # type: ignore[arg-type]
    got = [x for _, _, found in source.stream(dataset.at, 2) for x in found["v"]]
    assert got == [f"{n % 10}".encode() for n in range(40)]
    assert asked == [2] * 20


def test_new_samples_cost_their_packs_only() -> None:
    dataset = numbered(80)
    source = Source(dataset, ["x"])  # type: ignore[arg-type]
    source.take(dataset.at)
    dataset.packs.asked.clear()
    dataset.insert({"x": np.zeros((20, 4)), "y": [0] * 20})
    check(dataset, dataset.at, source.take(dataset.at))
    assert asked(dataset) == [10, 11, 12]
    again = Source(dataset, ["x"])  # type: ignore[arg-type]
    check(dataset, dataset.at[::-1], again.take(dataset.at[::-1]))
    assert dataset.packs.asked == []


def test_a_cache_that_is_full_is_helped_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_tl.datasets.reading import column_cache

    monkeypatch.setattr(column_cache, "_warned", {column_cache._FULL})
    monkeypatch.setenv("KERAS_TL_CACHE_LIMIT", str(120_000))
    dataset = Made({"x": Array((1024,)), "y": Label(2)})
    x = np.random.default_rng(0).random((100, 1024), np.float32)
    dataset.insert({"x": x, "y": [0] * 100})
    source = Source(dataset, ["x"])  # type: ignore[arg-type]
    for epoch in range(3):
        at = dataset.at[epoch_order(dataset.at, 8, 0, epoch, 10)]
        for begin, end, found in source.stream(at, 16):
            check(dataset, at[begin:end], found)
    numbers = {n for numbers in dataset.packs.asked for n in numbers}
    counts = [sum(n in asked for asked in dataset.packs.asked) for n in sorted(numbers)]
    assert set(counts) == {1, 3}  # some are in the cache


def test_rows_that_are_taken_away_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = numbered(80)
    source = Source(dataset, ["x"])  # type: ignore[arg-type]
    source.take(dataset.at)
    assert source.columns is not None

    def taken_away(name: str, at: np.ndarray, out: np.ndarray) -> bool:
        out.fill(-1)
        return False

    monkeypatch.setattr(source.columns, "take", taken_away)
    check(dataset, dataset.at, source.take(dataset.at))
    dataset.insert({"x": np.full((20, 4), 7), "y": [0] * 20})
    monkeypatch.setattr(source.columns, "put", lambda *_: False)  # the rest comes beside them
    at = np.random.default_rng(0).permutation(dataset.at)
    check(dataset, at, source.take(at))


def test_a_server_that_comes_back_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    dataset = numbered(80)
    dataset.packs.failures = [AutoReconnect("connection refused, host a:1") for _ in range(5)]
    with caplog.at_level(logging.WARNING, "keras_tl"):
        found = Source(dataset, ["x"], None).take(dataset.at)  # type: ignore[arg-type]
    check(dataset, dataset.at, found)
    assert "MongoDB is away (connection refused): samples are waited for" in caplog.text


def test_a_server_that_stays_away_is_not_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.0)
    dataset = numbered(80)
    dataset.packs.failures = [AutoReconnect("refused") for _ in range(9)]
    with pytest.raises(AutoReconnect) as caught:
        Source(dataset, ["x"], None).take(dataset.at)  # type: ignore[arg-type]
    assert "nobody waits longer" in caught.value.__notes__[0]


def test_a_server_is_not_waited_for_when_nobody_wants_the_samples() -> None:
    dataset = numbered(80)
    dataset.packs.failures = [AutoReconnect("refused") for _ in range(9)]
    with pytest.raises(AutoReconnect):
        list(fetching.fetch(dataset, [0], ["x"], lambda: True))  # type: ignore[arg-type]
    assert len(dataset.packs.failures) == 8


def test_other_failures_are_not_waited_for() -> None:
    dataset = numbered(80)
    dataset.packs.failures = [OperationFailure("not allowed")]
    with pytest.raises(OperationFailure, match="not allowed"):
        Source(dataset, ["x"], None).take(dataset.at)  # type: ignore[arg-type]


def test_packs_that_are_gone_are_told() -> None:
    dataset = numbered(80)
    del dataset.packs.documents[4]
    with pytest.raises(RuntimeError, match=r"Packs \[4\] of the dataset 'made' are gone"):
        Source(dataset, ["x"]).take(dataset.at)  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [True, "disk", 3])
def test_another_cache_is_refused(cache: Any) -> None:
    with pytest.raises(ValueError, match="`cache` must be 'auto', 'memory' or None"):
        Source(numbered(), ["x"], cache)  # type: ignore[arg-type]


@settings(max_examples=30)
@given(data=st.data())
def test_a_span_takes_packs_in_any_order(data: st.DataObject) -> None:
    rows = [data.draw(st.integers(0, 39)) for _ in range(data.draw(st.integers(1, 40)))]
    at = np.array(list(dict.fromkeys(rows)), np.int64)
    span = spans.Span(0, at, 4)
    for pack in data.draw(st.permutations(span.packs.tolist())):
        span.put(pack, "a", pack * 4 + np.arange(4))
        span.put(pack, "o", [f"{pack * 4 + row}" for row in range(4)])
    assert span.own["a"].tolist() == at.tolist() and span.has["a"].all()
    assert span.own["o"].tolist() == [str(address) for address in at]

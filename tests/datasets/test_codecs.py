"""Codecs: what comes out is what went in, and what is damaged does not come out."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_tl.datasets.storing import codecs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("zstandard") is None, reason="zstandard is not installed"
)
RANDOM = np.random.default_rng(0)
# Words of a few letters, of which some come again.
REPEATED = RANDOM.integers(0, 100, (4000, 24), np.uint8)
REPEATED[::4] = REPEATED[0]
IMAGES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, min_side=0, max_side=6))


@given(images=IMAGES)
def test_photographs_come_back(images: np.ndarray) -> None:
    before = images.copy()
    codec, payload = codecs.encode(images, "photo")
    found = codecs.decode(codec, payload, images.shape, images.nbytes)
    assert codec == "photo" and (images == before).all()
    assert found.shape == images.shape and found.dtype == np.uint8 and (found == images).all()


@given(raw=st.binary(max_size=300), compress=st.sampled_from(["auto", "zstd", None]))
def test_bytes_come_back(raw: bytes, compress: str | None) -> None:
    codec, payload = codecs.encode(raw, compress)
    assert bytes(codecs.decode(codec, payload, None, len(raw))) == raw


@pytest.mark.parametrize(
    ("raw", "codec"),
    [
        (bytes(100_000), "zstd"),
        (RANDOM.bytes(100_000), "raw"),
        (RANDOM.bytes(40_000) + bytes(20_000) + RANDOM.bytes(40_000), "zstd"),
        (RANDOM.integers(0, 200, 100_000, np.uint8).tobytes(), "raw"),
        (REPEATED.tobytes(), "zstd"),
        (b"", "raw"),
    ],
)
def test_what_pays_is_compressed(raw: bytes, codec: str) -> None:
    assert codecs.encode(raw, "auto")[0] == codec


def test_little_is_saved_cheaply_only() -> None:
    """What saves half may take its time; what saves less must be read as fast as it was."""
    some = REPEATED
    assert len(codecs.encode(some, "zstd")[1]) < len(codecs.encode(some, "auto")[1]) < some.nbytes
    much = RANDOM.integers(0, 4, 100_000, np.uint8)
    assert codecs.encode(much, "zstd") == codecs.encode(much, "auto")
    assert codecs.encode(some[::2], "auto") == codecs.encode(some[::2].tobytes(), "auto")


def test_photographs_become_smaller() -> None:
    ramp = np.cumsum(RANDOM.integers(-3, 4, (64, 32, 32, 3)), axis=2).astype(np.uint8)
    photo = codecs.encode(ramp, "photo")[1]
    assert len(photo) < 0.7 * len(codecs.encode(ramp, "zstd")[1])


@pytest.mark.parametrize("codec", ["zstd", "photo"])
def test_damage_is_found(codec: str) -> None:
    images = RANDOM.integers(0, 9, (4, 5, 6, 3), dtype=np.uint8)
    payload = codecs.encode(images, codec)[1]
    for damaged in (payload[:-3], b"", b"\0" * len(payload)):
        with pytest.raises(ValueError, match="A payload must"):
            codecs.decode(codec, damaged, images.shape, images.nbytes)
    with pytest.raises(ValueError, match="A payload must hold 361 bytes"):
        codecs.decode(codec, payload, images.shape, images.nbytes + 1)


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(ValueError, match="`codec` must be one.*'pickle'"):
        codecs.decode("pickle", b"", None, 0)


def test_without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_zstandard", lambda: None)
    assert codecs.encode(bytes(1000), "auto") == ("raw", bytes(1000))
    with pytest.raises(ImportError, match=r"pip install 'keras_tl\[datasets\]'"):
        codecs.encode(bytes(1000), "zstd")

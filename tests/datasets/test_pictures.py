"""PNG files without a library, and image files of strangers: right pixels, or a clear refusal."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_tl.datasets.look import pictures

Image = pytest.importorskip("PIL.Image")

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda sides: st.sampled_from([sides, (*sides, 3), (*sides, 4)])
)


def file_of(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(image).save(target, kind, **options)
    return target.getvalue()


@given(SHAPES.flatmap(lambda shape: arrays.arrays("uint8", shape)))
def test_pillow_reads_back_what_png_wrote(image: np.ndarray) -> None:
    with Image.open(io.BytesIO(pictures.png(image))) as read:
        read.verify()
    with Image.open(io.BytesIO(pictures.png(image))) as read:
        assert (np.asarray(read) == image).all() and np.asarray(read).shape == image.shape


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 2), "float32"),
        np.zeros((2, 2, 2), "uint8"),
        np.zeros(4, "uint8"),
        np.zeros((0, 3), "uint8"),
    ],
)
def test_what_is_no_image_is_no_png(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`image` must .*Received"):
        pictures.png(image)


NUMBERS = arrays.arrays(
    st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint16", "bool"]),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4])),
)


@given(NUMBERS)
def test_any_numbers_become_pixels_in_their_order(value: np.ndarray) -> None:
    made = pictures.pixels(value)
    assert made is not None and made.dtype == np.uint8
    flat, numbers = made.reshape(-1), value.reshape(-1)
    finite = np.isfinite(numbers.astype("float64"))
    order = np.argsort(numbers[finite].astype("float64"), kind="stable")
    assert (np.diff(flat[finite][order].astype(int)) >= 0).all()
    pictures.png(made)


def test_pixels_keep_their_range() -> None:
    byte = np.arange(12, dtype="uint8").reshape(2, 2, 3)
    assert pictures.pixels(byte) is byte
    assert pictures.pixels(np.full((1, 2), 0.5)).tolist() == [[128, 128]]  # type: ignore[union-attr]
    assert pictures.pixels(np.array([[-1.0, 1.0, np.nan]])).tolist() == [[0, 255, 0]]  # type: ignore[union-attr]
    assert pictures.pixels(np.array([[True, False]])).tolist() == [[255, 0]]  # type: ignore[union-attr]
    assert pictures.pixels(np.array([[3, 3]])).tolist() == [[0, 0]]  # type: ignore[union-attr]
    for shape in [(3,), (2, 2, 2), (1, 2, 2, 3), (0, 2)]:
        assert pictures.pixels(np.zeros(shape)) is None


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_a_thumbnail_is_no_larger(height: int, width: int, size: int) -> None:
    made = pictures.thumbnail(np.zeros((height, width), "uint8"), size)
    assert 0 < made.shape[0] <= size and 0 < made.shape[1] <= size
    if max(height, width) <= size:
        assert made.shape == (height, width)


RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_decoded_pixels() -> None:
    assert (pictures.decode(file_of(RGB)) == RGB).all()
    assert (pictures.decode(file_of(RGB, "BMP")) == RGB).all()
    assert pictures.decode(file_of(RGB), 1).shape == (5, 7, 1)
    assert (pictures.decode(file_of(RGB), 4)[..., 3] == 255).all()
    assert pictures.decode(file_of(RGB), 3, (2, 4)).shape == (2, 4, 3)
    grey16 = (RGB[..., 0].astype("uint16") << 8) | 77
    assert (pictures.decode(file_of(grey16), 1)[..., 0] == RGB[..., 0]).all()


def test_a_photo_is_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to look at it
    turned = pictures.decode(file_of(RGB, "PNG", exif=exif))
    assert (turned == np.rot90(RGB, -1)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@given(st.data())
def test_damaged_files_are_refused_or_read(kind: str, data: st.DataObject) -> None:
    whole = bytearray(file_of(RGB, kind))
    cut = data.draw(st.integers(0, len(whole) - 1))
    whole[cut] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            made = pictures.decode(damaged)
        except ValueError as error:
            assert "not an image that can be read" in str(error)
        else:
            assert made.dtype == np.uint8 and made.shape[2] == 3


def test_other_formats_are_not_even_tried() -> None:
    target = io.BytesIO()
    Image.fromarray(RGB).save(target, "PPM")
    for data in (target.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n", b""):
        with pytest.raises(ValueError, match="cannot identify"):
            pictures.decode(data)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="exceeds limit"):
        pictures.decode(file_of(RGB))


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_tl\[datasets\]'"):
        pictures.decode(b"")

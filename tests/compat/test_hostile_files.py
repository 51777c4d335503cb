"""Files made to harm: each is a ValueError that names the file, and nothing else happens."""

from __future__ import annotations

import io
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from keras_tl.compat import load_tensorlayer, read_tensorlayer


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def archive(path: Path, content: bytes, *names: str) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as made:
        warnings.simplefilter("ignore")  # names that repeat
        for name in names or ("params.npy",):
            made.writestr(name, content)
    return path


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tuples(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


DEEP = b")" + b"\x85" * 200_000  # (((...)))
NDARRAY, DTYPE = named("numpy", "ndarray"), named("numpy", "dtype")
EMPTY = named("numpy.core.multiarray", "_reconstruct") + NDARRAY + b"K\x00\x85C\x01b\x87R"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def dtype(name: str, *state: bytes) -> bytes:
    made = DTYPE + text(name) + b"K\x00K\x01\x87R"
    return made + tuples(*state) + b"b" if state else made


def array(shape: bytes, kind: bytes, data: bytes) -> bytes:
    return EMPTY + tuples(b"K\x01", shape, kind, b"\x89", data) + b"b"


EIGHT = b"C\x08AAAAAAAA"
ONE = b"K\x01\x85"
# Fields of objects, in a state that says that nothing has to be counted: pointers of bytes.
POINTERS = dtype(
    "f8,f8",
    *(b"K\x03", text("|"), b"N", tuples(text("f0"))),
    *(b"}" + text("f0") + dtype("O") + b"K\x00\x86s", b"K\x08", b"K\x01", b"K\x00"),
)
HOSTILE = {
    "pointers": array(ONE, POINTERS, EIGHT),
    "pointers of a tuple": array(
        ONE, dtype("f8", *(b"K\x03", text("<"), b"N", tuples(text("f0")), b"N")), EIGHT
    ),
    "fields": array(ONE, dtype("f4,f4"), EIGHT),
    "subarray": array(ONE, dtype("(2,)f4"), EIGHT),
    "objects of bytes": array(ONE, dtype("O8"), EIGHT),
    "too few": array(b"K\x02\x85", dtype("f8"), EIGHT),
    "too many": array(b")", dtype("f4"), EIGHT),
    "negative": array(b"J\xff\xff\xff\xff\x85", dtype("f8"), EIGHT),
    "huge": array(b"\x8a\x07" + b"\xff" * 6 + b"\x00\x85", dtype("f8"), EIGHT),
    "numbers": array(ONE, dtype("O8"), b"](K\x05e"),
    "lists of lists": array(ONE, dtype("O8"), b"](](K\x05ee"),
    "lists of arrays": array(
        ONE,
        dtype("O8"),
        b"](" + array(ONE, dtype("O8"), b"](" + array(ONE, dtype("f8"), EIGHT) + b"e") + b"e",
    ),
    "itself": EMPTY + b"q\x00" + tuples(b"K\x01", ONE, dtype("O8"), b"\x89", b"](h\x00e") + b"b",
    "no state": EMPTY,
    "a class's attribute": NDARRAY + b"N}" + text("x") + b"K\x01s\x86b",
    "a function's attribute": DTYPE + b"N}" + text("x") + b"K\x01s\x86b",
    "the hash of a million tuples": b"}" + DEEP + b"K\x01s",
    "deep shape": array(DEEP, dtype("f8"), EIGHT),
    "deep state": EMPTY + DEEP + b"b",
    "deep name": DTYPE + DEEP + b"\x85R",
    "deep beginning": named("numpy.core.multiarray", "_reconstruct")
    + NDARRAY
    + DEEP
    + EIGHT
    + b"\x87R",
    "memory for a memo": b"K\x01r\xff\xff\xff\x0f",
    "memory for bytes": b"\x8e" + b"\xff" * 5 + b"\x00" * 3 + b"A",
    "memory for a bytearray": b"\x96" + b"\xff" * 5 + b"\x00" * 3 + b"A",
    "extension": b"\x82\x01",
    "persistent": b"K\x01Q",
    "class of a module": b"(ios\nsystem\n",
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_pickle_is_refused(trick: str, tmp_path: Path) -> None:
    content = header("|O", (1,)) + b"\x80\x04" + HOSTILE[trick] + b"."
    with pytest.raises(ValueError, match="`filepath` must be .* Received: filepath=.*this error"):
        read_tensorlayer(archive(tmp_path / "weights.npz", content))


def test_files_of_machines_of_the_other_byte_order(tmp_path: Path) -> None:
    values = np.empty(2, object)
    values[:] = [np.arange(3, dtype=">f4"), np.ones((2, 2), "<i2")]
    content = header("|O", (2,)) + pickle.dumps(values, 2)
    found = read_tensorlayer(archive(tmp_path / "weights.npz", content))
    assert [array.tolist() for array in found.values()] == [[0, 1, 2], [[1, 1], [1, 1]]]


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        (header("<f4", (2,)) + b"\0" * 8, ("a.npy", "a.npy"), "two arrays have the name 'a'"),
        (header("<f4", (2,)) + b"\0" * 8, ("a.npy", "a"), "two arrays have the name 'a'"),
        (header("<f4", (-1,)) + b"\0" * 8, ("a.npy",), r"shape \(-1,\)"),
        (header("<f4", (2**32, 2**32)) + b"\0" * 8, ("a.npy",), "this error"),
        (header("<f4", (2**45,)) + b"\0" * 8, ("a.npy",), "this error"),
        (header("<f4", ()) + b"\0" * 4, ("params.npy",), "no list of arrays"),
    ],
)
def test_a_hostile_archive_is_refused(
    content: bytes, names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_tensorlayer(archive(tmp_path / "weights.npz", content, *names))


def hdf5(path: Path, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"w"] * how.pop("times", 1)
        if "link" in how:
            group["w"] = how["link"]
        elif "circle" in how:
            group.attrs["layer_names"], group["w"] = [b"a"], [1.0]
            group["a"] = group
        elif "source" in how:
            layout = h5py.VirtualLayout((3,), "f4")
            layout[:] = h5py.VirtualSource(how["source"], "a/w", (3,))
            group.create_virtual_dataset("w", layout)
        elif how:
            group.create_dataset("w", **how)
        else:
            group.create_group("w")
    return path


def test_a_hostile_hdf5_file_is_refused(tmp_path: Path) -> None:
    secret = hdf5(tmp_path / "secret.hdf5", data=np.ones(3, "f4"))
    assert list(read_tensorlayer(secret)) == ["a/w"]
    tricks: list[tuple[dict[str, Any], str]] = [
        ({"link": h5py.ExternalLink(str(secret), "a/w")}, "no dataset of its own"),
        ({"source": str(secret)}, "numbers elsewhere"),
        ({"shape": (9,), "dtype": "u1", "external": [(str(secret), 0, 9)]}, "numbers elsewhere"),
        ({"shape": (2**40,), "dtype": "f4", "chunks": (8,)}, "more numbers than there are"),
        ({"data": h5py.Empty("f4")}, "numbers elsewhere"),
        ({"data": np.ones(3), "times": 2}, "no dataset of its own"),
        ({"circle": True}, "no group of its own"),
        ({}, "no dataset of its own"),
    ]
    for how, message in tricks:
        with pytest.raises(ValueError, match=f"`filepath` must be .*{message}"):
            read_tensorlayer(hdf5(tmp_path / "weights.hdf5", **how))


@pytest.mark.parametrize("name", ["packed.npz", "weights.hdf5"])
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path, rng = tmp_path / name, random.Random(0)
    if name == "packed.npz":
        np.savez_compressed(path, a=np.ones(3), b=np.arange(5.0))
    else:
        hdf5(path, data=np.arange(5.0))
    content, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensorlayer(path)
        except ValueError as error:
            refused += 1
            assert "`filepath` must be" in str(error)
    assert refused > 50


def test_a_layer_without_the_bias_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "lstm.npz", kernel=np.ones((5, 8)), bias=np.ones(8))
    lstm = keras.layers.LSTM(2, use_bias=False)
    model = keras.Sequential([keras.Input((None, 3)), lstm])
    with pytest.raises(ValueError, match="has 2 weights, as without a bias. Received: 3 arrays"):
        load_tensorlayer(model, tmp_path / "lstm.npz")

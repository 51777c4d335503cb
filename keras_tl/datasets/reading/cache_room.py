"""Room in the cache of columns: who uses which folder, and which of them give way."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import sys
import uuid
from functools import cache
from pathlib import Path
from typing import Any

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def use(folder: Path) -> int:
    """Marks a folder as in use, made if need be, until the returned file descriptor is closed.

    Raises:
        OSError: the disk takes nothing.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            os.utime(fd)
            if os.fstat(fd).st_nlink:
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)  # it was removed between the two calls


def excess(base: Path, limit: int, own: Path) -> int:
    """Bytes in all folders over the limit, after those not used for longest have given way.

    Args:
        base: where the folders are.
        limit: bytes of all of them.
        own: the folder that room is made for.
    """
    sizes = {Path(entry.path): _allocated(Path(entry.path)) for entry in _entries(base)}
    over = sum(sizes.values()) - limit
    if over <= 0:
        return over
    for path in sorted(sizes.keys() - {own}, key=_used):
        if over <= -limit // 10:  # some room, so that this is rare
            break
        if _remove(path):
            over -= sizes[path]
    return over


def punch(fd: int, begin: int, size: int) -> int:
    """Gives a range of a file back to the disk, where the system can; the bytes freed."""
    call = _fallocate()
    if call is None:
        return 0
    before = os.fstat(fd).st_blocks
    call(fd, _KEEP_SIZE | _PUNCH_HOLE, begin, size)
    return (before - os.fstat(fd).st_blocks) * 512


def _remove(folder: Path) -> bool:
    """Deletes a folder that no process uses."""
    try:
        fd = os.open(folder / "use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed first: who begins to use the dataset meanwhile makes a folder of its own.
        gone = folder.with_name(f"{uuid.uuid4().hex}.gone")
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True
    except OSError:  # another process uses it
        return False
    finally:
        os.close(fd)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _allocated(folder: Path) -> int:
    """Bytes on the disk: the files are sparse."""
    total = 0
    for entry in _entries(folder):
        try:
            total += entry.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _used(folder: Path) -> float:
    try:
        return (folder / "use").stat().st_mtime
    except OSError:
        return 0.0


@cache
def _fallocate() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call

"""Detached processes that any later process can recognise."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

POLL = 0.02
_KERNEL_THREAD = 0x200000  # PF_KTHREAD: never has a command line
# The child writes its own pid before it becomes the server, so that a parent that dies at any
# moment leaves no server whose pid is unknown.
_LAUNCH = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"']
_codes: dict[int, int | None] = {}  # of this process's children; None while one lives


def exit_code(pid: int | None) -> int | None:
    """The exit code of a child of this process, reaping it; None if it lives or is not ours."""
    if pid is not None and _codes.get(pid, 0) is None:
        try:
            ended, raw = os.waitpid(pid, os.WNOHANG)
            _codes[pid] = os.waitstatus_to_exitcode(raw) if ended else None
        except ChildProcessError:  # somebody else waited for it, or this is a forked child
            _codes.pop(pid, None)
    return _codes.get(pid) if pid is not None else None


def is_child(pid: int | None) -> bool:
    """Whether `pid` is a living server that this process launched."""
    return exit_code(pid) is None and pid in _codes


def launch(command: list[str], pid_file: Path, log: Path) -> int:
    """Start a server that outlives this process; its pid, which it also writes to `pid_file`."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [*_LAUNCH, str(pid_file), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=pid_file.parent,
            start_new_session=True,
        )
    child.returncode = 0  # `exit_code` waits for it; Popen would complain that it still runs
    _codes[child.pid] = None
    return child.pid


def arguments(pid: int) -> list[str] | str:
    """The command line of a process: a list on Linux, one string elsewhere, empty if it ended.

    On Linux a process that is about to run its program, or is dying and still holds its ports
    and files, has no command line for some milliseconds: this waits for what it becomes.
    """
    if not os.path.isdir("/proc/self"):
        done = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True
        )
        return done.stdout.strip()
    deadline = time.monotonic() + 10
    try:
        while True:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if line or not _between(pid) or time.monotonic() > deadline:
                return line.decode(errors="surrogateescape").split("\0")
            time.sleep(POLL / 10)
    except OSError:
        return []


def _between(pid: int) -> bool:
    # What follows the name, which stands in parentheses and may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if int(fields[6]) & _KERNEL_THREAD:
        return False
    # The first thread of a dying server can be a zombie while others still hold its files.
    return fields[0] not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1


def names(pid: int, marker: str) -> bool:
    """Whether process `pid` was started with the argument `marker`."""
    found = arguments(pid)
    return marker in found if isinstance(found, list) else f" {marker} " in f" {found} "

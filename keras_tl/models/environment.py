"""In what surroundings a run trains: process, packages, git."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import keras

from keras_tl.storage.connection import _SECRET_KEY, redact

_DIFF, _PATCH = 4 << 20, 256 << 10  # bytes of a diff that is read, and that is kept, compressed
_LINE = 4000  # characters; what is longer was made by a program
# `name = value`, `name: value`, `"name": value`, where the name says that it is a secret.
_ASSIGNED = re.compile(
    rf"(?P<name>.*?(?:{_SECRET_KEY.pattern})[\w-]*[\"']?\]?\s*(?:=|:=?|=>)\s*)(?P<value>\S.*)",
    re.IGNORECASE,
)
_FLAG = re.compile(
    rf"(?P<name>--[\w-]*(?:{_SECRET_KEY.pattern})[\w-]*\s+)(?P<value>\S+)", re.IGNORECASE
)
_QUOTED = re.compile(r"([\"'])(?:\\.|(?!\1).)*\1")
_NUMBER = re.compile(r"[-+\d._e]+[,;]?")
# Tokens that can be told by how they begin, and what follows in the header of a request.
_TOKEN = re.compile(
    r"\b(?:sk-|gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|AKIA|ASIA|AIza)[\w-]{12,}"
    r"|(?<=Bearer )[\w.~+/-]{8,}=*|(?<=Basic )[\w+/]{8,}=*"
)


def user() -> str:
    """Who this process works for: `user@host`."""
    import getpass
    import socket

    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name, as in a container
        name = ""
    return f"{name}@{socket.gethostname()}"


def rank() -> int:
    """The number of this process among those that train one model together."""
    if keras.backend.backend() == "jax":
        import jax

        return int(jax.process_index())
    return 0


def packages() -> dict[str, Any]:
    """Versions of what computes: Python, Keras, its backend and the packages around them."""
    import platform
    from importlib import metadata

    found = {}
    for name in ("keras_tl", "keras", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "packages": found,
    }


def git() -> dict[str, Any] | None:
    """The commit that is checked out and what was changed since, or `None` without git.

    Returns:
        `sha`; `diff`, the SHA-256 of the changes to tracked files, or `None` if there are none; and
        `patch`: the changes as `unpack_patch` reads them, without secrets, or `None` if they are
        more than 256 KB when compressed.
    """
    import hashlib
    import tempfile

    def call(*args: str, into: Any = subprocess.PIPE) -> Any:
        return subprocess.run(
            ["git", *args],
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.DEVNULL,
            timeout=5,
            check=True,
        ).stdout

    try:
        sha = call("rev-parse", "HEAD").decode().strip()
        with tempfile.TemporaryFile() as file:  # may be larger than memory
            # A repository's own drivers would run programs.
            call("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", into=file)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            file.seek(0)
            patch = pack_patch(file.read()) if 0 < size <= _DIFF else None
    except (OSError, subprocess.SubprocessError):
        return None
    return {"sha": sha, "diff": digest if size else None, "patch": patch}


def pack_patch(diff: bytes) -> bytes | None:
    """A diff compressed, with `***` for what looks like a secret; `None` if it is too large.

    Example:

    >>> unpack_patch(pack_patch(b"+api_key = 'abc'\\n+lr = 0.1\\n"))
    "+api_key = '***'\\n+lr = 0.1\\n"
    """
    import zlib

    lines = []
    private = False
    for line in diff.decode("utf-8", "replace").split("\n"):
        begins = "PRIVATE KEY-----" in line and "-----BEGIN" in line
        lines.append(line if begins or not private else f"{line[:1]}***")
        private = (private or begins) and "-----END" not in line and line[:2] != "@@"
        if not private:
            lines[-1] = _without_secrets(line)
    packed = zlib.compress("\n".join(lines).encode(), 6)
    return packed if len(packed) <= _PATCH else None


def unpack_patch(patch: bytes) -> str:
    """The text of a packed patch."""
    import zlib

    return zlib.decompress(patch).decode()


def _without_secrets(line: str) -> str:
    if len(line) > _LINE:
        return f"{line[:1]}***"
    if "://" in line:
        line = redact(line)
    line = _FLAG.sub(r"\g<name>***", _TOKEN.sub("***", line))
    found = _ASSIGNED.match(line)
    if found is None:
        return line
    value = found["value"]
    if '"' in value or "'" in value:
        value = _QUOTED.sub(r"\1***\1", value)
        if value.count('"') + value.count("'") < 2:  # a text that goes on in the next line
            value = "***"
    # A number, or an expression without a text in it, as in `token = next(tokens)`, is none.
    elif not _NUMBER.fullmatch(value) and not set(value) & set("([{"):
        value = "***"
    return found["name"] + value

"""The patch of a dirty work tree: whole, bounded, and without secrets."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import pytest

from keras_tl.models import environment
from keras_tl.models.environment import pack_patch, unpack_patch

SECRET = "hunter2SECRET99"


def cleaned(text: str) -> str:
    packed = pack_patch(text.encode())
    assert packed is not None
    return unpack_patch(packed)


@pytest.mark.parametrize(
    "line",
    [
        f'+api_key = "{SECRET}"',
        f"-    API_KEY: str = '{SECRET}'",
        f"+export DB_PASSWORD={SECRET}",
        f"+password: {SECRET}",
        f'+  "access_token": "{SECRET}", "other": 1',
        f'+os.environ["HF_TOKEN"] = "{SECRET}"',
        f'+client = connect(user="a", password="{SECRET}", port=1)',
        f"+uri = mongodb://ada:{SECRET}@db:27017/x",
        f"+fetch('https://{SECRET}@host/x')",
        f"+get('https://host/x?api_key={SECRET}&y=1')",
        f"+run --auth-token {SECRET} --x 1",
        f'+headers = {{"Authorization": "Bearer {SECRET}"}}',
        f"+x = 'ghp_{SECRET}{SECRET}'",
        f"+secret := '{SECRET}",
        f"+-----BEGIN RSA PRIVATE KEY-----\n+{SECRET}\n+-----END RSA PRIVATE KEY-----",
        f"+{'x' * 5000}password={SECRET}",
    ],
)
def test_secrets_leave_no_trace(line: str) -> None:
    found = cleaned(f" before\n{line}\n after")
    assert SECRET not in found and "***" in found
    assert found.startswith(" before\n") and found.endswith("\n after")


@pytest.mark.parametrize(
    "line",
    [
        *["+lr = 0.1", "+max_tokens = 512", "+token = next(tokens)", "@@ -1,2 +3,4 @@ def f():"],
        *["+# a word about tokens and passwords", "+see https://keras.io/api/", " x == y", ""],
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert cleaned(line) == line


def test_a_large_patch_is_not_kept() -> None:
    noise = random.Random(0)
    lines = ("+" + "".join(noise.choices("abcdefgh0123456", k=80)) for _ in range(10_000))
    assert pack_patch("\n".join(lines).encode()) is None


def test_the_work_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*args: str) -> bytes:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *names, *args], check=True, capture_output=True).stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.git() is None
    git("init", "-q")
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    sha = git("rev-parse", "HEAD").decode().strip()
    assert environment.git() == {"sha": sha, "diff": None, "patch": None}
    (tmp_path / "train.py").write_text("lr = 0.2\n")
    found = environment.git()
    diff = git("diff", "HEAD")
    assert found is not None
    assert (found["sha"], found["diff"]) == (sha, hashlib.sha256(diff).hexdigest())
    # Another program can apply what is kept.
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    subprocess.run(["git", "apply"], input=unpack_patch(found["patch"]).encode(), check=True)
    assert (tmp_path / "train.py").read_text() == "lr = 0.2\n"

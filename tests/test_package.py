"""The package as a whole: who imports whom, what is public, what loads, what a file may hold.

Each rule is a function over sources, so that a planted fault shows that it can fail.
`python tests/test_package.py` writes the list of public names anew.
"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_tl"
PUBLIC = ROOT / "tests" / "public_api.txt"

# Section 2 of the design: what a room may import. `callbacks` take a URI or a connection, so they
# reach storage as well; whatever lies beside the rooms (the tops) may import all.
KERAS_ONLY = {"layers": {"foreign"}} | {
    room: set()
    for room in ("foreign", "losses", "metrics", "regularizers", "initializers", "compat")
}
ROOMS: dict[str, set[str]] = KERAS_ONLY | {
    "storage": set(),
    "models": {"storage"},
    "datasets": {"storage"},
    "workflow": {"storage", "datasets", "models"},
    "streams": {"storage", "datasets", "models", "workflow"},
    "callbacks": {"storage", "models", "streams"},
    "services": set(),
}
ROOMS["search"] = {room for room in ROOMS if room not in ("callbacks", "services")}
TOPS = {"__init__", "__main__", "hub", "cli", "demo", "report"}
SERVERS = {"pymongo", "gridfs", "bson", "kafka"}
HEAVY = SERVERS | {"tensorflow", "jax", "torch", "onnx"}
LONGEST = 400


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that the source imports anywhere: lazily, relatively, by string."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            target = node.args[0].value
            if name in ("import_module", "__import__") and isinstance(target, str):
                yield target if not target.startswith(".") else ".".join(package) + target


def wrong_imports(files: dict[str, str]) -> list[str]:
    """What `{path below keras_tl: source}` imports against the table."""
    faults = []
    for path, source in files.items():
        parts = Path(path).with_suffix("").parts
        room, is_package = parts[0], parts[-1] == "__init__"
        if room not in TOPS and (len(parts) == 1 or room not in ROOMS):
            faults.append(f"{path}: `{room}` has no line in the table of rooms")
            continue
        module = ".".join(("keras_tl", *parts[: len(parts) - is_package]))
        for name in imports(source, module, is_package):
            first, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if room in KERAS_ONLY and first in SERVERS:
                faults.append(f"{path}: imports {name}; {room} needs no server")
            if first == "keras_tl" and room not in TOPS and target not in ROOMS[room] | {room}:
                faults.append(f"{path}: imports {name}; {room} may import {sorted(ROOMS[room])}")
    return faults


def public_names(files: dict[str, str]) -> list[str]:
    """`module.name` for each name in the `__all__` of each `__init__.py`."""
    names = []
    for path, source in files.items():
        if Path(path).name != "__init__.py":
            continue
        module = ".".join(("keras_tl", *Path(path).parts[:-1]))
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", 0)]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value
                names += [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return sorted(names)


def loaded_by(module: str, path: Path) -> list[str]:
    """The heavy packages that `import module` loads after `import keras` has loaded its own."""
    code = (
        "import sys, keras; before = set(sys.modules)\n"
        f"import {module}\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True
    )
    return sorted(HEAVY & set(done.stdout.split()))


_MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|opt)/\w|[A-Z]:\\Users"  # a folder of one machine
    r"|pypi\.org|pythonhosted\.org|npmjs\.org|deb\.debian\.org|maven\.org|index\.crates\.io"
)


def machine_names(text: str) -> list[str]:
    """Lines that name a home folder of one machine or the host of a package registry."""
    return [line for line in text.splitlines() if _MACHINE.search(line)]


def too_long(files: dict[str, str]) -> list[str]:
    return [path for path, source in files.items() if source.count("\n") > LONGEST]


def unpackaged(paths: Iterable[str]) -> list[str]:
    """Folders with modules but no `__init__.py`, which `find:` leaves out of the wheel."""
    folders = {Path(path).parent for path in paths}
    return sorted(str(f) for f in folders if str(f / "__init__.py") not in set(paths))


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return sources()


def sources() -> dict[str, str]:
    return {
        str(path.relative_to(PACKAGE).as_posix()): path.read_text("utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_imports_point_one_way(files: dict[str, str]) -> None:
    assert wrong_imports(files) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("storage/planted.py", "import keras_tl.models.versions"),
        ("storage/planted.py", "def f():\n    from keras_tl import models"),
        ("storage/planted.py", "from ..models import versions"),
        ("storage/deep/planted.py", "from ...models.versions import save"),
        ("storage/planted.py", "from .. import streams"),
        ("storage/__init__.py", "from ..hub import Hub"),
        ("models/planted.py", "from keras_tl import Hub"),
        ("models/planted.py", "import keras_tl"),
        (
            "models/planted.py",
            "from importlib import import_module as i\nx.import_module('keras_tl.cli')",
        ),
        ("models/planted.py", "__import__('keras_tl.streams')"),
        ("services/planted.py", "from keras_tl.storage.home import home"),
        ("callbacks/planted.py", "from keras_tl.services import up"),
        ("layers/planted.py", "from keras_tl.storage import tensors"),
        ("layers/planted.py", "def f():\n    import pymongo.errors"),
        (
            "streams/planted.py",
            "try:\n    from keras_tl.callbacks import logger\nexcept ImportError: pass",
        ),
        ("helpers.py", ""),
        ("helpers/planted.py", ""),
    ],
)
def test_a_planted_import_is_found(path: str, source: str) -> None:
    assert len(wrong_imports({path: source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("streams/fine.py", "from keras_tl.workflow import tasks\nfrom . import cursor"),
        ("streams/__init__.py", "from .source import Stream\nfrom ..models import versions"),
        ("layers/fine.py", "import keras\nfrom keras_tl.foreign import LambdaLayer"),
        ("storage/fine.py", "import pymongo, keras_tl.storage.home"),
        ("hub.py", "from keras_tl import services, streams\nfrom .callbacks import MongoLogger"),
    ],
)
def test_an_allowed_import_is_not_refused(path: str, source: str) -> None:
    assert wrong_imports({path: source}) == []


def test_public_names_are_the_listed_ones(files: dict[str, str]) -> None:
    assert public_names(files) == PUBLIC.read_text("utf-8").split(), (
        "`python tests/test_package.py` writes the list; its diff is what users will notice"
    )


def test_public_names_exist(files: dict[str, str]) -> None:
    for name in public_names(files):
        module, _, attribute = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=["_"]), attribute), name


def test_a_new_public_name_is_found() -> None:
    planted = {"__init__.py": "__all__ = ['Hub']", "x/__init__.py": "__all__: list[str] = ['y']"}
    assert public_names(planted) == ["keras_tl.Hub", "keras_tl.x.y"]


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("keras_tl", ROOT) == []


def test_a_planted_heavy_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("import gridfs")
    assert {"gridfs", "pymongo"} <= set(loaded_by("planted", tmp_path))


def test_tracked_files_name_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("git: this is no checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = {
        str(path.relative_to(ROOT)): lines
        for path in paths
        if path.is_file() and path.name != Path(__file__).name
        if (lines := machine_names(path.read_text("utf-8", errors="replace")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "cd /home/ada/x",
        "'/root/a'",
        r"C:\Users\ada",
        "open('/work/main')",
        "https://pypi.org/simple",
    ],
)
def test_a_planted_machine_name_is_found(line: str) -> None:
    assert machine_names(f"fine\n{line}\n../work/x") == [line]


def test_no_file_is_too_long(files: dict[str, str]) -> None:
    assert too_long(files) == []
    assert too_long({"a.py": "\n" * 401, "b.py": "\n" * 400}) == ["a.py"]


def test_every_folder_is_a_package(files: dict[str, str]) -> None:
    assert unpackaged(files) == []
    assert unpackaged(["__init__.py", "x/y.py", "z/__init__.py", "z/a.py"]) == ["x"]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """`tox -e oldest` runs what the metadata promises: each bound is pinned, no bound is lower."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needs = [
        setup["options"]["install_requires"],
        *(extras[e] for e in ("kafka", "jax", "tensorflow", "datasets")),
    ]
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join(needs), re.MULTILINE))
    pins = dict(
        re.findall(
            r"^([\w-]+)==([\w.]+)", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE
        )
    )
    assert len(bounds) > 9
    for name, bound in bounds.items():
        assert (pins[name] + ".0.0").startswith(bound + "."), f"{name}: {pins[name]}, not {bound}"


if __name__ == "__main__":
    PUBLIC.write_text("\n".join(public_names(sources())) + "\n", "utf-8")

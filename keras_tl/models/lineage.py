"""Where a version comes from: its run, its parents, its code and the data since its parent."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from keras_tl.models import environment
from keras_tl.models.selection import Reference, Selection, Version
from keras_tl.models.trained import Samples, samples

if TYPE_CHECKING:
    from pymongo.database import Database


@dataclass(frozen=True)
class Range:
    """Records of one partition, as a version's parent and the version itself had consumed them.

    Args:
        topic: the topic.
        partition: the partition.
        begin: offset and row of the first sample, or `None`: where the stream began.
        end: offset and row behind the last sample.
    """

    topic: str
    partition: int
    begin: tuple[int, int] | None
    end: tuple[int, int]

    @property
    def records(self) -> int | None:
        """How many records it touches, or `None` where its begin is not known."""
        if self.begin is None:
            return None
        return self.end[0] + (self.end[1] > 0) - self.begin[0]

    def __str__(self) -> str:
        begin = "start" if self.begin is None else _position(self.begin)
        count = "" if self.records is None else f", {self.records} records"
        return f"{self.topic}[{self.partition}] {begin} to {_position(self.end)}{count}"


@dataclass(frozen=True)
class Lineage:
    """What a version was made from.

    Args:
        version: the version.
        parents: the versions that it was trained from, newest first, also deleted ones.
        run: the document of the run that trained it, or `None` for one saved by hand.
        made: `env` (packages), `git` and `host` of the process that trained or saved it.
        data: what it was trained on: of streams since its parent, of datasets which view and
            snapshot; empty for arrays.
        patch: what was changed in the work tree since the commit `made["git"]["sha"]`, without
            secrets, or `None` if nothing was, or too much.
    """

    version: Version
    parents: Sequence[Version]
    run: Mapping[str, Any] | None
    made: Mapping[str, Any]
    data: Sequence[Range | Samples] = ()
    patch: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        version, run = self.version, self.run or {}
        lines = [f"version {version.number} of {version.model}, {version.created:%Y-%m-%d %H:%M}"]
        chain = (f"{v.number}{' (deleted)' if v.deleted else ''}" for v in self.parents)
        lines.append(f"parents  {', '.join(chain) or 'none'}")
        if self.run is None:
            lines.append("run      none: saved by hand")
        else:
            attempts = run.get("attempts", {})
            lines.append(f"run      {run['_id']} ({run['name']}), attempts: {len(attempts)}")
        env, git = self.made.get("env") or {}, self.made.get("git") or {}
        lines.append(
            f"on       {self.made.get('host', '?')}, Keras {env.get('keras', '?')} with "
            f"{env.get('backend', '?')}, Python {env.get('python', '?')}"
        )
        dirty = f", changed ({git['diff'][:12]})" if git.get("diff") else ""
        lines.append(f"git      {git.get('sha', 'none')}{dirty}")
        if run.get("params"):
            lines.append(f"params   {run['params']}")
        lines += [f"data     {part}" for part in self.data]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "version": self.version.number,
            "parents": [parent.number for parent in self.parents],
            "run": self.run,
            "made": self.made,
            "data": [
                {"topic": r.topic, "partition": r.partition, "from": r.begin, "to": r.end}
                if isinstance(r, Range)
                else asdict(r)
                for r in self.data
            ],
            "patch": self.patch,
        }


def lineage(versions: Selection, version: Reference) -> Lineage:
    """The lineage of a version (see `Versions.lineage`)."""
    newest, *parents = versions.chain(version)
    db = versions.connection.db
    run = db["runs"].find_one({"_id": newest.run})
    parent = parents[0].cursor if parents else None
    made = surroundings(newest, run)
    data: list[Range | Samples] = [*ranges(parent, newest.cursor)]
    used = samples(newest)
    data += [used] if used is not None else []
    return Lineage(newest, parents, run, made, data, _patch(db, made))


def surroundings(version: Version, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """`env`, `git` and `host` of the process that trained or saved a version."""
    if run is None:
        return dict(version.document.get("made") or {})
    attempt = run.get("attempts", {}).get(version.document["attempt"], {})
    found = {"env": run.get("env"), "git": run.get("git"), "host": run.get("host")}
    return found | {name: attempt[name] for name in ("git", "host") if name in attempt}


def here(db: Database[dict[str, Any]]) -> dict[str, Any]:
    """`env`, `git` and `host` of this process; the patch of its work tree is stored."""
    git = environment.git()
    patch = git.pop("patch") if git else None
    if git and patch is not None:
        db["patches"].update_one({"_id": git["diff"]}, {"$setOnInsert": {"patch": patch}}, True)
    return {"env": environment.packages(), "git": git, "host": socket.gethostname()}


def _patch(db: Database[dict[str, Any]], made: Mapping[str, Any]) -> str | None:
    digest = (made.get("git") or {}).get("diff")
    found = db["patches"].find_one({"_id": digest}) if digest else None
    return environment.unpack_patch(found["patch"]) if found else None


def ranges(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Range]:
    """What lies between two cursors of a stream, by partition.

    Args:
        old: the document of a cursor, or `None`.
        new: another one, or `None`: then nothing does.
    """
    if new is None:
        return []
    known = {}
    if old is not None and old["topic"] == new["topic"]:
        known = {(p["partition"], p["topic_id"]): _of(p) for p in old["partitions"]}
    found = [
        Range(
            new["topic"],
            part["partition"],
            known.get((part["partition"], part["topic_id"])),
            _of(part),
        )
        for part in new["partitions"]
    ]
    return [part for part in found if part.begin != part.end]


def _of(part: Mapping[str, Any]) -> tuple[int, int]:
    return part["offset"], part["row"]


def _position(position: tuple[int, int]) -> str:
    offset, row = position
    return f"{offset}" + (f"+{row}" if row else "")

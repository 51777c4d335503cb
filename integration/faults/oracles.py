"""What must hold after a kill: each oracle returns the differences that it found, in words.

They look at effects alone: the committed chain of versions, and rows of events against what a
pipe to the parent had received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras_tl as ktl
from keras_tl.models import RunRecord, Version

KINDS = ("batch", "epoch")
MODEL = "net"

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """What a history left in MongoDB: hashes of tensors by step, and the rows that count."""

    tensors: Mapping[int, Mapping[tuple[str, str], str]]
    step: int
    positions: list[Mapping[str, Any]]
    rows: Mapping[str, list[Row]]

    @classmethod
    def of(cls, hub: ktl.Hub) -> Outcome:
        version = hub.models[MODEL].version()
        run = hub.runs[version.run]
        return cls(
            {
                v.step: {(e["role"], e["path"]): e["hash"] for e in v.document["tensors"]}
                for v in hub.models[MODEL].chain()
            },
            version.step,
            positions(version),
            {kind: rows(run, kind) for kind in KINDS},
        )


def positions(version: Version) -> list[Mapping[str, Any]]:
    """Where the version stands in its topic; topics of equal records compare equal."""
    assert version.cursor is not None
    keys = ("partition", "offset", "row", "checksum")
    return [{key: part[key] for key in keys} for part in version.cursor["partitions"]]


def rows(run: RunRecord, kind: str) -> list[Row]:
    """The rows that count, without those that a later attempt did again."""
    found = run.events(kind=kind)
    names = sorted(found.keys() - {"step", "epoch", "batch", "time", "attempt"})
    columns = [found[name].tolist() for name in ("step", "epoch", "batch", *names)]
    return list(zip(*columns, strict=True))


def weights(expected: Outcome, found: Outcome, roles: Iterable[str] | None = None) -> list[str]:
    """Weights, optimizer, seeds and metrics, bit for bit: the last version and all before it.

    An uploader that is behind leaves a version out, so that not every step has one in both.
    """
    if expected.step != found.step:
        return [f"the last version is of step {found.step}, not {expected.step}"]
    return [
        f"{role} {path} differs at step {step}"
        for step in sorted(expected.tensors.keys() & found.tensors.keys())
        for role, path in sorted(expected.tensors[step].keys() | found.tensors[step].keys())
        if roles is None or role in set(roles)
        if expected.tensors[step].get((role, path)) != found.tensors[step].get((role, path))
    ]


def chain(expected: Outcome, hub: ktl.Hub, batch_size: int, block: int) -> list[str]:
    """Every record of the topic is trained once on the committed chain.

    Order and content of the records are the weights' business; here the cursors have to tell of
    as many samples as steps were taken, without a gap between two versions.
    """
    model = hub.models[MODEL]
    links = model.chain()[::-1]
    different = []
    if links[0].parent is not None:
        different.append(f"the chain begins at a child of {links[0].parent}")
    if sorted(v.number for v in model) != list(range(1, len(model) + 1)):
        different.append(f"numbers of versions are {sorted(v.number for v in model)}")
    if len(links) != len(model):
        different.append(f"{len(model) - len(links)} versions are beside the chain")
    for before, after in zip(links, links[1:], strict=False):
        if after.parent != before.number or after.step <= before.step:
            different.append(f"{after} does not follow {before}")
        for a, b in zip(positions(before), positions(after), strict=True):
            if (a["offset"], a["row"]) > (b["offset"], b["row"]):
                different.append(f"the cursor goes back from {before} to {after}: {a}, {b}")
    for version in links:
        consumed = sum(part["offset"] * block + part["row"] for part in positions(version))
        if consumed != version.step * batch_size:
            different.append(
                f"{version} has taken {consumed} samples, not {version.step * batch_size}"
            )
    if positions(links[-1]) != expected.positions:
        different.append(f"it ends at {positions(links[-1])}, not at {expected.positions}")
    return different


def sequence(expected: Outcome, found: Outcome) -> list[str]:
    """The rows that count are those of the uninterrupted run: same steps, same values."""
    different = []
    for kind in KINDS:
        if expected.rows[kind] != found.rows[kind]:
            missing = [row for row in expected.rows[kind] if row not in found.rows[kind]]
            more = Counter(found.rows[kind]) - Counter(expected.rows[kind])
            different.append(f"{kind} rows: {missing} are missing, {sorted(more)} too many")
    return different


def witnessed(lines: Sequence[Mapping[str, Any]], hub: ktl.Hub, steps: int) -> list[str]:
    """Every line that reached the parent is in MongoDB once, and no other row is there twice.

    Args:
        lines: what the trainers' witness has printed, of all processes.
        hub: the history's.
        steps: batches an epoch.
    """
    stored: Counter[Row] = Counter()
    begins: dict[str, int] = {}
    committed = {0, *(version.step for version in hub.models[MODEL])}
    different = []
    for run in hub.runs:
        for attempt, about in run.document["attempts"].items():
            begins[attempt] = about["start_step"]
            if about["start_step"] not in committed:
                different.append(f"an attempt began at {about['start_step']}: there is no version")
        for kind in KINDS:
            found = run.events("loss", kind=kind, superseded=True)
            columns = [found[name].tolist() for name in ("attempt", "epoch", "step", "loss")]
            stored.update((kind, *row) for row in zip(*columns, strict=True))
    expected: Counter[Row] = Counter()
    for line in lines:
        begin = begins.get(line["attempt"])
        if begin is None:
            different.append(f"no run knows the attempt of {line}")
            continue
        # Keras counts the batches of an epoch that was resumed from 0 again.
        before = begin % steps if line["epoch"] == begin // steps else 0
        last = before + line["batch"] if line["logged"] == "batch" else steps - 1
        step = line["epoch"] * steps + last + 1
        expected[(line["logged"], line["attempt"], line["epoch"], step, line["loss"])] += 1
    different += [f"missing: {row}" for row in sorted((expected - stored).elements())]
    more = list((stored - expected).elements())
    twice = {row[:4]: n for row, n in Counter(row[:4] for row in stored.elements()).items()}
    different += [f"stored {n} times: {row}" for row, n in twice.items() if n > 1]
    # What was logged and not yet witnessed when the kill came: one row an attempt at most.
    for attempt, n in Counter(row[1] for row in more).items():
        if n > 1:
            different.append(f"attempt {attempt} has {n} rows that nobody saw: {more}")
    return different

"""What a view is before it is asked: steps in a row, as data that any store can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

#: Model and version whose predictions are meant.
Joined = tuple[str, int]

#: Conditions as they were written: `("quality__gte", 3)`.
Conditions = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Where:
    """Samples that meet all conditions.

    Args:
        conditions: names with their operators, and values.
        join: whose predictions `prediction.NAME` names; `None`: nobody's.
    """

    conditions: Conditions
    join: Joined | None = None

    def __str__(self) -> str:
        return f"where({', '.join(f'{name}={value!r}' for name, value in self.conditions)})"


@dataclass(frozen=True)
class Sort:
    """Another order: ascending, equal samples in that of their storage, or the reverse of it."""

    name: str
    descending: bool = False
    join: Joined | None = None

    def __str__(self) -> str:
        return f"sort({'-' * self.descending + self.name!r})"


@dataclass(frozen=True)
class Limit:
    """The first samples."""

    count: int

    def __str__(self) -> str:
        return f"limit({self.count})"


@dataclass(frozen=True)
class Draw:
    """Some samples, chosen by chance; their order stays."""

    count: int
    seed: int = 0

    def __str__(self) -> str:
        return f"sample({self.count}, seed={self.seed})"


@dataclass(frozen=True)
class Part:
    """One of several disjoint parts, or (`outside`) all samples but those of that part.

    Args:
        fractions: how much of the samples each part has; their sum is 1.
        index: which part.
        outside: whether the others are meant.
        seed: another seed gives other parts.
        stratify: label or tag of which each part has its share of each value.
    """

    fractions: tuple[float, ...]
    index: int
    outside: bool = False
    seed: int = 0
    stratify: str | None = None

    def __str__(self) -> str:
        share = ", ".join(f"{fraction:.4g}" for fraction in self.fractions)
        kind = "without part" if self.outside else "part"
        by = f", stratify={self.stratify!r}" if self.stratify is not None else ""
        return f"{kind} {self.index} of [{share}](seed={self.seed}{by})"


@dataclass(frozen=True)
class Combine:
    """The samples that are also in (`and`), not in (`sub`), or besides in (`or`) another view."""

    operation: str
    other: Plan

    def __str__(self) -> str:
        sign = {"and": "&", "or": "|", "sub": "-"}[self.operation]
        return f"{sign} ({describe(self.other)})"


Step = Where | Sort | Limit | Draw | Part | Combine
Plan = tuple[Step, ...]

_STEPS: dict[str, type[Step]] = {
    "where": Where,
    "sort": Sort,
    "limit": Limit,
    "sample": Draw,
    "part": Part,
    "combine": Combine,
}
_NAMES = {kind: name for name, kind in _STEPS.items()}


def describe(plan: Plan) -> str:
    """The plan as one reads it.

    Example:

    >>> describe((Where((("split", "train"),)), Sort("quality", True), Limit(5)))
    "where(split='train').sort('-quality').limit(5)"
    """
    text = ""
    for step in plan:
        sign = isinstance(step, Combine)
        text = f"({text or 'all'}) {step}" if sign else f"{text}.{step}" if text else str(step)
    return text or "all"


def to_document(plan: Plan) -> list[dict[str, Any]]:
    """The plan as plain data, which JSON and a document can hold.

    Example:

    >>> to_document((Limit(5),))
    [{'step': 'limit', 'count': 5}]
    """
    return [
        {"step": _NAMES[type(step)]}
        | {
            field.name: _plain(getattr(step, field.name))
            for field in fields(step)
            if getattr(step, field.name) != field.default
        }
        for step in plan
    ]


def canonical(plan: Plan) -> list[dict[str, Any]]:
    """The plan as plain data that is the same for what means the same: lists of values are sorted.

    Example:

    >>> one, other = (Where((("y__in", values),)) for values in [(1, 2), (2, 1)])
    >>> canonical((one,)) == canonical((other,))
    True
    """
    found = []
    for step, entry in zip(plan, to_document(plan), strict=True):
        if isinstance(step, Where):
            entry["conditions"] = sorted(
                (
                    [name, sorted(value, key=repr) if isinstance(value, list) else value]
                    for name, value in entry["conditions"]
                ),
                key=repr,
            )
        elif isinstance(step, Combine):
            entry["other"] = canonical(step.other)
        found.append(entry)
    return found


def from_document(document: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan that `to_document` has made a document of.

    Nothing in it is taken for more than data: its conditions are compiled and checked as those
    that a user writes.

    Raises:
        ValueError: if it is no such document.
    """
    try:
        return tuple(_step(dict(entry)) for entry in document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`plan` must be the steps of a view. Received: {document!r}") from error


def _step(entry: dict[str, Any]) -> Step:
    kind = _STEPS[entry.pop("step")]
    if kind is Where:
        conditions = tuple((str(name), _value(value)) for name, value in entry["conditions"])
        return Where(conditions, _join(entry))
    if kind is Sort:
        return Sort(str(entry["name"]), bool(entry.get("descending", False)), _join(entry))
    if kind is Part:
        entry["fractions"] = tuple(float(fraction) for fraction in entry["fractions"])
        return Part(**entry)
    if kind is Combine:
        if entry["operation"] not in ("and", "or", "sub"):
            raise ValueError(entry["operation"])
        return Combine(entry["operation"], from_document(entry["other"]))
    numbers = {name: int(value) for name, value in entry.items()}
    return kind(**numbers)  # type: ignore[arg-type]


def _join(entry: Mapping[str, Any]) -> Joined | None:
    join = entry.get("join")
    return None if join is None else (str(join[0]), int(join[1]))


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has not, as a table with one entry."""
    if isinstance(value, tuple) and value and isinstance(value[0], Step):
        return to_document(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if type(value).__name__ == "ObjectId":
        return {"id": str(value)}
    tolist = getattr(value, "tolist", None)
    return value if tolist is None else _plain(tolist())


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        ((kind, text),) = value.items()
        if kind == "time":
            return datetime.fromisoformat(text)
        if kind == "bytes":
            return bytes.fromhex(text)
        if kind == "id":
            from bson import ObjectId

            return ObjectId(text)
        raise ValueError(kind)
    return tuple(_value(item) for item in value) if isinstance(value, list) else value

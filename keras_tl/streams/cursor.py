"""Where a stream stands: what a version stores, and what the batches carry along."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEYS = {"topic", "batch_size", "turn", "last", "active", "since", "schedule", "partitions"}


class Checksum:
    """CRC-32 of a record's value, computed only if a cursor is stored: most never are."""

    __slots__ = ("_crc", "_value", "nbytes")

    def __init__(self, value: bytes | None = None, crc: int | None = None) -> None:
        self._value = value
        self._crc = crc
        self.nbytes = len(value) if value is not None else 0

    @property
    def crc(self) -> int | None:
        """The checksum; `None` before the first record."""
        if self._value is not None:
            self._crc, self._value = zlib.crc32(self._value), None
        return self._crc


@dataclass(frozen=True, slots=True)
class Position:
    """`row` rows of record `offset` are consumed; `before` is of the record at `offset - 1`."""

    offset: int
    row: int = 0
    before: Checksum = Checksum()


@dataclass(frozen=True, slots=True)
class Cursor:
    """The state of a stream between two batches.

    Args:
        turn: records handed out since the very first cursor, the one in progress included.
        last: partition of that record.
        active: partitions in the rotation.
        since: the turn from which `schedule` is complete.
        schedule: decisions `(turn, "leave" | "join", partition)`, shared between the cursors of a
            stream and only ever appended to; the first `decisions` of them are this cursor's.
    """

    topic: str
    batch_size: int
    positions: Mapping[int, Position]
    topic_ids: Mapping[int, str | None]
    turn: int = 0
    last: int | None = None
    active: Sequence[int] = ()
    since: int = 0
    schedule: Sequence[tuple[int, str, int]] = ()
    decisions: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A document: str, int, None, lists and dicts only."""
        return {
            "topic": self.topic,
            "batch_size": self.batch_size,
            "turn": self.turn,
            "last": self.last,
            "active": list(self.active),
            "since": self.since,
            "schedule": [list(entry) for entry in self.schedule[: self.decisions]],
            "partitions": [
                {
                    "partition": partition,
                    "topic_id": self.topic_ids.get(partition),
                    "offset": position.offset,
                    "row": position.row,
                    "checksum": position.before.crc,
                }
                for partition, position in sorted(self.positions.items())
            ],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Cursor:
        """The cursor of a document.

        Raises:
            ValueError: if it is not a cursor's document.
        """
        try:
            if missing := _KEYS - set(document):
                raise ValueError(f"it lacks {sorted(missing)}")
            parts = {
                int(part["partition"]): (
                    Position(int(part["offset"]), int(part["row"]), Checksum(crc=part["checksum"])),
                    part["topic_id"],
                )
                for part in document["partitions"]
            }
            return cls(
                topic=str(document["topic"]),
                batch_size=int(document["batch_size"]),
                positions={key: position for key, (position, _) in parts.items()},
                topic_ids={key: topic_id for key, (_, topic_id) in parts.items()},
                turn=int(document["turn"]),
                last=None if document["last"] is None else int(document["last"]),
                active=tuple(int(partition) for partition in document["active"]),
                since=int(document["since"]),
                schedule=[(int(t), str(what), int(p)) for t, what, p in document["schedule"]],
                decisions=len(document["schedule"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`cursor` must be what `Stream.cursor` gave ({error}). Received: {document!r}"
            ) from error

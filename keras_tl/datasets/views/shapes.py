"""What a query asks an index for, whatever its values are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from keras_tl.datasets.views.rows import Order

_RANGES = {"$gt", "$gte", "$lt", "$lte"}
_SERVED = _RANGES | {"$eq", "$in"}


class Shape(NamedTuple):
    """What a query asks an index for.

    Args:
        equal: paths that have one value or one of a list, in alphabetical order.
        then: path of an order or a range, or `None`.
    """

    equal: tuple[str, ...]
    then: str | None

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.equal, *([self.then] if self.then is not None else []))

    def served_by(self, fields: Sequence[str]) -> bool:
        """Whether an index over these paths finds what the query asks for."""
        count = len(self.equal)
        if set(fields[:count]) != set(self.equal):
            return False
        return self.then is None or tuple(fields[count : count + 1]) == (self.then,)


def shapes_of(query: Mapping[str, Any], sort: Order) -> list[Shape]:
    """The shapes of a query, each of which asks for an index; none where none of ours would help.

    It is one, but where a query is one of several: then each of these asks for its own, and the
    server takes indexes only if there is one for each.

    Example:

    >>> shapes_of({"tags.b": {"$eq": 1}, "tags.a": {"$in": [2]}, "added": {"$gt": 3}}, [])
    [Shape(equal=('tags.a', 'tags.b'), then='added')]
    >>> [shape.equal for shape in shapes_of({"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 1}}]}, [])]
    [('a',), ('b',)]
    """
    if not any(clause.keys() & _SERVED for _, clause in _clauses(query)):
        for choices in _choices(query):
            if all(map(_serves, choices)):
                found = [shape for one in choices for shape in shapes_of(one, sort)]
                return list(dict.fromkeys(found))
    shape = _shape_of(query, sort)
    return [] if shape is None else [shape]


def _serves(query: Mapping[str, Any]) -> bool:
    """Whether an index can find what a query asks for."""
    return any(clause.keys() & _SERVED for _, clause in _clauses(query)) or any(
        all(map(_serves, choices)) for choices in _choices(query)
    )


def _choices(query: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    """The queries of which one has to hold, of each `$or` that has to."""
    for place, clause in query.items():
        if place == "$or":
            yield clause
        elif place == "$and":
            for part in clause:
                yield from _choices(part)


def _shape_of(query: Mapping[str, Any], sort: Order) -> Shape | None:
    equal: set[str] = set()
    ranges: list[str] = []
    for place, clause in _clauses(query):
        if clause.keys() & {"$eq", "$in"}:
            equal.add(place)
        elif clause.keys() & _RANGES:
            ranges.append(place)
    wanted = [place for place, _ in sort if place != "at"] + sorted(ranges)
    then = next((place for place in wanted if place not in equal), None)
    if "_id" in equal or then == "_id" or not (equal or then):
        return None
    return Shape(tuple(sorted(equal)), then)


def _clauses(query: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The conditions by path that all have to hold."""
    for place, clause in query.items():
        if place == "$and":
            for part in clause:
                yield from _clauses(part)
        elif not place.startswith("$"):
            yield place, clause


def bare(fields: Sequence[str]) -> list[str]:
    """Names of labels and tags as people call them: no label is called as a tag."""
    return [field.partition(".")[2] or field for field in fields]


def joined(names: Sequence[str]) -> str:
    """What an index on these names is called.

    Example:

    >>> joined(["a", "b"]), joined(["a+b"])
    ('a+b', 'a%2Bb')
    """
    return "+".join(name.replace("%", "%25").replace("+", "%2B") for name in names)


def outline(query: Any) -> Any:
    """The query without its values."""
    return tuple(
        (name, tuple(map(outline, clause)) if isinstance(clause, list) else tuple(clause))
        for name, clause in query.items()
    )


def words(query: Mapping[str, Any], sort: Order) -> str:
    found = [place for place, _ in _clauses(query)]
    found += [place for one in _choices(query) for part in one for place, _ in _clauses(part)]
    places = dict.fromkeys(found)
    parts = [f"conditions on {', '.join(bare(list(places)))}"] if places else []
    parts += [f"an order by {bare([place])[0]}" for place, _ in sort[:1]]
    return " and ".join(parts) or "such conditions"

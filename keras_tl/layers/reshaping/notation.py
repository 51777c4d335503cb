"""The notation of einops (https://openreview.net/forum?id=oapKSVM2bcj): parser and sizes."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = [
    "Groups",
    "Pattern",
    "flat",
    "grouped",
    "names_of",
    "parse",
    "probed",
    "reshape",
    "split_kwargs",
]

Groups = tuple[tuple[str, ...], ...]
ELLIPSIS = "..."


@dataclass(frozen=True)
class Pattern:
    """`left -> right`, and the lengths of axes that are given: by name, or as numbers.

    A group is a dimension of the tensor, made of axes: `b (h 2) 1` is `(b,) (h, 2) ()`. A number
    above 1 is an axis of its own name, which no other has.
    """

    text: str
    left: Groups
    right: Groups
    lengths: Mapping[str, int]

    @classmethod
    def of(cls, text: str, lengths: Mapping[str, int], unknown: Iterable[str] = ()) -> Pattern:
        """Parse a pattern; `unknown` are names that may have a length and stand elsewhere."""
        sides = text.split("->") if isinstance(text, str) else []
        if len(sides) != 2:
            raise _error(text, "must have a left and a right side around one `->`")
        numbers: dict[str, int] = {}
        left, right = (parse(side, text, numbers) for side in sides)
        known = {name: arguments.integer(name, n) for name, n in lengths.items()} | numbers
        names = names_of(left) | names_of(right) | set(unknown)
        if strange := sorted(set(lengths) - names):
            raise _error(text, f"has no axis {strange[0]!r}")
        if (ELLIPSIS,) not in left and ELLIPSIS in names_of(left):
            raise _error(text, "may not have an ellipsis in parentheses on its left")
        if ELLIPSIS in names_of(right) and ELLIPSIS not in names_of(left):
            raise _error(text, "has an ellipsis on its right only")
        for group in left:
            if len([axis for axis in group if axis not in known]) > 1:
                raise _error(text, f"leaves the lengths in ({' '.join(group)}) open")
        return cls(text, left, right, known)

    def expanded(self, rank: int) -> Pattern:
        """The same for tensors of one rank: axes in place of the ellipsis."""
        more = rank - len(self.left) + 1
        if ELLIPSIS not in names_of(self.left):
            if more != 1:
                raise _error(self.text, f"needs {len(self.left)} axes, not {rank}")
            return self
        if more < 0:
            raise _error(self.text, f"needs {len(self.left) - 1} axes or more, not {rank}")
        axes = tuple(f"{ELLIPSIS}{i}" for i in range(more))

        def expand(groups: Groups) -> Groups:
            found: list[tuple[str, ...]] = []
            for group in groups:
                if group == (ELLIPSIS,):
                    found += [(axis,) for axis in axes]
                else:
                    parts = [axes if axis == ELLIPSIS else (axis,) for axis in group]
                    found.append(tuple(axis for part in parts for axis in part))
            return tuple(found)

        return Pattern(self.text, expand(self.left), expand(self.right), self.lengths)

    def sizes(self, shape: Sequence[Any], dims: Sequence[Any] | None = None) -> dict[str, Any]:
        """The length of each axis on the left, by the shape of a tensor.

        Args:
            shape: ints, and what is no int for a length that is not known.
            dims: what stands for those in the compiled step; without it, None does.
        """
        found: dict[str, Any] = {}
        for i, (group, n) in enumerate(zip(self.left, shape, strict=True)):
            open_axes = [axis for axis in group if axis not in self.lengths]
            known = 1
            for axis in group:
                known *= self.lengths.get(axis, 1)
                found[axis] = self.lengths.get(axis)
            if isinstance(n, int):
                if n % known if open_axes else n != known:
                    raise _error(
                        self.text,
                        f"needs a length of {known}{' times an integer' if open_axes else ''} on "
                        f"axis {i}, not that of shape {tuple(shape)}",
                    )
                found.update(dict.fromkeys(open_axes, n // known))
            elif dims is not None:
                found.update(dict.fromkeys(open_axes, dims[i] if known == 1 else dims[i] // known))
        return found


def parse(side: str, text: str, numbers: dict[str, int]) -> Groups:
    """The groups of one side; numbers above 1 get names, with which they come to `numbers`."""
    groups: list[tuple[str, ...]] = []
    inside: list[str] | None = None
    for token in re.findall(r"\.\.\.|\w+|\S", side):
        if token == "(" and inside is None:
            inside = []
        elif token == ")" and inside is not None:
            groups.append(tuple(inside))
            inside = None
        elif token == ELLIPSIS or token.isidentifier() or (token.isdecimal() and int(token) > 0):
            axes = [token]
            if token.isdecimal():
                axes = [] if int(token) == 1 else [f"{token} ({len(numbers)})"]
                numbers.update(dict.fromkeys(axes, int(token)))
            if inside is None:
                groups.append(tuple(axes))
            else:
                inside += axes
        else:
            raise _error(text, f"has {token!r} where an axis should be")
    axes = flat(groups)
    if inside is not None or len(set(axes)) != len(axes):
        raise _error(text, "has an open parenthesis, or an axis twice on one side")
    return tuple(groups)


def flat(groups: Iterable[Sequence[str]]) -> list[str]:
    return [axis for group in groups for axis in group]


def names_of(groups: Groups) -> set[str]:
    return set(flat(groups))


def grouped(groups: Groups, sizes: Mapping[str, Any]) -> list[Any]:
    """The shape of a tensor of these groups; None where a length is not known."""
    shape: list[Any] = []
    for group in groups:
        length: Any = 1
        for axis in group:
            known = length is not None and sizes[axis] is not None
            length = length * sizes[axis] if known else None
        shape.append(length)
    return shape


def reshape(x: Any, shape: list[Any]) -> Any:
    """Reshape, with a -1 for the only length that is not known before the step runs."""
    unknown = [i for i, n in enumerate(shape) if not isinstance(n, int)]
    if len(unknown) == 1 and not any(isinstance(n, int) and n == 0 for n in shape):
        shape[unknown[0]] = -1
    return ops.reshape(x, shape)


def probed(pattern: Pattern, x: Any) -> Any:
    """The tensor itself; of torch's probe for unknown lengths, which is 83 or 89, what fits."""
    if getattr(getattr(x, "device", None), "type", None) == "meta":
        for i, group in enumerate(pattern.left):
            known = math.prod(pattern.lengths.get(axis, 1) for axis in group)
            is_open = any(axis not in pattern.lengths for axis in group)
            stop = x.shape[i] - x.shape[i] % known if is_open else known
            x = x[(slice(None),) * i + (slice(stop),)]
    return x


def split_kwargs(
    layer: type[keras.layers.Layer], text: Any, kwargs: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Any]]:
    """The lengths of axes among keyword arguments, and those that every layer has."""
    bases = [base for base in layer.__mro__ if issubclass(base, keras.layers.Layer)]
    inits = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    taken = {name for init in inits for name in inspect.signature(init).parameters}
    taken -= {"self", "kwargs"}
    if both := sorted(taken & set(re.findall(r"\w+", str(text)))):
        raise _error(text, f"may not have an axis of the name of a layer's argument, {both[0]!r}")
    lengths = {name: n for name, n in kwargs.items() if name not in taken}
    return lengths, {name: value for name, value in kwargs.items() if name in taken}


def _error(text: Any, fault: str) -> ValueError:
    return ValueError(f"`pattern` {fault}. Received: pattern={text!r}")

"""What a run logs beside rows of metrics: free events, kinds with a schema, arrays and images."""

from __future__ import annotations

import base64
import json
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_tl.models import buckets, kinds
from keras_tl.models.plain import plain
from keras_tl.storage.journal import Kind

if TYPE_CHECKING:
    from keras_tl.models.outbox import Outbox

_EVENT = 1 << 20  # bytes
_DEPTH = 50  # levels; MongoDB takes about 180, in all


class Events:
    """The events of a `Run`; each call appends to the journal and waits for no server.

    An event has at most 1 MB, arrays compressed. What a run logs of one kind within half a second
    shares a document of about a megabyte, or several: a million events are some hundred documents
    if they come fast, and about two a second if they trickle in.
    """

    id: str
    attempt: str
    rank: int
    started: bool

    def __init__(self) -> None:
        #: Fields of the kinds that were defined, by kind.
        self.kinds: dict[str, dict[str, str]] = {}

    @property
    def outbox(self) -> Outbox:
        raise NotImplementedError

    def log(self, step: int, epoch: int, batch: int, logs: Mapping[str, Any], kind: str) -> None:
        raise NotImplementedError

    def _columns(self, kind: Any, names: Iterable[Any]) -> tuple[str, ...]:
        """Names of the columns of rows of a kind; raises if it is no kind of such rows."""
        columns = tuple(map(str, names))  # Keras takes any key for the name of a metric
        if kind not in kinds.LOGGER:
            _kind(kind)
            fields = self.kinds.get(kind)
            if fields is not None and not (kinds.packs(fields) and columns == tuple(fields)):
                raise ValueError(
                    f"`kind` must not be {kind!r} for rows of other columns than it was defined "
                    f"with: {fields}. Received: {', '.join(columns)}"
                )
        return columns

    def define(self, kind: str, **fields: str) -> None:
        """Give a kind of event a schema, which `event` checks from then on.

        Args:
            kind: name of the kind.
            **fields: types by name: `"float"`, `"int"`, `"str"`, `"bool"` or `"array"`. Events of
                nothing but numbers are stored packed, as metrics are, and read as float64.

        Raises:
            ValueError: if the kind is taken, was defined otherwise, or a type is unknown.

        Example:

        ```python
        run.define("drift", score="float", n="int")
        run.event("drift", step=1200, score=0.93, n=512)
        ```
        """
        _kind(kind)
        found = kinds.schema(kind, fields)
        if self.kinds.setdefault(kind, found) != found:
            raise ValueError(
                f"`kind` must not be defined twice with other fields: {kind!r} has "
                f"{self.kinds[kind]}. Received: {found}"
            )
        if self.started:
            self.describe_kind(kind)

    def describe_kind(self, kind: str) -> None:
        """Put the fields of a kind on the run's document."""
        if self.rank == 0:
            fields = {buckets.key(name): rule for name, rule in self.kinds[kind].items()}
            field = f"kinds.{buckets.key(kind)}"
            self.outbox.document("runs", self.id, {}, set={field: fields})

    def event(self, kind: str, step: int = 0, epoch: int = 0, **values: Any) -> None:
        """Log an event of your own.

        Args:
            kind: its kind, free or one that was given a schema by `define`.
            step: training step it belongs to.
            epoch: epoch it belongs to.
            **values: of a free kind numbers (also NumPy's, and tensors of shape `()`), strings,
                booleans, `None`, or lists and dicts of these; else the fields of its schema. At
                most 1 MB. NaN and infinities are kept; what is named like a secret is
                stored as `"***"`.

        Raises:
            ValueError: if `kind` is taken or no text, `step` or `epoch` is no integer, or a value
                is nothing that a document can hold or against the schema.

        Example:

        ```python
        run.event("drift", step=1200, score=0.93, detector="adwin")
        ```
        """
        _kind(kind)
        fields = self.kinds.get(kind)
        if fields is None:
            self._write(kind, step, epoch, values, {})
            return
        values = kinds.checked(kind, fields, values)
        if kinds.packs(fields):
            self.log(_integer("step", step, 64), _integer("epoch", epoch, 32), -1, values, kind)
            return
        arrays = {name: values.pop(name) for name, rule in fields.items() if rule == "array"}
        self._write(kind, step, epoch, values, arrays)

    def histogram(self, name: str, values: Any, step: int, bins: int = 64) -> None:
        """Log how values are distributed: `counts`, `edges`, and how many are not finite.

        Args:
            name: what the values are, such as `"dense/kernel"`.
            values: tensor or array of any shape.
            step: training step it belongs to.
            bins: number of bins of equal width between the lowest and the highest finite value.

        Raises:
            ValueError: for values that are no real numbers, or an impossible number of bins.
        """
        found = kinds.histogram(values, bins)
        arrays = {"counts": found.pop("counts"), "edges": found.pop("edges")}
        self._write("histogram", step, 0, {"name": name, **found}, arrays)

    def image(self, name: str, image: Any, step: int) -> None:
        """Log an image, kept as uint8.

        Args:
            name: what it shows.
            image: of shape `(height, width)` or `(height, width, channels)` with 1, 3 or 4
                channels; uint8, or floats from 0 to 1.
            step: training step it belongs to.

        Raises:
            ValueError: for another shape or type, or if it takes more than 1 MB compressed.
        """
        self._write("image", step, 0, {"name": name}, {"image": kinds.image(image)})

    def text(self, name: str, text: str, step: int) -> None:
        """Log a text, such as what a language model generated.

        Args:
            name: what it is.
            text: at most 1 MB of UTF-8.
            step: training step it belongs to.

        Raises:
            ValueError: if `text` is no string, or too long.
        """
        if not isinstance(text, str):
            raise ValueError(f"`text` must be a string. Received: {text!r}")
        self._write("text", step, 0, {"name": name, "text": buckets.text(text)}, {})

    def array(self, name: str, array: Any, step: int) -> None:
        """Log an array, which is read back with the dtype and shape it has.

        Args:
            name: what it is.
            array: tensor or array of numbers or booleans; bfloat16 and float8 too.
            step: training step it belongs to.

        Raises:
            ValueError: for what is no such array, or if it takes more than 1 MB compressed.
        """
        self._write("array", step, 0, {"name": name}, {"array": array})

    def confusion_matrix(
        self,
        name: str,
        matrix: Any = None,
        *,
        step: int,
        y_true: Any = None,
        y_pred: Any = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Log a confusion matrix, given or counted from classes.

        Args:
            name: what was classified, such as `"validation"`.
            matrix: of shape `(classes, classes)`: rows are true classes, columns predicted ones.
            step: training step it belongs to.
            y_true: instead of `matrix`: numbers of the true classes, from 0 up, of shape `(n,)`.
            y_pred: numbers of the predicted classes, of shape `(n,)`.
            labels: names of the classes.

        Raises:
            ValueError: if it is neither or both, or shapes and labels do not fit.
        """
        found = kinds.confusion(matrix, y_true, y_pred, labels)
        values = {"name": name, "labels": found["labels"]}
        self._write("confusion_matrix", step, 0, values, {"matrix": found["matrix"]})

    def _write(
        self,
        kind: str,
        step: int,
        epoch: int,
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> None:
        from bson import encode
        from bson.errors import BSONError

        step, epoch = _integer("step", step, 64), _integer("epoch", epoch, 32)
        if kind in kinds.BUILT_IN and not isinstance(values["name"], str):
            raise ValueError(f"`name` must be a string. Received: {values['name']!r}")
        try:
            # What MongoDB would refuse would have to be set aside, long after this call.
            values = json.loads(json.dumps(values, default=kinds.scalar))
            size = len(encode({"values": values}))
            if _depth(values) > _DEPTH:
                raise ValueError(f"values nested in more than {_DEPTH} levels")
        except (TypeError, ValueError, OverflowError, RecursionError, BSONError) as error:
            raise ValueError(
                "`values` must be numbers of 64 bits, strings, booleans, None, lists or dicts. "
                f"Received: {error}"
            ) from error
        packed = {name: _packed(name, array) for name, array in arrays.items()}
        size += sum(len(data) for _, data in packed.values())
        if size > _EVENT:
            named = f"`{', '.join(arrays)}`" if arrays else "`values`"
            raise ValueError(
                f"{named} must be at most {_EVENT} bytes: log less of it, or in a smaller dtype, "
                f"or keep it in a dataset. Received: {size} bytes"
            )
        number = self.outbox.columns(self.id, self.attempt, self.rank, kind, None)
        about: dict[str, Any] = {
            "columns": number,
            "step": step,
            "epoch": epoch,
            "batch": -1,
            "time": time.time(),
        }
        about["values"] = plain(values, "", buckets.text)
        if packed:
            about["arrays"] = {
                buckets.text(name): (subtype, base64.b64encode(data).decode())
                for name, (subtype, data) in packed.items()
            }
        self.outbox.append(Kind.EVENT, json.dumps(about).encode())


def _packed(name: str, array: Any) -> tuple[int, bytes]:
    try:
        found = kinds.as_array(array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers or booleans. Received: {error}"
        ) from error
    try:
        return buckets.pack_array(found)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must have a dtype that safetensors knows. Received: dtype={found.dtype}"
        ) from error


def _kind(kind: Any) -> None:
    if kind in (*kinds.LOGGER, *kinds.BUILT_IN):
        writer = "the logger's" if kind in kinds.LOGGER else f"what `Run.{kind}` writes"
        raise ValueError(
            f"`kind` must not be one of {', '.join((*kinds.LOGGER, *kinds.BUILT_IN))}: "
            f"this one is {writer}. Received: {kind}"
        )
    if not isinstance(kind, str) or not kind or buckets.text(kind) != kind:
        raise ValueError(f"`kind` must be a string of valid Unicode. Received: {kind!r}")


def _integer(name: str, value: Any, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 1 << bits
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise ValueError(f"`{name}` must be an integer of {bits} bits. Received: {value!r}")
    return number


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)

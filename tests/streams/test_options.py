"""A mistyped Kafka option is named, and no option's value is shown. No broker is needed."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from keras_tl.storage.connection import Connection
from keras_tl.streams import Producer, Stream
from keras_tl.streams import producer as producers
from keras_tl.streams.errors import checked_options

pytest.importorskip("kafka", reason="kafka-python is missing")

CLIENTS: dict[str, Callable[[Connection], Any]] = {
    "consumer": lambda connection: Stream(connection, "digits", 8),
    "admin": lambda connection: Producer(connection, "digits"),
    "producer": lambda connection: Producer(connection, "digits"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sasl_plain_pasword": "hunter2"}, "sasl_plain_pasword"),
        ({"sasl_plain_pasword": "hunter2", "api_version": "hunter2"}, "sasl_plain_pasword"),
    ],
)
def test_no_value_is_shown(
    client: str, options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client == "producer":  # past the admin client, which would fail first
        monkeypatch.setattr(producers, "_ensure_topic", lambda *_: 1)
    connection = Connection(kafka={"bootstrap_servers": "localhost:1", **options})
    with pytest.raises(ValueError, match=named) as caught:
        CLIENTS[client](connection)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in str(caught.value) and "hunter2" not in shown
    assert "No broker" not in shown


@pytest.mark.parametrize("kind", [AssertionError, TypeError, ValueError])
def test_a_wrong_value_is_not_shown_either(kind: type[Exception]) -> None:
    with pytest.raises(ValueError, match=r"\['sasl_mechanism'\]$") as caught:
        with checked_options({"bootstrap_servers": "localhost:1", "sasl_mechanism": "hunter2"}):
            raise kind("sasl_mechanism must be one of PLAIN. Received: hunter2")
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__

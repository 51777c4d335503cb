"""What a stream raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class StreamError(RuntimeError):
    """A stream cannot go on: a bad record, a refused login, a send that failed."""


class TopicChanged(StreamError):
    """The topic is not the one a cursor was made on.

    A broker without storage was started again, the topic was deleted and made again, or retention
    passed the stored offset: offsets of the old topic would silently read other records.
    """


@contextmanager
def checked_options(options: Mapping[str, Any]) -> Iterator[None]:
    """Around the making of a Kafka client: says which option is wrong, and no option's value.

    kafka-python's own texts list the values, and one of them may be a password under a mistyped
    name. So nothing is chained either.

    Raises:
        ValueError: if kafka-python refuses the options.
    """
    from kafka import KafkaConsumer, KafkaProducer, errors

    try:
        yield
    except (errors.KafkaConfigurationError, AssertionError, TypeError, ValueError) as error:
        known = {*KafkaConsumer.DEFAULT_CONFIG, *KafkaProducer.DEFAULT_CONFIG}
        text = str(error)
        named = set(options) - known or {name for name in options if name in text} or set(options)
        raise ValueError(
            "`kafka` must hold options of kafka-python, with values that it takes. "
            f"Received, wrong or not known to every client of it: {sorted(named)}"
        ) from None

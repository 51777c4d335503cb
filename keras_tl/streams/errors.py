"""What a stream raises."""

from __future__ import annotations


class StreamError(RuntimeError):
    """A stream cannot go on: a bad record, a refused login, a send that failed."""


class TopicChanged(StreamError):
    """The topic is not the one a cursor was made on.

    A broker without storage was started again, the topic was deleted and made again, or retention
    passed the stored offset: offsets of the old topic would silently read other records.
    """

"""Kafka topics as the data of `fit`, and the other way round."""

from keras_tl.streams.errors import StreamError, TopicChanged
from keras_tl.streams.identity import refusal
from keras_tl.streams.producer import Producer
from keras_tl.streams.stream import Stream

__all__ = ["Producer", "Stream", "StreamError", "TopicChanged", "refusal"]

"""What decides inside the compiled step."""

from keras_tl.layers.control.control import Control
from keras_tl.layers.control.multiplexer import Multiplexer
from keras_tl.layers.control.shared import Shared

__all__ = ["Control", "Multiplexer", "Shared"]

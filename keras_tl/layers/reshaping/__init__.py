"""Order, shape and padding of axes."""

from keras_tl.layers.reshaping.channel_shuffle import ChannelShuffle
from keras_tl.layers.reshaping.einmix import EinMix
from keras_tl.layers.reshaping.einops import Rearrange, Reduce
from keras_tl.layers.reshaping.elementwise_lambda import ElementwiseLambda
from keras_tl.layers.reshaping.padding import Padding

__all__ = ["ChannelShuffle", "EinMix", "ElementwiseLambda", "Padding", "Rearrange", "Reduce"]

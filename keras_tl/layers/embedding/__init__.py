"""Vectors of words."""

from keras_tl.layers.embedding.average_embedding import AverageEmbedding
from keras_tl.layers.embedding.skip_grams import SkipGrams
from keras_tl.layers.embedding.word2vec_embedding import Word2VecEmbedding

__all__ = ["AverageEmbedding", "SkipGrams", "Word2VecEmbedding"]

"""Words of Python's own manual become vectors, and words that are used alike lie close together.

Needs `pip install keras_tl[jax] scikit-learn matplotlib`, and no server: the corpus is the text
that `help()` shows, which every Python has. `python word2vec.py vectors.png` draws the vectors.
"""

import re
import sys
from collections import Counter
from pydoc_data.topics import topics

import keras
import numpy as np

from keras_tl.layers import SkipGrams, Word2VecEmbedding

keras.utils.set_random_seed(0)
paragraphs = [p for text in topics.values() for p in re.split(r"\n\s*\n", text)]
sentences = [re.findall(r"[a-z_]{2,}", paragraph.lower()) for paragraph in paragraphs]
counts = Counter(word for sentence in sentences for word in sentence)
vocabulary = [word for word, count in counts.most_common() if count >= 10]  # frequent words first
ids = {word: i for i, word in enumerate(vocabulary)}
corpus = [[ids[word] for word in sentence if word in ids] for sentence in sentences]
print(f"{sum(map(len, corpus))} words, {len(vocabulary)} different ones")

inputs = [keras.Input((), dtype="int32"), keras.Input((), dtype="int32")]
layer = Word2VecEmbedding(len(vocabulary), 64)
model = keras.Model(inputs, layer(*inputs))
model.compile(keras.optimizers.Adam(0.005))
model.fit(SkipGrams(corpus, window_size=5, subsample=1e-3), epochs=15, verbose=2)

vectors = keras.ops.convert_to_numpy(layer.normalized_embeddings)
for word in ["list", "integer", "raise", "true", "method", "import"]:
    nearest = np.argsort(-vectors @ vectors[ids[word]])[1:6]
    print(f"{word}: {', '.join(vocabulary[i] for i in nearest)}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt
    from sklearn.manifold import TSNE

    shown = range(20, 220)  # the first are "the", "is", "of"
    places = TSNE(metric="cosine", init="pca", random_state=0).fit_transform(vectors[shown])
    plt.figure(figsize=(12, 12))
    plt.scatter(*places.T, s=3)
    for i, place in zip(shown, places, strict=True):
        plt.annotate(vocabulary[i], place, fontsize=8)
    plt.axis("off")
    plt.savefig(sys.argv[1], dpi=100, bbox_inches="tight")
    print(f"the vectors of {len(shown)} words are in {sys.argv[1]}")

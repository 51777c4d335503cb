"""Put the spaces back into English: a CRF tags each letter as the begin, inside or end of a word.

Needs `pip install keras_tl jax` and no server. The text is Python's own documentation. The same
network with a softmax for each letter is trained beside it: it knows as much of the letters, but
not that a word that has begun must end. It takes about a minute.
"""

import re
from pydoc_data.topics import topics

import keras
import numpy as np

from keras_tl.layers import CRF
from keras_tl.losses import SequenceCrossentropy

INSIDE, BEGIN, END, SINGLE = range(4)
LETTERS, EPOCHS = 60, 8

keras.utils.set_random_seed(0)


def arrays(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Letters from 1 to 26, padded with 0, and their tags."""
    letters, tags = np.zeros((2, len(lines), LETTERS), "int32")
    for row, line in enumerate(lines):
        words = line.split()
        kinds = [
            [SINGLE] if len(word) == 1 else [BEGIN, *[INSIDE] * (len(word) - 2), END]
            for word in words
        ]
        text = "".join(words)
        letters[row, : len(text)] = [ord(letter) - ord("a") + 1 for letter in text]
        tags[row, : len(text)] = np.concatenate(kinds)
    return letters, tags


def spaced(letters: np.ndarray, tags: np.ndarray) -> str:
    """The line, with a space before each letter that a word begins with."""
    pairs = zip(letters[letters > 0], tags, strict=False)
    return "".join(" " * (tag in (BEGIN, SINGLE)) + chr(x + ord("a") - 1) for x, tag in pairs)[1:]


def network(letters: keras.KerasTensor) -> keras.KerasTensor:
    x = keras.layers.Embedding(27, 32)(letters)
    for _ in range(2):
        x = keras.layers.Conv1D(128, 5, padding="same", activation="relu")(x)
    return x


lines = re.findall(r"[a-z]+(?: [a-z]+){4,9}", " ".join("\n".join(topics.values()).lower().split()))
lines = sorted({line for line in lines if len(line.replace(" ", "")) <= LETTERS})
order = np.random.default_rng(0).permutation(len(lines))
lines = [lines[i] for i in order]
x, y = arrays(lines[500:])
test_x, test_y = arrays(lines[:500])
print(f"{len(x)} lines to learn from, {len(test_x)} to be tested on")

letters, tags = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
features, mask = network(letters), letters != 0
crf = CRF(4)
trained = keras.Model([letters, tags], crf(features, tags, mask=mask))
trained.compile("adam")  # the loss is the layer's own
trained.fit([x, y], epochs=EPOCHS, batch_size=64, verbose=2)
tagger = keras.Model(letters, crf(features, mask=mask))

softmax = keras.Model(letters, keras.layers.Dense(4)(network(letters)))
softmax.compile("adam", SequenceCrossentropy(from_logits=True))
softmax.fit(x, y, sample_weight=(x != 0).astype("float32"), epochs=EPOCHS, batch_size=64, verbose=2)

for name, found in (
    ("softmax", softmax.predict(test_x, verbose=0).argmax(-1)),
    ("CRF", tagger.predict(test_x, verbose=0)),
):
    known = test_x > 0
    letter_by_letter = np.mean(found[known] == test_y[known])
    whole = np.mean(np.all((found == test_y) | ~known, axis=1))
    print(f"{name}: {letter_by_letter:.1%} of the tags and {whole:.1%} of the lines are right")
for row in range(5):
    print(spaced(test_x[row], found[row]))

"""Translate dates to ISO: "Sunday, 1st of March 1987" to "1987-03-01", character by character.

Needs `pip install keras_tl jax` and no server. The dates are made, those of the test are not among
those of the training, and the model is an LSTM with attention. It takes about a minute; half of
it with `python translate_dates.py 1`, for one epoch.
"""

import datetime
import random
import sys

import keras
import numpy as np

from keras_tl.layers import Seq2Seq
from keras_tl.losses import SequenceCrossentropy

FORMATS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{weekday}, {day}{th} of {month} {year}",
    "{month:.3} {day}{th} {year}",
    "{weekday:.3} {day} {month:.3} {year}",
    "{day}.{number}.{year}",
    "{number}/{day:02}/{year}",
    "{year}, {month} {day}",
)
PAD, START, END = 0, 1, 2


def written(date: datetime.date) -> str:
    """The date as somebody writes it; numbers alone are the day first with dots, else the month."""
    return random.choice(FORMATS).format(
        day=date.day,
        th={1: "st", 2: "nd", 3: "rd"}.get(
            date.day % 10 if date.day not in (11, 12, 13) else 0, "th"
        ),
        weekday=date.strftime("%A"),
        month=date.strftime("%B"),
        number=date.month,
        year=date.year,
    )


def encoded(texts: list[str], characters: str) -> np.ndarray:
    """Ids from 3 on, padded with 0 on the right."""
    ids = {character: i for i, character in enumerate(characters, 3)}
    rows = np.full((len(texts), max(map(len, texts))), PAD, "int32")
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [ids[character] for character in text]
    return rows


random.seed(0)
keras.utils.set_random_seed(0)
first = datetime.date(1900, 1, 1)
dates = [first + datetime.timedelta(days) for days in range(200 * 365)]
random.shuffle(dates)
texts, wanted = [written(date) for date in dates], [date.isoformat() for date in dates]

sources = encoded(texts, "".join(sorted(set("".join(texts)))))
digits = "-0123456789"
targets = encoded(wanted, digits)
column = np.ones((len(dates), 1), "int32")
targets = np.concatenate([column * START, targets, column * END], axis=1)
train, test = slice(2000, None), slice(2000)

layer = Seq2Seq(sources.max() + 1, targets.max() + 1, units=64, embedding_dim=32)
inputs = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
model = keras.Model(inputs, layer(*inputs))
epochs, batch_size = int(sys.argv[1]) if len(sys.argv) > 1 else 2, 128
steps = epochs * len(dates[train]) // batch_size
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(8e-3, steps)),
    SequenceCrossentropy(from_logits=True, ignore_class=PAD),
)
model.fit(
    (sources[train], targets[train, :-1]),
    targets[train, 1:],
    batch_size=batch_size,
    epochs=epochs,
    verbose=2,
)

ids, scores = layer.generate(sources[test], START, END, max_length=11, method="beam", num_beams=2)
ids = keras.ops.convert_to_numpy(ids)
answers = ["".join(digits[i - 3] for i in row if i > END) for row in ids]
right = [answer == date for answer, date in zip(answers, wanted[test], strict=True)]
for i in range(5):
    print(f"{texts[i]:>34}  ->  {answers[i]}")
for i in np.flatnonzero(np.logical_not(right))[:3]:
    print(f"wrong: {texts[i]}  ->  {answers[i]}")
print(f"{np.mean(right):.2%} of {len(right)} new dates are exact")

"""Train on a Kafka topic, and go on where it stopped: kill it and start it again.

Needs `pip install keras_tl[demo,jax]`; `keras-tl up` starts a MongoDB and a Kafka and prints the
two variables to export. What arrives in the topic is digits here; usually another process sends.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tl as ktl

EPOCHS, STEPS, BATCH = 5, 40, 32

data = load_digits()
x, y = (data.images[..., None] / 16).astype("float32"), data.target.astype("int32")
rng = np.random.default_rng(0)

with ktl.Hub() as hub:
    if "digits-online" not in hub.models:  # the first time: fill the topic
        with hub.producer("digits-online", block_size=64, partitions=2) as producer:
            for _ in range(4):
                order = rng.permutation(len(x))
                producer.send_many(x=x[order], y=y[order])

    stream = hub.stream("digits-online", BATCH, resume="digits-online")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        stream,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        verbose=2,
        callbacks=hub.callbacks("digits-online", save_freq=20),
    )
    for version in hub.models["digits-online"].chain():
        offsets = [p["offset"] for p in version.cursor["partitions"]]
        print(f"version {version.number}: step {version.step}, read up to {offsets}")

"""Three lines more in a `fit` that you have: events and weights in MongoDB.

Needs `pip install keras_tl[demo,jax]` and a MongoDB: `keras-tl up` starts one and prints the two
variables to export. Run it twice: the second time it loads what the first has saved.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tl as ktl

data = load_digits()
order = np.random.default_rng(0).permutation(len(data.target))
x, y = (data.data[order] / 16).astype("float32"), data.target[order]

with ktl.Hub() as hub:
    if "digits-mlp" in hub.models:
        model = hub.models["digits-mlp"].load("best")
        print("loaded", hub.models["digits-mlp"].version("best"))
    else:
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    logger = ktl.callbacks.MongoLogger(hub, run="mlp", params={"hidden": 64})
    checkpoint = ktl.callbacks.MongoCheckpoint(hub, "digits-mlp", monitor="val_accuracy")
    model.fit(x, y, validation_split=0.2, epochs=8, verbose=2, callbacks=[logger, checkpoint])

    run = hub.runs[logger.run.id]
    epochs = run.events("loss", "val_accuracy")
    for epoch, loss, accuracy in zip(
        epochs["epoch"], epochs["loss"], epochs["val_accuracy"], strict=True
    ):
        print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {accuracy:.3f}")
    print(hub.models["digits-mlp"].aliases)

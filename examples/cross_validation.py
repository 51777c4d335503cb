"""Cross-validation: the folds are views, so nothing is copied.

Needs `pip install keras_tl[demo,jax]`. It uses the MongoDB that `KERAS_TL_MONGODB` names, else it
starts one on this machine. There are five folds, or as many as the first argument says.
"""

import os
import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tl as ktl

FOLDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


with ktl.Hub() if os.environ.get("KERAS_TL_MONGODB") else ktl.Hub.local() as hub:
    digits = hub.datasets.from_numpy("digits-folds", x=x, y=y)
    rates = []
    with hub.run(f"{FOLDS} folds of digits") as study:
        for fold, (train, test) in enumerate(digits.folds(FOLDS, seed=0, stratify="y")):
            logger = ktl.callbacks.MongoLogger(
                hub, run=f"fold {fold}", params={"fold": fold}, parent=study
            )
            model = network()
            model.fit(
                train.batches(64, shuffle=True, seed=fold),
                validation_data=test.batches(512),
                class_weight=train.class_weights("y"),
                epochs=10,
                verbose=0,
                callbacks=[logger],
            )
            rates.append(model.evaluate(test.batches(512), verbose=0)[1])
            print(f"fold {fold}: {train.count} to train, {test.count} to test, {rates[-1]:.3f}")
    print(f"accuracy {np.mean(rates):.3f} +- {np.std(rates):.3f}")
    best = hub.runs.best("val_accuracy", parent=study.id)
    print(f"the best epoch of all was in {best.name}")

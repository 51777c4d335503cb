"""Four runs with different learning rates: found, compared, and drawn into one picture.

Needs `pip install keras_tl[demo,jax,plot]` and a MongoDB: `keras-tl up` starts one and prints what
to export. The same in the terminal: `keras-tl runs compare ID ID --metric loss --plot runs.png`.
"""

import sys

import keras
from sklearn.datasets import load_digits

import keras_tl as ktl
from keras_tl.report import plot_runs

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")

with ktl.Hub() as hub:
    with hub.run("learning rates") as study:
        for rate in (1e-4, 1e-3, 1e-2, 1e-1):
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [
                    keras.Input((64,)),
                    keras.layers.Dense(32, activation="relu"),
                    keras.layers.Dense(10, activation="softmax"),
                ]
            )
            model.compile(
                keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            logger = ktl.callbacks.MongoLogger(
                hub, run=f"rate {rate:g}", params={"rate": rate}, parent=study
            )
            model.fit(x, y, validation_split=0.2, epochs=5, verbose=0, callbacks=[logger])

    best = hub.runs.best("val_accuracy", parent=study.id)
    print(f"best: {best.document['name']}")
    for run in hub.runs.where(parent=study.id, order="-best.val_accuracy"):
        print(f"{run.document['name']:12} {run.best['val_accuracy']}")
    runs = hub.runs.where(parent=study.id, order="params.rate")
    print(hub.runs.compare([run.id for run in runs], metric="val_accuracy"))
    print(best.events("loss", "val_accuracy")["val_accuracy"])
    if len(sys.argv) > 1:
        plot_runs(runs, "val_accuracy", sys.argv[1])
        print(f"curves are in {sys.argv[1]}")

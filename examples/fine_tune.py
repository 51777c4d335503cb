"""Fine-tune a head on a frozen backbone: twenty versions, stored for the price of one.

Needs `pip install keras_tl[demo,jax]` and a MongoDB: `keras-tl up` starts one and prints what to
export. The backbone learns the digits 0 to 4; then it is frozen, and a head learns 5 to 9.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tl as ktl

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
low = y < 5

backbone = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dense(512, activation="relu"),
    ],
    name="backbone",
)
first = keras.Sequential([backbone, keras.layers.Dense(5, activation="softmax")])
first.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

with ktl.Hub() as hub:
    versions = hub.models["digits-head"]
    first.fit(x[low], y[low], epochs=3, verbose=0)
    backbone.trainable = False

    model = keras.Sequential([backbone, keras.layers.Dense(5, activation="softmax", name="head")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    checkpoint = ktl.callbacks.MongoCheckpoint(hub, "digits-head", monitor="val_accuracy")
    # An epoch takes milliseconds here. Where one takes longer than an upload, nobody has to wait.
    wait = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: hub.models.flush())
    model.fit(
        *(x[~low], y[~low] - 5),
        validation_split=0.2,
        epochs=20,
        verbose=0,
        callbacks=[checkpoint, wait],
    )

    newest = versions.where(limit=20)
    tensors = [tensor for version in newest for tensor in version.document["tensors"]]
    one = sum(tensor["bytes"] for tensor in newest[0].document["tensors"])
    stored = sum({tensor["hash"]: tensor["bytes"] for tensor in tensors}.values())
    print(f"{len(newest)} versions of {one / 1e6:.2f} MB take {stored / 1e6:.2f} MB")

    best = versions.best("val_accuracy")
    again = versions.load(best)
    accuracy = float(np.mean(again.predict(x[~low], verbose=0).argmax(1) == y[~low] - 5))
    print(f"best: version {best.number}, validation {best.metrics['val_accuracy']:.3f}")
    print(f"loaded, on all of 5 to 9: {accuracy:.3f}")
    print(versions.diff(newest[-1], newest[0]))

    gone = versions.prune(ktl.models.Keep(last=5, best=3, monitor="val_accuracy", every=10))
    print(f"pruned {len(gone)}, kept {[version.number for version in versions]}")

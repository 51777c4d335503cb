"""Train candidates, promote the best to `prod`, serve it, roll back.

Needs `pip install keras_tl[demo,jax]` and a MongoDB: `keras-tl up` starts one and prints what to
export. `serve` is what another process would do: the model stays compiled in its memory, and when
`prod` moves only the tensors that differ are loaded.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tl as ktl

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
train, test = slice(0, 1400), slice(1400, None)


def serve(versions: ktl.models.Versions) -> str:
    model = versions.warm("prod")
    right = np.mean(model.predict(x[test], verbose=0).argmax(1) == y[test])
    return f"prod is version {versions.aliases['prod']}, {right:.3f} of the test digits right"


with ktl.Hub() as hub:
    versions = hub.models["digits-service"]
    for rate in (1e-4, 1e-3, 1e-2):
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
        model.fit(x[train], y[train], epochs=5, verbose=0)
        loss, accuracy = model.evaluate(x[test], y[test], verbose=0)
        saved = versions.save(model, metrics={"loss": loss, "accuracy": accuracy})
        print(f"version {saved.number}: learning rate {rate:g}, accuracy {accuracy:.3f}")

    newest = versions.where(limit=3)[::-1]
    versions.promote("prod", newest[0], note="the first one")
    print(serve(versions))
    best = versions.best("accuracy")
    versions.promote("prod", best, expected=newest[0].number, unless_worse="accuracy")
    print(serve(versions))

    try:  # who promotes by what it saw a while ago is told that `prod` has moved since
        versions.promote("prod", newest[1], expected=newest[0].number)
    except ktl.models.AliasMoved as error:
        print(error)
    versions.promote("prod", newest[0], expected=best.number, note="rolled back")
    print(serve(versions))
    for move in versions.history("prod")[-3:]:
        print(f"prod: {move['from']} -> {move['version']}  {move['note']}")

"""Active learning: label only what the model is least sure of, and train again.

Needs `pip install keras_tl[demo,jax]`. It uses the MongoDB that `KERAS_TL_MONGODB` names, else it
starts one on this machine. A person labels digits here, who looks the answers up: in five rounds,
or as many as the first argument says.
"""

import os
import sys

import keras
from sklearn.datasets import load_digits

import keras_tl as ktl

KEY, LABELS = "digits-active", 20
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5

x, answers = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
keys = [f"{i:04d}" for i in range(len(x))]
answer = dict(zip(keys, answers.tolist(), strict=True))
split = ["test" if i % 4 == 0 else "train" for i in range(len(x))]


def train(labelled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(labelled.batches(20, shuffle=True, seed=0), epochs=40, verbose=0)
    return model


with ktl.Hub() if os.environ.get("KERAS_TL_MONGODB") else ktl.Hub.local() as hub:
    if KEY in hub.datasets:  # begin anew: the labels of the last time are in it
        hub.datasets.delete(KEY)
    digits = hub.datasets.create(
        KEY, x=ktl.datasets.Array((64,)), y=ktl.datasets.Label(10), tags={"split": str}
    )
    digits.insert_many({"x": x}, keys=keys, tags={"split": split})

    # Views are questions: what they hold changes as labels come.
    test = digits.where(split="test")
    labelled = digits.where(split="train", y__gte=0)
    pool = digits.where(split="train", y=None).fields("x")

    digits.update(test, y=[answer[key] for key in test.keys()])
    chosen = pool.sample(LABELS, seed=0).keys()
    for _ in range(ROUNDS):
        digits.update(chosen, y=[answer[key] for key in chosen])
        model = train(labelled)
        accuracy = model.evaluate(test.batches(512), verbose=0)[1]
        version = hub.models[KEY].save(model, metrics={"accuracy": accuracy})
        print(f"{labelled.count} labels: test accuracy {accuracy:.3f}")

        # What the model says of the rest is kept beside the labels, by its version.
        said = model.predict(pool.batches(2048), verbose=0)
        digits.add_predictions(
            pool,
            model=KEY,
            version=version.number,
            label=said.argmax(1),
            confidence=said.max(1),
        )
        unsure = pool.join_predictions(model=KEY, version=version.number)
        chosen = unsure.sort("prediction.confidence").limit(LABELS).keys()

    first = next(iter(unsure.sort("prediction.confidence")))
    said = first.predictions
    print(f"next: {first.key}, which may be a {said['label']} ({said['confidence']:.2f})")

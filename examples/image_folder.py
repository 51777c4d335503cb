"""A folder of images becomes a dataset, and then a model whose versions know what they were shown.

Needs `pip install keras_tl[demo,datasets,plot,jax]`. It uses the MongoDB that `KERAS_TL_MONGODB`
names, else it starts one on this machine. The images are digits here, with a folder for each class.
"""

import os
import sys
import tempfile
from pathlib import Path

import keras
import PIL.Image
from sklearn.datasets import load_digits

import keras_tl as ktl


def write_images(folder):
    data = load_digits()
    for i, (image, digit) in enumerate(zip(data.images, data.target, strict=True)):
        path = Path(folder, str(digit), f"{i:04d}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray((image * 15.9).astype("uint8")).save(path)


keras.utils.set_random_seed(0)
with ktl.Hub() if os.environ.get("KERAS_TL_MONGODB") else ktl.Hub.local() as hub:
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder)
        # Run again, it adds only the images that are not there yet.
        digits = hub.datasets.from_image_folder("digits-folder", folder, (8, 8), channels=1)
    print(f"{digits.count} images of {len(digits.schema.fields['y'].names)} classes")

    parts = digits.split({"train": 0.8, "test": 0.2}, seed=0, stratify="y")
    train = parts["train"].freeze("digits-folder-train")  # stays as it is, whatever comes later
    print(f"trained on {train.count} images, snapshot {train.id[:12]}")

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        train.batches(64, shuffle=True, seed=0),
        validation_data=parts["test"].batches(256),
        epochs=10,
        verbose=0,
        callbacks=hub.callbacks("digits-folder"),
    )
    hub.models.flush()

    versions = hub.models["digits-folder"]
    version = versions.version()
    print(f"version {version.number}: test accuracy {version.metrics['val_accuracy']:.3f}")
    print("trained on", *versions.lineage().data)
    key = train.first().key
    seen = [found.version for found in hub.datasets.saw("digits-folder", key)]
    print(f"{key} was seen by the versions {seen}")
    if len(sys.argv) > 1:
        parts["test"].sample(16).preview(save=sys.argv[1])
        print(f"some of the test images are in {sys.argv[1]}")

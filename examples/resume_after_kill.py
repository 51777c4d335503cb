"""A `fit` is killed with `kill -9`; running the same script again ends with the same weights.

Needs `pip install keras_tl[demo,jax]` and a MongoDB: `keras-tl up` starts one and prints what to
export. Without arguments it starts itself three times: never interrupted, killed in the middle of
an epoch, and again.
"""

import hashlib
import os
import signal
import subprocess
import sys

import keras
from sklearn.datasets import load_digits

import keras_tl as ktl


class Kill(keras.callbacks.Callback):
    """Ends the process as a crash would, in the middle of the second epoch."""

    def __init__(self, hub: ktl.Hub) -> None:
        super().__init__()
        self.hub = hub

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if (self.epoch, batch) == (1, 15):
            self.hub.models.flush()  # epochs are short here; else a backup was stored long ago
            os.kill(os.getpid(), signal.SIGKILL)


def train(name: str, kill: bool) -> None:
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    with ktl.Hub() as hub:
        backup = ktl.callbacks.MongoBackupAndRestore(hub, name, save_freq=10)
        others = [Kill(hub)] if kill else []
        model.fit(x / 16, y, batch_size=96, epochs=3, verbose=0, callbacks=[backup, *others])
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    print(f"step {int(model.optimizer.iterations)}, {hashlib.sha256(weights).hexdigest()[:16]}")


if len(sys.argv) > 1:
    train(sys.argv[1], kill="kill" in sys.argv[2:])
else:
    for label, arguments in [
        ("never interrupted", ["unbroken"]),
        ("killed in step 35", ["broken", "kill"]),
        ("run again", ["broken"]),
    ]:
        done = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True
        )
        print(f"{label:18}", done.stdout.strip() or f"exit code {done.returncode}", flush=True)
        if done.returncode not in (0, -signal.SIGKILL):
            sys.exit(done.stderr)

"""Whether samples come in one order: in partitions, and in a `fit` that is killed.

`python -m dataset_peers.resumed URI PROJECT DATASET DIE` trains on a dataset whose tag `number`
tells its samples apart, with a backup every few batches. The model's only state is a digest of the
numbers in the order in which it was trained on them, and is part of the backup.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

BATCH, EPOCHS, EVERY = 256, 3, 7
_STEP, _PRIME = 30_011, 65_521  # their products fit 32 bits with a sign, on each backend


def batches(ds: Any, partitions: int = 1, index: int = 0) -> Any:
    """Batches of numbers: of one of several readers that together read 256 at a time."""
    shard, names = (index, partitions), {"x": "number", "y": "y"}
    return ds.batches(BATCH // partitions, shuffle=True, seed=3, shard=shard, **names)


def order(ds: Any, partitions: int) -> np.ndarray:
    """The numbers of an epoch, put together from its partitions."""
    readers = [batches(ds, partitions, i) for i in range(partitions)]
    return np.concatenate([x for step in zip(*readers, strict=True) for x, _ in step])


def killed(ds: Any, mongodb: str) -> tuple[int, bool]:
    """The batch at which a killed `fit` goes on, and whether it saw what an unbroken one sees."""
    wanted = 0
    readers = batches(ds)
    for _ in range(EPOCHS):
        for x, _ in readers:
            wanted = (wanted * _STEP + int(_hash(x.astype("int32")))) % _PRIME
        readers.on_epoch_end()
    die = len(readers) + len(readers) * 3 // 4
    arguments = [mongodb, ds.connection.project, ds.key]
    first = _process([*arguments, str(die)])
    if first.returncode != -signal.SIGKILL:
        raise SystemExit(f"not killed:\n{first.stderr}")
    second = _process([*arguments, "0"])
    if second.returncode:
        raise SystemExit(second.stderr)
    found = json.loads(second.stdout.splitlines()[-1])
    return found["begin"], found["digest"] == wanted


def _process(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "dataset_peers.resumed", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def _hash(x: Any) -> Any:
    """A number for a batch, which depends on its order, too; of an array and of a tensor."""
    if isinstance(x, np.ndarray):
        return (x % 8191 * np.arange(1, len(x) + 1)).sum()
    from keras import ops

    return ops.sum(x % 8191 * (ops.arange(ops.shape(x)[0], dtype="int32") + 1))


def train(mongodb: str, project: str, key: str, die: int) -> None:
    # Keras imports both where they are installed, which takes longer than all the rest.
    hidden = {"sklearn", "tensorflow"} - {os.environ["KERAS_BACKEND"]}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    import keras
    from keras import ops

    import keras_tl

    class Witness(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.digest = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False, name="digest"
            )

        def compute_output_shape(self, shape: Any) -> Any:
            return (*shape, 1)

        def call(self, x: Any) -> Any:
            self.digest.assign((self.digest * _STEP + _hash(ops.cast(x, "int32"))) % _PRIME)
            return ops.cast(x, "float32")[:, None]

    class Watch(keras.callbacks.Callback):
        steps, begin = 0, -1

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.begin < 0:
                self.begin = batch
            self.steps += 1
            if self.steps == die:
                assert hub.models.flush(60)
                os.kill(os.getpid(), signal.SIGKILL)

    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(10)(Witness(name="witness")(inputs)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with keras_tl.Hub(mongodb, project=project) as hub:
        backup = keras_tl.callbacks.MongoBackupAndRestore(hub, "resumed", EVERY)
        watch = Watch()
        data = batches(hub.datasets[key])
        model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[watch, backup])
    digest = int(keras.ops.convert_to_numpy(model.get_layer("witness").digest))
    print(json.dumps({"begin": watch.begin, "digest": digest}))


if __name__ == "__main__":
    train(*sys.argv[1:4], int(sys.argv[4]))

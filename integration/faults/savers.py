"""What the processes do that `children.Child` starts and the fault tests kill.

They come from a fork server that has imported Keras, so that each costs a second, not six.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import keras
import numpy as np
import pymongo.collection

import keras_tl as ktl
from keras_tl import datasets
from keras_tl.datasets.storing import writing
from keras_tl.storage import blobs, hooks, tensors, uploads

STEPS, BATCH = 6, 8  # batches an epoch, samples a batch
PATIENCE = 60.0  # s

Say = Callable[..., None]
Place = dict[str, str]


def run(act: str, home: str, errors: str, pipe: Connection, options: dict[str, Any]) -> None:
    """Do `act` with the options and end; called in the new process."""
    os.environ["KERAS_TL_HOME"] = home
    # Keras looks for other frameworks where it serializes and seeds, which takes seconds each time.
    sys.modules.update(dict.fromkeys({"tensorflow", "torch"} - sys.modules.keys()))
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    lock = threading.Lock()

    def say(**line: Any) -> None:
        with lock:
            pipe.send(line)

    try:
        arm(say, options.pop("kill", None))
        for name in options.pop("mutants", ()):
            getattr(Mutant, name)()
        ACTS[act](say, **options)
        say(done=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Reached(Counter[str]):
    """How often each phase was reached in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def note(self, phase: str) -> int:
        with self.changed:
            self[phase] += 1
            self.changed.notify_all()
            return self[phase]


reached = Reached()


def arm(say: Say, kill: tuple[str, int] | None) -> None:
    """Say each phase of a version or a dataset that is reached; die at the n-th of `kill`."""

    def hook(phase: str) -> None:
        count = reached.note(phase)
        if phase.startswith(("version-", "dataset-")):
            say(phase=phase, count=count)
        if kill == (phase, count):
            say(killed=phase)
            os.kill(os.getpid(), signal.SIGKILL)

    hooks.hook = hook


class Mutant:
    """Breaks the storing of versions on purpose: the tests must notice."""

    @staticmethod
    def groups() -> None:
        """Not broken: chunks are sent one by one, so that there are moments in between."""
        uploads._INSERT_BYTES = 1

    @staticmethod
    def early() -> None:
        """A version is listed before its tensors are stored."""
        later: list[bytes] = []
        real = blobs.Blobs.put_many

        def put_many(self: Any, given: Any) -> list[str]:
            contents = [bytes(d) if isinstance(d, bytes) else b"".join(d) for d in given]
            later.extend(contents)
            return [tensors.checksum(data) for data in contents]

        def hook(phase: str, armed: Any = hooks.hook) -> None:
            armed(phase)
            if phase == "version-committed":
                real(blobs.Blobs(_database()), later)

        blobs.Blobs.put_many = put_many
        blobs.Blobs.touch = lambda *_: True
        hooks.hook = hook

    @staticmethod
    def apart() -> None:
        """What belongs to a transaction of a dataset is written one after the other."""
        real = pymongo.collection.Collection.insert_many

        def insert_many(self: Any, documents: Any, *args: Any, **options: Any) -> Any:
            options.pop("session", None)
            if self.name.startswith("heads."):
                hooks.phase("dataset-apart")
            return real(self, documents, *args, **options)

        pymongo.collection.Collection.insert_many = insert_many

    @staticmethod
    def untouched() -> None:
        """Nobody tells `gc` what a save in flight is about to refer to."""
        blobs.Blobs.touch = lambda *_: True


_places: list[Any] = []


def _database() -> Any:
    return _places[0].connection.db


def _hub(place: Place) -> ktl.Hub:
    hub = ktl.Hub(place["mongodb"], project=place["project"])
    _places.append(hub)
    return hub


def network() -> keras.Model:
    start = keras.initializers.GlorotUniform(seed=5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, "relu", kernel_initializer=start, name="frozen", trainable=False),
            keras.layers.Dense(1, kernel_initializer=start, name="head"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


class Witness(keras.callbacks.Callback):
    """Comes last: what it says was logged and, where a version was due, taken.

    Args:
        say: tells the test.
        logger: the logger of the same `fit`.
        save_freq: batches a version.
        pause: s a step takes longer; steps of a real network take time, too.
        paced: wait until no version can be dropped because the next one is taken.
        at_step: called with the number of each step that is over.
    """

    def __init__(
        self,
        say: Say,
        logger: Any,
        save_freq: int,
        pause: float,
        paced: bool,
        at_step: Callable[[int], None] | None,
    ) -> None:
        super().__init__()
        self.say, self.logger, self.save_freq = say, logger, save_freq
        self.pause, self.paced, self.at_step = pause, paced, at_step
        self.step = 0
        self.last = 0.0
        self.longest = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._pace()  # the version of the batch before was taken just before
        self.last = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.step:  # the first one is compiled
            self.longest = max(self.longest, time.monotonic() - self.last)
        self.step += 1
        self.say(logged="batch", row=(self.epoch, batch, logs["loss"]))
        if self.at_step is not None:
            self.at_step(self.step)
        if self.pause:
            time.sleep(self.pause)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.say(logged="epoch", row=(epoch, self.logger.run.id, logs["loss"]))
        self._pace()

    def _pace(self) -> None:
        taken = self.step // self.save_freq
        if self.paced and taken:
            with reached.changed:
                reached.changed.wait_for(
                    lambda: (
                        reached["version-journalled"] >= taken
                        and taken - reached["version-forgotten"] <= 1
                    ),
                    PATIENCE,
                )


def fit(
    say: Say,
    place: Place,
    *,
    key: str = "net",
    epochs: int = 2,
    steps: int = STEPS,
    save_freq: int = 2,
    pause: float = 0.0,
    paced: bool = True,
    flush_timeout: float = 10.0,
    at_step: Callable[[int], None] | None = None,
) -> None:
    """An ordinary `fit` on arrays, with both callbacks."""
    hub = _hub(place)
    x = np.random.default_rng(0).normal(size=(steps * BATCH, 4)).astype("float32")
    logger, checkpoint = hub.callbacks(key, save_freq=save_freq)
    logger.flush_timeout = checkpoint.flush_timeout = flush_timeout
    witness = Witness(say, logger, save_freq, pause, paced, at_step)
    network().fit(
        *(x, x.sum(axis=1, keepdims=True)),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[logger, checkpoint, witness],
    )
    say(fitted=logger.run.id, longest=witness.longest)
    hub.close(timeout=PATIENCE)


def full_disk(say: Say, place: Place, *, full: int, free: int, room: int, **options: Any) -> None:
    """A `fit` during which no file may become larger, from step `full` to step `free`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails, as on a full disk
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at_step(step: int) -> None:
        if step == full:
            folder = os.path.join(os.environ["KERAS_TL_HOME"], "journal")
            (journal,) = (name for name in os.listdir(folder) if name.endswith(".journal"))
            size = os.path.getsize(os.path.join(folder, journal))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
            say(full=size + room)
        if step == free:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    fit(say, place, at_step=at_step, paced=False, **options)


def bundle(content: int) -> keras.Model:
    """A model whose weights all tell which content it has, but for a frozen part."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="frozen", trainable=False),
            keras.layers.Dense(5, name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    for layer in model.layers:
        value = -1 if layer.name == "frozen" else content
        layer.set_weights([np.full(w.shape, value, "float32") for w in layer.weights])
    return model


def save(
    say: Say,
    place: Place,
    *,
    key: str = "net",
    contents: list[int],
    limit: float | None = None,
    forever: bool = False,
) -> None:
    """Save versions one after the other; an upload takes at most `limit` s."""
    if limit is not None:
        uploads.UPLOAD_LIMIT = limit
    hub = _hub(place)
    models = {content: bundle(content) for content in set(contents)}
    say(ready=True)
    for content in _repeat(contents, forever):
        try:
            saved = hub.models[key].save(models[content], tags={"content": content})
            say(saved=saved.number, content=content)
        except TimeoutError:  # the machine was busy, and the upload gave up as it must
            say(late=True)
    hub.close()


def _repeat(contents: list[int], forever: bool) -> Iterator[int]:
    while True:
        yield from contents
        if not forever:
            return


def clean(
    say: Say,
    place: Place,
    *,
    key: str = "net",
    last: int = 3,
    grace: float = 0.0,
    forever: bool = False,
) -> None:
    """Prune and collect, once or for ever."""
    hub = _hub(place)
    hub.connection.db  # noqa: B018  # connect
    say(ready=True)
    while True:
        pruned = hub.models[key].prune(ktl.models.Keep(last=last))
        say(pruned=pruned, **hub.models.gc(grace=grace))
        if not forever:
            break
    hub.close()


def promote(say: Say, place: Place, *, key: str = "net") -> None:
    """Let an alias point to the first version, then to the latest; and remove another."""
    model = _hub(place).models[key]
    numbers = sorted(version.number for version in model)
    model.promote("prod", numbers[0])
    model.promote("prod", numbers[-1])
    model.promote("old", numbers[0])
    model.demote("old")


def columns(n: int, content: int = 0) -> dict[str, Any]:
    """Samples of a dataset, of which the last one has a value in GridFS."""
    x = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) + np.uint8(content)
    note = [b"%d" % i for i in range(n - 1)] + [b"large" * (300 << 10)]
    return {"x": x, "y": np.arange(n) % 10, "note": note}


def keys(n: int) -> list[str]:
    return [f"k{i}" for i in range(n)]


def insert(
    say: Say, place: Place, *, n: int, part: slice = slice(None), content: int = 0, **options: Any
) -> None:
    """Insert some of `n` samples under keys, a pack a transaction."""
    writing._GROUP_ROWS = 1
    fields = {"x": datasets.Image(4, 4), "y": datasets.Label(10), "note": datasets.Bytes()}
    made = _hub(place).datasets.create("d", **fields, tags={"split": str})
    say(ready=True)
    rows = {name: column[part] for name, column in columns(n, content).items()}
    written = made.insert_many(rows, keys(n)[part], {"split": "train"}, **options)
    say(written=written)


def edit(say: Say, place: Place, *, n: int) -> None:
    """Label, predict, delete and collect, each twice."""
    made = _hub(place).datasets["d"]
    for half in (keys(n)[::2], keys(n)[1::2]):
        made.update(half, y=[int(key[1:]) % 7 for key in half], split="test")
        made.add_predictions(half, model="m", version=1, label=1)
        gone = [key for key in half if int(key[1:]) < n // 2]
        made.delete(gone)
        made.gc(0)


def drop(say: Say, place: Place) -> None:
    """Delete the dataset."""
    _hub(place).datasets.delete("d")


ACTS: dict[str, Callable[..., None]] = {
    act.__name__: act for act in (fit, full_disk, save, clean, promote, insert, edit, drop)
}

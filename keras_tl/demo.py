"""`keras-tl demo`: the main job on real input, with a trainer that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import keras

from keras_tl import report
from keras_tl.hub import Hub

if TYPE_CHECKING:
    import numpy as np

_BATCH = 32
_STEPS = 45  # one pass over the 1,437 training digits
_RATE = 2000  # samples a second that the demo's source gives
_MODEL = "digits"
_PROJECT = "keras_tl_demo"  # its database is dropped by the next demo: nobody else's name


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's digits: 8x8 images in 0..1 and labels, split into training and test.

    Raises:
        ImportError: if scikit-learn is missing, with what to install.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "The demo's digits come with scikit-learn: `pip install keras_tl[demo]`."
        ) from error
    data = load_digits()
    x = (data.images[..., None] / 16).astype("float32")
    y = data.target.astype("int32")
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def build() -> keras.Model:
    """A small convolutional network for 8x8 digits."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def train(hub: Hub, topic: str, epochs: int) -> None:
    """What a user's own script looks like; run again after a kill, it goes on where it was."""
    stream = hub.stream(topic, _BATCH, resume=_MODEL)
    model = build()
    model.fit(
        stream,
        epochs=epochs,
        steps_per_epoch=_STEPS,
        verbose=0,
        callbacks=hub.callbacks(_MODEL, save_freq=15),
    )


def produce(hub: Hub, topic: str, passes: int) -> None:
    """Send the training digits, shuffled anew for each pass, at the rate of a live source."""
    import numpy as np

    (x, y), _ = digits()
    rng = np.random.default_rng(0)
    began, sent = time.monotonic(), 0
    with hub.producer(topic, block_size=64, partitions=2) as producer:
        # One pass more: 45 batches are three samples longer than a pass, and what comes after
        # the last batch is not missed.
        for _ in range(passes + 1):
            for part in np.array_split(rng.permutation(len(x)), 20):
                producer.send_many(x=x[part], y=y[part])
                sent += len(part)
                time.sleep(max(0.0, began + sent / _RATE - time.monotonic()))


def run(
    folder: str | None, broker: str | None, epochs: int, *, keep: bool = False, kill: bool = True
) -> float:
    """Start the stack, stream, train, kill and resume, then show what MongoDB holds.

    Returns:
        The accuracy on the test digits.

    Raises:
        ImportError: if scikit-learn is missing.
        RuntimeError: if the source or the trainer fails, or the accuracy is not over 0.95.
    """
    from rich.console import Console

    console = Console()
    began = time.monotonic()
    _, (x, y) = digits()  # what is missing is missed before anything starts
    hub = Hub.local(folder, project=_PROJECT, broker=broker)
    try:
        stack = hub._stack
        assert stack is not None
        console.print(
            f"[bold]1[/bold] MongoDB and Kafka ({stack.broker}) run on this machine. The backend "
            f"is {keras.backend.backend()}."
        )
        topic = f"digits-{time.strftime('%Y%m%d-%H%M%S')}"
        hub.connection.client.drop_database(hub.project)  # the last demo's
        with hub.producer(topic, partitions=2):  # the topic exists before anybody reads it
            pass
        source = _Source(hub, topic, epochs)
        source.start()
        console.print(
            f"[bold]2[/bold] A source sends {_RATE} labelled digits a second to the topic {topic}."
        )
        console.print("[bold]3[/bold] A trainer fits a small network on the stream.")
        goal = epochs * _STEPS
        if kill:
            step = _trainer(console, hub, source, epochs, goal, kill_at=goal // 2)
            if step is None:
                raise RuntimeError("The trainer was done before it could be killed.")
            version = hub.models[_MODEL].version()
            console.print(
                f"[bold]4[/bold] Killed with SIGKILL at step {step}. Version {version.number} in "
                f"MongoDB is from step {version.step}. The same script is started again."
            )
        _trainer(console, hub, source, epochs, goal)
        source.join()
        source.check()
        model = hub.models[_MODEL].load()
        accuracy = float(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])
        console.print("[bold]5[/bold] This is what MongoDB holds now:\n")
        report.show_run(next(iter(hub.runs)))
        report.show_versions(hub.models[_MODEL], limit=6)
        console.print(
            f"The latest version, loaded from MongoDB, has an accuracy of [bold]{accuracy:.3f}"
            f"[/bold] on {len(x)} digits it never saw ({time.monotonic() - began:.0f} s in all)."
        )
        if not keep and stack.started:
            console.print(
                "The servers are stopped now, their data stays. Look again with `keras-tl up`, "
                f"`keras-tl runs --project {_PROJECT}`; or run the demo with `--keep`."
            )
        if accuracy <= 0.95:
            raise RuntimeError(f"The accuracy should be over 0.95. Received: {accuracy:.3f}")
        return accuracy
    finally:
        if keep:
            hub._stack = None
        hub.close()


class _Source(threading.Thread):
    """`produce` in the background; what it raises is for `check`."""

    def __init__(self, hub: Hub, topic: str, passes: int) -> None:
        super().__init__(name="keras_tl-demo-source", daemon=True)
        self.topic = topic
        self._hub = hub
        self._passes = passes
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            produce(self._hub, self.topic, self._passes)
        except Exception as error:
            self._error = error

    def check(self) -> None:
        """Raise if the source failed: the trainer would wait for its digits for ever."""
        if self._error is not None:
            raise RuntimeError(f"The source failed: {self._error}") from self._error


def _trainer(
    console: Any, hub: Hub, source: _Source, epochs: int, goal: int, kill_at: int | None = None
) -> int | None:
    """Run the trainer in a process of its own and show how far it is; the step of its death."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with tempfile.TemporaryFile() as errors:
        stack = hub._stack
        assert stack is not None
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_tl.demo", source.topic, str(epochs)],
            env={
                **os.environ,
                "KERAS_TL_MONGODB": stack.mongodb,
                "KERAS_TL_KAFKA": stack.kafka,
                "KERAS_TL_PROJECT": hub.project,
                "KERAS_BACKEND": keras.backend.backend(),
            },
            stderr=errors,
        )
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        step = 0
        try:
            with Progress(
                *columns, TimeElapsedColumn(), console=console, transient=True
            ) as progress:
                bar = progress.add_task("starting Keras", total=goal)
                while process.poll() is None:
                    source.check()
                    step = max(step, _last_step(hub))
                    if step:
                        progress.update(bar, completed=step, description="steps")
                    if kill_at is not None and step >= kill_at and len(hub.models[_MODEL]):
                        process.send_signal(signal.SIGKILL)
                        return step
                    time.sleep(0.05)
        finally:
            process.kill()  # does nothing to one that is done
            process.wait()
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(
                f"The trainer failed:\n{errors.read().decode(errors='replace')[-2000:]}"
            )
    return None


def _last_step(hub: Hub) -> int:
    found = hub.connection.db["runs"].find_one({}, {"last_step": 1}, sort=[("started", -1)])
    return int((found or {}).get("last_step", 0))


if __name__ == "__main__":
    with Hub() as here:
        train(here, sys.argv[1], int(sys.argv[2]))

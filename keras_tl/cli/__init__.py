"""The command `keras-tl`.

Exit codes: 0 done, 1 it failed (the reason is on stderr), 2 wrong usage.
"""

from __future__ import annotations

import click

from keras_tl.cli import orders  # noqa: F401  # commands of `runs`
from keras_tl.cli.common import Commands
from keras_tl.cli.datasets import datasets
from keras_tl.cli.models import models
from keras_tl.cli.runs import runs
from keras_tl.cli.stack import demo, down, status, sync, up


@click.group(cls=Commands)
@click.version_option(package_name="keras_tl")
def main() -> None:
    """Models, runs, datasets and streams of Keras in MongoDB and Kafka."""


for command in (demo, up, status, down, sync, runs, models, datasets):
    main.add_command(command)

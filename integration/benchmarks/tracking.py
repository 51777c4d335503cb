"""What it costs to keep runs and versions: events, weights and the search for the best run.

Each part is also a script of its own, and prints our figures beside those of peers that are
measured in the same run, on one mongod.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import Report, main


def measure(options: argparse.Namespace, report: Report) -> None:
    import tracking_events
    import tracking_runs
    import tracking_versions

    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            for part in (tracking_events, tracking_versions, tracking_runs):
                part.measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, measure)

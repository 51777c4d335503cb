"""What it costs to keep samples in MongoDB: to read, to store and to ask for them.

Natural patches of 32x32x3 bytes in batches of 256. Each part is also a script of its own, and
prints our figures beside those of peers that are measured in the same run, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import Report, main


def measure(options: argparse.Namespace, report: Report) -> None:
    import datasets_queries
    import datasets_reading
    import datasets_writing
    import pymongo

    from keras_tl import services

    with tempfile.TemporaryDirectory() as folder:
        with services.up(Path(folder) / "db", services=("mongodb",)) as stack:
            with pymongo.MongoClient(stack.mongodb) as client:
                report.server("mongod", client.server_info()["version"])
            for part in (datasets_reading, datasets_writing, datasets_queries):
                part.measure(options, report, stack.mongodb)


if __name__ == "__main__":
    main(__doc__, measure)

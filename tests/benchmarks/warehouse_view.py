"""One view of a warehouse, read completely: seconds and peak memory of a process that does nothing else.

Run by `tests.benchmarks.warehouse`, once per view: `python -m tests.benchmarks.warehouse_view FOLDER VIEW`.
"""

import json
import sys
import time
from pathlib import Path

from prunescope.pipelines.core.hardware import proc_value
from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue.database import connect

# Views with one row per record are counted: no user reads them completely.
ROW_BY_ROW = ("estimate_points", "representation_shifts")


def main(folder: str, view: str) -> None:
    """Open, query, print."""
    start = time.perf_counter()
    with connect(folder) as connection:
        opened, processor = time.perf_counter(), time.process_time()
        selected = "count(*)" if view in ROW_BY_ROW else "*"
        for _ in connection.sql(f"SELECT {selected} FROM {quoted(view)}").to_arrow_reader(100_000):
            pass
        figures = {
            "seconds": time.perf_counter() - opened,
            "processor": time.process_time() - processor,
            "peak_gib": int(proc_value(Path("/proc/self/status"), "VmHWM").split()[0]) / 2**20,
            "open_seconds": opened - start,
        }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One view of a warehouse, read completely: seconds and peak memory of a process that does nothing else.

Run by `tests.benchmarks.warehouse`, once a view: `python -m tests.benchmarks.warehouse_view FOLDER VIEW`; prints JSON.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.core.quoting import quoted

# Views with one row a record are counted: no user reads them completely.
ROW_BY_ROW = ("estimate_points", "representation_shifts")


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def cpu_seconds() -> float:
    """Return user and system time of all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Open, query, print."""
    folder, view = sys.argv[1:]
    start, before = time.perf_counter(), cpu_seconds()
    with connect(folder) as connection:
        opened = time.perf_counter()
        cpu = cpu_seconds()
        selected = "count(*)" if view in ROW_BY_ROW else "*"
        batches = connection.sql(f"SELECT {selected} FROM {quoted(view)}").to_arrow_reader(100_000)
        rows = sum(batch.column(0)[0].as_py() if view in ROW_BY_ROW else batch.num_rows for batch in batches)
        figures = {
            "rows": rows,
            "seconds": time.perf_counter() - opened,
            "cpu_seconds": cpu_seconds() - cpu,
            "peak_gib": peak_bytes() / 2**30,
            "open_seconds": opened - start,
            "open_cpu_seconds": cpu - before,
        }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()

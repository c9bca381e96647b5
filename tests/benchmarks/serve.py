"""The explorer's server under load: pages for many clients, then a query of SQL that costs nothing itself.

Run by `python -m tests.benchmarks.serve WAREHOUSE [CLIENTS [SECONDS]]` (50 clients, 60 s). Each client asks again as
soon as it is answered; all share this process and its cores with the server.
"""

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.assets.publishing.running_server import Served
from tests.benchmarks.measuring import Table, seconds

MOST_SECONDS = 1.0


def main(warehouse: str, clients: int = 50, duration: int = 60) -> None:
    """Start the server, load it, print the figures."""
    table, errors = Table(), list[int]()
    with Served(Path(warehouse)) as server, ThreadPoolExecutor(clients) as pool:

        def ask() -> None:
            status, *_ = server.ask(server.home, Accept_Encoding="gzip")
            errors.extend([status] if status != 200 else [])

        def client(end: float) -> list[float]:
            found = []
            while time.perf_counter() < end:
                found.append(seconds(ask))
            return found

        ask()
        end = time.perf_counter() + duration
        spent = [each for found in pool.map(client, [end] * clients) for each in found]
        sql = [seconds(lambda: server.sql("select 1")) for _ in range(20)]
    table.add(f"pages per second for {clients} clients", len(spent) / duration)
    table.add("median, s", statistics.median(spent))
    table.add("99th percentile, s", statistics.quantiles(spent, n=100)[-1], most=MOST_SECONDS)
    table.add("errors", len(errors), most=0)
    table.add("select 1 from the box, ms", 1000 * statistics.median(sql))
    table.print()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))

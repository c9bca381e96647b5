"""The explorer's server under load, with `wrk` (Debian's package): pages, then a query of SQL beside them.

Run by `python -m tests.benchmarks.serve WAREHOUSE [--clients 50] [--seconds 60]`. The load tool shares the cores.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

MAX_SECONDS = 1.0
WRK = ["wrk", "--threads", "2", "--latency", "--timeout", "30s", "--header", "Accept-Encoding: gzip"]
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def load(url: str, clients: int, seconds: int) -> dict[str, float]:
    """Load a page from many connections, each of which asks again as soon as it is answered."""
    command = [*WRK, "--connections", str(clients), "--duration", f"{seconds}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    quantiles = dict(re.findall(r"^\s+(50|99)%\s+([\d.]+[a-z]+)\s*$", said, re.MULTILINE))
    errors = re.findall(r"(?:Socket errors: .*|Non-2xx or 3xx responses: (\d+))", said)
    numbers = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    return {
        "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),  # type: ignore[index]
        "median_seconds": _seconds(quantiles["50"]),
        "p99_seconds": _seconds(quantiles["99"]),
        "errors": sum(int(each) for each in errors if each) + sum(map(int, numbers.groups() if numbers else ())),
    }


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def sql(port: int, path: str, times: int) -> float:
    """Return the median seconds of a query that costs nothing itself."""
    taken = []
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        start = time.perf_counter()
        connection.request("POST", f"{path}sql", json.dumps({"sql": "select 1"}), {"Content-Type": "application/json"})
        connection.getresponse().read()
        taken.append(time.perf_counter() - start)
        connection.close()
    return statistics.median(taken)


def main() -> None:
    """Start the server, load it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("warehouse", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    command = [sys.executable, "-m", "prunescope", "serve", "--port", "0", "--warehouse", str(given.warehouse)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, env=dict(os.environ)) as server:
        try:
            url = ""
            while not (found := re.search(r"http://\S+", url)):
                time.sleep(0.1)
                log.seek(0)
                url = log.read().decode()
            port = urlsplit(found[0]).port or 0
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            path = "/" + (connection.getresponse().getheader("location") or "")
            connection.close()
            page = f"http://127.0.0.1:{port}{path}"
            load(page, 2, 2)
            alone = sql(port, path, 20)
            figures = load(page, given.clients, given.seconds)
        finally:
            server.terminate()
    is_met = figures["p99_seconds"] < MAX_SECONDS and not figures["errors"]
    sys.stdout.write(
        f"{given.clients} clients on pages for {given.seconds} s: {figures['requests_per_second']:,.0f} requests/s, "
        f"median {figures['median_seconds']:.2f} s, p99 {figures['p99_seconds']:.2f} s, {figures['errors']} errors: "
        f"{'met' if is_met else 'MISSED'}\nselect 1 from the box: {1000 * alone:.1f} ms\n"
    )


if __name__ == "__main__":
    main()

"""Seconds of a call, and figures printed as they are measured."""

import json
import sys
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def told(name: str, figures: object) -> None:
    """Print figures as they are measured: the whole takes many minutes."""
    sys.stderr.write(f"{name}: {json.dumps(figures)}\n")

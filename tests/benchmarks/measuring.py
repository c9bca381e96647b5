"""Times of works that take turns, and a table of figures with their targets, under the machine that measured them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from prunescope.pipelines.core.hardware import hardware

if TYPE_CHECKING:
    from prunescope.pipelines.models.decoder import Decoder

ROOT = Path(__file__).parents[2]
Work = Callable[[], object]


def timed(work: Work) -> dict[str, float]:
    """Return the wall seconds and this process's processor seconds of one call."""
    start, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}


def seconds(work: Work) -> float:
    """Return the wall seconds of one call."""
    return timed(work)["seconds"]


def in_turns(works: Mapping[str, Work], rounds: int = 3) -> dict[str, float]:
    """Return the shortest wall seconds of each work; they take turns, so that other load affects all alike."""
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in times) for name in works}


def told(name: str, figures: object) -> None:
    """Print figures to standard error as they are measured: the whole takes many minutes."""
    sys.stderr.write(f"{name}: {json.dumps(figures)}\n")


def child(module: str, *arguments: object) -> dict[str, float]:
    """Return the JSON in the last line that a benchmark prints in a process of its own."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def decoder_of(source: str = "embedded", threads: int = 2, **settings: Any) -> "Decoder":
    """Load a model, to compute on so many threads; settings are those of `load_decoder`."""
    import platformdirs
    import torch

    from prunescope.pipelines.models.load import load_decoder
    from prunescope.pipelines.models.sources import locate

    torch.set_num_threads(threads)
    return load_decoder(locate(source, platformdirs.user_cache_path("prunescope")), **settings)


def machine() -> str:
    """Return the processor, the load, and the threads and the version of torch if it is loaded."""
    torch = sys.modules.get("torch")
    used = f", {torch.get_num_threads()} threads, torch {version('torch')}" if torch else ""
    return f"{hardware()}, load {os.getloadavg()[0]:.1f}{used}"


def shown(value: object) -> str:
    """Return a figure with three digits, and with all before the point."""
    return str(value) if isinstance(value, str | int) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Table:
    """Figures, each with a target that it meets or misses, or with none."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str]] = []
        self.is_missed = False

    def add(self, name: str, value: float | str, *, most: float | None = None, least: float | None = None) -> None:
        """Add a figure; `most` and `least` are its targets."""
        missed = (most is not None and value > most) or (least is not None and value < least)  # type: ignore[operator]
        target = f"at most {shown(most)}" if most is not None else f"at least {shown(least)}" if least else ""
        self.is_missed |= missed
        self._rows.append((name, shown(value), target, ("MISSED" if missed else "met") if target else ""))
        told(name, value)

    def print(self) -> None:
        """Print the table; end the process with 1 if a target was missed."""
        table = tabulate(self._rows, ["", "measured", "target", ""], disable_numparse=True)
        sys.stdout.write(f"{machine()}\n{table}\n")
        sys.exit(self.is_missed)

"""Cost of Dagster and of our use of it: a run with nothing to do, the demo beside plain calls, ticks, scale.

Run by `python -m tests.benchmarks.orchestration [PART ...]`; each part in processes of its own, targets printed met or
missed. `demo` takes twice as long as `prunescope run demo`, the others some minutes together. Figures as they come go
to standard error as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.assets.interface.browser_interface import free_port, started
from tests.assets.tiny_study import computing
from tests.benchmarks.measuring import told
from tests.tiny_models import SHORT_TEXT, save_tiny

# Targets on two idle cores.
MOST_SECONDS_NO_OP, MOST_SECONDS_TO_LOAD, MOST_SHARE_OF_DAGSTER = 5.0, 3.0, 0.10
MOST_SECONDS_A_TICK, MOST_SECONDS_TO_CANCEL = 1.0, 5.0
VARIANTS = 100
# Repetitions: of a study by one and two workers, and of a cancelled run.
TURNS, CANCELS = 2, 3
ROOT = Path(__file__).parents[2]


def child(step: str, *arguments: object) -> dict[str, float]:
    """Return the result of a step of `orchestration_steps`, run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.orchestration_steps", step, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step} failed:\n{done.stderr}")
    figures = json.loads(done.stdout.splitlines()[-1])
    told(step, figures)
    return figures


def verdict(is_kept: bool) -> str:
    """Return whether a target was met, as text."""
    return "met" if is_kept else "MISSED"


def definitions(_: Path) -> Iterator[str]:
    """Load all definitions in a new process; return the fastest of three."""
    figures = min((child("definitions") for _ in range(3)), key=lambda each: each["seconds"])
    kept = figures["seconds"] <= MOST_SECONDS_TO_LOAD and not figures["torch"]
    yield f"definitions load in {figures['seconds']:.2f} s, without torch: {verdict(kept)}"


def no_op(folder: Path) -> Iterator[str]:
    """Run `prunescope run` on a study of 100 computed variants."""
    study = tiny_study(folder, [f"magnitude-{index}" for index in range(1, VARIANTS)])
    child("direct", study, folder / "warehouse")
    child("run", study, folder / "warehouse")  # the report
    figures = child("run", study, folder / "warehouse")
    yield (
        f"nothing to do for {VARIANTS} variants: {figures['seconds']:.2f} s after import, CPU {figures['cpu']:.2f} s: "
        f"{verdict(figures['seconds'] <= MOST_SECONDS_NO_OP)}"
    )
    figures = child("tick", study, folder / "warehouse")
    yield (
        f"a tick over {VARIANTS} watched variants takes {figures['first']:.2f} s of processor time at first, then "
        f"{figures['later']:.2f} s: {verdict(figures['later'] <= MOST_SECONDS_A_TICK)}"
    )


def demo(folder: Path) -> Iterator[str]:
    """Compute the demo by `prunescope run` and by calling the same functions in the same order."""
    ours = child("run", "demo", folder / "through")
    plain = child("direct", "demo", folder / "plain")
    share, cpu = ours["seconds"] / plain["seconds"] - 1, ours["cpu"] / plain["cpu"] - 1
    yield (
        f"Dagster adds {share:.1%} to the demo's {plain['seconds']:.0f} s ({cpu:.1%} of processor time): "
        f"{verdict(share <= MOST_SHARE_OF_DAGSTER)}"
    )


def workers(folder: Path) -> Iterator[str]:
    """Compute a small study by one worker and by two, of one thread each, in turns.

    Other work on the machine then affects both.
    """
    study = small_study(folder)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(TURNS):
        for number, taken in seconds.items():
            taken.append(child("cluster", study, folder / f"{number}-{turn}", number)["seconds"])
    for number, taken in seconds.items():
        yield f"the tables of a small study by {number} of one thread: {sum(taken) / TURNS:.0f} s"


def cancel(folder: Path) -> Iterator[str]:
    """Cancel a run from the interface while the demo's model is calibrated; return the slowest of three."""
    study = small_study(folder, {"source": "wikitext2", "sequences": 256, "length": 512})
    (model,) = yaml.safe_load(study.read_text(encoding="utf-8"))["models"]
    warehouse, seconds = folder / "warehouse", list[float]()
    child("registered", study, warehouse)
    with started(warehouse, free_port()) as (interface, process):
        ui = psutil.Process(process.pid)
        for _ in range(CANCELS):
            run = interface.launch(["activation_stats", "block_influence"], model["name"], study)
            interface.wait_for(run, lambda _, lines: any("calibrate: " in line for line in lines))
            if not computing(ui):
                raise RuntimeError("no step computes")
            begun = time.perf_counter()
            interface.terminate(run)
            while computing(ui) or interface.run(run)[0] != "CANCELED":
                time.sleep(0.05)
            seconds.append(time.perf_counter() - begun)
    told("cancel", seconds)
    kept = max(seconds) <= MOST_SECONDS_TO_CANCEL
    yield f"cancelled from the interface, a run and its computation end in {max(seconds):.1f} s: {verdict(kept)}"


def scale(folder: Path) -> Iterator[str]:
    """Measure Dagster with 1,000 models × 30 recipes, and with a thirtieth of it."""
    for models in (34, 1000):
        figures = child("partitions", folder / str(models), models, 30)
        yield f"{figures['partitions']:,.0f} partitions of a variant's table, processor seconds:"
        for name in ("keys", "status", "condition"):
            yield f"  {name:12}{figures[name]:8.2f}"


def answers(folder: Path) -> Iterator[str]:
    """Compute questions, figures and report over a warehouse of 1 and 10 million layer records."""
    for rows in (1e6, 1e7):
        figures = child("answers", folder / f"{rows:.0e}", int(rows))
        yield f"questions, figures and report at {rows:,.0f} records: {figures['seconds']:.1f} s"


def tiny_study(folder: Path, recipes: list[str]) -> Path:
    """Write a study of a tiny model that computes as little as possible."""
    model = folder / "model"
    save_tiny(model)
    study = {
        "name": "tiny",
        "models": [{"name": "tiny", "source": str(model)}],
        "recipes": ["dense", *recipes],
        "prompts": [{"id": "open", "kind": "open", "text": "Why is the sky blue?"}],
        "calibration": {"source": SHORT_TEXT, "sequences": 2, "length": 32},
        "generation": {"new_tokens": 2},
        "noise": [],
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def small_study(folder: Path, calibration: dict[str, Any] | None = None) -> Path:
    """Write a study of the demo's model with little to read and to write: a minute for one thread, if uncalibrated."""
    study = {
        "name": "small",
        "models": [{"name": "smollm2-135m-instruct", "source": "embedded"}],
        "recipes": ["dense", *(f"magnitude-{share}" for share in (20, 30, 40, 50, 60)), "attn-drop-4", "mlp-drop-4"],
        "prompts": [{"id": "open", "kind": "open", "text": "Explain in one sentence why the sky is blue."}],
        "calibration": calibration or {"source": SHORT_TEXT, "sequences": 2, "length": 64},
        "generation": {"new_tokens": 16},
        "measure": {"lenses": ["normed"]},
        "noise": [],
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


PARTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "definitions": definitions,
    "no-op": no_op,
    "cancel": cancel,
    "scale": scale,
    "answers": answers,
    "demo": demo,
    "workers": workers,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all of them where none is named")
    given = parser.parse_args().parts
    if unknown := set(given) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sys.stdout.write(f"{os.cpu_count()} cores; targets are those of two quiet cores\n")
    is_missed = False
    for name in given or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for line in PARTS[name](Path(folder)):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
                is_missed = is_missed or verdict(False) in line
    sys.exit(is_missed)


if __name__ == "__main__":
    main()

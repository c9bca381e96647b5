"""Kernels and a study on a machine with a CUDA device: `python -m tests.benchmarks.gpu` (`make bench-gpu`).

Prints JSON: a record is a row at one temperature, its dense side and one shift. Says so and exits with 2 where torch
sees no such device.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import platformdirs
import polars as pl
import polars.selectors as cs
import torch

from prunescope.pipelines.evaluation.speed import growth_bytes
from prunescope.pipelines.metrics import eager_kernels, logit_blocks
from prunescope.pipelines.metrics.divergence import Columns, divergence
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from tests.benchmarks.measuring import seconds
from tests.pipelines.models.low_memory import computed

# Vocabularies of SmolLM2, of Llama 2 and Mistral, and of Llama 3.
SIZES = (49_152, 32_000, 128_256)
TEMPERATURES = ([1.0], [0.3, 0.5, 0.7, 1.0, 1.3])
WIDTH, ROWS, RUNS = 512, logit_blocks.BLOCK_ROWS, 20
RECIPES = ("wanda-50", "attn-drop-1")
# Columns that change with the order of two nearly equal tokens, or whose terms cancel.
_LEFT_OUT = ("is_", "topk", "rank", "margin", "identity", "kappa", "par_", "entropy")


def kernels_here(device: torch.device) -> list[str]:
    """Return the kernels that run on a device."""
    return ["torch", "triton"] if logit_blocks.kernels_for(device) == "triton" else ["torch"]


def states_and_head(size: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, OutputHead]:
    """Return random states, shifts and a head whose logits have a deviation of 3, and their shifts of 0.3."""
    draw = torch.Generator().manual_seed(0)
    x, dx, weight = (torch.randn(n, WIDTH, generator=draw) / WIDTH**0.25 for n in (rows, rows, size))
    return 3 * x, 0.3 * dx, OutputHead(weight)


def columns_by(kernels: str, size: int, temperatures: Sequence[float], device: torch.device, rows: int) -> Columns:
    """Measure with one kind of kernels on a device."""
    x, dx, head = states_and_head(size, rows)
    head = OutputHead(head.weight.to(device))
    with patch.object(logit_blocks, "kernels_for", lambda _: kernels):
        return divergence(x.to(device), dx.to(device), head, temperatures)


def largest_difference(found: Columns, expected: Columns) -> dict[str, Any]:
    """Return the column that differs most, relative to values of at least 1e-8."""
    worst = {"column": "", "relative": 0.0}
    for name, values in expected.items():
        counts = np.abs(values) >= 1e-8
        if name.startswith(_LEFT_OUT) or not counts.any():
            continue
        relative = float((np.abs(found[name] - values)[counts] / np.abs(values)[counts]).max())
        if relative > worst["relative"]:
            worst = {"column": name, "relative": relative}
    return worst


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call, after one that compiles; the results are copied to the host in it."""

    def whole() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return statistics.median([seconds(whole) for _ in range(RUNS + 1)][1:])


@torch.inference_mode()
def kernel_figures(size: int, temperatures: Sequence[float], device: torch.device, rows: int = ROWS) -> dict[str, Any]:
    """Measure every kind of kernels that runs on the device, on the same logits, beside numba's columns on the CPU."""
    x, dx, head = states_and_head(size, rows)
    z, dz = (states.to(device) @ head.weight.to(device).T for states in (x, dx))
    compiled = columns_by("numba", size, temperatures, torch.device("cpu"), rows)
    figures = {}
    for kernels in kernels_here(device):
        if kernels == "triton":
            from prunescope.pipelines.metrics.triton_kernels import dense_sums as sums
        else:
            sums = eager_kernels.dense_sums

        def work(sums: Callable[..., Any] = sums) -> object:
            return sums(z, temperatures)[1](dz)

        spent = seconds_of(work, device)
        figures[kernels] = {
            "records_per_second": round(rows * len(temperatures) / spent),
            "seconds_of_a_block": spent,
            "peak_bytes_beside_the_logits": growth_bytes(work, device),
            "largest_difference_from_numba": largest_difference(
                columns_by(kernels, size, temperatures, device, rows), compiled
            ),
        }
    return {"vocabulary": size, "temperatures": len(temperatures), "rows": rows, **figures}


def study_figures(folder: Path, device: torch.device) -> dict[str, Any]:
    """Compute a study of two variants on the device and on the CPU; compare seconds and columns."""
    spent, tables = list[float](), list[dict[str, pl.DataFrame]]()
    for name in (str(device), "cpu"):
        decoder = load_decoder(folder, device=name)
        computed(decoder, RECIPES)  # compiles
        spent.append(seconds(lambda decoder=decoder: tables.append(computed(decoder, RECIPES)[1])))
    found, expected = tables
    return {
        "seconds": spent[0],
        "seconds_on_the_cpu": spent[1],
        "largest_difference_from_the_cpu": {
            name: largest_difference(_numbers(found[name]), _numbers(table)) for name, table in expected.items()
        },
    }


def _numbers(table: pl.DataFrame) -> Columns:
    return {name: table[name].to_numpy() for name in table.select(cs.float()).columns}


def main() -> int:
    """Print the figures of the first CUDA device."""
    if not torch.cuda.is_available():
        sys.stderr.write("bench-gpu: torch sees no CUDA device here; run it on a machine with one\n")
        return 2
    device = torch.device("cuda:0")
    figures = {
        "device": torch.cuda.get_device_name(device),
        "capability": torch.cuda.get_device_capability(device),
        "torch": torch.__version__,
        "triton": import_module("triton").__version__ if find_spec("triton") else None,
        "study": study_figures(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))), device),
        "kernels": [kernel_figures(size, temperatures, device) for size in SIZES for temperatures in TEMPERATURES],
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

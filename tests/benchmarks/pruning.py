"""Speed and memory of pruning: every figure beside plain forward passes of the same run, and the published seconds.

Run by `python -m tests.benchmarks.pruning [SEQUENCES]`; prints JSON. SmolLM2-135M, 32 × 512 calibration tokens, two
threads, float32.
"""

import json
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune, prune_all
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import load_variant
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.benchmarks.measuring import seconds, told
from tests.benchmarks.plain_pruning import plain_layers, plain_magnitude, plain_sparsegpt, plain_wanda, put_back

# The published scripts on the same model, tokens and kind of machine, in seconds; resident memory in GB.
PUBLISHED = {"magnitude-50": 11.0, "wanda-50": 40.0, "sparsegpt-50": 73.0}
PUBLISHED_GB = 1.24
PATTERNS = ({"sparsity": 0.5}, {"keep": 2, "block": 4}, {"keep": 4, "block": 8})
METHODS = ("magnitude", "wanda", "ria", "sparsegpt")


class PrivateMemory:
    """Peak private memory of the process within the context, in bytes, without mapped files."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PrivateMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            self.peak = max(self.peak, int(found[1]) * 1024 if found else 0)


def plain_pass(decoder: Decoder, tokens: Int[Tensor, "sequences length"]) -> None:
    """Run one forward pass of the trunk over all tokens."""
    for batch in tokens.split(BATCH):
        decoder.hidden(batch)


def plainly(decoder: Decoder, tokens: Int[Tensor, "sequences length"], name: str) -> float:
    """Return the seconds of the same recipe by the papers' scripts."""
    work: dict[str, Callable[[], None]] = {
        "magnitude-50": lambda: plain_magnitude(decoder),
        "wanda-50": lambda: plain_layers(decoder, tokens, plain_wanda, squares=True),
        "sparsegpt-50": lambda: plain_layers(decoder, tokens, plain_sparsegpt, squares=False),
    }
    with put_back(decoder):
        return seconds(work[name])


def dense_predecessors(method: str, place: int) -> Recipe | None:
    """Return a member of the family; None where this version does not know the method."""
    fields = {"name": f"{method}-{place}", "method": method, "predecessors": "dense", **PATTERNS[place]}
    try:
        return parse_recipe(json.dumps(fields))
    except InputError:
        return None


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    decoder = load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))
    tokens = calibration_tokens(decoder.tokenizer, CalibrationSpec(sequences=sequences, length=512))
    # Kernels compile and files are read once.
    for name in PUBLISHED:
        prune(decoder, parse_recipe(name), tokens=tokens[:1, :64])
    plain: list[float] = []
    result: dict[str, Any] = {}
    took: dict[str, float] = {}
    peak = 0
    for name, published in PUBLISHED.items():
        recipe = parse_recipe(name)
        plain.append(seconds(lambda: plain_pass(decoder, tokens)))
        with PrivateMemory() as memory:
            took[name] = seconds(lambda recipe=recipe: prune(decoder, recipe, tokens=tokens))
        peak = max(peak, memory.peak)
        result[name] = {
            "seconds": round(took[name], 2),
            "over_two_plain_passes": round(took[name] / (2 * plain[-1]), 2),
            "published_seconds": published,
            "times_faster_than_published": round(published / took[name], 1),
        }
        told(name, result[name])
    result["peak_private_gb"] = round(peak / 1e9, 2)
    result["published_resident_gb"] = PUBLISHED_GB
    for name in ("wanda-50", "sparsegpt-50"):
        recipe = parse_recipe(name)
        rounded = seconds(lambda recipe=recipe: prune(decoder, recipe, tokens=tokens, dtype=torch.bfloat16))
        result[f"{name} in bfloat16"] = {
            "seconds": round(rounded, 2),
            "over_two_plain_passes": round(rounded / (2 * plain[-1]), 2),
            "times_faster_than_published": round(PUBLISHED[name] / rounded, 1),
        }
        told(f"{name} in bfloat16", result[f"{name} in bfloat16"])
    members = [dense_predecessors(method, place) for method in METHODS for place in range(len(PATTERNS))]
    family = [recipe for recipe in members if recipe is not None]
    together = seconds(lambda: prune_all(decoder, family, Statistics(tokens=tokens)))
    alone = {
        recipe.name: seconds(lambda recipe=recipe: prune(decoder, recipe, tokens=tokens))
        for recipe in family
        if recipe.name in {"wanda-0", "sparsegpt-0"}
    }
    result["family"] = {
        "recipes": len(family),
        "seconds": round(together, 2),
        **{f"over_{name}_alone": round(together / each, 2) for name, each in alone.items()},
        "over_two_plain_passes": round(together / (2 * plain[-1]), 2),
    }
    told("family", result["family"])
    with tempfile.TemporaryDirectory() as folder:
        file, wanda = Path(folder) / "variant.safetensors", parse_recipe("wanda-50")
        variant = prune(decoder, wanda, tokens=tokens[:1])
        variant.save(file, wanda, "weights")
        opening = seconds(lambda: load_variant(file, "weights"))
        weights = sum(parameter.numel() for parameter in decoder.model.parameters()) * 4
        result["wanda-50 file"] = {
            "opening_over_pruning": round(opening / took["wanda-50"], 4),
            "weights_over_file": round(weights / file.stat().st_size, 1),
        }
    # Last, because they leave copies of all weights in the memory of this process.
    result["plain torch"] = {}
    for name, ours in took.items():
        as_published = plainly(decoder, tokens, name)
        figures = {"seconds": round(as_published, 2), "over_ours": round(as_published / ours, 1)}
        result["plain torch"][name] = figures
        told(f"{name} in plain torch", figures)
    result |= {
        "plain_pass_seconds": [round(each, 2) for each in plain],
        "tokens": tokens.numel(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

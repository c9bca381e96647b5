"""Speed of pruning: every figure beside plain forward passes of the same run, the papers' way, and published seconds.

Run by `python -m tests.benchmarks.pruning [SEQUENCES]`. SmolLM2-135M, 32 × 512 calibration tokens, two threads,
float32.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune, prune_all
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import load_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.benchmarks.measuring import Table, Work, decoder_of, in_turns, seconds
from tests.benchmarks.plain_pruning import plain_layers, plain_magnitude, plain_sparsegpt, plain_wanda, put_back

# The published scripts on the same model, tokens and kind of machine, in seconds.
PUBLISHED = {"magnitude-50": 11.0, "wanda-50": 40.0, "sparsegpt-50": 73.0}
PATTERNS = ({"sparsity": 0.5}, {"keep": 2, "block": 4}, {"keep": 4, "block": 8})
FAMILY = [
    parse_recipe(json.dumps({"name": f"{method}-{at}", "method": method, "predecessors": "dense", **pattern}))
    for method in ("magnitude", "wanda", "ria", "sparsegpt")
    for at, pattern in enumerate(PATTERNS)
]


def plain_pass(decoder: Decoder, tokens: Int[Tensor, "sequences length"]) -> None:
    """Run one forward pass of the trunk over all tokens."""
    for batch in tokens.split(BATCH):
        decoder.hidden(batch)


def plainly(decoder: Decoder, tokens: Int[Tensor, "sequences length"], name: str) -> float:
    """Return the seconds of the same recipe by the papers' scripts."""
    work: dict[str, Work] = {
        "magnitude-50": lambda: plain_magnitude(decoder),
        "wanda-50": lambda: plain_layers(decoder, tokens, plain_wanda, squares=True),
        "sparsegpt-50": lambda: plain_layers(decoder, tokens, plain_sparsegpt, squares=False),
    }
    with put_back(decoder):
        return seconds(work[name])


def main() -> None:
    """Measure and print."""
    decoder, table = decoder_of(), Table()
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    tokens = calibration_tokens(decoder.tokenizer, CalibrationSpec(sequences=sequences, length=512))
    # Kernels compile and files are read once.
    variants = {name: prune(decoder, parse_recipe(name), tokens=tokens[:1, :64]) for name in PUBLISHED}

    def pruned(name: str, dtype: torch.dtype | None = None) -> Work:
        return lambda: prune(decoder, parse_recipe(name), tokens=tokens, dtype=dtype)

    works: dict[str, Work] = {"a plain pass": lambda: plain_pass(decoder, tokens)}
    works |= {name: pruned(name) for name in PUBLISHED}
    works |= {f"{name} in bfloat16": pruned(name, torch.bfloat16) for name in ("wanda-50", "sparsegpt-50")}
    works["the family"] = lambda: prune_all(decoder, FAMILY, Statistics(tokens=tokens))
    works["SparseGPT of the family"] = lambda: prune(decoder, FAMILY[-len(PATTERNS)], tokens=tokens)
    found = in_turns(works, 1)
    for name, spent in found.items():
        table.add(f"{name}, s", spent)
        table.add(f"{name} over two plain passes", spent / (2 * found["a plain pass"]))
        if name in PUBLISHED:
            table.add(f"{name}: published seconds over ours", PUBLISHED[name] / spent)
    table.add(f"{len(FAMILY)} recipes over SparseGPT alone", found["the family"] / found["SparseGPT of the family"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "variant.safetensors"
        variants["wanda-50"].save(file, parse_recipe("wanda-50"), "weights")
        weights = sum(parameter.numel() for parameter in decoder.model.parameters()) * 4
        table.add("bytes of all weights over the file of wanda-50", weights / file.stat().st_size)
        opening = seconds(lambda: load_variant(file, "weights"))
        table.add("opening the file over pruning", opening / found["wanda-50"])
    # Last, because they leave copies of all weights in the memory of this process.
    for name in PUBLISHED:
        table.add(f"{name} in plain torch over ours", plainly(decoder, tokens, name) / found[name])
    table.print()


if __name__ == "__main__":
    main()

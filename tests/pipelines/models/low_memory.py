"""One study at the level of the pipelines, in this process or in one whose memory limit is below the model's size.

`python -m tests.pipelines.models.low_memory MODEL FOLDER OTHER BYTES` writes the tables into the folder.
"""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.hardware import proc_value
from prunescope.pipelines.evaluation.traces.text_traces import TextSession
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.studies import Study
from tests.tiny_models import SHORT_TEXT

# All kinds of access to weights: scores, Hessians, codes, units, drops, casts, other orders of sums.
RECIPES = (
    "dense",
    "noise-bfloat16",
    "noise-batch",
    "wanda-2of4",
    "magnitude-50-owl",
    "sparsegpt-50",
    "rtn-4bit+wanda-50",
    "flap-20",
    "block-drop-1",
    "mlp-drop-1-greedy",
    "attn-drop-1+wanda-50",
)
FEW = ("dense", "wanda-2of4")


def computed(decoder: Decoder, recipes: Sequence[str]) -> tuple[dict[str, Variant], dict[str, pl.DataFrame]]:
    """Return a model's variants, and the tables that a study computes of them without tasks, by name."""
    study = Study.model_validate(
        {
            "name": "tiny",
            "models": [{"name": "tiny", "source": str(decoder.folder)}],
            "recipes": list(recipes),
            "noise": [],
            "prompts": [{"id": "a", "kind": "choice", "text": "Which? A. B.", "options": ["A", "B"], "gold": "B"}],
            "texts": [{"id": "help", "source": "embedded", "context": 8, "max_tokens": 8}],
            "calibration": {"source": SHORT_TEXT, "sequences": 5, "length": 16, "dtype": "bfloat16"},
            "generation": {"new_tokens": 2},
            "measure": {
                "scopes": ["local", "isolated", "propagated"],
                "lenses": ["normed"],
                "keep_states": True,
                "cache": decoder.cache_refusal is None,
            },
        }
    )
    seen = calibrate(decoder, study.calibration, "tiny")
    tokens = calibration_tokens(decoder.tokenizer, study.calibration)
    statistics = Statistics(seen.activation_stats, seen.block_influence, tokens, torch.bfloat16)
    variants: dict[str, Variant] = {}
    for name, variant in prune_all(decoder, study.recipes, statistics).items():
        if not isinstance(variant, Variant):
            raise variant
        variants[name] = variant
    found = {"activation_stats": seen.activation_stats, "block_influence": seen.block_influence}
    for recipe in study.recipes:
        row = variant_row(decoder, "tiny", recipe, variants[recipe.name], None, 0, 0)
        found[f"{recipe.name} variants"] = row.drop("peak_memory_bytes")
    for name, traced in TraceSession(decoder, "tiny", study).trace_all(variants).items():
        found |= {f"{name} {table}": rows for table, rows in traced.items()}
    texts = TextSession(decoder, "tiny", study)
    found |= {f"{name} text_tokens": texts.trace(name, variant) for name, variant in variants.items()}
    return variants, found


def _data_bytes() -> int:
    """Return the private writable memory of this process, which RLIMIT_DATA limits."""
    return int(proc_value(Path("/proc/self/status"), "VmData").split()[0]) * 1024


def main() -> None:
    """Warm up on another model, then limit the growth of the process.

    The system counts a whole file that is mapped into memory. transformers maps all files of a model while it opens
    it, so the limit is set after that; later files are opened one at a time.
    """
    model, out, warm, size = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    computed(load_decoder(warm, device="cpu", memory={}), FEW)
    decoder = load_decoder(model, device="cpu", memory={})
    limit = _data_bytes() + size
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        load_decoder(model, device="cpu")
    except (InputError, RuntimeError, MemoryError, OSError) as error:
        message = str(error)
    else:
        message = "it fits"
    for name, frame in computed(decoder, FEW)[1].items():
        frame.write_ipc(out / f"{name}.arrow")
    (out / "message").write_text(message, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Speed and size of the text measure beside llama.cpp's --kl-divergence, and equality of the dense model with itself.

Run by `python -m tests.benchmarks.texts`; prints JSON. SmolLM2-135M on two threads, WikiText-2, context 512.
"""

import json
import platform
import sys
import time
from pathlib import Path

import platformdirs
import torch

from prunescope.pipelines.evaluation.traces.text_traces import TextSession
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Study, TextSpec, load_study

# 16 windows of 512 tokens, as many as llama.cpp read; of each the second half is scored.
TEXT = TextSpec(id="wikitext2", max_tokens=16 * 256)
# llama.cpp on the same model, machine kind and tokens: base and comparison in seconds, bytes of base a scored token.
LLAMA_CPP_SECONDS, LLAMA_CPP_TOKENS_A_SECOND, LLAMA_CPP_BYTES = 132.0, 141.0, 98_000


def study(text: TextSpec) -> Study:
    """Return the demo with this text."""
    return load_study("demo").model_copy(update={"texts": (text,)})


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    decoder = load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))
    short = TextSession(decoder, "dense", study(TEXT.model_copy(update={"max_tokens": 2 * 256})))
    itself = short.trace("dense", Variant())
    variant = prune(decoder, parse_recipe("magnitude-50"))
    start = time.perf_counter()
    session = TextSession(decoder, "smollm2", study(TEXT))
    base = time.perf_counter() - start
    start = time.perf_counter()
    rows = session.trace("magnitude-50", variant)
    comparison = time.perf_counter() - start
    tokens = len(rows) // TEXT.scored * TEXT.context
    kept_bytes = sum(dense.counts.nbytes + dense.step.nbytes for batches in session._dense for dense in batches)
    result = {
        "tokens_read": tokens,
        "tokens_scored": len(rows),
        "base_tokens_a_second": round(tokens / base, 1),
        "comparison_tokens_a_second": round(tokens / comparison, 1),
        "base_and_comparison_seconds": round(base + comparison, 2),
        "times_llama_cpp": round(LLAMA_CPP_SECONDS / (base + comparison), 2),
        "llama_cpp_tokens_a_second": LLAMA_CPP_TOKENS_A_SECOND,
        "bytes_kept_a_scored_token": round(kept_bytes / len(rows), 1),
        "llama_cpp_bytes_over_ours": round(LLAMA_CPP_BYTES * len(rows) / kept_bytes, 1),
        "largest_kl_of_the_dense_model_to_itself": itself["kl_dense_pruned_nats"].max(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Speed and size of the text measure beside llama.cpp's --kl-divergence, and equality of the dense model with itself.

Run by `python -m tests.benchmarks.texts`. SmolLM2-135M on two threads, WikiText-2, context 512.
"""

import polars as pl

from prunescope.pipelines.evaluation.traces.text_traces import TextSession
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Study, TextSpec, load_study
from tests.benchmarks.measuring import Table, decoder_of, seconds

# 16 windows of 512 tokens, as many as llama.cpp read; of each the second half is scored.
TEXT = TextSpec(id="wikitext2", max_tokens=16 * 256)
# llama.cpp on the same model, machine kind and tokens: base and comparison in seconds, bytes of base per scored token.
LLAMA_CPP_SECONDS, LLAMA_CPP_BYTES = 132.0, 98_000


def study(tokens: int) -> Study:
    """Return the demo with so many scored tokens of the text."""
    return load_study("demo").model_copy(update={"texts": (TEXT.model_copy(update={"max_tokens": tokens}),)})


def main() -> None:
    """Measure and print."""
    decoder, table = decoder_of(), Table()
    itself = TextSession(decoder, "dense", study(2 * 256)).trace("dense", Variant())
    variant = prune(decoder, parse_recipe("magnitude-50"))
    sessions, frames = list[TextSession](), list[pl.DataFrame]()
    base = seconds(lambda: sessions.append(TextSession(decoder, "smollm2", study(TEXT.max_tokens or 0))))
    comparison = seconds(lambda: frames.append(sessions[0].trace("magnitude-50", variant)))
    scored = len(frames[0])
    kept = sum(dense.counts.nbytes + dense.step.nbytes for batches in sessions[0]._dense for dense in batches)
    table.add("tokens read", scored // TEXT.scored * TEXT.context)
    table.add("base, s", base)
    table.add("comparison, s", comparison)
    table.add("llama.cpp's seconds over both", LLAMA_CPP_SECONDS / (base + comparison))
    table.add("llama.cpp's bytes over ours", LLAMA_CPP_BYTES * scored / kept)
    table.add("largest KL of the dense model to itself, nats", itself["kl_dense_pruned_nats"].max(), most=0)  # type: ignore[arg-type]
    table.print()


if __name__ == "__main__":
    main()

"""Seconds a prompt for 64 tokens of two models: ours with its tables, transformers' generate, the published script.

Then 64 prompts × 64 tokens × 2 models in batches against one prompt at a time, greedy and sampled. Run by `make bench`;
prints JSON. The model is the demo's; no test asserts a time.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
import torch

from prunescope.pipelines.core.hardware import hardware
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.decoding import (
    DensePrunedPair,
    decode,
    step_rows,
    top_rows,
)
from prunescope.pipelines.metrics.sampling import draw, nuclei
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Prompt, load_study
from tests.greedy_decoding import decode_greedily

STEPS, REPEATS, PROMPTS = 64, 3, 64
TEXTS = (
    "What is 12 times 7?",
    "Why is the sky blue?",
    "Write a short story about a fox and a well.",
    "Name three rivers in Europe.",
    "How do I boil an egg?",
    "Explain to a child what a hash table is.",
    "A train leaves at 9:40 and arrives at 12:05. How long does it travel?",
    "Which planet is the largest? A. Mars B. Jupiter C. Venus. Answer with one letter.",
)
# One prompt, 64 tokens, two models, on two cores in float32 (the comparison script that comes with 2603.24652).
PUBLISHED_SECONDS = 5.0


def ours(decoder: Decoder, variant: Variant, prompts: list[TokenizedPrompt]) -> int:
    """Decode both models and measure every step as in a study; return the number of rows."""
    ids = [prompt.ids for prompt in prompts]
    dense = decode_greedily(decoder, ids, STEPS)
    with apply_variant(decoder, variant):
        pruned = decode_greedily(decoder, ids, STEPS)
    pairs = []
    for prompt, one, other in zip(prompts, dense, pruned, strict=True):
        move = (other.streams - one.streams).float()
        pairs.append(DensePrunedPair(prompt, "free_running", one.streams.float(), move, one.tokens, other.tokens))
    return len(step_rows(decoder, pairs, (1.0,))) + len(top_rows(decoder, pairs, 10))


def theirs(decoder: Decoder, variant: Variant, prompts: list[TokenizedPrompt]) -> None:
    """Decode the same batch with both models by `generate`, without measures."""
    longest = max(len(prompt.ids) for prompt in prompts)
    pads = [longest - len(prompt.ids) for prompt in prompts]
    tokens = torch.tensor([[0] * pad + list(prompt.ids) for pad, prompt in zip(pads, prompts, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
    settings = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "pad_token_id": 0}
    decoder.model.generate(tokens, attention_mask=mask, **settings)
    with apply_variant(decoder, variant):
        decoder.model.generate(tokens, attention_mask=mask, **settings)


def batched(decoder: Decoder, variant: Variant, prompts: list[TokenizedPrompt]) -> dict[str, float]:
    """Return the tokens a second of both models over 64 prompts: in batches, one prompt at a time, and sampled."""
    ids = [prompts[index % len(prompts)].ids for index in range(PROMPTS)]

    def both(work: Callable[[], object]) -> None:
        work()
        with apply_variant(decoder, variant):
            work()

    def draws(logits: torch.Tensor, texts: Sequence[int], step: int) -> torch.Tensor:
        found = nuclei(logits, 0.7, 0.95)
        return torch.tensor([draw(nucleus, text, step) for nucleus, text in zip(found, texts, strict=True)])

    # One prompt at a time is slow: a few of the prompts are enough.
    few = ids[: PROMPTS // 32]
    seconds = {
        "batched": best(lambda: both(lambda: decode_greedily(decoder, ids, STEPS)), 1),
        "one_at_a_time": 32 * best(lambda: both(lambda: [decode_greedily(decoder, [one], STEPS) for one in few]), 1),
        "sampled": best(lambda: both(lambda: decode(decoder, ids[:8], STEPS, draws, copies=PROMPTS // 8)), 1),
    }
    return {name: round(2 * PROMPTS * STEPS / spent, 1) for name, spent in seconds.items()}


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    decoder = load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))
    asked = tuple(Prompt(id=f"p{index}", kind="open", text=text) for index, text in enumerate(TEXTS))
    study = load_study("demo").model_copy(update={"prompts": asked})
    prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
    variant = prune(decoder, parse_recipe("magnitude-50"))
    engine = best(lambda: ours(decoder, variant, prompts)) / len(prompts)
    plain = best(lambda: theirs(decoder, variant, prompts)) / len(prompts)
    tokens_per_second = batched(decoder, variant, prompts)
    result = {
        "tokens_per_second_of_64_prompts": tokens_per_second,
        "times_one_at_a_time": round(tokens_per_second["batched"] / tokens_per_second["one_at_a_time"], 2),
        "prompts": len(prompts),
        "tokens": STEPS,
        "models": 2,
        "seconds_per_prompt": round(engine, 3),
        "published_seconds_per_prompt": PUBLISHED_SECONDS,
        "times_published": round(PUBLISHED_SECONDS / engine, 2),
        "generate_seconds_per_prompt": round(plain, 3),
        "times_generate": round(plain / engine, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": hardware(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Seconds per prompt for 64 tokens of two models: ours with its tables, transformers' generate, the published script.

Then 64 prompts × 64 tokens × 2 models in batches against one prompt at a time, greedy and sampled. Run by
`python -m tests.benchmarks.generation`. The model is the demo's.
"""

from collections.abc import Callable, Sequence

import torch

from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.decoding import DensePrunedPair, decode, step_rows, top_rows
from prunescope.pipelines.metrics.sampling import draw, nuclei
from prunescope.pipelines.models.decoder import Decoder, padded_left
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Prompt, load_study
from tests.benchmarks.measuring import Table, decoder_of, in_turns
from tests.greedy_decoding import decode_greedily

STEPS, PROMPTS = 64, 64
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


def both(decoder: Decoder, variant: Variant, work: Callable[[], object]) -> None:
    """Do something with the dense model, then with the variant."""
    work()
    with apply_variant(decoder, variant):
        work()


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


def theirs(decoder: Decoder, prompts: list[TokenizedPrompt]) -> None:
    """Decode the same batch by `generate`, without measures."""
    tokens, mask = padded_left([list(prompt.ids) for prompt in prompts], decoder.device)
    settings = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "pad_token_id": 0}
    decoder.model.generate(tokens, attention_mask=mask, **settings)


def sampled(decoder: Decoder, ids: list[tuple[int, ...]]) -> None:
    """Draw eight texts of each of the first prompts."""

    def draws(logits: torch.Tensor, texts: Sequence[int], step: int) -> torch.Tensor:
        found = nuclei(logits, 0.7, 0.95)
        return torch.tensor([draw(nucleus, text, step) for nucleus, text in zip(found, texts, strict=True)])

    decode(decoder, ids[:8], STEPS, draws, copies=PROMPTS // 8)


def main() -> None:
    """Measure and print."""
    decoder, table = decoder_of(), Table()
    asked = tuple(Prompt(id=f"p{index}", kind="open", text=text) for index, text in enumerate(TEXTS))
    study = load_study("demo").model_copy(update={"prompts": asked})
    prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
    variant = prune(decoder, parse_recipe("magnitude-50"))
    found = in_turns(
        {
            "ours": lambda: ours(decoder, variant, prompts),
            "generate": lambda: both(decoder, variant, lambda: theirs(decoder, prompts)),
        }
    )
    per_prompt = {name: spent / len(prompts) for name, spent in found.items()}
    table.add("ours with its tables, s per prompt", per_prompt["ours"])
    table.add("the published script's seconds over ours", PUBLISHED_SECONDS / per_prompt["ours"])
    table.add("the seconds of generate, without tables, over ours", per_prompt["generate"] / per_prompt["ours"])
    ids = [prompts[index % len(prompts)].ids for index in range(PROMPTS)]
    # One prompt at a time is slow: a few of the prompts are enough.
    few = ids[: PROMPTS // 32]
    works = {
        "batched": lambda: decode_greedily(decoder, ids, STEPS),
        "one at a time": lambda: [decode_greedily(decoder, [one], STEPS) for one in few],
        "sampled": lambda: sampled(decoder, ids),
    }
    found = in_turns({name: lambda work=work: both(decoder, variant, work) for name, work in works.items()}, 1)
    found["one at a time"] *= PROMPTS / len(few)
    for name, spent in found.items():
        table.add(f"{PROMPTS} prompts, {name}, tokens per second", 2 * PROMPTS * STEPS / spent)
    table.add("batched over one at a time", found["one at a time"] / found["batched"])
    table.print()


if __name__ == "__main__":
    main()

"""Scores of several variants through our adapter beside lm-eval called once a variant, and that both say the same.

Run by `python -m tests.benchmarks.tasks`; prints JSON. SmolLM2-135M on two threads: the dense model and three variants
on every task that travels along; lm-eval's `hf` model loads each from a checkpoint, as it is used. Processor seconds
stand beside those of the clock: on a busy machine the former are the fairer ratio.
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import platformdirs
import polars as pl
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from pipelines.models.load import load_decoder
from pipelines.models.sources import locate
from pipelines.pruning.apply import prune
from pipelines.pruning.recipes import parse_recipe
from pipelines.pruning.variant import Variant
from pipelines.pruning.wearing import applied
from pipelines.studies.measured import TaskSpec
from pipelines.tasks.definition import harness
from pipelines.tasks.loading import load_tasks, quiet
from pipelines.tasks.score import TaskSession

# In the proportions of the study paper-small, and two programs.
TASKS = (
    TaskSpec(name="arc_challenge", samples=16),
    TaskSpec(name="openbookqa", samples=16),
    TaskSpec(name="boolq", samples=8),
    TaskSpec(name="gsm8k", samples=4, shots=3, max_new_tokens=96),
    TaskSpec(name="humaneval", samples=2, max_new_tokens=96),
    TaskSpec(name="wikitext2", samples=1, context=512),
)
RECIPES = ("magnitude-30", "magnitude-50", "magnitude-2of4")
LEAST_RATIO = 1.5
BATCH = 8


def save(decoder: Any, variants: dict[str, Variant], folder: Path) -> None:
    """A checkpoint of every variant."""
    for name, variant in variants.items():
        with applied(decoder, variant):
            decoder.model.save_pretrained(folder / name)
        decoder.tokenizer.save_pretrained(folder / name)


Said = list[float] | str


class Watch:
    """Adds up the seconds of its blocks, by the clock and of the processor."""

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0

    def __enter__(self) -> None:
        """Starts."""
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        """Adds what has passed."""
        self.seconds += time.perf_counter() - self._start[0]
        self.processor += time.process_time() - self._start[1]


def by_harness(folder: Path) -> dict[tuple[str, str, str], Said]:
    """Log-likelihoods or the text of every sample by task, sample and scoring, from lm-eval with its own model."""
    found = {}
    with quiet():
        # In float32 its softmax alone is off by 1e-4 nats, an option of 20 tokens and 32 nats.
        model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=BATCH, softmax_dtype="float64")
        for loaded in load_tasks(TASKS):
            model._max_length = loaded.spec.context
            loaded.task.set_fewshot_seed(loaded.spec.seed)
            tasks = {"tasks": {loaded.name: loaded.task}, "groups": {}}
            result = evaluate(model, tasks, limit=loaded.spec.samples, bootstrap_iters=0)
            for sample in result["samples"][loaded.name]:
                said = [each[0] if isinstance(each, tuple) else each for each in sample["filtered_resps"]]
                if loaded.scoring == "greedy":
                    (said,) = sample["resps"][0]
                found[loaded.name, str(sample["doc_id"]), loaded.scoring] = said
    return found


def by_us(samples: pl.DataFrame) -> dict[tuple[str, str, str], Said]:
    """The same from our rows."""
    columns = ("task", "sample_id", "scoring", "option_log_likelihoods", "text")
    return {
        tuple(key): text if values is None else values for *key, values, text in samples.select(columns).iter_rows()
    }


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(2)
    source = locate("embedded", Path(platformdirs.user_cache_dir("prunescope")))
    ours, theirs = Watch(), Watch()
    with ours:
        decoder = load_decoder(source)
        session = TaskSession(decoder, "smollm2", TASKS)
    variants = {"dense": Variant()} | {name: prune(decoder, parse_recipe(name)) for name in RECIPES}
    apart, a_token, same, same_texts, texts = 0.0, 0.0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        save(decoder, variants, Path(folder))
        for name, variant in variants.items():
            with ours:
                mine = by_us(session.score(name, variant).samples)
            with theirs:
                other = by_harness(Path(folder) / name)
            for key, values in other.items():
                if isinstance(values, str):
                    texts += 1
                    same_texts += mine[key] == values
                    continue
                gaps = [abs(one - two) for one, two in zip(mine[key], values, strict=True)]
                if key[2] == "rolling":  # thousands of tokens, added up by lm-eval in float32
                    a_token = max(a_token, *(gap / abs(value) for gap, value in zip(gaps, values, strict=True)))
                else:
                    apart = max(apart, *gaps)
                same += mine[key].index(max(mine[key])) == values.index(max(values))
    result = {
        "variants": len(variants),
        "samples": len(other) * len(variants) - texts,
        "same_answer": same,
        "texts": texts,
        "same_text": same_texts,
        "most_nats_apart_an_option": apart,
        "most_apart_a_text_relative": a_token,
        "seconds_ours": round(ours.seconds, 2),
        "seconds_lm_eval_once_a_variant": round(theirs.seconds, 2),
        "times_lm_eval": round(theirs.seconds / ours.seconds, 2),
        "times_lm_eval_in_processor_seconds": round(theirs.processor / ours.processor, 2),
        "target": f"at least {LEAST_RATIO} times",
        "harness": harness(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

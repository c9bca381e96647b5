"""Scores of several variants through our adapter beside lm-eval called once a variant: speed and equality.

Run by `python -m tests.benchmarks.tasks`; prints JSON. SmolLM2-135M on two threads: the dense model and three variants
on every shipped task; lm-eval's `hf` model loads each from a checkpoint, as users do. Processor seconds
are given beside wall time: on a busy machine their ratio is fairer. The speed of a CPU's products in lm-eval
depends on its maker, so lm-eval with our products is measured as well: the rest is not computed twice.

Where the dense model, and where a pruned one, differs most from lm-eval's, a model in float64 with the same weights
that shares no code shows the error of each side. The dense model on all samples: `equality`.
"""

import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import polars as pl
import torch

from prunescope.pipelines.evaluation.tasks.definition import harness
from prunescope.pipelines.evaluation.tasks.loading import quiet
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import quick_linears
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.benchmarks.equality import Exact, Gap, Key, Said, answers, gaps, of_harness, off

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
LOADING = "loading"


@dataclass
class Watch:
    """Wall and processor seconds by task."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    processor: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the seconds of the context."""
        start = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] += time.perf_counter() - start[0]
        self.processor[name] += time.process_time() - start[1]


def save(decoder: Any, variants: dict[str, Variant], folder: Path) -> None:
    """Save a checkpoint of every variant."""
    for name, variant in variants.items():
        with apply_variant(decoder, variant):
            decoder.model.save_pretrained(folder / name)
        decoder.tokenizer.save_pretrained(folder / name)


def once_a_variant(folder: Path, watch: Watch, *, quick: bool) -> Said:
    """Return lm-eval's results for a checkpoint, with its own products or with ours."""
    found: Said = {}
    with watch.on(LOADING):
        model = of_harness(folder, BATCH)
    with quick_linears(model.model) if quick else nullcontext():
        for spec in TASKS:
            with watch.on(spec.name):
                found |= answers(model, spec)
    return found


def by_us(samples: pl.DataFrame) -> Said:
    """Return the same from our rows, which hold log-likelihoods in float32."""
    columns = ("task", "sample_id", "scoring", "option_log_likelihoods", "text")
    return {Key(*key): text if values is None else values for *key, values, text in samples.select(columns).iter_rows()}


def worst(found: dict[str, list[Gap]], sides: dict[str, dict[str, Said]], folder: Path) -> dict[str, Any]:
    """Return the largest gap of each task among some variants, and the error of each side there.

    Args:
        found: gaps by variant.
        sides: the results of each side, by its name and by variant.
        folder: folder of the variants' checkpoints.
    """
    result = {}
    for spec in TASKS:
        own = [(gap, name) for name, each in found.items() for gap in each if gap.key.task == spec.name]
        if own:
            gap, name = max(own)
            with quiet():
                exact = Exact(folder / name)
            result[spec.name] = {"variant": name} | off(
                gap, exact, spec, {side: said[name] for side, said in sides.items()}
            )
    return result


def ratios(ours: Watch, theirs: Watch) -> dict[str, float]:
    """Return the ratio of their processor seconds to ours, in all and by task."""
    by_task = {spec.name: round(theirs.processor[spec.name] / ours.processor[spec.name], 2) for spec in TASKS}
    return {"in all": round(sum(theirs.processor.values()) / sum(ours.processor.values()), 2)} | by_task


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    source = locate("embedded", Path(platformdirs.user_cache_dir("prunescope")))
    ours, theirs, quick = Watch(), Watch(), Watch()
    with ours.on(LOADING):
        decoder = load_decoder(source)
        sessions = {spec.name: TaskSession(decoder, "smollm2", [spec]) for spec in TASKS}
    variants = {"dense": Variant()} | {name: prune(decoder, parse_recipe(name)) for name in RECIPES}
    said: dict[str, dict[str, Said]] = {"ours": {}, "lm_eval": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(decoder, variants, folder)
        for name, variant in variants.items():
            mine: Said = {}
            for task, session in sessions.items():
                with ours.on(task):
                    mine |= by_us(session.score(name, variant).samples)
            said["ours"][name] = mine
            said["lm_eval"][name] = once_a_variant(folder / name, theirs, quick=False)
            once_a_variant(folder / name, quick, quick=True)
        pairs = [
            (said["ours"][name][key], values)
            for name, other in said["lm_eval"].items()
            for key, values in other.items()
        ]
        texts = [one == other for one, other in pairs if isinstance(other, str)]
        choices = [(list(one), list(other)) for one, other in pairs if not isinstance(other, str)]
        found = {name: gaps(said["ours"][name], other) for name, other in said["lm_eval"].items()}
        apart = {
            "dense": worst({"dense": found.pop("dense")}, said, folder),
            "pruned": worst(found, said, folder),
        }
    result = {
        "variants": len(variants),
        "samples": len(choices),
        "same_answer": sum(one.index(max(one)) == other.index(max(other)) for one, other in choices),
        "texts": len(texts),
        "same_text": sum(texts),
        "most_apart": apart,
        "seconds_ours": round(sum(ours.seconds.values()), 2),
        "seconds_lm_eval_once_a_variant": round(sum(theirs.seconds.values()), 2),
        "seconds_lm_eval_with_our_products": round(sum(quick.seconds.values()), 2),
        "times_lm_eval": round(sum(theirs.seconds.values()) / sum(ours.seconds.values()), 2),
        "times_lm_eval_in_processor_seconds": ratios(ours, theirs),
        "times_lm_eval_with_our_products_in_processor_seconds": ratios(ours, quick),
        "target": f"at least {LEAST_RATIO} times",
        "harness": harness(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if ratios(ours, theirs)["in all"] < LEAST_RATIO:
        sys.exit("the target was missed, in processor seconds")


if __name__ == "__main__":
    main()

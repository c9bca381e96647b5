"""Scores of several variants through our adapter beside lm-eval called once per variant: speed and equality.

Run by `python -m tests.benchmarks.tasks`. SmolLM2-135M on two threads: the dense model and three variants on every
shipped task; lm-eval's `hf` model loads each from a checkpoint, as users do. Ratios are of processor seconds, which
other load changes least. How far log-likelihoods differ: `equality`.
"""

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from prunescope.pipelines.evaluation.tasks.definition import harness
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.benchmarks.equality import Key, Said, answers, of_harness
from tests.benchmarks.measuring import Table, Work, decoder_of, timed

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
COLUMNS = ("task", "sample_id", "scoring", "option_log_likelihoods", "text")
OURS, THEIRS = "ours", "lm-eval"


class Clock:
    """Processor seconds by side, and by side and task."""

    def __init__(self) -> None:
        self.spent = Counter[Any]()

    def on(self, side: str, part: str, work: Work) -> None:
        """Do something; count its seconds."""
        spent = timed(work)["processor"]
        self.spent[side] += spent  # type: ignore[assignment]
        self.spent[side, part] += spent  # type: ignore[assignment]


def by_us(session: TaskSession, name: str, variant: Variant) -> Said:
    """Return our results, from rows that hold log-likelihoods in float32."""
    rows = session.score(name, variant)["task_samples"].select(COLUMNS).iter_rows()
    return {Key(*key): text if values is None else values for *key, values, text in rows}


def by_harness(folder: Path, clock: Clock) -> Said:
    """Return lm-eval's results for a checkpoint."""
    found: Said = {}
    models: list[Any] = []
    clock.on(THEIRS, "loading", lambda: models.append(of_harness(folder, BATCH)))
    for spec in TASKS:
        clock.on(THEIRS, spec.name, lambda spec=spec: found.update(answers(models[0], spec)))
    return found


def main() -> None:
    """Measure and print."""
    clock, table, decoders, sessions = Clock(), Table(), list[Decoder](), dict[str, TaskSession]()
    ours, theirs = dict[tuple[str, Key], Any](), dict[tuple[str, Key], Any]()
    clock.on(OURS, "loading", lambda: decoders.append(decoder_of()))
    (decoder,) = decoders
    for spec in TASKS:
        clock.on(OURS, "loading", lambda spec=spec: sessions.update({spec.name: TaskSession(decoder, [spec])}))
    for name in ("dense", *RECIPES):
        variant = Variant() if name == "dense" else prune(decoder, parse_recipe(name))
        with tempfile.TemporaryDirectory() as temporary:
            with apply_variant(decoder, variant):
                decoder.model.save_pretrained(temporary)
            decoder.tokenizer.save_pretrained(temporary)
            for task, session in sessions.items():
                mine = list[Said]()
                score = partial(by_us, session, name, variant)
                clock.on(OURS, task, lambda mine=mine, score=score: mine.append(score()))
                ours |= {(name, key): said for key, said in mine[0].items()}
            theirs |= {(name, key): said for key, said in by_harness(Path(temporary), clock).items()}
    texts = [key for key, said in theirs.items() if isinstance(said, str)]
    choices = [key for key in theirs if key not in texts]
    table.add("same text", f"{sum(ours[key] == theirs[key] for key in texts)} of {len(texts)}")
    best = [[side[key].index(max(side[key])) for key in choices] for side in (ours, theirs)]
    table.add("same answer", f"{sum(map(int.__eq__, *best))} of {len(choices)}")
    table.add("ours, processor s", clock.spent[OURS])
    table.add(f"{THEIRS} over ours", clock.spent[THEIRS] / clock.spent[OURS], least=LEAST_RATIO)
    for spec in TASKS:
        table.add(f"{THEIRS} over ours on {spec.name}", clock.spent[THEIRS, spec.name] / clock.spent[OURS, spec.name])
    table.add("lm-eval", str(harness()))
    table.print()


if __name__ == "__main__":
    main()

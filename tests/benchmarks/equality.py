"""Equality of our lm-eval adapter and lm-eval's own `hf` model, on every shipped sample.

Run by `python -m tests.benchmarks.equality [TASK ...]`; prints a line of JSON per task. The dense SmolLM2-135M, or
with `--model` another, in float32. A model in float64 that shares no code also scores the option or text with the
largest gap, to show the error of each side; it reads Llamas alone, so of other models only texts can be compared. Some
hours, most of them lm-eval's on wikitext2; `--samples` asks less.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from prunescope.pipelines.evaluation.tasks.definition import harness
from prunescope.pipelines.evaluation.tasks.lm_eval_model import VariantLM
from prunescope.pipelines.evaluation.tasks.loading import load_tasks, quiet
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.benchmarks.measuring import decoder_of
from tests.pipelines.evaluation.traces.float64_reference import Llama64

TASKS = (
    TaskSpec(name="arc_challenge"),
    TaskSpec(name="openbookqa"),
    TaskSpec(name="boolq"),
    TaskSpec(name="gsm8k", max_new_tokens=96),
    TaskSpec(name="humaneval", max_new_tokens=96),
    TaskSpec(name="wikitext2", context=512),
)
BATCH = 4


class Key(NamedTuple):
    """A sample with one way of scoring."""

    task: str
    sample: str
    scoring: str


# Log-likelihoods of a sample's options or of its text, or the text that was written.
Said = dict[Key, list[float] | str]


class Gap(NamedTuple):
    """Difference of the two sides in one option or in one scored text."""

    nats: float
    relative: float
    key: Key
    option: int


class Exact(HFLM):  # type: ignore[misc] # lm-eval has no types
    """Log-likelihoods by the model in float64; one pass a text, shared only by equal texts in a row."""

    def __init__(self, folder: Path) -> None:
        super().__init__(pretrained=str(folder), device="cpu", dtype="float32", batch_size=BATCH)
        self._exact = Llama64.load(folder)
        self._fed: list[int] = []
        self._log_p = torch.empty(0)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: object) -> list[tuple[float, bool]]:
        found = []
        for _, before, after in requests:
            fed = [*before, *after][-(self.max_length + 1) : -1]
            if fed != self._fed:
                self._fed, self._log_p = fed, self._read(fed)
            log_p = self._log_p[-len(after) :]
            own = log_p.gather(1, torch.tensor(after)[:, None])
            found.append((float(own.sum()), bool((log_p.argmax(1) == torch.tensor(after)).all())))
        return found

    def _read(self, tokens: list[int]) -> torch.Tensor:
        model = self._exact
        *_, (_, last) = model.streams(tokens).values()
        return (model.norm(last, "model.norm.weight") @ model.head.T).log_softmax(-1)


def of_harness(folder: Path, batch: int = BATCH) -> HFLM:
    """Return lm-eval's own model; in float32 its softmax alone has errors of 1e-4 nats, for 20 tokens and 32 nats."""
    with quiet():
        return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch, softmax_dtype="float64")


def answers(model: HFLM, spec: TaskSpec, sample: str | None = None) -> Said:
    """Return the results of a model on a task in all its ways of scoring, for all samples or one."""
    named = {f"{loaded.name} by {loaded.scoring}": loaded for loaded in load_tasks([spec])}
    model._max_length = spec.context
    for loaded in named.values():
        loaded.task.set_fewshot_seed(spec.seed)
    asked = {"tasks": {name: loaded.task for name, loaded in named.items()}, "groups": {}}
    only = None if sample is None else {name: [int(sample)] for name in named}
    with quiet():
        result: Any = evaluate(
            model, asked, limit=None if only else spec.samples, samples=only, bootstrap_iters=0, log_samples=True
        )
    found: Said = {}
    for name, loaded in named.items():
        for each in result["samples"][name]:
            said = [value[0] if isinstance(value, tuple) else value for value in each["filtered_resps"]]
            if loaded.scoring == "greedy":
                (said,) = each["resps"][0]
            found[Key(loaded.name, str(each["doc_id"]), loaded.scoring)] = said
    return found


def gaps(one: Said, other: Said) -> list[Gap]:
    """Return the gap of every option and every scored text."""
    return [
        Gap(abs(float(a) - b), abs(float(a) - b) / abs(b), key, option)
        for key, values in other.items()
        if not isinstance(values, str)
        for option, (a, b) in enumerate(zip(one[key], values, strict=True))
    ]


def off(gap: Gap, exact: HFLM, spec: TaskSpec, sides: dict[str, Said]) -> dict[str, Any]:
    """Return a gap and the distance of each side from float64 there."""
    truth = answers(exact, spec, gap.key.sample)[gap.key][gap.option]
    return {
        "nats": gap.nats,
        "relative": gap.relative,
        "sample": gap.key.sample,
        "scoring": gap.key.scoring,
        "option": gap.option,
        "log_likelihood": truth,
        **{
            f"{name}_from_float64": abs(float(said[gap.key][gap.option]) - float(truth)) for name, said in sides.items()
        },
    }


def compared(spec: TaskSpec, ours: HFLM, theirs: HFLM, exact: HFLM | None) -> dict[str, Any]:
    """Compare both sides on one task; a task that is scored needs `exact`."""
    # With a batch of several texts lm-eval pads them, and writes each on until all have ended.
    theirs.batch_size_per_gpu = BATCH if spec.max_new_tokens is None else 1
    start = time.perf_counter()
    mine = answers(ours, spec)
    between = time.perf_counter()
    other = answers(theirs, spec)
    texts = [key for key, said in other.items() if isinstance(said, str)]
    by_scoring: dict[str, list[Gap]] = defaultdict(list)
    for gap in gaps(mine, other):
        by_scoring[gap.key.scoring].append(gap)
    result: dict[str, Any] = {"task": spec.name}
    for scoring, found in by_scoring.items():
        assert exact is not None
        result[scoring] = {
            "samples": len({gap.key.sample for gap in found}),
            "log_likelihoods": len(found),
            "most_apart": off(max(found), exact, spec, {"ours": mine, "lm_eval": other}),
        }
    if texts:
        result["texts"] = len(texts)
        result["another_text"] = [key.sample for key in texts if mine[key] != other[key]]
    return result | {
        "seconds_ours": round(between - start, 1),
        "seconds_lm_eval": round(time.perf_counter() - between, 1),
        "harness": harness(),
    }


def main() -> None:
    """Compare the named tasks, or all."""
    parser = argparse.ArgumentParser(description="Log-likelihoods and texts through our adapter beside lm-eval's own.")
    known = {spec.name: spec for spec in TASKS}
    parser.add_argument("tasks", nargs="*", choices=[[], *known], metavar="TASK", help=", ".join(known))
    parser.add_argument("--samples", type=int, help="only the first so many of each")
    parser.add_argument("--new", type=int, default=96, help="tokens of a written text")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    chosen = [known[name].model_copy(update={"samples": asked.samples}) for name in asked.tasks or known]
    chosen = [spec.model_copy(update={"max_new_tokens": spec.max_new_tokens and asked.new}) for spec in chosen]
    decoder = decoder_of(asked.model, asked.threads)
    is_scored = any(spec.max_new_tokens is None for spec in chosen)
    with quiet():
        exact = Exact(decoder.folder) if is_scored else None
    ours, theirs = VariantLM(decoder), of_harness(decoder.folder)
    for spec in chosen:
        sys.stdout.write(json.dumps(compared(spec, ours, theirs, exact)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Rows of `task_scores` and `task_samples`, made of what lm-eval's evaluator logged.

Nothing is asked here; who asks is `score.py`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prunescope.pipelines.evaluation.tasks.batched_generation import Generation
from prunescope.pipelines.evaluation.tasks.definition import harness
from prunescope.pipelines.evaluation.tasks.lm_eval_model import written_key
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict
from prunescope.pipelines.metrics.text_metrics import collapse_step

_Types = dict[str, pl.DataType | type[pl.DataType]]
_SCORE_TYPES: _Types = {
    **dict.fromkeys(("model", "recipe", "task", "task_group", "metric", "kind"), pl.String),
    **dict.fromkeys(("value", "standard_error"), pl.Float64),
    "n": pl.Int64,
    "is_higher_better": pl.Boolean,
    "shots": pl.Int32,
    "fewshot_seed": pl.Int64,
    **dict.fromkeys(("task_version", "harness", "task_hash"), pl.String),
}
_SAMPLE_TYPES: _Types = {
    **dict.fromkeys(("model", "recipe", "task", "sample_id", "sample_hash", "scoring", "question"), pl.String),
    "options": pl.List(pl.String),
    **dict.fromkeys(("target", "answer"), pl.String),
    "is_correct": pl.Boolean,
    "answer_lenient": pl.String,
    **dict.fromkeys(("is_correct_lenient", "is_answer_same"), pl.Boolean),
    **dict.fromkeys(("option_log_likelihoods", "option_log_likelihoods_per_byte"), pl.List(pl.Float32)),
    "target_index": pl.Int32,
    "text": pl.String,
    "tokens_generated": pl.Int32,
    "ended": pl.Boolean,
    "collapse_step": pl.Int32,
    **dict.fromkeys(("distinct_2", "repeat_rate"), pl.Float32),
    "verdict": pl.String,
}
SCORE_SCHEMA, SAMPLE_SCHEMA = pl.Schema(_SCORE_TYPES), pl.Schema(_SAMPLE_TYPES)
_KINDS = {"letter": "non_generative", "full_text": "non_generative", "greedy": "generative", "rolling": "perplexity"}
# Our names of lm-eval's metrics, by scoring; what is not here keeps its name behind a prefix.
_METRICS = {
    "letter": {"acc": "accuracy_letter"},
    "full_text": {"acc": "accuracy", "acc_bytes": "accuracy_per_byte"},
    "greedy": {"exact_match": "exact_match", "f1": "f1"},
    "rolling": {"word_perplexity": "word_perplexity", "byte_perplexity": "byte_perplexity"},
}
_OTHER = "lm_eval/"
# Derived from byte_perplexity.
_LEFT_OUT = {"bits_per_byte"}
# What lm-eval's filters write where they find no answer.
_NO_ANSWER = {"", "[invalid]"}
# How much of a text stands for it.
_BEGINNING = 200
Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What lm-eval found of a task.

    Attributes:
        results: aggregates by `metric,filter`.
        samples: as it logs them, once a filter.
        written: answers by context and arguments.
        tokens: of each text that was read.
        verdicts: on the programs that were written, by sample; empty where they did not run.
    """

    results: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    written: Mapping[tuple[str, str], Generation]
    tokens: Sequence[int]
    verdicts: Mapping[int, ExecutionVerdict]


def facts(loaded: LoadedTask, answered: Answered) -> Row:
    """What all rows of a task say alike in `task_scores`, whatever the metric; known where nothing was judged too."""
    return {
        "task": loaded.name,
        "task_group": loaded.group,
        "kind": _KINDS[loaded.scoring],
        "shots": loaded.shots,
        "fewshot_seed": loaded.spec.seed if loaded.draws else None,
        "task_version": loaded.version,
        "harness": harness(),
        "task_hash": _task_hash(loaded, answered),
    }


def score_rows(loaded: LoadedTask, answered: Answered) -> Iterator[Row]:
    """Every metric that lm-eval aggregated."""
    about = facts(loaded, answered)
    filters = list(dict.fromkeys(str(sample["filter"]) for sample in answered.samples))
    for key, value in answered.results.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or metric in _LEFT_OUT:
            continue
        own = [sample[metric] for sample in answered.samples if sample["filter"] == chosen]
        error, n = _standard_error(metric, own, float(value))
        yield about | {
            "metric": _metric_name(loaded, metric, chosen, filters),
            "value": float(value),
            "standard_error": error,
            "n": n,
            "is_higher_better": bool(loaded.task.higher_is_better().get(metric, True)),
        }
    judged = [float(each.outcome == "passed") for each in answered.verdicts.values() if each.outcome != "refused"]
    if judged:
        value = sum(judged) / len(judged)
        error, n = _standard_error("pass_at_1", judged, value)
        yield about | {
            "metric": "pass_at_1",
            "value": value,
            "standard_error": error,
            "n": n,
            "is_higher_better": True,
        }
    if loaded.scoring == "rolling":
        totals = [float(sample["resps"][0][0]) for sample in answered.samples]
        value = math.exp(-sum(totals) / sum(answered.tokens))
        error, n = _standard_error("token_perplexity", list(zip(totals, answered.tokens, strict=True)), value)
        yield about | {
            "metric": "token_perplexity",
            "value": value,
            "standard_error": error,
            "n": n,
            "is_higher_better": False,
        }


def _metric_name(loaded: LoadedTask, metric: str, chosen: str, filters: Sequence[str]) -> str:
    if loaded.task.OUTPUT_TYPE == "loglikelihood" or metric not in _METRICS[loaded.scoring]:
        return _OTHER + (metric if len(filters) == 1 else f"{metric},{chosen}")
    name = _METRICS[loaded.scoring][metric]
    strict, lenient = _strict_and_lenient(filters)
    if chosen == strict:
        return name
    return f"{name}_lenient" if chosen == lenient and name == "exact_match" else f"{_OTHER}{metric},{chosen}"


def _strict_and_lenient(filters: Sequence[str]) -> tuple[str, str]:
    """Which of lm-eval's filters finds answers strictly and which leniently; the same one where there is but one."""
    strict = next((name for name in filters if "strict" in name), filters[0])
    lenient = next((name for name in filters if "flexible" in name or "lenient" in name), strict)
    return strict, lenient


def _standard_error(metric: str, own: Sequence[Any], value: float) -> tuple[float | None, int]:
    """Of a mean over samples, or of a perplexity over texts (delta method); and what was averaged over.

    A perplexity exp(−Σ l/Σ w) of texts with log-likelihoods l and sizes w has the error of its ratio times itself.
    """
    if metric.endswith("perplexity") and all(isinstance(each, (tuple, list)) for each in own):
        likelihoods, sizes = (np.array(side, dtype=np.float64) for side in zip(*own, strict=True))
        total, count = float(sizes.sum()), len(own)
        if count < 2:
            return None, round(total)
        left = likelihoods - sizes * likelihoods.sum() / total
        return value * math.sqrt(count / (count - 1) * float(left @ left)) / total, round(total)
    if len(own) < 2 or not all(isinstance(each, (bool, int, float, np.number)) for each in own):
        return None, len(own)
    values = np.array(own, dtype=np.float64)
    mean = float(values.mean())
    return (float(values.std(ddof=1)) / math.sqrt(len(own)) if math.isclose(mean, value) else None), len(own)


def _task_hash(loaded: LoadedTask, answered: Answered) -> str:
    """Of everything that was asked, the right answers and the metrics."""
    asked = [(_sample_hash(loaded, sample), str(sample["target"])) for sample in answered.samples]
    return _hashed([loaded.scoring, sorted(answered.results), asked])


# -- samples ----------------------------------------------------------------------------------------------------------


def sample_rows(loaded: LoadedTask, answered: Answered) -> Iterator[Row]:
    """Every sample, once however many filters judged it."""
    rows = {"rolling": _read_row, "greedy": _written_row}.get(loaded.scoring, _chosen_row)
    by_sample: dict[int, list[Mapping[str, Any]]] = {}
    for sample in answered.samples:
        by_sample.setdefault(int(sample["doc_id"]), []).append(sample)
    for number, same in by_sample.items():
        yield {
            "task": loaded.name,
            "sample_id": str(number),
            "sample_hash": _sample_hash(loaded, same[0]),
            "scoring": loaded.scoring,
        } | rows(loaded, same, answered)


def _chosen_row(loaded: LoadedTask, same: Sequence[Mapping[str, Any]], answered: Answered) -> Row:  # noqa: ARG001
    """The likeliest of the options."""
    (sample,) = same
    task, doc = loaded.task, sample["doc"]
    target = sample["target"]
    place: int | None = 0
    if task.OUTPUT_TYPE == "loglikelihood":
        options, question = [str(target)], task.doc_to_text(doc)
    else:
        options = [str(option) for option in task.doc_to_choice(doc)]
        right = task.doc_to_text(doc) if task.multiple_input else target
        question = sample["arguments"][0][0] if task.multiple_input else task.doc_to_text(doc)
        place = _place(right, options)
    # Behind the options' own likelihoods may stand those without the question.
    own = [float(response[0]) for response in sample["filtered_resps"][: len(options)]]
    sizes = [max(1, len(option.encode())) for option in options]
    best = int(np.argmax(own))
    is_correct = sample.get("acc", best == place)
    return {
        "question": str(question),
        "options": options,
        "target": None if place is None else options[place],
        "answer": options[best],
        "is_correct": None if is_correct is None or place is None else bool(is_correct),
        "option_log_likelihoods": own,
        "option_log_likelihoods_per_byte": [value / size for value, size in zip(own, sizes, strict=True)],
        "target_index": place,
    }


def _place(right: Any, options: Sequence[str]) -> int | None:  # noqa: ANN401 (as the task gives it)
    """Place of the right option; of several right ones the first."""
    first = right[0] if isinstance(right, list) and right else right
    if isinstance(first, int):
        return first if 0 <= first < len(options) else None
    return options.index(first) if first in options else None


def _read_row(loaded: LoadedTask, same: Sequence[Mapping[str, Any]], answered: Answered) -> Row:  # noqa: ARG001
    """A text that was read."""
    (sample,) = same
    (text,) = sample["arguments"][0]
    total = float(sample["filtered_resps"][0])
    return {
        "question": text.strip()[:_BEGINNING],
        "option_log_likelihoods": [total],
        "option_log_likelihoods_per_byte": [total / max(1, len(text.encode()))],
        "target_index": 0,
    }


def _written_row(loaded: LoadedTask, same: Sequence[Mapping[str, Any]], answered: Answered) -> Row:
    """A text that was written, and the answers found in it."""
    by_filter = {str(sample["filter"]): sample for sample in same}
    strict, lenient = (by_filter[name] for name in _strict_and_lenient(list(by_filter)))
    written = answered.written[written_key(strict["arguments"][0])]
    target = strict["target"]
    judged = {
        "answer": _found(strict),
        "is_correct": _is_right(strict),
        "answer_lenient": _found(lenient),
        "is_correct_lenient": _is_right(lenient),
    }
    if loaded.runs_code:
        judged = _judged(written.text, answered.verdicts.get(int(strict["doc_id"])))
    return judged | {
        "question": str(loaded.task.doc_to_text(strict["doc"])),
        "target": None if target is None else str(target[0] if isinstance(target, list) and target else target),
        "text": written.text,
        "tokens_generated": len(written.tokens),
        "ended": written.ended,
        "collapse_step": collapse_step(written.tokens[: written.kept]),
        "distinct_2": written.distinct_2,
        "repeat_rate": written.repeat_rate,
    }


def _judged(program: str, verdict: ExecutionVerdict | None) -> Row:
    """A program as the answer, right where its tests passed; nobody knows where it did not run."""
    outcome = "not_run" if verdict is None else verdict.outcome
    is_right = None if outcome in {"not_run", "refused"} else outcome == "passed"
    return {
        "answer": program,
        "is_correct": is_right,
        "answer_lenient": program,
        "is_correct_lenient": is_right,
        "verdict": outcome,
    }


def _found(sample: Mapping[str, Any]) -> str | None:
    found = sample["filtered_resps"][0]
    answer = str(found[0] if isinstance(found, list) and found else found).strip()
    return None if answer in _NO_ANSWER else answer


def _is_right(sample: Mapping[str, Any]) -> bool | None:
    return bool(sample["exact_match"]) if "exact_match" in sample else None


def texts_of(loaded: LoadedTask, samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts that were read; none of a task that asks."""
    return [sample["arguments"][0][0] for sample in samples] if loaded.scoring == "rolling" else []


def _sample_hash(loaded: LoadedTask, sample: Mapping[str, Any]) -> str:
    """Of the prompts with everything behind them."""
    return _hashed([loaded.scoring, [list(arguments) for arguments in sample["arguments"]]])


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

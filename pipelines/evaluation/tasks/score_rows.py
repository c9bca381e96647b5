"""Rows of `task_scores` and `task_samples` from the output of lm-eval's evaluator."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prunescope.pipelines.evaluation.tasks.batched_generation import Generation
from prunescope.pipelines.evaluation.tasks.definition import harness
from prunescope.pipelines.evaluation.tasks.lm_eval_model import hashed, sample_hash
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict
from prunescope.pipelines.metrics.text_metrics import collapse_step, distinct_n, repeat_rate

SCORE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "task_group", "metric", "kind"), pl.String),
    **dict.fromkeys(("value", "standard_error"), pl.Float64),
    "n": pl.Int64,
    "is_higher_better": pl.Boolean,
    "shots": pl.Int32,
    "fewshot_seed": pl.Int64,
    **dict.fromkeys(("task_version", "harness", "task_hash"), pl.String),
}
SAMPLE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "sample_id", "sample_hash", "scoring", "question"), pl.String),
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
    "token_ids": pl.List(pl.Int32),
    "first_flip_step": pl.Int32,
    **dict.fromkeys(("text_fork", "answer_fork"), pl.String),
    "is_correct_fork": pl.Boolean,
    "answer_lenient_fork": pl.String,
    "is_correct_lenient_fork": pl.Boolean,
}
_KINDS = {"letter": "non_generative", "full_text": "non_generative", "greedy": "generative", "rolling": "perplexity"}
# Our names of lm-eval's metrics, by scoring. All other metrics keep their name after a prefix.
_METRICS = {
    "letter": {"acc": "accuracy_letter"},
    # lm-eval's acc_norm counts characters, which are bytes if the options are ASCII.
    "full_text": {"acc": "accuracy", "acc_bytes": "accuracy_per_byte", "acc_norm": "accuracy_per_byte"},
    "greedy": {"exact_match": "exact_match", "f1": "f1"},
    "rolling": {"word_perplexity": "word_perplexity", "byte_perplexity": "byte_perplexity"},
}
_OTHER = "lm_eval/"
# A function of byte_perplexity.
_LEFT_OUT = {"bits_per_byte"}
# Output of lm-eval's filters that do not find an answer.
_NO_ANSWER = {"", "[invalid]"}
# Number of characters of a text that are stored as its question.
_EXCERPT_LENGTH = 200
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskOutput:
    """Output of lm-eval's evaluator for one task.

    Attributes:
        results: aggregates by `metric,filter`.
        samples: lm-eval's log, one entry per sample and filter.
        written: generations by `sample_hash`.
        tokens: number of tokens per text of a rolling task; empty for other tasks.
        verdicts: verdicts of the generated programs, by sample; empty if they did not run.
    """

    results: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    written: Mapping[str, Generation]
    tokens: Sequence[int]
    verdicts: Mapping[int, ExecutionVerdict]


def score_rows(loaded: LoadedTask, output: TaskOutput, *, is_compared: bool) -> Iterator[Row]:
    """Yield one row per metric that lm-eval aggregated, and rows for pass@1 and token perplexity.

    If the answers are compared with the dense model's, yield a row for that agreement, still without its value.
    """
    samples = [(sample_hash(sample["arguments"], loaded.scoring), str(sample["target"])) for sample in output.samples]
    columns = {
        "task": loaded.name,
        "task_group": loaded.group,
        "kind": _KINDS[loaded.scoring],
        "shots": loaded.shots,
        "fewshot_seed": loaded.spec.seed if loaded.draws else None,
        "task_version": loaded.version,
        "harness": harness(),
        "task_hash": hashed([loaded.scoring, sorted(output.results), samples]),
    }
    if is_compared:
        yield columns | {"metric": "agreement", "is_higher_better": True}

    def row(name: str, metric: str, values: Sequence[Any], value: float, is_higher_better: bool) -> Row:
        error, n = _standard_error(metric, values, value)
        scores = {"metric": name, "value": value, "standard_error": error, "n": n}
        return columns | scores | {"is_higher_better": is_higher_better}

    filters = list(dict.fromkeys(str(sample["filter"]) for sample in output.samples))
    for key, value in output.results.items():
        metric, _, by = key.partition(",")
        if not by or metric.endswith("_stderr") or metric in _LEFT_OUT:
            continue
        if metric == "acc_norm" and (loaded.scoring == "letter" or f"acc_bytes,{by}" in output.results):
            continue  # letters all have one length, and acc_bytes is the same quantity
        values = [sample[metric] for sample in output.samples if sample["filter"] == by]
        is_higher_better = bool(loaded.task.higher_is_better().get(metric, True))
        yield row(_metric_name(loaded, metric, by, filters), metric, values, float(value), is_higher_better)
    passed = [float(each.outcome == "passed") for each in output.verdicts.values() if each.outcome != "refused"]
    if passed:
        yield row("pass_at_1", "pass_at_1", passed, sum(passed) / len(passed), True)
    if loaded.scoring == "rolling":
        totals = [float(sample["resps"][0][0]) for sample in output.samples]
        sizes = list(zip(totals, output.tokens, strict=True))
        value = math.exp(-sum(totals) / sum(output.tokens))
        yield row("token_perplexity", "token_perplexity", sizes, value, False)


def _metric_name(loaded: LoadedTask, metric: str, by: str, filters: Sequence[str]) -> str:
    if loaded.task.OUTPUT_TYPE == "loglikelihood" or metric not in _METRICS[loaded.scoring]:
        return _OTHER + (metric if len(filters) == 1 else f"{metric},{by}")
    name = _METRICS[loaded.scoring][metric]
    strict, lenient = _strict_and_lenient(filters)
    if by == strict:
        return name
    return f"{name}_lenient" if by == lenient and name == "exact_match" else f"{_OTHER}{metric},{by}"


def _strict_and_lenient(filters: Sequence[str]) -> tuple[str, str]:
    """Return the names of lm-eval's strict and lenient filter; the same name twice if there is only one."""
    strict = next((name for name in filters if "strict" in name), filters[0])
    lenient = next((name for name in filters if "flexible" in name or "lenient" in name), strict)
    return strict, lenient


def _standard_error(metric: str, samples: Sequence[Any], value: float) -> tuple[float | None, int]:
    """Return the standard error of a mean or of a perplexity (delta method), and the number of averaged items.

    A perplexity exp(−Σ l/Σ w) of texts with log-likelihoods l and sizes w has the error of the ratio times the
    perplexity. The error is None for fewer than two samples, or if the aggregate is not the mean of the samples.
    """
    if metric.endswith("perplexity") and all(isinstance(sample, (tuple, list)) for sample in samples):
        likelihoods, sizes = (np.array(side, dtype=np.float64) for side in zip(*samples, strict=True))
        total, count = float(sizes.sum()), len(samples)
        if count < 2:
            return None, round(total)
        residuals = likelihoods - sizes * likelihoods.sum() / total
        return value * math.sqrt(count / (count - 1) * float(residuals @ residuals)) / total, round(total)
    if len(samples) < 2 or not all(isinstance(sample, (bool, int, float, np.number)) for sample in samples):
        return None, len(samples)
    values = np.array(samples, dtype=np.float64)
    mean = float(values.mean())
    return (float(values.std(ddof=1)) / math.sqrt(len(samples)) if math.isclose(mean, value) else None), len(samples)


def sample_rows(loaded: LoadedTask, output: TaskOutput) -> Iterator[Row]:
    """Yield one row per sample, even if several filters read its answer."""
    by_sample: dict[int, list[Mapping[str, Any]]] = {}
    for sample in output.samples:
        by_sample.setdefault(int(sample["doc_id"]), []).append(sample)
    for number, entries in by_sample.items():
        if loaded.scoring == "greedy":
            columns = _generation_row(loaded, entries, output)
        else:
            (entry,) = entries
            columns = _text_row(entry) if loaded.scoring == "rolling" else _choice_row(loaded, entry)
        yield {
            "task": loaded.name,
            "sample_id": str(number),
            "sample_hash": sample_hash(entries[0]["arguments"], loaded.scoring),
            "scoring": loaded.scoring,
        } | columns


def _choice_row(loaded: LoadedTask, sample: Mapping[str, Any]) -> Row:
    task, doc = loaded.task, sample["doc"]
    options, target_index = options_of(loaded, doc)
    question = sample["arguments"][0][0] if task.multiple_input else task.doc_to_text(doc)
    # The likelihoods of the options may be followed by those without the question.
    likelihoods = [float(response[0]) for response in sample["filtered_resps"][: len(options)]]
    sizes = [max(1, len(option.encode())) for option in options]
    best = int(np.argmax(likelihoods))
    is_correct = sample.get("acc", best == target_index)
    return {
        "question": str(question),
        "options": options,
        "target": None if target_index is None else options[target_index],
        "answer": options[best],
        "is_correct": None if is_correct is None or target_index is None else bool(is_correct),
        "option_log_likelihoods": likelihoods,
        "option_log_likelihoods_per_byte": [value / size for value, size in zip(likelihoods, sizes, strict=True)],
        "target_index": target_index,
    }


def options_of(loaded: LoadedTask, doc: Mapping[str, Any]) -> tuple[list[str], int | None]:
    """Return the compared texts of a sample and the index of the first right one; None if none is right."""
    task, target = loaded.task, loaded.task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "loglikelihood":
        return [str(target)], 0
    options = [str(option) for option in task.doc_to_choice(doc)]
    right = task.doc_to_text(doc) if task.multiple_input else target
    first = right[0] if isinstance(right, list) and right else right
    if isinstance(first, int):
        return options, first if 0 <= first < len(options) else None
    return options, options.index(first) if first in options else None


def _text_row(sample: Mapping[str, Any]) -> Row:
    (text,) = sample["arguments"][0]
    total = float(sample["filtered_resps"][0])
    return {
        "question": text.strip()[:_EXCERPT_LENGTH],
        "option_log_likelihoods": [total],
        "option_log_likelihoods_per_byte": [total / max(1, len(text.encode()))],
        "target_index": 0,
    }


def _generation_row(loaded: LoadedTask, entries: Sequence[Mapping[str, Any]], output: TaskOutput) -> Row:
    by_filter = {str(sample["filter"]): sample for sample in entries}
    strict, lenient = (by_filter[name] for name in _strict_and_lenient(list(by_filter)))
    written = output.written[sample_hash(strict["arguments"])]
    target, text_tokens = strict["target"], written.tokens[: written.kept]
    if loaded.runs_code:
        answers = _program_columns(written.text, output.verdicts.get(int(strict["doc_id"])))
    else:
        answers = {
            "answer": _extracted(strict),
            "is_correct": _is_right(strict),
            "answer_lenient": _extracted(lenient),
            "is_correct_lenient": _is_right(lenient),
        }
    return answers | {
        "question": str(loaded.task.doc_to_text(strict["doc"])),
        "target": None if target is None else str(target[0] if isinstance(target, list) and target else target),
        "text": written.text,
        "tokens_generated": len(written.tokens),
        "ended": written.ended,
        "collapse_step": collapse_step(text_tokens),
        "distinct_2": distinct_n(text_tokens, 2),
        "repeat_rate": repeat_rate(text_tokens),
        "token_ids": list(written.tokens),
    }


def _program_columns(program: str, verdict: ExecutionVerdict | None) -> Row:
    """Return the answer columns of a program: right if its tests passed, null if it did not run."""
    outcome = "not_run" if verdict is None else verdict.outcome
    is_right = None if outcome in {"not_run", "refused"} else outcome == "passed"
    return {
        "answer": program,
        "is_correct": is_right,
        "answer_lenient": program,
        "is_correct_lenient": is_right,
        "verdict": outcome,
    }


def _extracted(sample: Mapping[str, Any]) -> str | None:
    response = sample["filtered_resps"][0]
    answer = str(response[0] if isinstance(response, list) and response else response).strip()
    return None if answer in _NO_ANSWER else answer


def _is_right(sample: Mapping[str, Any]) -> bool | None:
    return bool(sample["exact_match"]) if "exact_match" in sample else None

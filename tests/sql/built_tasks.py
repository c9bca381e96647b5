"""Rows of tasks, retrieval, speed, published numbers and masks written by hand, for `warehouse_builder`.

Further arguments of a function are columns of its table.
"""

from collections.abc import Sequence

import numpy as np

from tests.sql.warehouse_builder import Handmade, Row


def task_score(
    warehouse: Handmade, recipe: str, task: str, value: float, *, kind: str = "non_generative", **given: object
) -> None:
    """Add a row of `task_scores`; shares from 0 to 1, perplexities from 1. `group` is its `task_group`."""
    row: Row = {"metric": "accuracy", "standard_error": 0.05, "n": 100, "shots": 0, "fewshot_seed": None}
    row |= {"is_higher_better": kind != "perplexity", "task_version": "1", "harness": "by hand"}
    row |= {"task_group": given.pop("group", None), "task_hash": f"hash of {task}"}
    warehouse.add("task_scores", recipe=recipe, task=task, value=value, kind=kind, **(row | given))


def imported_score(warehouse: Handmade, recipe: str, task: str, value: float, **given: object) -> None:
    """Add a row of `imported_scores`; shares from 0 to 1, perplexities from 1."""
    row: Row = {"metric": "accuracy", "standard_error": 0.05, "n": 100, "is_group": False, "shots": 0, "filter": "none"}
    row |= {"source_hash": "hash of a file", "is_higher_better": True, "task_version": "1", "harness": "lm_eval 0"}
    row |= {"harness_metric": given.get("metric", "accuracy"), "source_file": "results.json"}
    warehouse.add("imported_scores", recipe=recipe, task=task, value=value, **(row | given))


def task_sample(
    warehouse: Handmade,
    recipe: str,
    task: str,
    sample: str,
    *,
    is_correct: bool | None = True,
    scoring: str = "greedy",
    log_likelihoods: Sequence[float] = (-1.0, -2.0),
    per_byte: Sequence[float] | None = None,
    target: int = 0,
    **given: object,
) -> None:
    """Add a row of `task_samples`: of an option's likelihood under letter and full_text, of a text under greedy.

    With options the answer and its correctness follow from the log-likelihoods, and `is_correct` is ignored.
    """
    row: Row = {"sample_id": sample, "sample_hash": f"hash of {sample}", "question": f"question {sample}"}
    fork = (f"{name}_fork" for name in ("text", "answer", "is_correct", "answer_lenient", "is_correct_lenient"))
    row |= dict.fromkeys((*fork, "is_answer_same", "collapse_step", "verdict", "first_flip_step"))
    written = {"text": "so it is 12", "tokens_generated": 8, "ended": True, "distinct_2": 1.0, "repeat_rate": 0.0}
    written |= {"token_ids": [1] * 8, "answer_lenient": "12" if is_correct else "13", "is_correct_lenient": is_correct}
    chosen = ("options", "option_log_likelihoods", "option_log_likelihoods_per_byte", "target_index")
    if scoring == "greedy":
        row |= written | dict.fromkeys(chosen)
        row |= {"target": None if is_correct is None else "12", "answer": written["answer_lenient"]}
        row |= {"is_correct": is_correct}
    else:
        labels = [chr(ord("A") + index) for index in range(len(log_likelihoods))]
        best = max(range(len(labels)), key=log_likelihoods.__getitem__)
        # Letters are the same in every question, texts are not.
        options = labels if scoring == "letter" else [*labels[:-1], f"{labels[-1]} of {sample}"]
        values = (options, list(log_likelihoods), list(per_byte or log_likelihoods), target)
        row |= dict.fromkeys(written) | dict(zip(chosen, values, strict=True))
        row |= {"target": labels[target], "answer": labels[best], "is_correct": best == target}
    warehouse.add("task_samples", recipe=recipe, task=task, scoring=scoring, **(row | given))


def retrieval_score(warehouse: Handmade, recipe: str, data_set: str, value: float, **given: object) -> None:
    """Add a row of `retrieval_scores`."""
    row: Row = {"metric": "ndcg_at_10", "standard_error": 0.02, "n": 50, "data_hash": f"hash of {data_set}"}
    warehouse.add("retrieval_scores", recipe=recipe, data_set=data_set, value=value, **(row | given))


def retrieval_query(warehouse: Handmade, recipe: str, data_set: str, query: str, value: float) -> None:
    """Add a row of `retrieval_queries`."""
    row: Row = {"query_id": query, "metric": "ndcg_at_10", "value": value, "data_hash": f"hash of {data_set}"}
    warehouse.add("retrieval_queries", recipe=recipe, data_set=data_set, **row)


def speed(warehouse: Handmade, recipe: str, *, ratio: float = 1.0, **given: object) -> None:
    """Add a row of `speed`: `ratio` times as fast as the dense model, at 1000 tokens read and 50 written a second."""
    row: Row = {"batch": 1, "length": 128, "new_tokens": 32, "repeats": 5, "sublayers_skipped": 0}
    row |= {"machine": "a processor, 2 threads", "peak_memory_bytes": round(4000 / ratio)}
    row |= {"seconds_to_first_token": 0.1 / ratio, "seconds_to_first_token_dense": 0.1}
    row |= {"peak_memory_bytes_dense": 4000}
    for name, value in (("prefill", 1000.0), ("decode", 50.0)):
        row |= {f"{name}_tokens_per_second": ratio * value, f"{name}_tokens_per_second_dense": value}
    warehouse.add("speed", recipe=recipe, **(row | given))


def paper_reference(warehouse: Handmade, method: str, task: str, value: float, **given: object) -> None:
    """Add a row of `paper_reference`; percents as shares."""
    row: Row = {"dropped": 0, "metric": "accuracy", "layer": -1, "source": "2603.24652 Figure 1"}
    warehouse.add("paper_reference", method=method, task=task, value=value, **(row | given))


def mask_sample(warehouse: Handmade, recipe: str, kept: Sequence[bool], **given: object) -> None:
    """Add a row of `mask_samples` for a matrix of as many weights as there are bits, at most 16,384."""
    row: Row = {"layer": 0, "sublayer": "attn", "module": "layers.0.attn.q", "weights": len(kept), "sampled": len(kept)}
    bits = np.packbits(np.array(kept, dtype=bool)).tobytes()
    warehouse.add("mask_samples", recipe=recipe, kept_bits=bits, **(row | given))

"""Rows of tasks, retrieval, speed, published numbers and masks written by hand, for `warehouse_builder`."""

from collections.abc import Sequence

import numpy as np

from tests.sql.warehouse_builder import MODEL, Handmade


def task_score(
    warehouse: Handmade,
    recipe: str,
    task: str,
    value: float,
    *,
    metric: str = "accuracy",
    standard_error: float | None = 0.05,
    n: int = 100,
    kind: str = "non_generative",
    shots: int = 0,
    group: str | None = None,
    model: str = MODEL,
) -> None:
    """Add a row of `task_scores`; shares from 0 to 1, perplexities from 1."""
    warehouse.add(
        "task_scores",
        model=model,
        recipe=recipe,
        task=task,
        task_group=group,
        metric=metric,
        kind=kind,
        value=value,
        standard_error=standard_error,
        n=n,
        is_higher_better=kind != "perplexity",
        shots=shots,
        fewshot_seed=None,
        task_version="1",
        harness="by hand",
        task_hash=f"hash of {task}",
    )


def imported_score(
    warehouse: Handmade,
    recipe: str,
    task: str,
    value: float,
    *,
    metric: str = "accuracy",
    standard_error: float | None = 0.05,
    n: int | None = 100,
    is_group: bool = False,
    model: str = MODEL,
) -> None:
    """Add a row of `imported_scores`; shares from 0 to 1, perplexities from 1."""
    warehouse.add(
        "imported_scores",
        model=model,
        recipe=recipe,
        source_hash="hash of a file",
        task=task,
        is_group=is_group,
        harness_metric=metric,
        filter="none",
        metric=metric,
        value=value,
        standard_error=standard_error,
        n=n,
        shots=0,
        is_higher_better=True,
        task_version="1",
        harness="lm_eval 0",
        source_file="results.json",
    )


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
    model: str = MODEL,
    **given: object,
) -> None:
    """Add a row of `task_samples`: of an option's likelihood under letter and full_text, of a text under greedy.

    With options the answer and its correctness follow from the log-likelihoods, and `is_correct` is ignored.
    """
    labels = [chr(ord("A") + index) for index in range(len(log_likelihoods))]
    best = max(range(len(labels)), key=log_likelihoods.__getitem__)
    is_greedy = scoring == "greedy"
    row: dict[str, object] = {
        "model": model,
        "recipe": recipe,
        "task": task,
        "sample_id": sample,
        "sample_hash": f"hash of {sample}",
        "scoring": scoring,
        "question": f"question {sample}",
        # Letters are the same in every question, texts are not.
        "options": None
        if is_greedy
        else labels
        if scoring == "letter"
        else [*labels[:-1], f"{labels[-1]} of {sample}"],
        "target": (None if is_correct is None else "12") if is_greedy else labels[target],
        "answer": ("12" if is_correct else "13") if is_greedy else labels[best],
        "is_correct": is_correct if is_greedy else best == target,
        "answer_lenient": ("12" if is_correct else "13") if is_greedy else None,
        "is_correct_lenient": is_correct if is_greedy else None,
        "is_answer_same": None,
        "option_log_likelihoods": None if is_greedy else list(log_likelihoods),
        "option_log_likelihoods_per_byte": None if is_greedy else list(per_byte or log_likelihoods),
        "target_index": None if is_greedy else target,
        "text": "so it is 12" if is_greedy else None,
        "tokens_generated": 8 if is_greedy else None,
        "ended": True if is_greedy else None,
        "collapse_step": None,
        "distinct_2": 1.0 if is_greedy else None,
        "repeat_rate": 0.0 if is_greedy else None,
        "verdict": None,
        "token_ids": [1] * 8 if is_greedy else None,
        **dict.fromkeys(("first_flip_step", "text_fork", "answer_fork", "is_correct_fork")),
        **dict.fromkeys(("answer_lenient_fork", "is_correct_lenient_fork")),
    }
    warehouse.add("task_samples", **(row | given))


def retrieval_score(
    warehouse: Handmade,
    recipe: str,
    data_set: str,
    value: float,
    *,
    metric: str = "ndcg_at_10",
    standard_error: float | None = 0.02,
    n: int = 50,
    model: str = MODEL,
) -> None:
    """Add a row of `retrieval_scores`."""
    warehouse.add(
        "retrieval_scores",
        model=model,
        recipe=recipe,
        data_set=data_set,
        metric=metric,
        value=value,
        standard_error=standard_error,
        n=n,
        data_hash=f"hash of {data_set}",
    )


def speed(
    warehouse: Handmade,
    recipe: str,
    *,
    ratio: float = 1.0,
    batch: int = 1,
    length: int = 128,
    model: str = MODEL,
    **given: object,
) -> None:
    """Add a row of `speed`: `ratio` times as fast as the dense model, at 1000 tokens read and 50 written a second."""
    dense = {"prefill_tokens_per_second": 1000.0, "decode_tokens_per_second": 50.0}
    row: dict[str, object] = {
        "model": model,
        "recipe": recipe,
        "batch": batch,
        "length": length,
        "new_tokens": 32,
        "repeats": 5,
        "machine": "a processor, 2 threads",
        "sublayers_skipped": 0,
        **{name: ratio * value for name, value in dense.items()},
        **{f"{name}_dense": value for name, value in dense.items()},
        "seconds_to_first_token": 0.1 / ratio,
        "seconds_to_first_token_dense": 0.1,
        "peak_memory_bytes": round(4000 / ratio),
        "peak_memory_bytes_dense": 4000,
    }
    warehouse.add("speed", **(row | given))


def paper_reference(
    warehouse: Handmade,
    method: str,
    task: str,
    value: float,
    *,
    dropped: int = 0,
    metric: str = "accuracy",
    layer: int = -1,
    source: str = "2603.24652 Figure 1",
    model: str = MODEL,
) -> None:
    """Add a row of `paper_reference`; percents as shares."""
    warehouse.add(
        "paper_reference",
        model=model,
        source=source,
        method=method,
        dropped=dropped,
        task=task,
        metric=metric,
        layer=layer,
        value=value,
    )


def mask_sample(
    warehouse: Handmade,
    recipe: str,
    kept: Sequence[bool],
    *,
    layer: int = 0,
    sublayer: str = "attn",
    module: str = "layers.0.attn.q",
    model: str = MODEL,
) -> None:
    """Add a row of `mask_samples` for a matrix of as many weights as there are bits, at most 16,384."""
    warehouse.add(
        "mask_samples",
        model=model,
        recipe=recipe,
        layer=layer,
        sublayer=sublayer,
        module=module,
        weights=len(kept),
        sampled=len(kept),
        kept_bits=np.packbits(np.array(kept, dtype=bool)).tobytes(),
    )


def retrieval_query(warehouse: Handmade, recipe: str, data_set: str, query: str, value: float) -> None:
    """Add a row of `retrieval_queries`."""
    warehouse.add(
        "retrieval_queries",
        model=MODEL,
        recipe=recipe,
        data_set=data_set,
        query_id=query,
        metric="ndcg_at_10",
        value=value,
        data_hash=f"hash of {data_set}",
    )

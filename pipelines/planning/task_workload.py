"""Sizes of a study's tasks, counted from their requests with a tokenizer; special tokens are not counted."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.batched_generation import MIN_SHARED_PREFIX
from prunescope.pipelines.evaluation.tasks.lm_eval_model import PASS_TOKENS, Request, grouped, token_rows
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, quiet
from prunescope.pipelines.metrics.text_metrics import common_prefix_length
from prunescope.pipelines.planning.workload import TaskSize


def task_sizes(tasks: Sequence[LoadedTask], tokenizer: Any, context_length: int) -> list[TaskSize]:  # noqa: ANN401
    """Count the tokens of the tasks' requests.

    Raises:
        InputError: a task does not fit into the model's context; names the task, its key and the context.
    """
    for loaded in tasks:
        new_tokens, window = _new_tokens(loaded), loaded.spec.context or 0
        if loaded.scoring == "greedy" and new_tokens >= context_length:
            raise InputError(
                f"task {loaded.name}: up to {new_tokens} new tokens leave no room for a question in the model's "
                f"context of {context_length}; set `max_new_tokens` lower"
            )
        if window > context_length:
            raise InputError(f"task {loaded.name}: `context` {window} is over the model's of {context_length} tokens")
    together = groupby(tasks, key=lambda loaded: loaded.spec)
    return [size for _, scorings in together for size in _sizes([*scorings], tokenizer, context_length)]


def _sizes(scorings: Sequence[LoadedTask], tokenizer: Any, context_length: int) -> Iterator[TaskSize]:  # noqa: ANN401
    """Yield the sizes of one task under all its scorings; their options share passes, which count in the first one."""

    def tokens(text: object) -> list[int]:
        ids: list[int] = tokenizer(str(text), add_special_tokens=False, verbose=False).input_ids
        return ids

    for loaded in scorings:
        with quiet():
            loaded.task.set_fewshot_seed(loaded.spec.seed)
            loaded.task.build_all_requests(limit=loaded.spec.samples)
    choosing = [loaded for loaded in scorings if loaded.scoring in {"letter", "full_text"}]
    options: list[Request] = [
        (None, tokens(one.args[0]), tokens(one.args[1])) for loaded in choosing for one in loaded.task.instances
    ]
    groups = grouped(token_rows(options, context_length), PASS_TOKENS, can_share=True)
    for loaded in scorings:
        what = loaded.name, loaded.scoring, len(loaded.docs)
        requests = [one.args for one in loaded.task.instances]
        if loaded.scoring == "rolling":
            lengths, window = [len(tokens(text)) for (text,) in requests], loaded.spec.context or context_length
            windows = [min(window, length - start) for length in lengths for start in range(0, length, window)]
            yield TaskSize(*what, tuple(windows), reads=sum(lengths))
        elif loaded.scoring == "greedy":
            contexts = [tokens(context) for context in dict.fromkeys(context for context, _ in requests)]
            # In the order of tokens all others lie between these two.
            shared = common_prefix_length(min(contexts), max(contexts)) if len(contexts) > 1 else 0
            shared *= shared >= MIN_SHARED_PREFIX
            own = tuple(len(context) - shared for context in contexts)
            yield TaskSize(*what, own, shared=shared, new_tokens=_new_tokens(loaded))
        else:
            long_tokens = sum(group.tokens for group in groups if group.is_long)
            yield TaskSize(
                *what, tuple(group.tokens for group in groups), long_tokens, sum(group.reads for group in groups)
            )
            groups = []


def _new_tokens(loaded: LoadedTask) -> int:
    """Return the most tokens that a model may generate for one question of a task."""
    return int(normalize_gen_kwargs(dict(loaded.task.config.generation_kwargs or {}))["max_gen_toks"])

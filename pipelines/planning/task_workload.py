"""Sizes of a study's tasks, counted from their requests with a tokenizer; special tokens are not counted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.batched_generation import MIN_SHARED_PREFIX
from prunescope.pipelines.evaluation.tasks.lm_eval_model import PASS_TOKENS, Request, grouped, token_rows
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, quiet
from prunescope.pipelines.metrics.text_metrics import common_prefix_length
from prunescope.pipelines.planning.cost_model import TaskSize

# lm-eval's limit if a task definition sets none.
_DEFAULT_NEW_TOKENS = 256


def task_sizes(tasks: Sequence[LoadedTask], tokenizer: Any, context_length: int) -> list[TaskSize]:  # noqa: ANN401
    """Count the tokens of the tasks' requests.

    Raises:
        InputError: a task does not fit into the model's context; names the task, its key and the context.
    """
    for loaded in tasks:
        if loaded.scoring == "greedy" and new_tokens(loaded) >= context_length:
            raise InputError(
                f"task {loaded.name}: up to {new_tokens(loaded)} new tokens leave no room for a question in the "
                f"model's context of {context_length}; set `max_new_tokens` lower"
            )
        if loaded.spec.context is not None and loaded.spec.context > context_length:
            raise InputError(
                f"task {loaded.name}: `context` {loaded.spec.context} is over the model's of {context_length} tokens"
            )
    return [
        size
        for _, together in groupby(tasks, key=lambda loaded: loaded.spec)
        for size in _sizes([*together], tokenizer, context_length)
    ]


def _sizes(together: Sequence[LoadedTask], tokenizer: Any, context_length: int) -> Iterator[TaskSize]:  # noqa: ANN401
    """Yield the sizes of one task under all its scorings; their options share passes, which count in the first one."""

    def tokens(text: object) -> list[int]:
        ids: list[int] = tokenizer(str(text), add_special_tokens=False, verbose=False).input_ids
        return ids

    for loaded in together:
        with quiet():
            loaded.task.set_fewshot_seed(loaded.spec.seed)
            loaded.task.build_all_requests(limit=loaded.spec.samples)
    choosing = [loaded for loaded in together if loaded.scoring in {"letter", "full_text"}]
    options: list[Request] = [
        (None, tokens(one.args[0]), tokens(one.args[1])) for loaded in choosing for one in loaded.task.instances
    ]
    groups = grouped(token_rows(options, context_length), PASS_TOKENS, can_share=True)
    for loaded in together:
        size = TaskSize(loaded.name, loaded.scoring, len(loaded.docs))
        requests = [one.args for one in loaded.task.instances]
        if loaded.scoring == "rolling":
            length = sum(len(tokens(text)) for (text,) in requests)
            yield replace(size, ends=length, reads=length, options_per_sample=1.0)
        elif loaded.scoring == "greedy":
            contexts = [tokens(context) for context in dict.fromkeys(context for context, _ in requests)]
            # In the order of tokens all others lie between these two.
            shared = common_prefix_length(min(contexts), max(contexts)) if len(contexts) > 1 else 0
            shared *= shared >= MIN_SHARED_PREFIX
            own = tuple(len(context) - shared for context in contexts)
            yield replace(size, contexts=own, shared=shared, new_tokens=new_tokens(loaded))
        else:
            yield replace(
                size,
                contexts=tuple(group.shared for group in groups),
                ends=sum(group.tokens - group.shared for group in groups),
                long_tokens=sum(group.tokens for group in groups if group.is_long),
                reads=sum(group.reads for group in groups),
                options_per_sample=len(requests) / size.samples,
            )
            groups = []


def new_tokens(loaded: LoadedTask) -> int:
    """Return the most tokens that a model may generate for one question of a task."""
    options = loaded.task.config.generation_kwargs or {}
    limits = (options.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    return int(next((limit for limit in limits if limit), _DEFAULT_NEW_TOKENS))

"""Sizes of a study's tasks, counted from their requests with a tokenizer.

Special tokens and contexts that questions share by chance are not counted, which is off by a few per cent.
"""

from collections.abc import Sequence
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.batched_generation import MIN_SHARED_PREFIX
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
    return [_task_size(loaded, tokenizer) for loaded in tasks]


def _task_size(loaded: LoadedTask, tokenizer: Any) -> TaskSize:  # noqa: ANN401
    task = loaded.task
    with quiet():
        task.set_fewshot_seed(loaded.spec.seed)
        task.build_all_requests(limit=loaded.spec.samples)
    requests = [instance.args for instance in task.instances]

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    samples = len(loaded.docs)
    if loaded.scoring == "rolling":
        return TaskSize(loaded.name, loaded.scoring, samples, (), sum(len(tokens(text)) for (text,) in requests), 1.0)
    contexts = [tokens(context) for context in dict.fromkeys(str(arguments[0]) for arguments in requests)]
    lengths = tuple(map(len, contexts))
    if loaded.scoring == "greedy":
        # In the order of tokens all others lie between these two.
        shared = common_prefix_length(min(contexts), max(contexts)) if len(contexts) > 1 else 0
        shared *= shared >= MIN_SHARED_PREFIX
        own = tuple(length - shared for length in lengths)
        return TaskSize(loaded.name, loaded.scoring, samples, own, 0, 0.0, shared, new_tokens(loaded))
    options = sum(len(tokens(str(arguments[1]))) for arguments in requests)
    return TaskSize(loaded.name, loaded.scoring, samples, lengths, options, len(requests) / samples)


def new_tokens(loaded: LoadedTask) -> int:
    """Return the most tokens that a model may generate for one question of a task."""
    options = loaded.task.config.generation_kwargs or {}
    limits = (options.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    return int(next((limit for limit in limits if limit), _DEFAULT_NEW_TOKENS))

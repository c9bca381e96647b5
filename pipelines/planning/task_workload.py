"""How much a study's tasks ask of a model, counted from their requests and a tokenizer alone: for planning.

Special tokens and what several questions share by chance are not counted; a few per cent.
"""

from collections.abc import Sequence
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, quiet
from prunescope.pipelines.planning.evaluation_workload import TaskSize

# What lm-eval takes where a definition does not say how much is written at most.
DEFAULT_NEW_TOKENS = 256


def size_of(loaded: LoadedTask, tokenizer: Any) -> TaskSize:  # noqa: ANN401
    """Counts what a task asks."""
    task = loaded.task
    with quiet():
        task.set_fewshot_seed(loaded.spec.seed)
        task.build_all_requests(limit=loaded.spec.samples)
    asked = [instance.args for instance in task.instances]

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    samples = len(loaded.docs)
    if loaded.scoring == "rolling":
        return TaskSize(loaded.name, loaded.scoring, samples, (), sum(count(text) for (text,) in asked), 1.0)
    contexts = tuple(count(context) for context in dict.fromkeys(str(arguments[0]) for arguments in asked))
    if loaded.scoring == "greedy":
        return TaskSize(loaded.name, loaded.scoring, samples, contexts, 0, 0.0, new_tokens(loaded))
    options = sum(count(str(arguments[1])) for arguments in asked)
    return TaskSize(loaded.name, loaded.scoring, samples, contexts, options, len(asked) / samples)


def new_tokens(loaded: LoadedTask) -> int:
    """Tokens that a task lets a model write at most."""
    asked = loaded.task.config.generation_kwargs or {}
    limits = (asked.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    return int(next((limit for limit in limits if limit), DEFAULT_NEW_TOKENS))


def check_lengths(tasks: Sequence[LoadedTask], context_length: int) -> None:
    """Refuses a task that leaves a model no room.

    Raises:
        InputError: names the task, its key and the model's context.
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

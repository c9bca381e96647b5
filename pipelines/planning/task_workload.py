"""Sizes of a study's tasks, counted from their requests with a tokenizer.

Special tokens and contexts that questions share by chance are not counted, which is off by a few per cent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.batched_generation import MIN_SHARED_PREFIX
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, quiet
from prunescope.pipelines.metrics.text_metrics import common_prefix_length

# lm-eval's limit where a task definition sets none.
_DEFAULT_NEW_TOKENS = 256
# Length of an answer as a share of its limit. The mean answer of Qwen2.5-Coder-0.5B and two pruned variants took 0.19
# to 0.29 of HumanEval's limit of 256, 0.47 to 0.56 of GSM8K's 200.
TYPICAL_SHARE = 0.4


@dataclass(frozen=True)
class TaskSize:
    """Tokens of a task under one way of scoring.

    Attributes:
        name: its name in the tables.
        scoring: the way of scoring.
        samples: number of samples.
        contexts: tokens of every context; each runs once. Those that are continued lack their shared tokens.
        options: tokens of all continuations of the contexts, or of a text scored as a whole.
        options_a_sample: mean number of continuations per sample.
        shared: tokens that all contexts to write on begin with, such as worked examples; they run once per batch.
        new_tokens: most tokens generated per context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...]
    options: int
    options_a_sample: float
    shared: int = 0
    new_tokens: int = 0

    @property
    def answer_tokens(self) -> float:
        """Tokens per answer that are expected."""
        return TYPICAL_SHARE * self.new_tokens


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

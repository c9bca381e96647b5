"""Token ids of a task's contexts with their right answers, as lm-eval's model reads them. Nothing is scored here."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tasks.lm_eval_model import Likelihood, Request, VariantLM, sample_hash
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, load_tasks, quiet
from prunescope.pipelines.evaluation.tasks.score_rows import options_of
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.evaluation_specs import TaskSpec


class RightAnswer(NamedTuple):
    """One sample of a task.

    `id` is TASK-SAMPLE with the `sample_id` of `task_samples`. `tokens` are context and answer without its last token,
    cut from the left to the model's context. The positions from `first` on predict the answer.
    """

    id: str
    tokens: tuple[int, ...]
    first: int


class _Reader(VariantLM):
    """Model that records the token ids of likelihood requests instead of running them."""

    read: Sequence[Request] = ()

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_unused: object) -> list[Likelihood]:
        self.read = requests
        return [(0.0, False)] * len(requests)


def right_answers(decoder: Decoder, spec: TaskSpec, count: int, progress: Progress = SILENT) -> list[RightAnswer]:
    """Return samples of a task with their right answers, preferably samples that the study does not score.

    These are the samples after the study's first `samples`. If there are none, the last half of the data is taken,
    which the study scores too, and the progress says so. The tasks of a group take turns. In a task with options the
    right answer is the text of the right option, or its letter if the task compares only letters. In a task that
    generates text it is the dense model's own greedy answer. There are at most `count` samples.

    Raises:
        InputError: the task cannot be loaded, scores whole texts, or has no right answers.
    """
    loaded = load_tasks([spec])
    by_name = {task.name: task for task in loaded} | {task.name: task for task in loaded if task.scoring != "letter"}
    if rolling := next((task.name for task in loaded if task.scoring == "rolling"), None):
        raise InputError(f"search: task {rolling} asks no questions; objective `kl` measures texts")
    by_task, is_scored = list[list[tuple[str, int]]](), False
    for name, task in by_name.items():
        size = len(task.task.eval_docs)
        first = size if spec.samples is None else spec.samples
        is_scored |= first == size
        by_task.append([(name, sample) for sample in range(first if first < size else size // 2, size)])
    in_turn = (pair for pair in chain.from_iterable(zip_longest(*by_task)) if pair is not None)
    chosen = list(islice(in_turn, count))
    progress.start(f"answers of task {spec.name}" + (" (the study scores these samples too)" if is_scored else ""), 1)
    reader = _Reader(decoder)
    answers = [
        answer
        for name, task in by_name.items()
        for answer in _answers(reader, task, [sample for other, sample in chosen if other == name])
    ]
    progress.done()
    if not answers:
        raise InputError(f"search: task {spec.name}: no sample has a right answer within the model's context")
    return answers


def _answers(reader: _Reader, loaded: LoadedTask, samples: Sequence[int]) -> Iterator[RightAnswer]:
    if not samples:
        return
    loaded.task.set_fewshot_seed(loaded.spec.seed)
    with quiet():
        loaded.task.build_all_requests(samples=list(samples))
    # lm-eval numbers the chosen samples from 0.
    for number, sample in enumerate(samples):
        requests = [request for request in loaded.task.instances if request.doc_id == number]
        pair = _generated(reader, requests[0]) if loaded.scoring == "greedy" else _right(reader, loaded, requests)
        if pair is None:
            continue
        context, answer = pair
        tokens = (*context, *answer)[-(reader.max_length + 1) : -1]
        if 0 < len(answer) <= len(tokens):
            yield RightAnswer(f"{loaded.name}-{sample}", tokens, len(tokens) - len(answer))


def _generated(reader: _Reader, request: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401 (lm-eval's)
    reader.generate_until([request])
    context = reader.tok_batch_encode([request.args[0]])[0][0].tolist() or [reader.prefix_token_id]
    return tuple(context), reader.written[sample_hash([request.args])].tokens


def _right(reader: _Reader, loaded: LoadedTask, requests: Sequence[Any]) -> tuple[list[int], list[int]] | None:
    right = options_of(loaded, requests[0].doc)[1]
    if right is None:
        return None
    reader.loglikelihood([requests[right]])
    _, context, answer = reader.read[0]
    return context, answer

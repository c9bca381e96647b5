"""Items of a search: the texts on which effects and allocations are measured, disjoint from what the study measures.

Text windows come from the search's `source`; they do not overlap the calibration windows or the study's texts. Prompts
come from the package's sets without the study's prompts, each with the dense model's greedy continuation. Samples of a
task, with their right answers, are those that the study does not score, if it leaves some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.evaluation.tokenization.texts import tokenize_texts
from prunescope.pipelines.evaluation.traces.decoding import decode
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.studies import CalibrationSpec, Study
from prunescope.pipelines.studies.search_spec import SearchSpec

# Number of tokens at the start of a window that are read but not measured: they have almost no context.
_UNMEASURED = 8


@dataclass(frozen=True)
class Item:
    """One text of a search: its name in the tables, token ids up to the last measured position, and the first one."""

    id: str
    tokens: tuple[int, ...]
    first: int

    @property
    def measured(self) -> slice:
        """Measured positions."""
        return slice(self.first, len(self.tokens))


def search_items(
    decoder: Decoder, study: Study, unasked: Study, spec: SearchSpec, progress: Progress = SILENT
) -> list[Item]:
    """Return the items of a search's objective: samples of a task, or texts and prompts in turn.

    `unasked` is the study with the prompts of the search in place of its own. A search from a
    start holds the last half out, so that both halves have as many of each, and samples of a task are shuffled.

    Raises:
        InputError: fewer than two items; fewer than four from a start, which holds half of them out.
    """
    kind, _, task = spec.objective.partition(":")
    if kind == "task":
        items = task_items(decoder, study, task, spec.texts + spec.prompts, progress)
        if spec.start is not None:
            # A task's samples may be sorted; those of a group of tasks always are.
            items = [items[index] for index in np.random.default_rng(spec.seed).permutation(len(items))]
    else:
        texts, prompts = text_items(decoder, study, spec), prompt_items(decoder, unasked)
        items = interleaved(texts, prompts) if spec.start is None else halved(texts, prompts)
    if len(items) < (needed := 2 if spec.start is None else 4):
        raise InputError(
            f"search: {len(items)} texts to measure on, of {needed} that intervals need; raise `texts` or `prompts`, "
            "or leave more samples of the task unscored"
        )
    return items


def text_items(decoder: Decoder, study: Study, spec: SearchSpec) -> list[Item]:
    """Return windows of the source that nothing else of the study reads; InputError if it is too short for them."""
    count, length = spec.texts, spec.length
    texts = tokenize_texts(study, decoder.tokenizer, decoder.context_length)
    seen = [calibration_tokens(decoder.tokenizer, study.calibration), *(text.windows for text in texts)]
    used = {
        tuple(row)
        for windows in seen
        if windows.shape[1] >= _UNMEASURED
        for row in windows.unfold(1, _UNMEASURED, 1).flatten(0, 1).tolist()
    }
    items: list[Item] = []
    for attempt in range(1, 9):
        seed = spec.seed + 7919 * attempt
        drawn = CalibrationSpec(source=spec.source, sequences=4 * count, length=length, seed=seed)
        for window in calibration_tokens(decoder.tokenizer, drawn).tolist():
            every = [tuple(window[start : start + _UNMEASURED]) for start in range(length - _UNMEASURED + 1)]
            if used.isdisjoint(every[::_UNMEASURED]) and len(items) < count:
                used.update(every)
                items.append(Item(f"text-{len(items)}", tuple(window), _UNMEASURED))
        if len(items) == count:
            return items
    raise InputError(
        f"search: the source {spec.source} has {len(items)} windows of {length} tokens besides those that calibrate "
        f"recipes or are measured, and {count} are needed; lower `search.texts` or give a longer `search.source`"
    )


def prompt_items(decoder: Decoder, study: Study) -> list[Item]:
    """Return a study's prompts, each with the dense model's greedy continuation, which is measured."""
    prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
    if not prompts:
        return []
    steps = study.generation.new_tokens
    decoded = decode(decoder, [each.ids for each in prompts], steps, lambda z, *_: z.argmax(dim=-1), [0] * len(prompts))
    return [
        # The last token is predicted but not read.
        Item(each.prompt.id, (*each.ids, *own.tokens[:-1]), len(each.ids) - 1)
        for each, own in zip(prompts, decoded, strict=True)
    ]


def task_items(decoder: Decoder, study: Study, name: str, count: int, progress: Progress = SILENT) -> list[Item]:
    """Return at most `count` samples of one of the study's tasks, measured at the tokens of their right answers.

    They follow the samples that the study scores. If the study scores all of its data, they are from the last half and
    **overlap** with the study's scores. The progress then says so. Items are named `TASK-SAMPLE`, with the `sample_id`
    of `task_samples`. In a task that generates text the dense model's greedy answers count as right.

    Raises:
        InputError: the study has no such task, or the task has no right answers.
    """
    spec = next((spec for spec in study.tasks if spec.name == name), None)
    if spec is None:
        own = ", ".join(spec.name for spec in study.tasks) or "none"
        raise InputError(f"search: objective task:{name}: the study has no task {name!r}; its tasks are {own}")
    # lm-eval is imported here because other objectives do not need it.
    from prunescope.pipelines.evaluation.tasks.right_answers import right_answers

    return [Item(*answer) for answer in right_answers(decoder, spec, count, progress)]


def interleaved(texts: Sequence[Item], prompts: Sequence[Item]) -> list[Item]:
    """Return texts and prompts alternately, so that the beginning of the list has both."""
    both = [item for pair in zip(texts, prompts, strict=False) for item in pair]
    return [*both, *texts[len(prompts) :], *prompts[len(texts) :]]


def middle(items: int) -> int:
    """Return how many of some items are in the first half, an odd one included; the second half is held out."""
    return (items + 1) // 2


def halved(texts: Sequence[Item], prompts: Sequence[Item]) -> list[Item]:
    """Interleave half of the texts and prompts, then the other half."""
    own = middle(len(texts))
    others = middle(len(texts) + len(prompts)) - own
    return [*interleaved(texts[:own], prompts[:others]), *interleaved(texts[own:], prompts[others:])]

"""Items of a search: the texts on which effects and allocations are measured; the study never measures these.

Text windows come from the calibration corpus, apart from the windows that calibrate recipes and from the study's texts;
prompts from the shipped sets, apart from those of the study, each with the dense model's greedy continuation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.evaluation.tokenization.texts import tokenize_texts
from prunescope.pipelines.evaluation.traces.decoding import decode
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.studies import Study

# Tokens at the start of a window that are read and not measured: they have next to no context.
_UNMEASURED = 8


@dataclass(frozen=True)
class Item:
    """One text of a search.

    Attributes:
        id: name in the tables.
        tokens: token ids, without those after the last measured position.
        first: first measured position; all later ones are measured.
        prompt: number of tokens that were given, for free-running objectives; None for a window of text.
    """

    id: str
    tokens: tuple[int, ...]
    first: int
    prompt: int | None = None

    @property
    def measured(self) -> slice:
        """The measured positions."""
        return slice(self.first, len(self.tokens))


def text_items(decoder: Decoder, study: Study, count: int, length: int, seed: int) -> list[Item]:
    """Return windows of the calibration corpus that overlap no calibration window and no text of the study.

    Raises:
        InputError: the corpus is too short for them.
    """
    spec = study.calibration
    texts = tokenize_texts(study, decoder.tokenizer, decoder.context_length)
    seen = [calibration_tokens(decoder.tokenizer, spec), *(text.windows for text in texts)]
    used = {
        tuple(row)
        for windows in seen
        if windows.shape[1] >= _UNMEASURED
        for row in windows.unfold(1, _UNMEASURED, 1).flatten(0, 1).tolist()
    }
    items: list[Item] = []
    for attempt in range(1, 9):
        drawn = spec.model_copy(update={"sequences": 4 * count, "length": length, "seed": seed + 7919 * attempt})
        for window in calibration_tokens(decoder.tokenizer, drawn).tolist():
            pieces = {
                tuple(window[start : start + _UNMEASURED]) for start in range(0, length - _UNMEASURED, _UNMEASURED)
            }
            if not pieces & used and len(items) < count:
                used |= {tuple(window[start : start + _UNMEASURED]) for start in range(length - _UNMEASURED)}
                items.append(Item(f"text-{len(items)}", tuple(window), _UNMEASURED))
        if len(items) == count:
            return items
    raise InputError(
        f"search: the calibration source {spec.source} has {len(items)} windows of {length} tokens beside those that "
        f"calibrate recipes or are measured, and {count} are needed; lower `search.texts` or give a longer "
        "`calibration.source`"
    )


def prompt_items(decoder: Decoder, study: Study) -> list[Item]:
    """Return a study's prompts, each with the dense model's greedy continuation, measured at the continuation."""
    prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
    if not prompts:
        return []
    steps = study.generation.new_tokens
    decoded = decode(decoder, [each.ids for each in prompts], steps, lambda z, *_: z.argmax(dim=-1), [0] * len(prompts))
    return [
        # The last token is predicted and not read.
        Item(each.prompt.id, (*each.ids, *own.tokens[:-1]), len(each.ids) - 1, len(each.ids))
        for each, own in zip(prompts, decoded, strict=True)
    ]


def padded(items: Sequence[Item], device: torch.device) -> Int[Tensor, "items length"]:
    """Return items as one batch, padded on the right, which changes no earlier position of a causal model."""
    longest = max(len(item.tokens) for item in items)
    return torch.tensor([[*item.tokens, *[0] * (longest - len(item.tokens))] for item in items], device=device)


def interleaved(texts: Sequence[Item], prompts: Sequence[Item]) -> list[Item]:
    """Return both kinds in turn, so that any first part of the list has both."""
    both = [item for pair in zip(texts, prompts, strict=False) for item in pair]
    return [*both, *texts[len(prompts) :], *prompts[len(texts) :]]

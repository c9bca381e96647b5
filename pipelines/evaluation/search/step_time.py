"""Time of each sublayer in a decoding step, for the budget `milliseconds`; `evaluation.speed` times whole variants."""

import time
from collections import defaultdict
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.speed import Clock, now
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.models.sublayer import Sublayer

# Number of tokens in the cache before the first timed one.
_CONTEXT = 128
# Number of timed steps, and of untimed steps before them.
_STEPS, _WARM_UPS = 31, 3


@torch.inference_mode()
def step_milliseconds(decoder: Decoder, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return each sublayer's median time in decoding steps of one text of 128 tokens and more, by label.

    All sublayers are timed in the same steps, so that a drift of the machine affects them alike. The layer's own norms
    and sums are left out.

    Raises:
        InputError: the model cannot decode through a cache, or its layers are offloaded.
    """
    if decoder.is_streamed:
        raise InputError("search: `memory` offloads layers, whose loading would be timed; choose another `budget`")
    if decoder.cache_refusal is not None:
        raise InputError(f"search: {decoder.cache_refusal}; choose another `budget` than milliseconds")
    steps, now_there = _STEPS + _WARM_UPS, partial(now, clock, decoder.device)
    generator = torch.Generator().manual_seed(0)
    length = max(1, min(_CONTEXT, decoder.context_length - steps)) + steps
    tokens = torch.randint(0, decoder.vocabulary, (1, length), generator=generator).to(decoder.device)
    cache = decoder.new_cache()
    decoder.hidden(tokens[:, :-steps], cache)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for token in tokens[:, -steps:].split(1, dim=1):
        step: defaultdict[str, float] = defaultdict(float)
        with hooks(*(handle for each in decoder.sublayers for handle in _timers(each, step, now_there))):
            decoder.hidden(token, cache)
        for label, taken in step.items():
            seconds[label].append(taken)
    return {label: 1000 * median(taken[_WARM_UPS:]) for label, taken in seconds.items()}


def _timers(sublayer: Sublayer, step: defaultdict[str, float], clock: Clock) -> list[RemovableHandle]:
    """Register hooks that add the seconds of the sublayer's modules to its entry."""

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG001
        step[sublayer.label] -= clock()

    def end(module: nn.Module, args: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
        step[sublayer.label] += clock()

    return [
        handle
        for part in sublayer.parts
        for handle in (part.chain[0].register_forward_pre_hook(begin), part.chain[-1].register_forward_hook(end))
    ]

"""Effects of single treatments at the output, in the context of the dense model or of an allocation.

All treatments share the passes of their context. A treatment costs the output of its sublayer on the context's inputs,
and the layers above.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Arrays, Journal
from prunescope.pipelines.evaluation.search.menu import DROP, KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.output_kl import DenseOutput
from prunescope.pipelines.evaluation.search.trials import logarithms, treatments_json
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, replay, run_known, stream_after
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect, Swap
from prunescope.pipelines.metrics.mean_interval import half_width, standard_error
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

# A treatment may stop after each BATCH_ITEMS items, if the 95 % interval of its ratio is within the factor _ENOUGH.
BATCH_ITEMS = 4
_ENOUGH = 1.25
# Maximum bytes of shifts in memory: float32 local shifts of a batch's items, and float64 shifts of one item before, in
# and after a layer.
_MAX_SHIFT_BYTES = 2**28
Means = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Effects of swaps, each alone.

    Attributes:
        swaps: sublayer and treatment.
        kl: KL(dense ‖ pruned) in nats, mean over an item's positions, (items, swaps); NaN if a swap was not measured
            because its ratio to its sublayer's reference was known well enough.
        one_minus_cos: 1 − cos of the head's input, in the same form.
        reference: per swap, the index of its sublayer's reference, which is measured on all items.
        seconds: duration of the measurement.
    """

    swaps: tuple[Swap, ...]
    kl: Means
    one_minus_cos: Means
    reference: NDArray[np.int64]
    seconds: float = 0.0

    def mean(self, values: Means) -> tuple[Means, Means]:
        """Return the geometric mean and the standard error of each swap over all items, computed with `logarithms`.

        Two of 16 texts make up a third of an arithmetic mean. Halves of the items rank the matrices of SmolLM2-135M
        with a correlation of 0.89 by arithmetic means and of 0.94 by geometric means. A text on which everything does
        more harm moves all logarithms alike, so effects need not be divided by the mean of their item. If a swap
        was measured on some items only, its ratio to its reference is taken from these.
        """
        logs = logarithms(values)
        centres, errors = np.empty(len(self.swaps)), np.empty(len(self.swaps))
        for index, other in enumerate(self.reference):
            whole, own = logs[:, other], logs[:, index]
            seen = np.isfinite(own)
            if seen.all():
                centres[index], errors[index] = own.mean(), standard_error(own)
            else:
                ratios = logarithms(values[seen, index]) - logarithms(values[seen, other])
                centres[index] = ratios.mean() + whole.mean()
                errors[index] = np.hypot(standard_error(ratios), standard_error(whole))
        means = np.exp(centres)
        return means, means * errors

    @property
    def spread(self) -> float:
        """Ratio of the sum of the references' arithmetic means of the KL to the sum of their geometric means.

        A sum of effects times this ratio predicts the arithmetic mean of an allocation.
        """
        own = self.kl[:, np.unique(self.reference)]
        return float(own.mean(axis=0).sum() / np.exp(logarithms(own).mean(axis=0)).sum()) if own.any() else 1.0


class EffectEngine:
    """Measurement of effects on items; `journal` stores every measured batch, so that it can continue (None: none)."""

    def __init__(self, decoder: Decoder, menu: Menu, items: Sequence[Item], journal: Journal | None = None) -> None:
        self._decoder, self._menu, self._items, self._journal = decoder, menu, list(items), journal
        self._isolation = IsolatedEffect(decoder)

    def measure(
        self,
        swaps: Sequence[Swap],
        context: Allocation | None = None,
        items: int | None = None,
        progress: Progress = SILENT,
        until: float = math.inf,
    ) -> Effects:
        """Measure swaps one at a time: each replaces its sublayer's treatment, and the rest stays as in the context.

        The first swap of a sublayer is its reference and is measured on all items. Another swap stops as soon as the 95
        % interval of its ratio to the reference is within a factor of 1.25: treatments of a sublayer err on the same
        tokens, so few items suffice to compare them. In a context all swaps are measured on all items, because their
        differences are small against the context's own effect.

        Only the first `items` are used (None: all). After `until`, a value of `time.monotonic`, no batch but the first
        is measured, so that fewer items have effects. The progress advances once per swap and item. Effects are against
        the dense model; in a context they include the context's own.

        Raises:
            ComputationError: a swap gives NaN or infinite states.
        """
        own = self._items[:items]
        firsts = {label: index for index, (label, _) in reversed(list(enumerate(swaps)))}
        reference = np.array([firsts[label] for label, _ in swaps])
        kl, cosines = (np.full((len(own), len(swaps)), np.nan) for _ in range(2))
        active, seconds = np.arange(len(swaps)), 0.0
        progress.start(f"effects of {len(swaps)} treatments", len(own) * len(swaps))
        for start in range(0, len(own), BATCH_ITEMS):
            stop = min(start + BATCH_ITEMS, len(own))
            chosen = [swaps[index] for index in active.tolist()]
            key = ["effects", chosen, treatments_json(context or {}), start, stop]
            is_stored = self._journal is not None and key in self._journal
            if start and time.monotonic() > until and not is_stored:
                kl, cosines = kl[:start], cosines[:start]
                break
            measure = partial(self._batch, slice(start, stop), chosen, context or {}, progress)
            found = self._journal.remember(key, measure) if self._journal else measure()
            kl[start:stop, active], cosines[start:stop, active] = found["kl"], found["one_minus_cos"]
            seconds += float(found["seconds"])
            # Swaps that stopped before count as done.
            progress.advance((stop - start) * (len(swaps) if is_stored else len(swaps) - len(active)))
            if not context:
                pairs = zip(active.tolist(), reference[active].tolist(), strict=True)
                known = [i != first and _is_known(kl[:stop, i], kl[:stop, first]) for i, first in pairs]
                active = active[~np.array(known)]
        progress.done()
        return Effects(tuple(swaps), kl, cosines, reference, seconds)

    def _batch(self, part: slice, swaps: Sequence[Swap], context: Allocation, progress: Progress) -> Arrays:
        """Measure consecutive items; return `kl` and `one_minus_cos`, (items, swaps), and the seconds.

        Items share a treatment's weights, which are read once. As many swaps run together as fit into memory.
        """
        started, items = time.monotonic(), self._items[part]
        dense = around = [self._pass(item) for item in items]
        if context:
            with self._applied(context):
                around = [self._pass(item) for item in items]
        kl, cosines = (np.empty((len(items), len(swaps))) for _ in range(2))
        size = self._decoder.width * max(len(item.tokens) for item in items)
        at_once = max(1, _MAX_SHIFT_BYTES // (size * (4 * len(items) + 24)))
        for first in range(0, len(swaps), at_once):
            group = slice(first, first + at_once)
            local = {swap: self._local_shifts(swap, around, context) for swap in swaps[group]}
            with self._applied(context):
                for index, (item, own, outer) in enumerate(zip(items, dense, around, strict=True)):
                    output = DenseOutput(self._final(own)[item.measured], self._decoder.head, keeps_softmax=True)
                    offset = self._final(outer).double() - self._final(own).double()
                    moves = {swap: shifts[index] for swap, shifts in local.items()}
                    kl[index, group], cosines[index, group] = self._at_output(item, output, outer, offset, moves)
                    progress.advance(len(moves))
        return {"kl": kl, "one_minus_cos": cosines, "seconds": np.array(time.monotonic() - started)}

    def _applied(self, context: Allocation) -> AbstractContextManager[None]:
        # Modules of dropped sublayers run, because hooks read their inputs.
        return apply_variant(self._decoder, self._menu.variant(context), skips=False) if context else nullcontext()

    def _pass(self, item: Item) -> Capture:
        tokens = torch.tensor([item.tokens], device=self._decoder.device)
        return run_known(self._decoder, tokens, 0, by_token_from=None, keep_calls=True)

    def _final(self, capture: Capture) -> Tensor:
        return stream_after(self._decoder, capture, self._decoder.layers[-1].mlp)

    def _local_shifts(self, swap: Swap, around: Sequence[Capture], context: Allocation) -> list[Tensor]:
        """Return the change of a sublayer's contribution by a swap, on the context's inputs."""
        label, treatment = swap
        sublayer = self._menu.sublayers[label]
        before = [capture.whole[label] for capture in around]  # zero if the context drops it
        if treatment == context.get(label, KEEP):
            return [torch.zeros_like(own) for own in before]
        if treatment == DROP:
            return [-own for own in before]
        with sublayer.on_device():
            weights = Variant(self._menu.weights(label, treatment)).weights(sublayer)
            after = [replay(sublayer, capture.calls[label], weights, 0) for capture in around]
        return [new.to(own.device) - own for new, own in zip(after, before, strict=True)]

    def _at_output(
        self, item: Item, output: DenseOutput, around: Capture, offset: Tensor, moves: Mapping[Swap, Tensor]
    ) -> tuple[Means, Means]:
        kl, cosines = [], []
        for moved in self._isolation.shifts(around, moves).values():
            nats, move = output.kl((offset + moved.double())[item.measured])
            kl.append(nats.mean())
            cosines.append(float(space_metrics(output.states, move)["one_minus_cos_h"].mean()))
        means = torch.stack(kl).cpu().numpy()
        if not np.isfinite(means).all():
            label, treatment = list(moves)[int(np.argmin(np.isfinite(means)))]
            raise ComputationError(f"search: {label} with {treatment}: NaN or infinite states")
        return means, np.array(cosines)


def _is_known(values: Means, reference: Means) -> bool:
    """Return whether the ratio of a swap to its reference is known well enough; this takes two items with an effect."""
    if len(values) < 2 or not reference.any():
        return False
    ratios = logarithms(values) - logarithms(reference)
    return bool(half_width(standard_error(ratios), len(values)) <= math.log(_ENOUGH))

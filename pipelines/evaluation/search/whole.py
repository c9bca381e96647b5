"""Measurement of whole allocations on the items of a search."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.batching import batched
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.output_kl import DenseOutput
from prunescope.pipelines.evaluation.traces.final_streams import final_streams
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.decoder import Decoder, padded_right
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

# Tokens per pass.
_PASS_TOKENS = 2048
Means = NDArray[np.float64]


class WholeMeasurement:
    """Dense side of a search's items, computed once; each variant costs one pass over them."""

    def __init__(self, decoder: Decoder, items: Sequence[Item]) -> None:
        self._decoder, self._items = decoder, items
        lengths, limit = [len(item.tokens) for item in items], decoder.at_once(_PASS_TOKENS)
        by_length = sorted(range(len(items)), key=lengths.__getitem__)
        self._batches = list(batched(by_length, lambda batch, index: (len(batch) + 1) * lengths[index] <= limit))
        self._dense = [DenseOutput(streams, decoder.head) for streams in self._streams()]

    @torch.inference_mode()
    def measure(self, variant: Variant) -> tuple[Means, Means]:
        """Return KL(dense ‖ pruned) in nats and 1 − cos of the head's input, each the mean over an item's positions.

        Raises:
            ComputationError: the variant's states are NaN or infinite.
        """
        with apply_variant(self._decoder, variant):
            pruned = self._streams()
        kl, cosines = np.empty(len(pruned)), np.empty(len(pruned))
        for index, (output, after) in enumerate(zip(self._dense, pruned, strict=True)):
            nats, move = output.kl(after - output.streams)
            kl[index] = float(nats.mean())
            cosines[index] = float(space_metrics(output.states, move)["one_minus_cos_h"].mean())
        if not np.isfinite(kl).all():
            wrong = self._items[int(np.argmin(np.isfinite(kl)))].id
            raise ComputationError(f"search: NaN or infinite states on item {wrong}")
        return kl, cosines

    def _streams(self) -> list[Tensor]:
        """Return every item's final streams at its measured positions, float64."""
        streams: dict[int, Tensor] = {}
        for batch in self._batches:
            items = [self._items[index] for index in batch]
            tokens = padded_right([item.tokens for item in items]).to(self._decoder.device)
            final = final_streams(self._decoder, tokens, slice(None))
            streams |= {index: own[item.measured] for index, item, own in zip(batch, items, final, strict=True)}
        return [streams[index] for index in range(len(self._items))]

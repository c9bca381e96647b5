"""Measurement of whole allocations on the items of a search."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.search.items import Item, padded
from prunescope.pipelines.evaluation.search.output_kl import DenseOutput
from prunescope.pipelines.evaluation.traces.final_streams import final_streams
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

# Tokens of one pass.
_PASS_TOKENS = 2048
Means = NDArray[np.float64]


class WholeMeasurement:
    """The dense side of a search's items, computed once; each variant costs one pass over them.

    Args:
        decoder: the dense model.
        items: what is measured.
    """

    def __init__(self, decoder: Decoder, items: Sequence[Item]) -> None:
        self._decoder, self._items = decoder, items
        order = sorted(range(len(items)), key=lambda index: len(items[index].tokens))
        self._batches: list[list[int]] = [[]]
        for index in order:
            longest = len(items[index].tokens)
            if (len(self._batches[-1]) + 1) * longest > decoder.at_once(_PASS_TOKENS) and self._batches[-1]:
                self._batches.append([])
            self._batches[-1].append(index)
        self._dense = self._streams()

    def measure(self, variant: Variant) -> tuple[Means, Means]:
        """Return KL(dense ‖ pruned) in nats and 1 − cos of the head's input, each the mean of an item's positions.

        Raises:
            ComputationError: the variant's states are NaN or infinite.
        """
        with apply_variant(self._decoder, variant):
            pruned = self._streams()
        kl, cosines = np.empty(len(self._items)), np.empty(len(self._items))
        for index, (own, dense) in enumerate(zip(pruned, self._dense, strict=True)):
            output = DenseOutput(dense, self._decoder.head)
            nats, move = output.kl(own - dense)
            kl[index] = float(nats.mean())
            cosines[index] = float(space_metrics("h", output.states, move)["one_minus_cos_h"].mean())
        if not np.isfinite(kl).all():
            raise ComputationError(
                f"search: NaN or infinite states on item {self._items[int(np.argmin(np.isfinite(kl)))].id}"
            )
        return kl, cosines

    def _streams(self) -> list[Tensor]:
        """Return every item's final streams at its measured positions, float64."""
        streams: dict[int, Tensor] = {}
        for batch in self._batches:
            items = [self._items[index] for index in batch]
            final = final_streams(self._decoder, padded(items, self._decoder.device), slice(None))
            streams |= {index: own[item.measured] for index, item, own in zip(batch, items, final, strict=True)}
        return [streams[index] for index in range(len(self._items))]

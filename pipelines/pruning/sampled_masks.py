"""Which weights a variant keeps, at a sample of places that is the same for every variant of a model.

A mask of a 7B model is a gigabyte in all; the sample says the overlap of any two to a few thousandths in half a MB.
"""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta

MOST_SAMPLED = 16_384


def mask_samples(decoder: Decoder, model: str, recipe: str, variant: Variant) -> pl.DataFrame:
    """The rows of table `mask_samples`: one a weight matrix inside the layers.

    Weights that a mask sets to zero count as removed, and all of a dropped sublayer. A weight with another value or
    code counts as kept, even where its code stands for zero.

    Args:
        decoder: the dense model; its weights are not read, only their shapes.
        model: its name.
        recipe: name of the recipe.
        variant: what the recipe did.
    """
    rows = []
    for sublayer in decoder.sublayers:
        is_dropped = sublayer.label in variant.dropped
        for name, matrix in sublayer.matrices.items():
            outputs, inputs = matrix.shape
            places = sampled_places(name, outputs, inputs)
            kept = np.zeros(len(places), bool) if is_dropped else _kept(variant.changes.get(name), places)
            rows.append(
                {
                    "model": model,
                    "recipe": recipe,
                    "layer": sublayer.layer,
                    "sublayer": sublayer.kind,
                    "module": name,
                    "weights": outputs * inputs,
                    "sampled": len(places),
                    "kept_bits": np.packbits(kept).tobytes(),
                }
            )
    return pl.DataFrame(rows)


def sampled_places(name: str, outputs: int, inputs: int) -> NDArray[np.int64]:
    """Places in the row order of a matrix (outputs, inputs), ascending: all of them, or 16,384.

    The matrix is cut into 16,384 stretches of equal length and one place is drawn from each, so that every place is
    equally likely and no row is left out; a place on a cut may come twice. A share or an overlap estimated from them
    has at most the standard error of a simple random sample of that size. The places follow from name and shape
    alone: from raw numbers of PCG64, which all versions of numpy keep, as they do not keep its samplers.
    """
    weights = outputs * inputs
    if weights <= MOST_SAMPLED:
        return np.arange(weights, dtype=np.int64)
    digest = hashlib.sha256(f"{name} {outputs} {inputs}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(MOST_SAMPLED)
    within = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    places: NDArray[np.int64] = ((np.arange(MOST_SAMPLED) + within) * (weights / MOST_SAMPLED)).astype(np.int64)
    # Rounding may carry the last one over the end.
    return np.minimum(places, weights - 1)


def _kept(change: WeightDelta | None, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each place is kept; looked up in the packed mask, which is never unpacked whole."""
    if change is None or change.bits is None:
        return np.ones(len(places), bool)
    found: NDArray[np.bool_] = (change.bits.numpy()[places >> 3] >> (7 - (places & 7))) & 1 == 1
    return found

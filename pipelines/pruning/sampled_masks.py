"""Samples of masks, at the same positions for every variant of a model.

All masks of a 7B model take a gigabyte. Half a megabyte of samples gives the overlap of any two to a few thousandths.
"""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta

MAX_SAMPLED = 16_384


def mask_samples(decoder: Decoder, model: str, recipe: str, variant: Variant) -> pl.DataFrame:
    """Return the rows of table `mask_samples`, one per weight matrix of the layers.

    Weights that a mask sets to zero count as removed, as do all weights of a dropped sublayer. A weight with another
    value or code counts as kept, even if the code stands for zero. Only the shapes of the dense weights are read.
    """
    rows = []
    for sublayer in decoder.sublayers:
        is_dropped = sublayer.label in variant.dropped
        for name, matrix in sublayer.matrices.items():
            outputs, inputs = matrix.shape
            positions = sampled_positions(name, outputs, inputs)
            kept = np.zeros(len(positions), bool) if is_dropped else _kept(variant.changes.get(name), positions)
            rows.append(
                {
                    "model": model,
                    "recipe": recipe,
                    "layer": sublayer.layer,
                    "sublayer": sublayer.kind,
                    "module": name,
                    "weights": outputs * inputs,
                    "sampled": len(positions),
                    "kept_bits": np.packbits(kept).tobytes(),
                }
            )
    return pl.DataFrame(rows)


def sampled_positions(name: str, outputs: int, inputs: int) -> NDArray[np.int64]:
    """Return ascending row-order positions in a matrix (outputs, inputs): all of them, or 16,384.

    A larger matrix is cut into 16,384 intervals of equal length, and one position is drawn from each. So every position
    is equally likely, no row is omitted, and a position on a cut may occur twice. The standard error of a share or an
    overlap is at most that of a simple random sample of that size. Positions depend only on name and shape. They use
    raw numbers of PCG64, which all versions of numpy keep stable, unlike its samplers.
    """
    weights = outputs * inputs
    if weights <= MAX_SAMPLED:
        return np.arange(weights, dtype=np.int64)
    digest = hashlib.sha256(f"{name} {outputs} {inputs}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(MAX_SAMPLED)
    within = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    positions: NDArray[np.int64] = ((np.arange(MAX_SAMPLED) + within) * (weights / MAX_SAMPLED)).astype(np.int64)
    return np.minimum(positions, weights - 1)  # rounding may push the last one past the end


def _kept(change: WeightDelta | None, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each position is kept, reading single bits of the packed mask."""
    if change is None or change.bits is None:
        return np.ones(len(positions), bool)
    kept: NDArray[np.bool_] = (change.bits.numpy()[positions >> 3] >> (7 - (positions & 7))) & 1 == 1
    return kept

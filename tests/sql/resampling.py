"""Intervals over prompts by brute force: every figure recomputed from the rows of every resample.

Slow and independent of how the views compute it, but for the draws themselves, which come from the same digest.
"""

import hashlib
from collections.abc import Callable

import numpy as np

RESAMPLES = 400
Figure = Callable[[np.ndarray], float]


def draws(units: int) -> np.ndarray:
    """Return the unit of each draw of each resample: the last 8 bytes of MD5 of `resample/draw`, modulo the units."""
    digests = [
        [hashlib.md5(f"{resample}/{draw}".encode(), usedforsecurity=False).digest() for draw in range(units)]
        for resample in range(RESAMPLES)
    ]
    return np.array([[int.from_bytes(digest[8:], "little") % units for digest in row] for row in digests])


def interval(figure: Figure, units: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of a figure of the drawn units; skip resamples without one."""
    figures = np.array([figure(drawn) for drawn in draws(units)])
    low, high = np.quantile(figures[~np.isnan(figures)], [0.025, 0.975])
    return float(low), float(high)


def auc_of_pairs(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the area under the ROC curve by its definition over all pairs; NaN without a pair."""
    positive, negative = scores[is_positive][:, None], scores[~is_positive][None, :]
    pairs = (positive > negative) + 0.5 * (positive == negative)
    return float(pairs.mean()) if pairs.size else float("nan")

"""Intervals of a mean over independent items, such as texts; what the items are and what is averaged is the caller's.

Intervals in tables are computed by the SQL macros.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Numbers = NDArray[np.float64]


def interval(values: Numbers) -> tuple[float, float, float]:
    """Return low end, mean and high end of the 95 % interval of a mean over items, by Student's t."""
    mean, half = float(values.mean()), half_width(standard_error(values), len(values))
    return mean - half, mean, mean + half


def standard_error(values: Numbers) -> float:
    """Return the standard error of the mean of at least two values."""
    return float(stats.sem(values))


def half_width(error: float, items: int) -> float:
    """Return half the width of the 95 % interval that belongs to a standard error over items, by Student's t."""
    return float(stats.t.ppf(0.975, items - 1) * error)

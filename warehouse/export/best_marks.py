"""Marks for the best and second-best values of a column; ties and overlapping uncertainty share a mark."""

import math
from collections.abc import Sequence
from enum import Enum

# Two-sided 95 % of the normal distribution.
_Z = 1.959964
NOTE = (
    "Bold: the best; underlined: the second best. Values that differ from it by less than 1.96 × their combined "
    "standard errors, or not at all, share its mark; the errors count as independent, so paired values may differ more "
    "clearly than this shows."
)
PLAIN_NOTE = "Bold: the best; underlined: the second best. Equal values share a mark."


class BestMark(Enum):
    """Mark of a value in its column."""

    NONE = 0
    BEST = 1
    SECOND = 2


def marks(values: Sequence[float | None], errors: Sequence[float | None], *, smaller_is_better: bool) -> list[BestMark]:
    """Return a mark per value.

    Args:
        values: NULL and NaN are never marked.
        errors: standard errors; NULL counts as 0, so that the value ties only with its equals.
        smaller_is_better: whether the smallest value is the best.

    Returns:
        Only `NONE` if fewer than two values can be compared, or all would share the first mark.
    """
    sign = 1 if smaller_is_better else -1
    remaining = {
        index: sign * value for index, value in enumerate(values) if value is not None and not math.isnan(value)
    }
    assigned = [BestMark.NONE] * len(values)
    if len(remaining) < 2:
        return assigned
    for mark in (BestMark.BEST, BestMark.SECOND):
        first = min(remaining, key=lambda index: (remaining[index], index))
        shared = [
            index
            for index, value in remaining.items()
            if _is_tied(value, remaining[first], errors[index], errors[first])
        ]
        if mark is BestMark.BEST and len(shared) == len(remaining):
            break
        for index in shared:
            assigned[index] = mark
            del remaining[index]
    return assigned


def _is_tied(value: float, best: float, error: float | None, best_error: float | None) -> bool:
    if value == best:
        return True
    known = [one for one in (error, best_error) if one is not None and math.isfinite(one)]
    return math.isfinite(value) and value - best < _Z * math.hypot(*known)

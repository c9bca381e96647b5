"""Which values of a column are the best and the second best, ties and overlapping uncertainty included.

Numbers to marks; how a mark looks belongs to `typeset`.
"""

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
    """What a value is among the others of its column."""

    NONE = 0
    BEST = 1
    SECOND = 2


def marks(values: Sequence[float | None], errors: Sequence[float | None], *, smaller_is_better: bool) -> list[BestMark]:
    """A mark for each value.

    Args:
        values: NULL and NaN are never marked.
        errors: standard errors; NULL counts as 0, and the value then ties only with its equals.
        smaller_is_better: the direction.

    Returns:
        No mark at all where fewer than two values can be compared, or all of them share one.
    """
    sign = 1 if smaller_is_better else -1
    left = {index: sign * value for index, value in enumerate(values) if value is not None and not math.isnan(value)}
    found = [BestMark.NONE] * len(values)
    if len(left) < 2:
        return found
    for mark in (BestMark.BEST, BestMark.SECOND):
        if not left:
            break
        first = min(left, key=lambda index: (left[index], index))
        shared = [index for index, value in left.items() if _is_tied(value, left[first], errors[index], errors[first])]
        if mark is BestMark.BEST and len(shared) == len(left):
            return found
        for index in shared:
            found[index] = mark
            del left[index]
    return found


def _is_tied(value: float, best: float, error: float | None, best_error: float | None) -> bool:
    if value == best:
        return True
    together = math.hypot(_known(error), _known(best_error))
    return math.isfinite(value) and value - best < _Z * together


def _known(error: float | None) -> float:
    return error if error is not None and math.isfinite(error) else 0.0

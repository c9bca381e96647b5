"""Marks of the best values: ties, overlapping errors, missing values."""

import math

from hypothesis import given
from hypothesis import strategies as st

from prunescope.warehouse.export.best_marks import BestMark, marks

NO, BEST, SECOND = BestMark.NONE, BestMark.BEST, BestMark.SECOND


def test_the_best_and_the_second_best_of_values_without_errors() -> None:
    assert marks([3.0, 1.0, 2.0], [None] * 3, smaller_is_better=True) == [NO, BEST, SECOND]
    assert marks([3.0, 1.0, 2.0], [None] * 3, smaller_is_better=False) == [BEST, NO, SECOND]


def test_equal_values_share_a_mark() -> None:
    assert marks([1.0, 1.0, 2.0, 2.0, 3.0], [None] * 5, smaller_is_better=True) == [BEST, BEST, SECOND, SECOND, NO]


def test_values_within_196_combined_errors_of_the_best_share_its_mark() -> None:
    # hypot(3, 4) = 5, and 1.96 × 5 = 9.8: 9.7 is within reach of the best, 9.9 is not.
    assert marks([0.0, 9.7, 9.9], [3.0, 4.0, 4.0], smaller_is_better=True) == [BEST, BEST, SECOND]
    # One of them has no error: only that of the other counts.
    assert marks([0.0, 5.8, 5.9], [3.0, None, None], smaller_is_better=True) == [BEST, BEST, SECOND]


def test_indistinguishable_values_have_no_mark() -> None:
    for values, errors in (([1.0, 1.0], [None, None]), ([1.0, 2.0], [9.0, 9.0]), ([1.0], [0.1]), ([], [])):
        assert marks(values, errors, smaller_is_better=True) == [NO] * len(values)


def test_missing_values_are_never_marked_and_infinite_ones_never_in_reach() -> None:
    found = marks([None, math.nan, 2.0, math.inf, 3.0], [None, 1.0, 0.1, math.inf, 0.1], smaller_is_better=True)
    assert found == [NO, NO, BEST, NO, SECOND]
    assert marks([math.inf, 1.0], [None, None], smaller_is_better=True) == [SECOND, BEST]


NUMBERS = st.floats(allow_nan=False) | st.none()


@given(st.lists(st.tuples(NUMBERS, st.none() | st.floats(min_value=0)), max_size=8), st.booleans())
def test_no_unmarked_value_is_better_than_a_marked_one(
    pairs: list[tuple[float | None, float | None]], smaller: bool
) -> None:
    found = marks([value for value, _ in pairs], [error for _, error in pairs], smaller_is_better=smaller)
    sign = 1 if smaller else -1
    known = [(sign * value, mark) for (value, _), mark in zip(pairs, found, strict=True) if value is not None]
    best = {mark: min((value for value, of in known if of is mark), default=math.inf) for mark in BestMark}
    assert best[BEST] <= best[SECOND] <= best[NO] or BEST not in found
    assert (SECOND in found) <= (BEST in found)
    assert all(mark is NO for (value, _), mark in zip(pairs, found, strict=True) if value is None)

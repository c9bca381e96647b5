"""Repetition, loops and flips of token sequences, by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunescope.pipelines.metrics.text_metrics import collapse_step, distinct_n, first_flip, repeat_rates
from tests.examples import examples

TOKENS = st.lists(st.integers(0, 3), max_size=40)


def test_the_repeat_rate_counts_trigrams_seen_before():
    # abcabcab: abc bca cab abc bca cab, of which three are new.
    np.testing.assert_allclose(repeat_rates([1, 2, 3, 1, 2, 3, 1, 2]), [0, 0, 0, 0, 0, 1 / 4, 2 / 5, 3 / 6], rtol=1e-6)


@given(TOKENS)
def test_the_last_repeat_rate_is_one_minus_the_distinct_share(tokens):
    rates = repeat_rates(tokens)
    assert len(rates) == len(tokens)
    if tokens:
        assert rates[-1] == pytest.approx(1 - distinct_n(tokens, 3), abs=1e-6)


def test_distinct_n_of_nothing_to_count_is_one():
    assert distinct_n([], 1) == 1
    assert distinct_n([4], 2) == 1
    assert distinct_n([4, 4, 4, 5], 1) == 0.5


@pytest.mark.parametrize(
    ("tokens", "step"),
    [
        ([], None),
        ([7] * 5, None),
        ([7] * 6, 5),
        ([1, 2] * 3, 5),
        ([9, 9, 1, 2, 1, 2, 1, 2, 3], 7),
        ([1, 2, 3] * 3, 8),
        ([1, 2, 3, 1, 2, 3, 1, 2], None),
        (list(range(8)) * 3, 23),
        (list(range(9)) * 3, None),
        ([5, 5, 5, 1, 5, 5, 5, 1, 5, 5, 5, 1], 11),
    ],
)
def test_a_collapse_is_an_ngram_three_times_over_six_tokens(tokens, step):
    assert collapse_step(tokens) == step


@settings(max_examples=examples(200))
@given(TOKENS)
def test_the_collapse_step_is_the_first_prefix_that_ends_in_a_loop(tokens):
    def ends_in_loop(prefix: list[int]) -> bool:
        return any(
            times * n <= len(prefix) and prefix[-n:] * times == prefix[-n * times :]
            for n in range(1, 9)
            for times in range(max(3, -(-6 // n)), len(prefix) + 1)
        )

    steps = [step for step in range(len(tokens)) if ends_in_loop(tokens[: step + 1])]
    assert collapse_step(tokens) == (steps[0] if steps else None)


def test_the_first_flip_is_the_first_step_that_differs():
    assert first_flip([1, 2, 3], [1, 2, 3]) is None
    assert first_flip([1, 2, 3], [1, 5, 3]) == 1
    assert first_flip([1, 2, 3], [1, 2]) is None
    assert first_flip([], []) is None

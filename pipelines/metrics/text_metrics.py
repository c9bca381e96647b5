"""Measures of repetition in a text and of where two texts diverge, from token ids alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MAX_LOOP_LENGTH = 8
_MIN_LOOP_REPEATS = 3
_MIN_LOOP_TOKENS = 6


def repeat_rates(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Return the share of repeated 3-grams up to each step, 1 − distinct/all; 0 before the first 3-gram."""
    rates = np.zeros(len(tokens), dtype=np.float32)
    seen: set[tuple[int, ...]] = set()
    for step in range(2, len(tokens)):
        seen.add(tuple(tokens[step - 2 : step + 1]))
        rates[step] = 1 - len(seen) / (step - 1)
    return rates


def repeat_rate(tokens: Sequence[int]) -> float:
    """Return the share of repeated 3-grams in a whole text; 0 if there are none."""
    return float(repeat_rates(tokens)[-1]) if tokens else 0.0


def distinct_n(tokens: Sequence[int], n: int) -> float:
    """Return the share of distinct n-grams among all n-grams; 1 if there are none."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def collapse_step(tokens: Sequence[int]) -> int | None:
    """Return the first step that completes a loop: an n-gram (n ≤ 8), three times in a row, over at least 6 tokens.

    None if the text does not loop.
    """
    # matched[n]: number of consecutive tokens that equal the token n before them; the loop is n tokens longer.
    matched = [0] * (_MAX_LOOP_LENGTH + 1)
    for step, token in enumerate(tokens):
        for n in range(1, _MAX_LOOP_LENGTH + 1):
            matched[n] = matched[n] + 1 if step >= n and tokens[step - n] == token else 0
            if matched[n] + n >= max(_MIN_LOOP_REPEATS * n, _MIN_LOOP_TOKENS):
                return step
    return None


def first_flip(dense: Sequence[int], pruned: Sequence[int]) -> int | None:
    """Return the first step whose tokens differ, up to the shorter length, or None."""
    return next((step for step, (a, b) in enumerate(zip(dense, pruned, strict=False)) if a != b), None)


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences."""
    step = first_flip(one, other)
    return min(len(one), len(other)) if step is None else step

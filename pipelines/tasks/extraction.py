"""Answers as the maths tasks write them, on the way from lm-eval's filters to the tables.

Where in a text an answer stands is the definitions' (their `filter_list`), whether it is right lm-eval's.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

# What lm-eval's gsm8k leaves out of answers before it compares them, one behind the other: the comma of thousands,
# currency, the point of a sentence.
_MARKS = (",", r"\$", r"\.$")


def without_marks(responses: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:  # noqa: ARG001
    """A filter of lm-eval's: 1,000. and $1000 become one answer, as they count as one.

    It takes away only what the task's comparison ignores, so that no score moves; the dense model's answer and a
    variant's are then the same text where they are the same number.

    Args:
        responses: the answers found in each sample's texts.
        docs: the samples.
    """
    return [[_without(answer) for answer in found] for found in responses]


def _without(answer: str) -> str:
    for mark in _MARKS:
        answer = re.sub(mark, "", answer)
    return answer

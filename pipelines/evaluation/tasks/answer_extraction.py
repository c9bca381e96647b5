"""What stands between lm-eval and answers as the shipped tasks write them: filters, and a score that lm-eval fetches.

Where in a text an answer stands is the definitions' (their `filter_list`), whether it is right lm-eval's.
"""

import re
import string
from collections import Counter
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


def f1_of_words(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """SQuAD's F1 (arXiv 1606.05250 §6.1): harmonic mean of the shares of words that answer and truth have in common.

    Small letters, without punctuation and articles; of several right answers the best one counts, as in SCROLLS
    (2201.03533), which gives it in per cent.

    Args:
        doc: the sample, with its right `answers`.
        results: the text that was written.
    """
    found = _words(results[0])
    return {"f1": max((_f1(found, _words(answer)) for answer in doc["answers"]), default=0.0)}


def _words(text: str) -> Counter[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return Counter(word for word in plain.split() if word not in {"a", "an", "the"})


def _f1(found: Counter[str], truth: Counter[str]) -> float:
    if not found or not truth:
        return float(found == truth)
    return 2 * (found & truth).total() / (found.total() + truth.total())

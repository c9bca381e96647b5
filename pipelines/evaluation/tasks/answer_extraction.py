"""Functions that our task definitions name: an lm-eval filter, and a score that lm-eval would download."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from prunescope.pipelines.studies.prompts import number_text


def without_marks(responses: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:  # noqa: ARG001
    """Return the answers without the marks that the task's comparison ignores: 1,000. and $1000 become equal.

    Lm-eval's gsm8k removes thousands separators and dollar signs, then the final full stop. This changes no score. But
    if the dense model and a variant answer with the same number, their texts become equal. `responses` are the answers
    extracted from each sample's texts.
    """
    return [[re.sub(r"\.$", "", re.sub("[,$]", "", answer)) for answer in answers] for answers in responses]


def same_answer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the written answer is right: the same number, or the same words.

    Words are compared without case and punctuation, as in lm-eval's exact_match with both of its options. Unlike there,
    marks are kept inside and between numbers (1/2, -5), and in an answer that consists of marks.
    """
    number = number_text(doc["answer"])
    if number is not None:
        return {"exact_match": float(number_text(results[0]) == number)}
    return {"exact_match": float(_with_signs(results[0]) == _with_signs(doc["answer"]))}


def f1_of_words(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's F1 (arXiv 1606.05250 §6.1): harmonic mean of the words' precision and recall.

    Words are lower-cased, without punctuation and articles. If several answers are right, the best score counts, as in
    SCROLLS (2201.03533), which reports percentages.
    """
    words = _words(results[0])
    return {"f1": max((_f1(words, _words(answer)) for answer in doc["answers"]), default=0.0)}


def _words(text: str) -> Counter[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return Counter(word for word in plain.split() if word not in {"a", "an", "the"})


def _with_signs(text: str) -> str:
    kept = re.sub(rf"(?![-+/.,:^*<>=][0-9])[{re.escape(string.punctuation)}]", "", text.lower())
    return kept if kept.strip() else text


def _f1(words: Counter[str], truth: Counter[str]) -> float:
    if not words or not truth:
        return float(words == truth)
    return 2 * (words & truth).total() / (words.total() + truth.total())

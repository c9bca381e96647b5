"""A pattern that backtracks without end stops with one message; all others find what `re` finds."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunescope.pipelines.core import bounded_regex
from prunescope.pipelines.core.bounded_regex import BoundedPattern, BoundedRe, SlowPatternError
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.definition import FOLDER, fields
from prunescope.pipelines.evaluation.tokenization.prompts import find_answer
from prunescope.pipelines.studies import Prompt, load_study, study_names

SLOW = r"(a|aa)+$"
ENDLESS = "a" * 100 + "b"


def shipped() -> list[str]:
    """The patterns of all shipped studies and tasks."""
    found = {prompt.answer_pattern for name in study_names() for prompt in load_study(name).prompts}
    for path in FOLDER.glob("*.yaml"):
        steps = [step for chosen in fields(path).get("filter_list", ()) for step in chosen["filter"]]
        found |= {step["regex_pattern"] for step in steps if "regex_pattern" in step}
    return sorted(pattern for pattern in found if pattern)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_regex, "SECONDS", 0.05)


@pytest.mark.usefixtures("_impatient")
def test_a_pattern_that_backtracks_without_end_is_stopped_by_name() -> None:
    pattern, module = BoundedPattern(SLOW), BoundedRe()
    for use in (
        lambda: pattern.search(ENDLESS),
        lambda: pattern.findall(ENDLESS),
        lambda: pattern.sub("", ENDLESS),
        lambda: module.sub(SLOW, "", ENDLESS),
    ):
        with pytest.raises(SlowPatternError, match=r"^regular expression '\(a\|aa\)\+\$': over 0.05 seconds") as caught:
            use()
        assert caught.value.__context__ is None, "a timeout counts as an error that may pass"


@pytest.mark.usefixtures("_impatient")
def test_a_slow_answer_pattern_is_named_with_its_prompt_and_key() -> None:
    prompt = Prompt(id="p1", text="Why?", answer_pattern=SLOW)
    with pytest.raises(InputError, match="prompt 'p1': `answer_pattern`: regular expression") as caught:
        find_answer(prompt, ENDLESS)
    assert not isinstance(caught.value.__context__, TimeoutError)


@pytest.mark.parametrize(
    "pattern", ["(?:(?:(?:a{100}){100}){101})", "a{1000000000}", "(" * 2000 + ")" * 2000, "(", r"\y", "a" + "{9" * 5000]
)
def test_a_pattern_that_is_wrong_or_too_large_is_refused_uncompiled(pattern: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression|counted repetitions"):
        BoundedPattern(pattern)


@given(st.text(alphabet="ABCD #=$-.,0123456789\nabé(", max_size=60))
def test_shipped_patterns_find_what_re_finds(text: str) -> None:
    for pattern in shipped_patterns:
        assert BoundedPattern(pattern).findall(text) == re.findall(pattern, text)


def test_what_is_not_bounded_is_res_own() -> None:
    module = BoundedRe()
    assert module.escape("a.b") == re.escape("a.b")
    assert module.compile("B", module.IGNORECASE).search("ab").span() == (1, 2)
    assert module.search("B", "ab", flags=re.IGNORECASE).span() == (1, 2)
    assert module.findall("(a)(b)", "abab") == [("a", "b")] * 2
    assert module.sub("a", "c", "aa", count=1) == "ca"


shipped_patterns = shipped()

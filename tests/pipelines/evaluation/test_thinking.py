"""Thinking ends where the last end token stands, and answers are looked for after it."""

from typing import Any

import pytest

from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt
from prunescope.pipelines.evaluation.tokenization.thinking import thinking_steps
from prunescope.pipelines.evaluation.traces.decoding import generation_row
from prunescope.pipelines.studies import Prompt
from tests.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module", params=[("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    found = tiny_tokenizer()
    found.add_tokens(list(request.param))
    found.marks = request.param
    return found


class _Decoder:
    """The two parts of a decoder that read a text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.end_ids = tokenizer, frozenset({tokenizer.eos_token_id})


@pytest.mark.parametrize(
    ("prompt", "text", "thinking"),
    [
        ("Q", "B 7 E 8", "B 7 E"),
        ("Q B", " 7 E 8", " 7 E"),
        ("Q B", " 7", " 7"),
        ("Q", "B 7", "B 7"),
        ("Q", " 7 E 8", " 7 E"),  # begun nowhere, but ended
        ("Q B E", " 8", ""),  # switched off by the template
        ("Q B E Q", "B 7", "B 7"),
        ("Q", "B 7 E 8 B 9 E 8", "B 7 E 8 B 9 E"),
        ("Q", "8", ""),
        ("Q B", "", ""),
    ],
)
def test_thinking_goes_up_to_its_last_end(tokenizer: Any, prompt: str, text: str, thinking: str) -> None:
    begin, end = tokenizer.marks

    def ids(part: str) -> tuple[int, ...]:
        return tuple(tokenizer(part.replace("B", begin).replace("E", end), add_special_tokens=False).input_ids)

    steps = thinking_steps(tokenizer, ids(prompt), ids(text))
    assert ids(text)[:steps] == ids(thinking)
    for unknown in (None, "<|pad|>"):  # a model without such tokens
        without = tiny_tokenizer()
        without.unk_token = unknown
        assert thinking_steps(without, ids(prompt), ids(text)) == 0


def test_the_answer_is_the_one_after_the_thinking(tokenizer: Any) -> None:
    begin, end = tokenizer.marks
    prompt = TokenizedPrompt(Prompt(id="p", kind="maths", text="?", gold="8", answer_pattern=r"(\d)"), (5, 6), ())

    def row(text: str) -> dict[str, Any]:
        tokens = (*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id)
        return generation_row(_Decoder(tokenizer), prompt, tokens, tokens)  # type: ignore[arg-type]

    thought, unfinished, plain = row(f"{begin}7?{end}so 8"), row(f"{begin}8"), row("8, no 7")
    assert (thought["answer"], thought["is_correct"], thought["thinking_text"]) == ("8", True, f"{begin}7?{end}")
    before = len(tokenizer(f"{begin}7?{end}so ", add_special_tokens=False).input_ids)
    assert (thought["thinking_steps"], thought["answer_end_step"]) == (4, before)
    assert (unfinished["answer"], unfinished["is_correct"], unfinished["thinking_steps"]) == (None, False, 2)
    assert (plain["answer"], plain["is_correct"], plain["thinking_steps"], plain["thinking_text"]) == (
        "8",
        True,
        0,
        None,
    )

"""Thinking that a model writes before its answer, found by the tokens that begin and end it. Needs no weights."""

from collections.abc import Sequence
from typing import Any

# The tokens of Qwen3, DeepSeek-R1 and SmolLM3, of Magistral, and of Command A.
_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))


def thinking_steps(tokenizer: Any, prompt: Sequence[int], written: Sequence[int]) -> int:  # noqa: ANN401
    """Return how many tokens of a text are thinking, including the token that ends it; what follows is the answer.

    It is 0 without thinking, and all tokens if the thinking does not end. A chat template may begin the thinking in
    the prompt, or begin and end it there. Of several ends the last one counts, as in lm-eval.
    """
    unknown = {None, tokenizer.unk_token_id}
    pairs = (tokenizer.convert_tokens_to_ids([*marks]) for marks in _MARKS)
    begin, end = next((pair for pair in pairs if not unknown & {*pair}), (-1, -1))
    if end in written:
        return len(written) - list(reversed(written)).index(end)
    marks = [token for token in (*prompt, *written) if token in {begin, end}]
    return len(written) if marks[-1:] == [begin] else 0

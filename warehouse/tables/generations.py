"""Text and tokens that each variant generates, and the step at which it first differs from the dense model.

A text is decoded to its own end-of-text token, and at least as far as the dense text, because steps are compared in
pairs. With `generation: {until: length}` it continues to the study's length. The fork is the text that the dense model
writes after it was made to take the variant's first different token. It shows what that one token costs.
"""

from functools import partial

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

_step = partial(c.int32, unit="step", nullable=True)
_NO_FORK = "NULL if the text never flips, or if forks were not requested"

TABLE = Table(
    name="generations",
    grain="One row per variant × prompt.",
    key=("model", "recipe", "prompt_id"),
    columns=(
        *c.PROMPT,
        c.label("kind", "Kind of the prompt.", values=("maths", "open", "choice")),
        c.text(
            "prompt_text", "The user's text before the template: the last of several turns; for token ids, their text."
        ),
        c.int32("prompt_tokens", "Length of the templated prompt.", "tokens", minimum=1),
        c.text("text", "The generated text up to the end-of-text token."),
        c.integers("token_ids", "All generated tokens, including those after the end."),
        c.int32(
            "thinking_steps",
            "Tokens of the text that are thinking, including the token that ends it: 0 without thinking, all if it "
            "does not end. NULL in rows from before this column.",
            "steps",
            minimum=0,
            nullable=True,
            since=3,
        ),
        c.text("thinking_text", "Text of the thinking; NULL without thinking.", nullable=True, since=3),
        c.text("thinking_answer", "Answer that the pattern finds in the thinking.", nullable=True, since=3),
        _step(
            "first_flip_step",
            "First step whose token differs from the dense model's, up to the dense text's end; NULL if none differs.",
            source="first divergent token, 2311.01544",
        ),
        _step(
            "collapse_step",
            "First step that completes a loop: an n-gram (n ≤ 8) at least three times in a row, over at least 6 "
            "tokens; NULL if the text does not loop.",
        ),
        _step("end_step", "Step of the first end-of-text token; NULL if there is none."),
        _step(
            "answer_end_step",
            "Step at which the answer is complete, by the study's answer pattern or at the end of the text; NULL if it "
            "is never complete.",
        ),
        c.share(
            "repeat_rate", "Share of repeated 3-grams in the text, up to its end.", formula="1 − distinct/all 3-grams"
        ),
        c.share("distinct_1", "Share of distinct tokens in the text, up to its end.", formula="distinct/all 1-grams"),
        c.share("distinct_2", "Share of distinct 2-grams in the text, up to its end.", formula="distinct/all 2-grams"),
        c.text(
            "answer", "Answer that the study's pattern finds after the thinking; NULL if it finds none.", nullable=True
        ),
        c.text("gold", "Correct answer; NULL if the study names none.", nullable=True),
        c.flag(
            "is_correct", "Whether `answer` equals `gold`; NULL without `gold` or without a pattern.", nullable=True
        ),
        c.text("text_fork", f"Text of the fork, up to its end; {_NO_FORK}.", nullable=True, since=2),
        c.integers("token_ids_fork", f"Tokens of the fork, up to its end; {_NO_FORK}.", nullable=True, since=2),
        _step("collapse_step_fork", "`collapse_step` of the fork; NULL without a loop or a fork.", since=2),
        _step("end_step_fork", "`end_step` of the fork; NULL without an end or a fork.", since=2),
        c.text("answer_fork", "`answer` of the fork; NULL without an answer or a fork.", nullable=True, since=2),
        c.flag(
            "is_correct_fork",
            "`is_correct` of the fork; NULL without a fork, without `gold` or without a pattern.",
            nullable=True,
            since=2,
        ),
    ),
    preview_columns=("text", "first_flip_step", "answer", "gold", "is_correct"),
    # A study may measure on the dense model's text only.
    may_be_empty=True,
)

"""Text and tokens that each variant generates, and the step at which it first differs from the dense model.

A text is decoded to its own end-of-text token and at least as far as the dense one, so that steps pair up; with
`generation: {until: length}` it continues to the study's length.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c


def _step(name: str, doc: str) -> Column:
    return Column(name, pa.int32(), doc, "step", nullable=True, minimum=0)


TABLE = Table(
    name="generations",
    grain="One row per variant × prompt.",
    key=("model", "recipe", "prompt_id"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        Column("kind", c.LABEL, "Kind of the prompt.", values=("maths", "open", "choice")),
        Column(
            "prompt_text",
            pa.string(),
            "The user's text before the template: of several turns the last one, of token ids their text.",
        ),
        Column("prompt_tokens", pa.int32(), "Length of the templated prompt.", "tokens", minimum=1),
        Column("text", pa.string(), "The generated text up to the end-of-text token."),
        Column("token_ids", pa.list_(pa.int32()), "All generated tokens, those after the end included."),
        _step(
            "first_flip_step",
            "First step whose token differs from the dense model's, up to the dense text's end; NULL without one.",
        ),
        _step(
            "collapse_step",
            "First step of the text that completes a loop: one n-gram (n ≤ 8) three times or more over 6 tokens; "
            "NULL without one.",
        ),
        _step("end_step", "Step of the first end-of-text token; NULL without one."),
        _step(
            "answer_end_step",
            "Step at which the answer is complete (the study's answer pattern, else the end of text); "
            "NULL where it never is complete.",
        ),
        c.share("repeat_rate", "Share of repeated 3-grams in the text, up to its end.", "1 − distinct/all 3-grams"),
        c.share("distinct_1", "Share of distinct tokens in the text, up to its end.", "distinct/all 1-grams"),
        c.share("distinct_2", "Share of distinct 2-grams in the text, up to its end.", "distinct/all 2-grams"),
        Column("answer", pa.string(), "Answer that the study's pattern finds; NULL without one.", nullable=True),
        Column("gold", pa.string(), "Correct answer; NULL where the study names none.", nullable=True),
        Column(
            "is_correct",
            pa.bool_(),
            "Whether `answer` equals `gold`; NULL without `gold` or without a pattern.",
            nullable=True,
        ),
        Column("text_fork", pa.string(), "Text of the fork; NULL without a flip.", nullable=True, since=2),
        Column(
            "token_ids_fork", pa.list_(pa.int32()), "Tokens of the fork; NULL without a flip.", nullable=True, since=2
        ),
        Column("collapse_step_fork", pa.int32(), "As collapse_step.", "step", nullable=True, minimum=0, since=2),
        Column("end_step_fork", pa.int32(), "As end_step.", "step", nullable=True, minimum=0, since=2),
        Column("answer_fork", pa.string(), "As answer.", nullable=True, since=2),
        Column("is_correct_fork", pa.bool_(), "As is_correct.", nullable=True, since=2),
    ),
    version=2,
    partitioning="variant",
    preview_columns=("text", "first_flip_step", "answer", "gold", "is_correct"),
    references=(c.OF_VARIANT,),
    # A study may have no free-running trajectory.
    may_be_empty=True,
)

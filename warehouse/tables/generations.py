"""Text and tokens that each variant generates, and the step at which it first differs from the dense model.

A text is decoded to its own end-of-text token, and at least as far as the dense text, so that steps pair up. With
`generation: {until: length}` it continues to the study's length. The fork is the text that the dense model writes after
it had to take the variant's first different token. It shows what that one token costs.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c


def _step(name: str, doc: str, source: str = "", since: int = 1) -> Column:
    return Column(name, pa.int32(), doc, "step", source=source, nullable=True, minimum=0, since=since)


_NO_FORK = "NULL if the text never flips, or if forks were not requested"


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
            "The user's text before the template: the last of several turns; for token ids, their text.",
        ),
        Column("prompt_tokens", pa.int32(), "Length of the templated prompt.", "tokens", minimum=1),
        Column("text", pa.string(), "The generated text up to the end-of-text token."),
        Column("token_ids", pa.list_(pa.int32()), "All generated tokens, including those after the end."),
        _step(
            "first_flip_step",
            "First step whose token differs from the dense model's, up to the dense text's end; NULL if none differs.",
            "first divergent token, 2311.01544",
        ),
        _step(
            "collapse_step",
            "First step of the text that completes a loop: one n-gram (n ≤ 8) at least three times over 6 tokens; NULL "
            "if it does not loop.",
        ),
        _step("end_step", "Step of the first end-of-text token; NULL if there is none."),
        _step(
            "answer_end_step",
            "Step at which the answer is complete (by the study's answer pattern, or at the end of the text); NULL if "
            "it never is.",
        ),
        c.share("repeat_rate", "Share of repeated 3-grams in the text, up to its end.", "1 − distinct/all 3-grams"),
        c.share("distinct_1", "Share of distinct tokens in the text, up to its end.", "distinct/all 1-grams"),
        c.share("distinct_2", "Share of distinct 2-grams in the text, up to its end.", "distinct/all 2-grams"),
        Column("answer", pa.string(), "Answer that the study's pattern finds; NULL if it finds none.", nullable=True),
        Column("gold", pa.string(), "Correct answer; NULL if the study names none.", nullable=True),
        Column(
            "is_correct",
            pa.bool_(),
            "Whether `answer` equals `gold`; NULL without `gold` or without a pattern.",
            nullable=True,
        ),
        Column("text_fork", pa.string(), f"Text of the fork, up to its end; {_NO_FORK}.", nullable=True, since=2),
        Column(
            "token_ids_fork",
            pa.list_(pa.int32()),
            f"Tokens of the fork, up to its end; {_NO_FORK}.",
            nullable=True,
            since=2,
        ),
        _step("collapse_step_fork", "`collapse_step` of the fork; NULL without a loop or a fork.", since=2),
        _step("end_step_fork", "`end_step` of the fork; NULL without an end or a fork.", since=2),
        Column("answer_fork", pa.string(), "`answer` of the fork; NULL without one.", nullable=True, since=2),
        Column(
            "is_correct_fork",
            pa.bool_(),
            "`is_correct` of the fork; NULL if that is NULL or without a fork.",
            nullable=True,
            since=2,
        ),
    ),
    partitioning="variant",
    preview_columns=("text", "first_flip_step", "answer", "gold", "is_correct"),
    references=(c.OF_VARIANT,),
    # A study may measure on the dense model's text only.
    may_be_empty=True,
    version=2,
)

"""What each variant writes, token ids included, and where it leaves the dense model.

Decoding always runs to the study's length, so that steps pair up; the end is marked, not cut.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c


def _step(name: str, doc: str) -> Column:
    return Column(name, pa.int32(), doc, "step", nullable=True, minimum=0)


def _share(name: str, doc: str, formula: str) -> Column:
    return Column(name, c.METRIC, doc, "share", formula, minimum=0, maximum=1)


TABLE = Table(
    name="generations",
    grain="One row per variant × prompt.",
    key=("model", "recipe", "prompt_id"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        Column("kind", c.LABEL, "What the prompt asks for.", values=("maths", "open", "choice")),
        Column("prompt_text", pa.string(), "The prompt as the study gives it, before the chat template."),
        Column("prompt_tokens", pa.int32(), "Length of the templated prompt.", "tokens", minimum=1),
        Column("text", pa.string(), "The generated text up to the end-of-text token."),
        Column("token_ids", pa.list_(pa.int32()), "All generated tokens, those after the end included."),
        _step("first_flip_step", "First step whose token differs from the dense model's; NULL where none does."),
        _step(
            "collapse_step",
            "First step of the text that completes a loop: one n-gram (n ≤ 8) three times or more over 6 tokens; "
            "NULL where none does.",
        ),
        _step("end_step", "Step of the first end-of-text token; NULL where there is none."),
        _step(
            "answer_end_step",
            "Step at which the answer is complete (the study's answer pattern, else the end of text); "
            "NULL where it never is.",
        ),
        _share("repeat_rate", "Share of repeated 3-grams in the text, up to its end.", "1 − distinct/all 3-grams"),
        _share("distinct_1", "Share of distinct tokens in the text, up to its end.", "distinct/all 1-grams"),
        _share("distinct_2", "Share of distinct 2-grams in the text, up to its end.", "distinct/all 2-grams"),
        Column(
            "answer",
            pa.string(),
            "Answer that the study's pattern finds in the text; NULL where it finds none.",
            nullable=True,
        ),
        Column("gold", pa.string(), "Right answer; NULL where the study names none.", nullable=True),
        Column(
            "is_correct", pa.bool_(), "Whether the answer is the right one; NULL without a right answer.", nullable=True
        ),
    ),
    partitioning="variant",
    telling=("text", "first_flip_step", "answer", "gold", "is_correct"),
    references=(c.OF_VARIANT,),
    # A study may leave the free-running trajectory out.
    may_be_empty=True,
)

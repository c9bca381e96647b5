"""Sampled texts of each variant, drawn with the same noise as the dense model's.

Token = argmax over the nucleus of ln p_T + Gumbel noise. The noise depends only on seed, prompt, sample, step and
token, so the two texts of a sample differ only if the models' distributions do.
"""

from dataclasses import replace

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c
from prunescope.warehouse.tables import generations

_TEXT = {column.name: column for column in generations.TABLE.columns}

TABLE = Table(
    name="sampled_generations",
    grain="One row per variant × prompt × sample, in studies with `decoding`.",
    key=("model", "recipe", "prompt_id", "sample"),
    columns=(
        *c.PROMPT,
        c.SAMPLE,
        c.TEMPERATURE,
        c.float64(
            "top_p",
            "Tokens are drawn from the smallest set of most likely tokens with at least this probability.",
            "probability",
            minimum=0,
            maximum=1,
        ),
        _TEXT["text"],
        c.integers("token_ids", "Generated tokens, the end-of-text token included."),
        c.int32(
            "first_flip_step",
            "First step whose token differs from that of the dense model's same sample; NULL if none differs.",
            "step",
            nullable=True,
        ),
        *(replace(_TEXT[name], since=2) for name in ("thinking_steps", "thinking_text", "thinking_answer")),
        *(_TEXT[name] for name in ("collapse_step", "end_step", "repeat_rate", "distinct_1", "distinct_2")),
        *(_TEXT[name] for name in ("answer", "gold", "is_correct")),
    ),
    preview_columns=("text", "first_flip_step", "answer", "gold", "is_correct"),
)

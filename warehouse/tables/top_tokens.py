"""The most likely tokens of both sides at every generated token, at T = 1, to read where an answer breaks."""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="top_tokens",
    grain="One row per variant × prompt × trajectory × step × side × rank.",
    key=("model", "recipe", "prompt_id", "trajectory", "step", "side", "rank"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        c.TRAJECTORY,
        c.STEP,
        Column("side", c.LABEL, "Side whose list has the token.", values=("dense", "pruned")),
        Column("rank", pa.int16(), "Rank in that side's list; 1 is first.", "rank", minimum=1),
        Column("token_id", pa.int32(), "The token.", minimum=0),
        Column("token_text", pa.string(), "The token as text."),
        Column("logit_dense", c.METRIC, "Dense logit of the token.", "logit"),
        Column("logit_pruned", c.METRIC, "Pruned logit of the token.", "logit"),
        c.probability("probability_dense", "Dense probability at T = 1."),
        c.probability("probability_pruned", "Pruned probability at T = 1."),
    ),
    partitioning="variant",
    preview_columns=("token_text", "probability_dense", "probability_pruned"),
    references=(c.OF_VARIANT,),
)

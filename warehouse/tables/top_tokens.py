"""The most likely tokens of both sides at every generated token, at T = 1; they show where an answer goes wrong."""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="top_tokens",
    grain="One row per variant × prompt × trajectory × step × side × rank.",
    key=("model", "recipe", "prompt_id", "trajectory", "step", "side", "rank"),
    columns=(
        *c.PROMPT,
        c.TRAJECTORY,
        c.STEP,
        c.label("side", "Side whose list has the token.", values=("dense", "pruned")),
        c.int16("rank", "Rank in that side's list; 1 is first.", "rank", minimum=1),
        c.int32("token_id", "The token."),
        c.text("token_text", "The token as text."),
        c.metric("logit_dense", "Dense logit of the token.", "logit"),
        c.metric("logit_pruned", "Pruned logit of the token.", "logit"),
        c.probability("probability_dense", "Dense probability at T = 1."),
        c.probability("probability_pruned", "Pruned probability at T = 1."),
    ),
    preview_columns=("token_text", "probability_dense", "probability_pruned"),
)

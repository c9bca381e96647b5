"""Shift of the model's output at every generated token, in every trajectory.

h is the head's input (after the final norm), z the true logits. `own_text` and `fork` end with the end-of-text token of
their text. `fork` has rows only for texts that flip; the shifts are zero up to the flip.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="decoding_steps",
    grain="One row per variant × prompt × trajectory × step × temperature.",
    key=("model", "recipe", "prompt_id", "trajectory", "step", "temperature"),
    columns=(
        *c.PROMPT,
        c.TRAJECTORY,
        c.STEP,
        c.POSITION,
        c.TEMPERATURE,
        c.int32(
            "token_id_dense",
            "Token that the dense model emits at this step (greedy, on the tokens of this trajectory).",
        ),
        c.int32(
            "token_id_pruned",
            "Token that the pruned model emits at this step, chosen in the same way. Under `fork` it is the dense "
            "model's token in the text after the variant's first different token.",
        ),
        c.text("token_text_dense", "The dense token as text."),
        c.text("token_text_pruned", "The pruned token as text."),
        *(
            c.share(
                f"repeat_rate_{side}",
                f"Share of repeated 3-grams in the {side} tokens up to this step; 0 before the third token.",
                formula="1 − distinct/all 3-grams",
            )
            for side in ("dense", "pruned")
        ),
        *c.DIVERGENCE,
    ),
    preview_columns=("token_text_dense", "token_text_pruned", "kl_dense_pruned_nats"),
    invariants=c.DIVERGENCE_INVARIANTS,
)

"""Logits and probabilities of a multiple-choice question's option tokens, at the last prompt token.

List columns have the order of `options`.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

RANKS = pa.list_(pa.int32())
SOURCE = "2603.24652 §5"

TABLE = Table(
    name="option_subspace",
    grain="One row per variant × question × temperature.",
    key=("model", "recipe", "prompt_id", "temperature"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        c.TEMPERATURE,
        Column("options", pa.list_(pa.string()), "Option labels."),
        Column("option_token_ids", RANKS, "First token of each label as the model would generate it."),
        Column("gold", pa.string(), "Correct label; NULL if the study names none.", nullable=True),
        Column("argmax_dense", pa.string(), "Most likely label of the dense model."),
        Column("argmax_pruned", pa.string(), "Most likely label of the pruned model."),
        Column("is_argmax_same", pa.bool_(), "Whether both sides choose the same label."),
        Column(
            "kendall_tau",
            c.METRIC,
            "Agreement of the two rankings of the options (tau-b).",
            "-1 to 1",
            minimum=-1.000001,
            maximum=1.000001,
            nullable=True,
        ),
        Column("logits_dense", c.FLOATS, "Dense logits of the options.", "logit"),
        Column("logits_pruned", c.FLOATS, "Pruned logits of the options.", "logit"),
        Column("p_full_dense", c.FLOATS, "Dense probabilities in the whole vocabulary.", "probability"),
        Column("p_full_pruned", c.FLOATS, "Pruned probabilities in the whole vocabulary.", "probability"),
        *(
            Column(
                f"p_options_{side}",
                c.FLOATS,
                f"{side.capitalize()} probabilities renormalised over the options.",
                "probability",
                source=SOURCE,
            )
            for side in ("dense", "pruned")
        ),
        Column("rank_dense", RANKS, "Dense rank of each option in the whole vocabulary; 1 is first.", "rank"),
        Column("rank_pruned", RANKS, "Pruned rank of each option in the whole vocabulary; 1 is first.", "rank"),
        c.probability("mass_dense", "Dense probability of all options together.", SOURCE),
        c.probability("mass_pruned", "Pruned probability of all options together.", SOURCE),
        c.cosine_defect("one_minus_cos_z_options", "Cosine defect of the option logits."),
        c.cosine_defect(
            "one_minus_cos_p_options", "Cosine defect of the renormalised option probabilities.", source=SOURCE
        ),
        c.amount(
            "kl_options_dense_pruned_nats",
            "KL divergence over the options, dense side first.",
            "nats",
            "KL(p‖q) over options",
            SOURCE,
        ),
        c.cosine_defect(
            "one_minus_cos_h", "Cosine defect of the head's input (after the final norm), for comparison.", since=2
        ),
        c.cosine_defect(
            "one_minus_cos_z", "Cosine defect of the logits of the whole vocabulary, for comparison.", since=2
        ),
        c.cosine_defect("one_minus_cos_p", "Cosine defect over the whole vocabulary, for comparison."),
        c.amount("kl_dense_pruned_nats", "KL divergence over the whole vocabulary, for comparison.", "nats", "KL(p‖q)"),
    ),
    partitioning="variant",
    preview_columns=("options", "gold", "argmax_dense", "argmax_pruned", "kl_options_dense_pruned_nats"),
    references=(c.OF_VARIANT,),
    version=2,
    may_be_empty=True,
)

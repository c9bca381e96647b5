"""A multiple-choice question seen on its option tokens alone, at the last prompt token.

List columns run in the order of `options`.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

FLOATS = pa.list_(pa.float32())
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
        Column("gold", pa.string(), "The right label; NULL where the study names none.", nullable=True),
        Column("argmax_dense", pa.string(), "Label that the dense model holds most likely."),
        Column("argmax_pruned", pa.string(), "Label that the pruned model holds most likely."),
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
        Column("logits_dense", FLOATS, "Dense logits of the options.", "logit"),
        Column("logits_pruned", FLOATS, "Pruned logits of the options.", "logit"),
        Column("p_full_dense", FLOATS, "Dense probabilities in the whole vocabulary.", "probability"),
        Column("p_full_pruned", FLOATS, "Pruned probabilities in the whole vocabulary.", "probability"),
        Column(
            "p_options_dense",
            FLOATS,
            "Dense probabilities renormalised over the options.",
            "probability",
            source=SOURCE,
        ),
        Column(
            "p_options_pruned",
            FLOATS,
            "Pruned probabilities renormalised over the options.",
            "probability",
            source=SOURCE,
        ),
        Column("rank_dense", RANKS, "Dense rank of each option in the whole vocabulary; 1 is first.", "rank"),
        Column("rank_pruned", RANKS, "Pruned rank of each option in the whole vocabulary; 1 is first.", "rank"),
        Column(
            "mass_dense",
            c.METRIC,
            "Dense probability of all options together.",
            "probability",
            source=SOURCE,
            minimum=0,
            maximum=1.000001,
        ),
        Column(
            "mass_pruned",
            c.METRIC,
            "Pruned probability of all options together.",
            "probability",
            source=SOURCE,
            minimum=0,
            maximum=1.000001,
        ),
        Column(
            "one_minus_cos_z_options",
            c.METRIC,
            "Cosine defect of the option logits.",
            "1 - cosine",
            minimum=0,
            maximum=2.000001,
        ),
        Column(
            "one_minus_cos_p_options",
            c.METRIC,
            "Cosine defect of the renormalised option probabilities.",
            "1 - cosine",
            source=SOURCE,
            minimum=0,
            maximum=2.000001,
        ),
        Column(
            "kl_options_dense_pruned_nats",
            c.METRIC,
            "Divergence over the options, dense side first.",
            "nats",
            "KL(p‖q) over options",
            SOURCE,
            minimum=0,
        ),
        Column(
            "one_minus_cos_h",
            c.METRIC,
            "Cosine defect of what the head reads (behind the final norm), for comparison.",
            "1 - cosine",
            minimum=0,
            maximum=2.000001,
            since=2,
        ),
        Column(
            "one_minus_cos_z",
            c.METRIC,
            "Cosine defect of the logits of the whole vocabulary, for comparison.",
            "1 - cosine",
            minimum=0,
            maximum=2.000001,
            since=2,
        ),
        Column(
            "one_minus_cos_p",
            c.METRIC,
            "Cosine defect over the whole vocabulary, for comparison.",
            "1 - cosine",
            minimum=0,
            maximum=2.000001,
        ),
        Column(
            "kl_dense_pruned_nats",
            c.METRIC,
            "Divergence over the whole vocabulary, for comparison.",
            "nats",
            "KL(p‖q)",
            minimum=0,
        ),
    ),
    partitioning="variant",
    telling=("options", "gold", "argmax_dense", "argmax_pruned", "kl_options_dense_pruned_nats"),
    references=(c.OF_VARIANT,),
    version=2,
    may_be_empty=True,
)

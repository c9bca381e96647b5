"""Logits and probabilities of a multiple-choice question's option tokens, at the last prompt token.

List columns have the order of `options`.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

SOURCE = "2603.24652 §5"

TABLE = Table(
    name="option_subspace",
    grain="One row per variant × question × temperature.",
    key=("model", "recipe", "prompt_id", "temperature"),
    columns=(
        *c.PROMPT,
        c.TEMPERATURE,
        c.texts("options", "Option labels."),
        c.integers("option_token_ids", "First token of each label as the model would generate it."),
        c.text("gold", "Correct label; NULL if the study names none.", nullable=True),
        c.text("argmax_dense", "Most likely label of the dense model."),
        c.text("argmax_pruned", "Most likely label of the pruned model."),
        c.flag("is_argmax_same", "Whether both sides choose the same label."),
        c.metric(
            "kendall_tau",
            "Agreement of the two rankings of the options (tau-b).",
            "-1 to 1",
            minimum=-1.000001,
            maximum=1.000001,
            nullable=True,
        ),
        c.floats("logits_dense", "Dense logits of the options.", "logit"),
        c.floats("logits_pruned", "Pruned logits of the options.", "logit"),
        c.floats("p_full_dense", "Dense probabilities in the whole vocabulary.", "probability"),
        c.floats("p_full_pruned", "Pruned probabilities in the whole vocabulary.", "probability"),
        *(
            c.floats(
                f"p_options_{side}",
                f"{side.capitalize()} probabilities renormalised over the options.",
                "probability",
                source=SOURCE,
            )
            for side in ("dense", "pruned")
        ),
        c.integers("rank_dense", "Dense rank of each option in the whole vocabulary; 1 is first.", "rank"),
        c.integers("rank_pruned", "Pruned rank of each option in the whole vocabulary; 1 is first.", "rank"),
        c.probability("mass_dense", "Dense probability of all options together.", source=SOURCE),
        c.probability("mass_pruned", "Pruned probability of all options together.", source=SOURCE),
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
    preview_columns=("options", "gold", "argmax_dense", "argmax_pruned", "kl_options_dense_pruned_nats"),
    may_be_empty=True,
)

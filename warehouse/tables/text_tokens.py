"""Shift of the model's output at every scored token of a text, and the likelihood of the true next token.

Both sides read the text itself (teacher-forced), and T is 1. h is the head's input (after the final norm), z the true
logits. The mart `kld_summary` has statistics over tokens.
"""

from prunescope.warehouse.schema.table import Invariant, Table
from prunescope.warehouse.tables import columns as c

# The prompt tables have the whole geometry of h, z and p.
NAMES = (
    *("one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "var_p_dz", "t3_kl_nats"),
    *("kl_dense_pruned_nats", "kl_pruned_dense_nats", "js_nats", "total_variation"),
    *("is_top1_same", "rank_of_dense_top1", "p_dense_top1_dense", "p_dense_top1_pruned"),
    *("entropy_dense_nats", "entropy_pruned_nats", "margin_dense", "margin_pruned"),
)
_DIVERGENCE = {column.name: column for column in c.DIVERGENCE}

TABLE = Table(
    name="text_tokens",
    grain="One row per variant × text × scored token, at T = 1.",
    key=("model", "recipe", "text_id", "position"),
    columns=(
        *c.VARIANT,
        c.label("text_id", "Name of the text in its study."),
        c.label("text_hash", "SHA-256 of the whole text in UTF-8.", since=2),
        c.int32("context", "Tokens per window.", "tokens", minimum=2, since=2),
        c.int32("stride", "Tokens from one window to the next.", "tokens", minimum=1, since=2),
        c.int32(
            "window_id",
            "Window in which the token was scored, from 0. A window scores its last tokens, as many as the stride.",
        ),
        c.int32(
            "position",
            "Index of the target in the text's sequence of tokens, from 0; if the tokenizer adds a first token, that "
            "token is 0.",
            minimum=1,
        ),
        c.int32("token_id", "The target: the text's own token at this position."),
        *(
            c.metric(
                f"log_p_target_{side}",
                f"Logarithm of the {side} probability of the target; its negative mean is the logarithm of the "
                "perplexity.",
                "nats",
                f"ln {p}(target)",
                maximum=1e-6,
            )
            for side, p in (("dense", "p"), ("pruned", "q"))
        ),
        *(_DIVERGENCE[name] for name in NAMES),
    ),
    preview_columns=("log_p_target_dense", "log_p_target_pruned", "kl_dense_pruned_nats"),
    invariants=(
        *(rule for rule in c.DIVERGENCE_INVARIANTS if rule.name in {"pinsker_dense_pruned", "pinsker_pruned_dense"}),
        Invariant("same_top1_ranks_first", "is_top1_same = (rank_of_dense_top1 = 1)"),
        Invariant("t3_is_half_variance", "abs(t3_kl_nats - var_p_dz / 2) <= 1e-4 * t3_kl_nats + 1e-30"),
        Invariant(
            "dense_is_dense",
            "recipe != 'dense' or (kl_dense_pruned_nats = 0 and log_p_target_pruned = log_p_target_dense)",
        ),
    ),
    may_be_empty=True,
)

"""Distributions of both models at every token of the sampled texts of the dense model and of the variant.

Both models read the same tokens, so the two distributions of a row have the same context. By the chain rule, the KL
summed over a text gives the KL between two distributions over texts.
"""

from dataclasses import replace

from prunescope.warehouse.schema.table import Invariant, Migration, Table
from prunescope.warehouse.tables import columns as c

_DIVERGENCE = {column.name: column for column in c.DIVERGENCE}

TABLE = Table(
    name="sampled_steps",
    grain="One row per variant × prompt × sample × trajectory × step, in studies with `decoding`.",
    key=("model", "recipe", "prompt_id", "sample", "trajectory", "step"),
    columns=(
        *c.PROMPT,
        c.SAMPLE,
        replace(
            c.TRAJECTORY,
            doc="`teacher_forced`: both models read the dense model's text. `own_text`: both read the variant's text. "
            "Rows up to the first flip are the same in both. Files of version 1 stop at the flip.",
            values=("teacher_forced", "own_text"),
            since=2,
        ),
        c.STEP,
        c.TEMPERATURE,
        *(
            c.int32(
                f"token_id_{side}",
                f"Token that the {side} model draws with the shared noise; NULL after the flip if the text is that of "
                "the other model.",
                nullable=True,
            )
            for side in ("dense", "pruned")
        ),
        c.float64(
            "total_variation",
            "Total variation of the two distributions that tokens are drawn from, at the sampling temperature and "
            "within their nuclei. It is the lowest probability of different tokens under any common noise.",
            "probability",
            "Σ|p − q|/2",
            minimum=0,
            maximum=1,
        ),
        c.float64(
            "flip_probability",
            "Probability that common Gumbel noise draws different tokens from the two distributions. It is between t "
            "and 2t/(1 + t) for a total variation t. NULL after the flip.",
            "probability",
            "1 − Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i)",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
        _DIVERGENCE["kl_dense_pruned_nats"],
        replace(_DIVERGENCE["kl_pruned_dense_nats"], since=2),
        _DIVERGENCE["entropy_dense_nats"],
        _DIVERGENCE["entropy_pruned_nats"],
    ),
    preview_columns=("token_id_dense", "token_id_pruned", "flip_probability"),
    migrations=(Migration(2, (), {"trajectory": "'teacher_forced'"}),),
    invariants=(
        Invariant("a_flip_is_at_least_total_variation", "flip_probability >= total_variation - 1e-9"),
        Invariant(
            "a_flip_is_at_most_twice_it", "flip_probability <= 2 * total_variation / (1 + total_variation) + 1e-9"
        ),
        Invariant(
            "dense_is_dense",
            "recipe != 'dense' or (flip_probability = 0 and total_variation = 0 and kl_dense_pruned_nats = 0 and "
            "token_id_pruned = token_id_dense)",
        ),
    ),
)

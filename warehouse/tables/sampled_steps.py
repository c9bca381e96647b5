"""Distributions at every step of a sampled text up to the flip: what decides whether dense and pruned text part.

Up to the flip both models have read the same tokens, so that the two distributions are of one context.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

_DIVERGENCE = {column.name: column for column in c.DIVERGENCE}

TABLE = Table(
    name="sampled_steps",
    grain="One row per variant × prompt × sample × step up to the flip, in studies with `decoding`.",
    key=("model", "recipe", "prompt_id", "sample", "step"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        c.SAMPLE,
        c.STEP,
        c.TEMPERATURE,
        Column("token_id_dense", pa.int32(), "Token that the dense model draws at this step.", minimum=0),
        Column("token_id_pruned", pa.int32(), "Token that the pruned model draws with the same noise.", minimum=0),
        Column(
            "total_variation",
            pa.float64(),
            "Total variation of the two distributions that are drawn from: at the sampling temperature, within their "
            "nuclei. No common noise gives different tokens less often.",
            "probability",
            "Σ|p − q|/2",
            minimum=0,
            maximum=1,
        ),
        Column(
            "flip_probability",
            pa.float64(),
            "Probability that common Gumbel noise draws different tokens from them; from total variation t to "
            "2t/(1 + t).",
            "probability",
            "1 − Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i)",
            minimum=0,
            maximum=1,
        ),
        _DIVERGENCE["kl_dense_pruned_nats"],
        _DIVERGENCE["entropy_dense_nats"],
        _DIVERGENCE["entropy_pruned_nats"],
    ),
    partitioning="variant",
    preview_columns=("token_id_dense", "token_id_pruned", "flip_probability"),
    references=(c.OF_VARIANT,),
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

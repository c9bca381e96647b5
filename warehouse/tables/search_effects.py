"""Effect of each treatment of one sublayer or matrix alone, on the items of a search; everything else stays dense.

A search adds these effects up to predict an allocation; `search_trials` has the allocations that it measured. A
treatment is measured on the first 16 items, on fewer of these if its ratio to another treatment of its sublayer is then
known well enough, or on none if its effect is computed from those of its matrices at another sparsity.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Migration, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="search_effects",
    grain="One row per model × search × sublayer × matrix × treatment.",
    key=("model", "search", "layer", "sublayer", "matrix", "treatment"),
    columns=(
        c.MODEL,
        c.SEARCH,
        c.LAYER,
        c.SUBLAYER,
        Column(
            "matrix",
            c.LABEL,
            "Last part of the name of the only matrix that is treated, such as `q_proj` (of all experts); `all` where "
            "the whole sublayer is.",
            since=2,
        ),
        Column(
            "treatment",
            c.LABEL,
            "Treatment: `drop`, or the name of a recipe of weights; `wanda-22-by-kl-3fa1c2` splits a sparsity of 22 % "
            "between the sublayer's matrices by what each of them does alone; the end tells one split from another.",
        ),
        Column("parameters_removed", pa.int64(), "Weights that the treatment removes.", "weights", minimum=0),
        Column("bytes_removed", pa.int64(), "Bytes by which the treatment shrinks the stored sublayer.", "bytes"),
        Column(
            "milliseconds_removed",
            c.METRIC,
            "Time that the treatment saves in the sublayer; NULL where it was not timed.",
            "ms",
            nullable=True,
            is_timing=True,
        ),
        c.amount(
            "kl_dense_pruned_nats",
            "KL divergence at the output, dense side first, with this treatment alone: geometric mean over items of "
            "the mean over an item's tokens, each item raised by a thousandth of the items' mean so that zeros count. "
            "Measured on fewer items than others of its search: its ratio to its sublayer's first treatment on these "
            "items, times the mean of the latter over all 16. With n_items 0: computed from the effects of its "
            "matrices alone, drawn towards those of their sublayer and kind: the sum of these, each times the third "
            "power of what its sparsity is to the measured one.",
            "nats",
            "KL(p‖q)",
        ),
        *c.interval(
            "kl",
            "kl_dense_pruned_nats (from logarithms by the delta method, with as many degrees of freedom as the "
            "measured items give)",
        ),
        c.cosine_defect(
            "one_minus_cos_h",
            "Cosine defect of the head's input (after the final norm) with this treatment alone, by the same means, "
            "ratios and sums as the KL.",
            "1 − cos(h, h+Δh)",
        ),
        Column(
            "n_items",
            pa.int32(),
            "Items that it was measured on, the first ones of the search; 0 where its effect is computed.",
            "items",
            minimum=0,
        ),
        Column("item_kl", c.FLOATS, "Mean KL divergence of each measured item, in order.", "nats", "KL(p‖q)"),
        c.SECONDS,
    ),
    partitioning="model",
    preview_columns=("parameters_removed", "kl_dense_pruned_nats", "kl_low", "kl_high"),
    references=(c.OF_MODEL,),
    invariants=(
        Invariant("mean_is_within_its_interval", "kl_low <= kl_dense_pruned_nats and kl_dense_pruned_nats <= kl_high"),
        Invariant("has_one_value_per_item", "len(item_kl) = n_items"),
    ),
    version=2,
    migrations=(Migration(2, (), {"matrix": "'all'"}),),
)

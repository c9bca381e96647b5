"""Effect of each treatment of one sublayer or matrix alone, on the items of a search; everything else stays dense.

A search adds these effects to predict an allocation; `search_trials` has the allocations that it measured. A treatment
is measured on the first 16 items, or on fewer if its ratio to another treatment of its sublayer is known well enough
by then. It is not measured if its effect is computed from those of its matrices at another sparsity.
"""

from prunescope.warehouse.schema.table import Invariant, Migration, Table
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
        c.label(
            "matrix",
            "Last part of the name of the only treated matrix, such as `q_proj` (of all experts); `all` if the whole "
            "sublayer is treated.",
            since=2,
        ),
        c.label(
            "treatment",
            "Treatment: `drop`, or the name of a recipe that changes weights. `wanda-22-by-kl-3fa1c2` splits a "
            "sparsity of 22 % between the sublayer's matrices by the effect of each alone. The end of the name "
            "identifies the split.",
        ),
        c.int64("parameters_removed", "Weights that the treatment removes.", "weights"),
        c.int64("bytes_removed", "Bytes by which the treatment shrinks the stored sublayer.", "bytes", minimum=None),
        c.metric(
            "milliseconds_removed",
            "Time that the treatment saves in the sublayer; NULL if it was not timed.",
            "ms",
            nullable=True,
            is_timing=True,
        ),
        c.amount(
            "kl_dense_pruned_nats",
            "KL divergence at the output, dense side first, with this treatment alone. It is the geometric mean over "
            "items of the mean over an item's tokens; a thousandth of the items' mean is added to each item, so zeros "
            "count too. A treatment measured on fewer items has its ratio to its sublayer's first treatment on these "
            "items, times the mean of that one over all 16. If n_items is 0, it is a sum over matrices: the effect of "
            "each alone, shrunk towards those of its sublayer and kind, times the third power of the ratio of its "
            "sparsity to the measured one.",
            "nats",
            "KL(p‖q)",
        ),
        *c.interval(
            "kl",
            "kl_dense_pruned_nats (from logarithms by the delta method, with the degrees of freedom of the measured "
            "items)",
        ),
        c.cosine_defect(
            "one_minus_cos_h",
            "Cosine defect of the head's input (after the final norm) with this treatment alone, computed like the KL.",
            formula="1 − cos(h, h+Δh)",
        ),
        c.int32(
            "n_items",
            "Number of items that it was measured on, from the first of the search; 0 if its effect is computed.",
            "items",
        ),
        c.floats("item_kl", "Mean KL divergence of each measured item, in order.", "nats", "KL(p‖q)"),
        c.SECONDS,
    ),
    preview_columns=("parameters_removed", "kl_dense_pruned_nats", "kl_low", "kl_high"),
    invariants=(
        Invariant("mean_is_within_its_interval", "kl_low <= kl_dense_pruned_nats and kl_dense_pruned_nats <= kl_high"),
        Invariant("has_one_value_per_item", "len(item_kl) = n_items"),
    ),
    migrations=(Migration(2, (), {"matrix": "'all'"}),),
)

"""Allocations that a search measured: which sublayer gets which treatment, with predicted and measured effect.

The objective is measured on the search's own items. `search_judgement` compares a resulting recipe with others on the
study's own data.
"""

from functools import partial

from prunescope.warehouse.schema.table import Invariant, Migration, Table
from prunescope.warehouse.tables import columns as c

_nats = partial(c.metric, unit="nats")
_share = partial(c.float64, unit="share", minimum=0, maximum=1)

TABLE = Table(
    name="search_trials",
    grain="One row per model × search × trial, which is one measured allocation.",
    key=("model", "search", "trial"),
    columns=(
        c.MODEL,
        c.SEARCH,
        c.int32("trial", "Number of the trial in its search, from 0, in order of time."),
        c.int32("parent", "Trial that this one is compared with, or NULL.", nullable=True),
        c.label(
            "strategy",
            "How the allocation was chosen: `searched` by KL at the output. The others are controls: `hidden` works in "
            "the same way by 1 − cos h (but with the method that the KL chose), `random` at random, and `greedy` step "
            "by step by the smallest effects, so that from a start the largest are put back.",
            values=("searched", "hidden", "random", "greedy"),
        ),
        c.label(
            "move",
            "Origin of the allocation. `uniform`: one method at the same sparsity everywhere. `sum`: the smallest sum "
            "of effects alone. `exchange`: changed treatments of the parent, or of the best one of the menu if the "
            "parent is uniform. `random` and `greedy`: as the strategy. `start`: the pruned model from which a search "
            "begins. `restore`: the parent with one more sublayer dense. `held_out`: a set of dense sublayers, "
            "measured on items that chose nothing; its parent is the start on the same items. In older files "
            "`interaction`: the sum with fitted interactions.",
            values=(
                *("uniform", "sum", "exchange", "random", "greedy"),
                *("start", "restore", "held_out", "interaction"),
            ),
        ),
        c.label(
            "objective",
            "Minimised quantity, measured in every trial: KL on given tokens (`kl`) or at the answers to a task "
            "(`task:NAME`). In older files `free-kl`: KL on tokens that each model writes.",
            source="KL as fitness of a non-uniform allocation: 2410.14649",
        ),
        c.label("budget", "Unit of the target.", values=("parameters", "bytes", "milliseconds", "sublayers")),
        _share(
            "remove",
            "Target: share of the layers' weights, bytes or milliseconds to remove, or of sublayers to treat. From a "
            "start: what it removes less what may be put back.",
        ),
        _share(
            "removed",
            "Share of the layers' weights, bytes or milliseconds that the allocation removes, or of sublayers that it "
            "treats.",
        ),
        c.text(
            "treatments_json",
            "The allocation as JSON with sorted keys: sublayer, such as `attn.3`, to treatment. Kept sublayers are "
            "left out. A treatment such as `wanda-22-by-kl-3fa1c2` has a sparsity of 22 %, split between the "
            "sublayer's matrices by the effect of each alone: by KL at the output, or with `-by-cos` by 1 − cos h. The "
            "end of the name identifies the split.",
        ),
        c.text(
            "exchange",
            "Change of the parent, such as `mlp.3: sparsegpt-30 → drop`; NULL if there is none.",
            nullable=True,
        ),
        _nats("predicted_nats", "Predicted objective; NULL if nothing was predicted.", nullable=True),
        _nats("measured_nats", "Measured objective, mean over items."),
        *c.interval("measured", "measured_nats"),
        _nats(
            "difference_nats",
            "Measured objective minus that of the parent, paired over their common items; NULL without a parent.",
            formula="measured − measured of the parent",
            nullable=True,
        ),
        *c.interval("difference", "difference_nats"),
        c.int32("n_items", "Number of items that it was measured on.", "items", minimum=1),
        c.texts("item_ids", "Names of these items, in order."),
        c.floats("item_nats", "Measured objective of each of these items, in order.", "nats"),
        c.flag(
            "is_accepted",
            "Whether the allocation became the current best of its strategy and target. The first one does. Others do "
            "if the geometric mean of their objective (`hidden`: of 1 − cos h) is below the parent's; `held_out` never "
            "does. An `exchange` is "
            "judged on the items after the first 16, because effects were measured on those; with fewer items, on "
            "those after the first 8, which proposed it; with fewer than two left, the interval of the difference of "
            "logarithms must lie below zero. All steps of `greedy` do.",
        ),
        c.flag("is_result", "Whether the search returns the allocation for its strategy and target."),
        c.label("recipe", "Name of the mixed recipe of a result; NULL for other trials.", nullable=True),
        c.text(
            "recipe_treatments_json",
            "The `treatments` of this recipe as JSON: sublayer, such as `attn.3`, or matrix, such as `attn.3.q_proj`, "
            "to treatment, its name or its parameters; NULL for other trials.",
            nullable=True,
            since=2,
        ),
        c.SECONDS,
    ),
    preview_columns=("strategy", "remove", "measured_nats", "is_result", "recipe"),
    invariants=(
        Invariant(
            "measured_is_within_its_interval", "measured_low <= measured_nats and measured_nats <= measured_high"
        ),
        Invariant(
            "difference_is_within_its_interval",
            "difference_low <= difference_nats and difference_nats <= difference_high",
        ),
        Invariant("has_one_value_per_item", "len(item_ids) = n_items and len(item_nats) = n_items"),
        Invariant("begins_anew_without_a_difference", "parent is not null or difference_nats is null"),
        Invariant("parent_comes_first", "parent < trial"),
        Invariant("only_a_result_has_a_recipe", "is_result or recipe is null"),
        Invariant("a_recipe_has_treatments", "(recipe is null) = (recipe_treatments_json is null)"),
    ),
    migrations=(Migration(2, (), {"recipe_treatments_json": "case when recipe is not null then treatments_json end"}),),
)

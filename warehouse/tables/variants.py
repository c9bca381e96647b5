"""Changes that each recipe made to its model: how much it removed, where, and at what cost.

The masks are in one small file per variant, next to the tables.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Migration, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="variants",
    grain="One row per variant (model × recipe).",
    key=("model", "recipe"),
    columns=(
        *c.VARIANT,
        c.label(
            "method",
            "Family of the recipe, such as wanda, attn-drop, gptq, external or noise. `composed` is a sequence of "
            "recipes; `mixed` has one recipe per sublayer.",
        ),
        c.text("parameters_json", "All parameters of the recipe, as JSON with sorted keys."),
        c.text("recipe_hash", "SHA-256 of the parameters."),
        c.int64("weights_prunable", "Weights of all linear modules inside the layers."),
        c.int64("weights_masked", "Weights of kept sublayers that a mask sets to zero."),
        c.int64(
            "weights_updated",
            "Weights of kept sublayers whose value differs from the dense one: updated by the method, or dequantized.",
            since=3,
        ),
        c.share(
            "sparsity", "Share of the prunable weights that are masked.", formula="weights_masked/weights_prunable"
        ),
        c.int64(
            "parameters_removed",
            "Masked weights and all parameters of dropped sublayers, less parameters that the dense model lacks, such "
            "as a repair's biases; negative if more is added than removed.",
            minimum=None,
        ),
        c.metric(
            "parameters_removed_share", "Removed parameters over all parameters of the model.", "share", maximum=1
        ),
        c.int64(
            "bytes_removed",
            "Bytes that a 16-bit checkpoint with packed masks and codes saves in the layers' matrices, less those of "
            "parameters that the dense model lacks; negative if more is added than saved.",
            "bytes",
            since=4,
            minimum=None,
        ),
        c.texts("sublayers_dropped", "Dropped sublayers, such as `attn.3`."),
        c.texts(
            "drop_order",
            "Units in the order in which the recipe would drop them, as far as measured; empty for other recipes.",
            since=3,
        ),
        Column(pa.list_(pa.float64()), "drop_scores", "Score by which each unit of `drop_order` was chosen.", since=3),
        c.text(
            "facts_json",
            "The method's report as JSON: raised dampings, dead channels, unreached matrices, the check of a repair.",
            since=3,
        ),
        c.int32("sublayers_changed", "Sublayers whose weights changed or that were dropped."),
        c.text(
            "variant_hash",
            "SHA-256 over all changes of weights, the dropped sublayers and what a repair adds in their place.",
            since=2,
        ),
        c.text("calibration_hash", "SHA-256 of the calibration tokens; NULL if the recipe needs none.", nullable=True),
        c.int64("file_bytes", "Size of the variant file.", "bytes"),
        c.metric("seconds", "Time to prune.", "s", minimum=0, is_timing=True),
        c.int64("peak_memory_bytes", "Peak resident memory of the process.", "bytes", is_timing=True),
    ),
    preview_columns=(
        "method",
        "sparsity",
        "parameters_removed_share",
        "sublayers_changed",
        "file_bytes",
        "peak_memory_bytes",
    ),
    migrations=(
        # In version 1 a variant could change only masks.
        Migration(2, (c.text("mask_hash", "SHA-256 over masks and drops."),), {"variant_hash": "mask_hash"}),
    ),
    invariants=(Invariant("removes_no_more_than_there_is", "weights_masked <= weights_prunable"),),
)

"""Changes of each recipe to its model: how much it removed, where, and at what cost.

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
        c.MODEL,
        c.RECIPE,
        Column(
            "method",
            c.LABEL,
            "Family of the recipe, such as wanda, attn-drop, gptq, external or noise. `composed` is a sequence of "
            "recipes; `mixed` has one recipe per sublayer.",
        ),
        Column("parameters_json", pa.string(), "All parameters of the recipe, as JSON with sorted keys."),
        Column("recipe_hash", pa.string(), "SHA-256 of the parameters."),
        Column("weights_prunable", pa.int64(), "Weights of all linear modules inside the layers.", minimum=0),
        Column("weights_masked", pa.int64(), "Weights of kept sublayers that a mask sets to zero.", minimum=0),
        Column(
            "weights_updated",
            pa.int64(),
            "Weights of kept sublayers whose value differs from the dense one: updated by the method, or dequantized.",
            minimum=0,
            since=3,
        ),
        c.share("sparsity", "Share of the prunable weights that are masked.", "weights_masked/weights_prunable"),
        Column("parameters_removed", pa.int64(), "Masked weights and all parameters of dropped sublayers.", minimum=0),
        c.share("parameters_removed_share", "Removed parameters over all parameters of the model."),
        Column(
            "bytes_removed",
            pa.int64(),
            "Bytes that a 16-bit checkpoint with packed masks and codes saves in the layers' matrices; negative if "
            "codes take more.",
            "bytes",
            since=4,
        ),
        Column("sublayers_dropped", pa.list_(pa.string()), "Dropped sublayers, such as `attn.3`."),
        Column(
            "drop_order",
            pa.list_(pa.string()),
            "Units in the order in which the recipe would drop them, as far as measured; empty for other recipes.",
            since=3,
        ),
        Column("drop_scores", pa.list_(pa.float64()), "Score by which each unit of `drop_order` was chosen.", since=3),
        Column(
            "facts_json",
            pa.string(),
            "The method's report as JSON: raised dampings, dead channels, unreached matrices.",
            since=3,
        ),
        Column("sublayers_changed", pa.int32(), "Sublayers whose weights changed or that were dropped.", minimum=0),
        Column("variant_hash", pa.string(), "SHA-256 over all changes of weights and the dropped sublayers.", since=2),
        Column(
            "calibration_hash",
            pa.string(),
            "SHA-256 of the calibration tokens; NULL if the recipe needs none.",
            nullable=True,
        ),
        Column("file_bytes", pa.int64(), "Size of the variant file.", "bytes", minimum=0),
        Column("seconds", c.METRIC, "Time to prune.", "s", minimum=0, is_timing=True),
        Column(
            "peak_memory_bytes", pa.int64(), "Peak resident memory of the process.", "bytes", minimum=0, is_timing=True
        ),
    ),
    partitioning="variant",
    preview_columns=(
        "method",
        "sparsity",
        "parameters_removed_share",
        "sublayers_changed",
        "file_bytes",
        "peak_memory_bytes",
    ),
    references=(c.OF_MODEL,),
    version=4,
    migrations=(
        # In version 1 a variant could change only masks.
        Migration(
            2, (Column("mask_hash", pa.string(), "SHA-256 over masks and drops."),), {"variant_hash": "mask_hash"}
        ),
    ),
    invariants=(Invariant("removes_no_more_than_there_is", "weights_masked <= weights_prunable"),),
)

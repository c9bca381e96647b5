"""What each recipe did to its model: how much was removed, from where, at what cost.

The masks themselves lie beside the tables, one small file a variant.
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
            "Family of the recipe, such as wanda, attn-drop, gptq, external or noise; composed for several in a row.",
        ),
        Column("parameters_json", pa.string(), "All parameters of the recipe, as JSON with sorted keys."),
        Column("recipe_hash", pa.string(), "SHA-256 of the parameters."),
        Column("weights_prunable", pa.int64(), "Weights of all linear modules inside the layers.", minimum=0),
        Column("weights_masked", pa.int64(), "Weights of sublayers that stay which a mask sets to zero.", minimum=0),
        Column(
            "weights_updated",
            pa.int64(),
            "Weights that stay, with another value than the dense one: updated by the method, or dequantized.",
            minimum=0,
            since=3,
        ),
        Column(
            "sparsity",
            c.METRIC,
            "Share of the prunable weights that are masked.",
            "share",
            "weights_masked/weights_prunable",
            minimum=0,
            maximum=1,
        ),
        Column("parameters_removed", pa.int64(), "Masked weights and all parameters of dropped sublayers.", minimum=0),
        Column(
            "parameters_removed_share",
            c.METRIC,
            "Removed parameters over all parameters of the model.",
            "share",
            minimum=0,
            maximum=1,
        ),
        Column("sublayers_dropped", pa.list_(pa.string()), "Dropped sublayers, as `attn.3`."),
        Column(
            "drop_order",
            pa.list_(pa.string()),
            "Units in the order in which the recipe would drop them, as far as that was measured; empty where none is.",
            since=3,
        ),
        Column("drop_scores", pa.list_(pa.float64()), "What each unit of `drop_order` was chosen by.", since=3),
        Column(
            "facts_json",
            pa.string(),
            "What the method tells about its own work, as JSON: raised dampings, dead channels, unreached matrices.",
            since=3,
        ),
        Column("sublayers_changed", pa.int32(), "Sublayers whose weights changed or that were dropped.", minimum=0),
        Column("variant_hash", pa.string(), "SHA-256 over all changes of weights and the dropped sublayers.", since=2),
        Column(
            "calibration_hash",
            pa.string(),
            "SHA-256 of the calibration tokens; NULL where the recipe needs none.",
            nullable=True,
        ),
        Column("file_bytes", pa.int64(), "Size of the variant file.", "bytes", minimum=0),
        Column("seconds", c.METRIC, "Time to prune.", "s", minimum=0, is_timing=True),
        Column(
            "peak_memory_bytes", pa.int64(), "Peak resident memory of the process.", "bytes", minimum=0, is_timing=True
        ),
    ),
    partitioning="variant",
    telling=("method", "sparsity", "parameters_removed_share", "sublayers_changed", "file_bytes", "peak_memory_bytes"),
    references=(c.OF_MODEL,),
    version=3,
    migrations=(
        # Masks were all that a variant could change.
        Migration(
            2, (Column("mask_hash", pa.string(), "SHA-256 over masks and drops."),), {"variant_hash": "mask_hash"}
        ),
    ),
    invariants=(Invariant("removes_no_more_than_there_is", "weights_masked <= weights_prunable"),),
)

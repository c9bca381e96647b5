"""Bits of each variant's masks at a fixed sample of positions, with which SQL compares any two masks of a model.

The whole masks are in the variant's file, next to the tables.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

MAX_SAMPLED = 16_384

TABLE = Table(
    name="mask_samples",
    grain="One row per variant × weight matrix inside the layers.",
    key=("model", "recipe", "layer", "sublayer", "module"),
    columns=(
        *c.VARIANT,
        c.LAYER,
        c.SUBLAYER,
        c.text("module", "Name of the matrix in the model, with an expert's number in brackets."),
        c.int64("weights", "Weights of the matrix.", "weights", minimum=1),
        c.int32(
            "sampled",
            "Number of sampled positions, which are the same for every variant of the model: all weights of a small "
            "matrix, otherwise one in each of 16384 intervals of equal length, drawn by a generator seeded with the "
            "matrix's name and shape.",
            "weights",
            "min(weights, 16384)",
            minimum=1,
            maximum=MAX_SAMPLED,
        ),
        Column(
            pa.binary(),
            "kept_bits",
            "One bit per position, in ascending order, highest bit first, 1 if the weight is kept; the last byte is "
            "padded with 0. A share s estimated from the bits has a standard error of at most √(s(1−s)/sampled), which "
            "is 0.0039 at 16384 positions; if all weights are sampled, it is exact. The Jaccard overlap of two "
            "variants' kept weights is bit_count(a::BIT & b::BIT) / bit_count(a::BIT | b::BIT).",
            "bits",
        ),
    ),
    preview_columns=("weights", "sampled"),
    invariants=(
        Invariant("samples_what_it_can", f"sampled = least(weights, {MAX_SAMPLED})"),
        Invariant("has_one_bit_per_position", "octet_length(kept_bits) = (sampled + 7) // 8"),
        Invariant("keeps_no_more_than_sampled", "bit_count(kept_bits::bit) <= sampled"),
    ),
)

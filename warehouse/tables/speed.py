"""How fast a variant reads and writes, beside the dense model timed in turn with it.

Times of another run or machine do not compare; those of one row do.
"""

import pyarrow as pa

from warehouse.schema import Column, Table
from warehouse.tables import columns as c

_MEASURES = (
    ("prefill_tokens_per_second", c.METRIC, "Prompt tokens read a second, all sequences together", "tokens/s"),
    ("decode_tokens_per_second", c.METRIC, "Tokens written a second, all sequences together", "tokens/s"),
    ("seconds_to_first_token", c.METRIC, "Time from the prompt to the first written token", "s"),
    ("peak_memory_bytes", pa.int64(), "Peak memory of weights, cache and activations", "bytes"),
)

TABLE = Table(
    name="speed",
    grain="One row per variant × batch × length × new tokens.",
    key=("model", "recipe", "batch", "length", "new_tokens"),
    columns=(
        c.MODEL,
        c.RECIPE,
        Column("batch", pa.int32(), "Sequences that run together.", "sequences", minimum=1),
        Column("length", pa.int32(), "Length of every prompt.", "tokens", minimum=1),
        Column("new_tokens", pa.int32(), "Tokens that every sequence writes.", "tokens", minimum=1),
        Column("repeats", pa.int32(), "Timings of each side, of which the median counts.", minimum=1),
        Column("sublayers_skipped", pa.int32(), "Dropped sublayers that did not run.", "sublayers", minimum=0),
        *(
            Column(f"{name}{suffix}", of, f"{doc}{whose}.", unit, minimum=0, is_timing=True)
            for suffix, whose in (("", ""), ("_dense", ", by the dense model in the same interleaved run"))
            for name, of, doc, unit in _MEASURES
        ),
    ),
    partitioning="variant",
    references=(c.OF_VARIANT,),
    may_be_empty=True,
)

"""How fast a variant reads and writes, beside the dense model timed in turn with it.

Times of another run or machine do not compare; those of one row do.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

_MEMORY = "Weights that the model needs, and the most that cache and activations took beside them"
_MEASURES = (
    ("prefill_tokens_per_second", c.METRIC, "Prompt tokens read a second, in all sequences", "tokens/s"),
    (
        "decode_tokens_per_second",
        c.METRIC,
        "Tokens written a second behind the first, in all sequences",
        "tokens/s",
    ),
    ("seconds_to_first_token", c.METRIC, "Time from the prompt to the first written token", "s"),
    ("peak_memory_bytes", pa.int64(), f"{_MEMORY}; NULL where the system does not tell", "bytes"),
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
        Column(
            "machine", c.LABEL, "Processor and threads, or graphics card; times of two do not compare.", is_timing=True
        ),
        Column("sublayers_skipped", pa.int32(), "Dropped sublayers that did not run.", "sublayers", minimum=0),
        *(
            Column(f"{name}{suffix}", of, f"{doc}{whose}.", unit, minimum=0, is_timing=True, nullable=of == pa.int64())
            for suffix, whose in (("", ""), ("_dense", ", by the dense model in the same interleaved run"))
            for name, of, doc, unit in _MEASURES
        ),
    ),
    partitioning="variant",
    telling=(
        *("prefill_tokens_per_second", "prefill_tokens_per_second_dense"),
        *("decode_tokens_per_second", "decode_tokens_per_second_dense"),
    ),
    references=(c.OF_VARIANT,),
    may_be_empty=True,
)

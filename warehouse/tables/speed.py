"""Speed of each variant and of the dense model, timed alternately in one run.

Only times of the same row are comparable, not those of different runs or machines.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

_MEMORY = "Bytes of the model's weights, and the peak of cache and activations on top"
_MEASURES = (
    ("prefill_tokens_per_second", c.METRIC, "Prompt tokens read per second, in all sequences", "tokens/s"),
    ("decode_tokens_per_second", c.METRIC, "Tokens generated per second after the first, in all sequences", "tokens/s"),
    ("seconds_to_first_token", c.METRIC, "Time from the prompt to the first generated token", "s"),
    ("peak_memory_bytes", pa.int64(), f"{_MEMORY}; NULL if the system does not report it", "bytes"),
)

TABLE = Table(
    name="speed",
    grain="One row per variant × batch × length × new tokens.",
    key=("model", "recipe", "batch", "length", "new_tokens"),
    columns=(
        c.MODEL,
        c.RECIPE,
        Column("batch", pa.int32(), "Number of sequences that run together.", "sequences", minimum=1),
        Column("length", pa.int32(), "Length of every prompt.", "tokens", minimum=1),
        Column("new_tokens", pa.int32(), "Tokens that every sequence generates.", "tokens", minimum=1),
        Column("repeats", pa.int32(), "Number of timings per side, whose median counts.", minimum=1),
        Column(
            "machine",
            c.LABEL,
            "Processor and threads, or graphics card. Times of different machines are not comparable.",
            is_timing=True,
        ),
        Column("sublayers_skipped", pa.int32(), "Dropped sublayers that did not run.", "sublayers", minimum=0),
        *(
            Column(f"{name}{suffix}", of, f"{doc}{whose}.", unit, minimum=0, is_timing=True, nullable=of == pa.int64())
            for suffix, whose in (("", ""), ("_dense", ", by the dense model in the same interleaved run"))
            for name, of, doc, unit in _MEASURES
        ),
    ),
    partitioning="variant",
    preview_columns=(
        *("prefill_tokens_per_second", "prefill_tokens_per_second_dense"),
        *("decode_tokens_per_second", "decode_tokens_per_second_dense"),
    ),
    references=(c.OF_VARIANT,),
    may_be_empty=True,
)

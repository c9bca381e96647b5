"""Speed of each variant and of the dense model, timed alternately in one run.

Only times of the same row are comparable, not those of different runs or machines.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

_MEMORY = "Bytes of the model's weights, and the peak of cache and activations on top"
_NULLABLE = "peak_memory_bytes"
_MEASURES = (
    ("prefill_tokens_per_second", c.metric, "Prompt tokens read per second, in all sequences", "tokens/s"),
    ("decode_tokens_per_second", c.metric, "Tokens generated per second after the first, in all sequences", "tokens/s"),
    ("seconds_to_first_token", c.metric, "Time from the prompt to the first generated token", "s"),
    (_NULLABLE, c.int64, f"{_MEMORY}; NULL if the system does not report it", "bytes"),
)

TABLE = Table(
    name="speed",
    grain="One row per variant × batch × length × new tokens.",
    key=("model", "recipe", "batch", "length", "new_tokens"),
    columns=(
        *c.VARIANT,
        c.int32("batch", "Number of sequences that run together.", "sequences", minimum=1),
        c.int32("length", "Length of every prompt.", "tokens", minimum=1),
        c.int32("new_tokens", "Tokens that every sequence generates.", "tokens", minimum=1),
        c.int32("repeats", "Number of timings per side; their median is reported.", minimum=1),
        c.label(
            "machine",
            "Processor and threads, or graphics card. Times of different machines are not comparable.",
            is_timing=True,
        ),
        c.int32("sublayers_skipped", "Dropped sublayers that did not run.", "sublayers"),
        *(
            of(f"{name}{suffix}", f"{doc}{whose}.", unit, minimum=0, is_timing=True, nullable=name == _NULLABLE)
            for suffix, whose in (("", ""), ("_dense", ", by the dense model in the same interleaved run"))
            for name, of, doc, unit in _MEASURES
        ),
    ),
    preview_columns=(
        *("prefill_tokens_per_second", "prefill_tokens_per_second_dense"),
        *("decode_tokens_per_second", "decode_tokens_per_second_dense"),
    ),
    may_be_empty=True,
)

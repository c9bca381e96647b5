"""What a variant scores on a task: one number a metric, with its uncertainty.

The samples that it was averaged from are in `task_samples`.
"""

import pyarrow as pa

from warehouse.schema import Column, Invariant, Table
from warehouse.tables import columns as c

TABLE = Table(
    name="task_scores",
    grain="One row per variant × task × metric.",
    key=("model", "recipe", "task", "metric"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.TASK,
        c.TASK_METRIC,
        Column(
            "kind",
            c.LABEL,
            "How the task is answered: `non_generative` by the likelihood of given options, `generative` by writing "
            "text, `perplexity` by reading text.",
            source="2603.24652 §5",
            values=("non_generative", "generative", "perplexity"),
        ),
        Column(
            "value",
            pa.float64(),
            "The score over all samples; perplexities are at least 1, every other score is a share.",
            "share; tokens for perplexity",
            minimum=0,
        ),
        Column(
            "standard_error",
            pa.float64(),
            "Standard error of `value` over samples; NULL where the metric has none or there is one sample.",
            "unit of value",
            nullable=True,
            minimum=0,
        ),
        Column("n", pa.int64(), "What was averaged over: samples, or tokens for perplexity.", "samples", minimum=1),
        Column("is_higher_better", pa.bool_(), "Whether a larger value is a better one."),
        Column("shots", pa.int32(), "Worked examples in front of every question.", "examples", minimum=0),
        c.TASK_HASH,
    ),
    partitioning="variant",
    references=(c.OF_VARIANT,),
    invariants=(
        Invariant("scores_are_shares", "kind = 'perplexity' or value <= 1"),
        Invariant("perplexity_is_at_least_one", "kind <> 'perplexity' or value >= 1"),
        Invariant("low_perplexity_is_better", "kind <> 'perplexity' or not is_higher_better"),
    ),
    may_be_empty=True,
)

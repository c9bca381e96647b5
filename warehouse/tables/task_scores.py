"""Scores of each variant on each task: one number per metric, with its uncertainty.

The averaged samples are in `task_samples`.
"""

from collections.abc import Iterable

from prunescope.warehouse.schema.table import Invariant, Table
from prunescope.warehouse.tables import columns as c


def _names(metrics: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in metrics)


_IS_OTHER = f"metric like '{c.OTHER_METRICS.replace('_', '^_')}%' escape '^'"

TABLE = Table(
    name="task_scores",
    grain="One row per variant × task × metric.",
    key=("model", "recipe", "task", "metric"),
    columns=(
        *c.VARIANT,
        c.TASK,
        c.label(
            "task_group",
            "Group of the harness, such as `mmlu`, by which the study named the task; NULL if it named the task "
            "itself.",
            nullable=True,
            since=2,
        ),
        c.TASK_METRIC,
        c.label(
            "kind",
            "How the task is scored: `non_generative` by the likelihood of given options, `generative` by generated "
            "text, `perplexity` by the perplexity of a given text.",
            source="2603.24652 §5",
            values=("non_generative", "generative", "perplexity"),
        ),
        c.float64(
            "value",
            "The score over all samples. Perplexities are at least 1. Other scores are shares, except for metrics "
            "under the harness's own name.",
            "share; units of text for perplexity",
        ),
        c.standard_error(
            "Standard error of `value` over samples; NULL if the metric has none or there is only one sample.",
            "unit of value",
        ),
        c.int64("n", "Number of averaged samples, or of the units of a perplexity.", "samples", minimum=1),
        c.flag("is_higher_better", "Whether a larger value is better."),
        c.int32("shots", "Worked examples before every question.", "examples"),
        c.int64(
            "fewshot_seed",
            "Seed that drew the worked examples; NULL if there are none or their list is fixed.",
            nullable=True,
            minimum=None,
        ),
        c.label("task_version", "Version in the task's definition; empty if there is none."),
        c.label("harness", "Program that asked and scored, with its version, such as `lm_eval 0.4.13`."),
        c.TASK_HASH,
    ),
    preview_columns=("value", "standard_error", "n"),
    invariants=(
        Invariant("metric_is_known", f"metric in ({_names(c.TASK_METRICS)}) or {_IS_OTHER}"),
        Invariant("scores_are_shares", f"metric in ({_names(c.PERPLEXITIES)}) or value between 0 and 1 or {_IS_OTHER}"),
        Invariant("perplexity_is_at_least_one", f"metric not in ({_names(c.PERPLEXITIES)}) or value >= 1"),
        Invariant("low_perplexity_is_better", f"metric not in ({_names(c.PERPLEXITIES)}) or not is_higher_better"),
        Invariant("perplexity_is_read", f"metric not in ({_names(c.PERPLEXITIES)}) or kind = 'perplexity'"),
    ),
    may_be_empty=True,
)

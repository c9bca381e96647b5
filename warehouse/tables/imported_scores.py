"""Scores that lm-evaluation-harness wrote to a file, read by `prunescope import-lm-eval`.

Scores that a study measures are in `task_scores`; the view `imported_comparisons` joins the two.
"""

from dataclasses import replace

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="imported_scores",
    grain="One row per variant × results file × task or group × metric of the harness × filter.",
    key=("model", "recipe", "source_hash", "task", "harness_metric", "filter"),
    columns=(
        *c.VARIANT,
        c.text("source_hash", "SHA-256 of the results file."),
        replace(c.TASK, doc="Name of the task or group of tasks in the harness."),
        c.flag(
            "is_group", "Whether `task` is a group, such as `mmlu`, whose scores are means over other rows of the file."
        ),
        c.label("harness_metric", "Name of the metric in the harness, such as `acc`."),
        c.label("filter", "Filter that extracts the answers for the metric; `none` if they are used as they are."),
        replace(
            c.TASK_METRIC,
            doc="Name of the metric as in `task_scores`. `acc` is `accuracy_letter` if the file's definition of the "
            "task compares the letters A, B, C and so on, otherwise `accuracy`. `acc_norm` is `accuracy_per_byte` "
            f"if there is no `acc_bytes`. Other metrics are `{c.OTHER_METRICS}NAME`.",
        ),
        c.float64("value", "The score.", "share; units of text for perplexity"),
        c.standard_error("Standard error of `value`; NULL if the file has none.", "unit of value"),
        c.int64("n", "Evaluated samples; NULL if the file does not say.", "samples", nullable=True, minimum=None),
        c.int32(
            "shots", "Worked examples before every question; NULL if the file does not say.", "examples", nullable=True
        ),
        c.flag("is_higher_better", "Whether a larger value is better; NULL if the file does not say.", nullable=True),
        c.label("task_version", "Version in the task's definition; empty if there is none."),
        c.label("harness", "Program that scored, with its version, such as `lm_eval 0.4.13`."),
        c.text("source_file", "Path of the results file, as the user gave it."),
    ),
    preview_columns=("metric", "value", "standard_error", "n"),
)

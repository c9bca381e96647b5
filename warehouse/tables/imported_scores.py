"""Scores that lm-evaluation-harness wrote to a file, read by `prunescope import-lm-eval`.

Scores that a study measures are in `task_scores`; the view `imported_comparisons` joins the two.
"""

from dataclasses import replace

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="imported_scores",
    grain="One row per variant × results file × task or group × metric of the harness × filter.",
    key=("model", "recipe", "source_hash", "task", "harness_metric", "filter"),
    columns=(
        c.MODEL,
        c.RECIPE,
        Column("source_hash", pa.string(), "SHA-256 of the results file."),
        replace(c.TASK, doc="Name of the task or group of tasks in the harness."),
        Column(
            "is_group",
            pa.bool_(),
            "Whether `task` is a group, such as `mmlu`, whose scores are means over other rows of the file.",
        ),
        Column("harness_metric", c.LABEL, "Name of the metric in the harness, such as `acc`."),
        Column("filter", c.LABEL, "Filter of the answers for the metric; `none` for the answers themselves."),
        replace(
            c.TASK_METRIC,
            doc="Name of the metric as in `task_scores`. `acc` is `accuracy_letter` if the file's definition of the "
            "task compares the letters A, B, C and so on, otherwise `accuracy`. `acc_norm` is `accuracy_per_byte` "
            f"if there is no `acc_bytes`. Other metrics are `{c.OTHER_METRICS}NAME`.",
        ),
        Column("value", pa.float64(), "The score.", "share; units of text for perplexity"),
        Column(
            "standard_error",
            pa.float64(),
            "Standard error of `value`; NULL if the file has none.",
            "unit of value",
            nullable=True,
            minimum=0,
        ),
        Column("n", pa.int64(), "Evaluated samples; NULL if the file does not say.", "samples", nullable=True),
        Column(
            "shots",
            pa.int32(),
            "Worked examples before every question; NULL if the file does not say.",
            "examples",
            nullable=True,
            minimum=0,
        ),
        Column(
            "is_higher_better",
            pa.bool_(),
            "Whether a larger value is better; NULL if the file does not say.",
            nullable=True,
        ),
        Column("task_version", c.LABEL, "Version in the task's definition; empty if there is none."),
        Column("harness", c.LABEL, "Program that scored, with its version, such as `lm_eval 0.4.13`."),
        Column("source_file", pa.string(), "Path of the results file, as the user gave it."),
    ),
    partitioning="variant",
    preview_columns=("metric", "value", "standard_error", "n"),
    references=(c.OF_VARIANT,),
)

"""Section of the overview on searches: a sentence per result, and tables of the treatments of matrices and layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from prunescope.pipelines.reporting.charts.display_text import label, number, percent, prose
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS
from prunescope.pipelines.reporting.explorer.query_cache import (
    Document,
    QueryCache,
    model_name,
    of_model,
    source,
    table,
)

RESULTS, ALLOCATION, MATRICES = "search/results", "search/allocation", "search/matrices"
_BUDGETS = {"parameters": "weights", "bytes": "bytes", "milliseconds": "time", "sublayers": "sublayers"}
# Maximum length of a list of sublayers in a cell of the table.
_CELL = 1_000


def searches(frames: QueryCache, models: Sequence[str]) -> list[Document]:
    """Return the results of the searches of each model with their tables, in the order of the models."""
    results = frames.all(RESULTS)
    return [
        {
            "model": model_name(model),
            "results": [
                {"text": prose(sentence(row)), "sql": source(RESULTS, row)} for row in own.iter_rows(named=True)
            ],
            # The loss of each kind of matrix, if matrices are split, and the sublayers by treatment.
            "tables": [
                # If a model has several searches, a column distinguishes them.
                table(
                    STATEMENTS[key].title,
                    rows.drop("model", *(["search"] if rows["search"].n_unique() == 1 else [])),
                    source(key, model=model),
                    _CELL,
                )
                for key in (MATRICES, ALLOCATION)
                if not (rows := of_model(frames.all(key), model)).is_empty()
            ],
        }
        for model in models
        if not (own := of_model(results, model)).is_empty()
    ]


def sentence(row: Mapping[str, Any]) -> str:
    """Return what one result removes and costs, against the best published recipe or else on the search's items."""
    what = f"{label(row['recipe'])} removes" if row["recipe"] else "The search removes"
    if row["kl_nats"] is None:
        return (
            f"{what} {percent(row['removed'])} of the layers' {_BUDGETS.get(row['budget'], 'budget')}. On the "
            f"{row['n_items']} items of the search, its objective is "
            f"{_bounded(row['measured_nats'], row['measured_low'], row['measured_high'])} nats. The study's own data "
            "do not compare it with a published recipe of this budget."
        )
    other = label(row["other_recipe"])
    where = "the study's texts" if row["measure"] == "kl_texts" else "the study's prompts"
    # Results by number of sublayers are compared at equal weights.
    unit = "bytes" if row["budget"] == "bytes" else "weights"
    text = (
        f"{what} {percent(row['removed_share'])} of the layers' {unit}. On {where}, its KL is "
        f"{_bounded(row['kl_nats'], row['kl_low'], row['kl_high'])} nats. The best published recipe, {other}, removes "
        f"{percent(row['other_removed_share'])} and has "
        f"{_bounded(row['other_kl_nats'], row['other_kl_low'], row['other_kl_high'])} nats. The difference is "
        f"{_bounded(row['difference'], row['difference_low'], row['difference_high'])}, {_meaning(row)}."
    )
    if row["same_steps"] is not None:
        text += (
            f" On average, its text has {number(row['same_steps'])} steps in common with the dense text; that of "
            f"{other} has {number(row['other_same_steps'])}."
        )
    if row["same_options"] is not None:
        text += (
            f" It chooses the dense model's option in {row['same_options']:.0f} of {row['n_questions']} questions; "
            f"{other} does in {row['other_same_options']:.0f}."
        )
    return text


def _meaning(row: Mapping[str, Any]) -> str:
    low, high = row["difference_low"], row["difference_high"]
    if low is None or high is None:
        return "with too little data for an interval"
    if low <= 0 <= high:
        return "which shows no difference"
    return "in favour of the search" if high < 0 else "in favour of the published recipe"


def _bounded(value: float, low: float | None, high: float | None) -> str:
    bounds = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return f"{number(value)}{bounds}".replace("-", "−")

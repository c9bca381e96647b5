"""Documents `pair/<n>/<m>`: how two variants differ where both were measured, and which pairs a file holds; `turns`.

The statistics come from whoever compares; here they are only chosen and laid out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.document_types import FlipsDocument, PairDocument, Source, Table
from prunescope.pipelines.reporting.explorer.query_cache import table_rows

# A file has this many at most: all of 45 variants, of a few kilobytes each.
MOST_PAIRS = 1000
# Compared together, until a file is full: as many as a study of a dozen variants has.
AT_ONCE = 64
TOKENS, TASKS = "compare/tokens", "compare/tasks"
TITLES = {
    TOKENS: "Two variants on the same tokens of texts and prompts",
    TASKS: "Two variants on the same samples of tasks",
}
_SIDES = ("a", "b", "difference", "difference_se", "difference_low", "difference_high")
COLUMNS: dict[str, tuple[str, ...]] = {
    TOKENS: ("measured_on", "temperature", "statistic", *_SIDES, "noise_p95", "tokens", "clusters"),
    TASKS: ("measured_on", "statistic", *_SIDES, "only_a_right", "only_b_right", "mcnemar_p", "holm_p", "clusters"),
}
# What `turns` has of a pair, a row a metric, under the names of `COLUMNS`; and where the statement has it.
_TURNS = {
    "statistic": "metric",
    "a": "right_share",
    "b": "other_right_share",
    "only_a_right": "lost",
    "only_b_right": "gained",
    "holm_p": "holm_p",
    "clusters": "n_samples",
}


@dataclass(frozen=True)
class PairComparison:
    """What a comparison of two variants found.

    Attributes:
        rows: one row per text, set of prompts or task × statistic; `mcnemar_p` only where there are tasks.
        prompts: those that both were measured on with the same text.
        missing: sentences on what could not be compared, and why.
    """

    rows: pl.DataFrame
    prompts: Sequence[str]
    missing: Sequence[str]


@dataclass(frozen=True)
class Pairs:
    """Who compares.

    Attributes:
        compare: a model and pairs of its recipes → what was found of each.
        sql: text of the statements `TOKENS` and `TASKS`, with the parameters $1 model, $2 pairs, $3 their recipes.
    """

    compare: Callable[[str, Sequence[tuple[str, str]]], Sequence[PairComparison]]
    sql: Mapping[str, str]


def paired(pairs: Pairs, model: str, recipes: Sequence[tuple[str, str]]) -> list[PairDocument]:
    """Builds the documents of pairs of recipes."""
    found = pairs.compare(model, recipes)
    return [_document(model, *both, of_both) for both, of_both in zip(recipes, found, strict=True)]


def _document(model: str, recipe_a: str, recipe_b: str, found: PairComparison) -> PairDocument:
    """Of tokens it has the statistics with a paired error."""
    both = {"a": recipe_a, "b": recipe_b}
    where: dict[str, Any] = {"$1": model, "$3": [recipe_a, recipe_b]}
    is_task = pl.col("measured_on").str.starts_with("task ")
    parts = {
        TASKS: (found.rows.filter(is_task), Source(key=TASKS, where=where | {"$2": [both]})),
        TOKENS: (
            found.rows.filter(~is_task, ~pl.col("statistic").str.contains(r"_p\d+_|_min_|_max_|_median_")),
            Source(key=TOKENS, where=where | {"$2": [{**both, "prompts": list(found.prompts)}]}),
        ),
    }
    return {
        "a": f"{model}@{recipe_a}",
        "b": f"{model}@{recipe_b}",
        "tables": [_table(rows, source) for rows, source in parts.values() if rows.height],
        "missing": [prose(reason) for reason in found.missing],
    }


def turns(frame: pl.DataFrame, variants: Sequence[tuple[str, str]]) -> FlipsDocument:
    """Builds the document `turns`.

    Args:
        frame: the statement `turns`.
        variants: model and recipe of each in the order of the index.
    """
    places = {variant: at for at, variant in enumerate(variants)}
    found: dict[str, list[list[Any]]] = {}
    rows = table_rows(frame, tuple(_TURNS.values()), lambda text: label(text, 80))
    for model, *recipes, row in zip(frame["model"], frame["recipe"], frame["other_recipe"], rows, strict=True):
        n, m = (places.get((model, recipe)) for recipe in recipes)
        # The statement has both orders.
        if n is not None and m is not None and n < m:
            found.setdefault(f"{n}/{m}", []).append(row)
    return {"columns": list(_TURNS), "pairs": found, "sql": "turns"}


def _table(rows: pl.DataFrame, source: Source) -> Table:
    columns = COLUMNS[source["key"]]
    return {
        "title": TITLES[source["key"]],
        "columns": list(columns),
        "rows": table_rows(rows, columns, lambda text: label(text, 80)),
        "sql": source,
    }


def nearest(variants: Sequence[tuple[str, float | None]], most: int) -> list[tuple[int, int]]:
    """The pairs that a file holds: first of variants that stand near each other, which one cannot tell apart by eye.

    Args:
        variants: model and median KL of each pruned one by its position; the dense one and what was not measured: None.
        most: how many pairs at most.

    Returns:
        Positions, the smaller one first; neighbours by KL of each model before those with one variant between them,
        and so on; last those of which one has no KL.
    """
    ranks: dict[int, int] = {}
    counts: dict[str, int] = {}
    for at, (model, kl) in sorted(enumerate(variants), key=lambda variant: (variant[1][1] or 0.0, variant[0])):
        if kl is not None:
            ranks[at] = counts[model] = counts.get(model, 0) + 1

    def apart(pair: tuple[int, int]) -> tuple[float, int, int]:
        n, m = pair
        return (abs(ranks[n] - ranks[m]) if n in ranks and m in ranks else len(variants), n, m)

    together = ((n, m) for n, m in combinations(range(len(variants)), 2) if variants[n][0] == variants[m][0])
    return sorted(together, key=apart)[:most]

"""Documents of pairs: differences of two variants; and the choice of pairs for a file.

The caller computes the statistics.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import combinations
from typing import TypeAlias

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.explorer.queries import Query
from prunescope.pipelines.reporting.explorer.query_cache import Document, table

# Enough for all pairs of 45 variants; a document takes a few kilobytes.
MAX_PAIRS = 1000
# Number of pairs that are compared together: about all pairs of a dozen variants.
BATCH_SIZE = 64
TOKENS, TASKS = "compare/tokens", "compare/tasks"
TITLES = {
    TOKENS: "Two variants on the same tokens of texts and prompts",
    TASKS: "Two variants on the same samples of tasks",
}
_FILES = {TOKENS: "compare_variants.sql", TASKS: "compare_tasks.sql"}
_SIDES = ("a", "b", "difference", "difference_se", "difference_low", "difference_high")
COLUMNS: dict[str, tuple[str, ...]] = {
    TOKENS: ("statistic", "measured_on", "temperature", *_SIDES, "noise_p95", "tokens", "clusters"),
    TASKS: ("statistic", "measured_on", *_SIDES, "only_a_right", "only_b_right", "mcnemar_p", "holm_p", "clusters"),
}


# A row per text, set of prompts or task × statistic (`mcnemar_p` only if there are tasks); the prompts on which both
# were measured with the same text; sentences on what could not be compared, and why.
Compared: TypeAlias = tuple[pl.DataFrame, Sequence[str], Sequence[str]]
# The comparisons of pairs of recipes, given the model and the pairs.
Compare: TypeAlias = Callable[[str, Sequence[tuple[str, str]]], Sequence[Compared]]


def statements() -> dict[str, Query]:
    """Return the statements of pairs, with the parameters $1 model, $2 pairs, $3 their recipes."""
    folder = files("prunescope.sql") / "comparisons"
    return {key: Query(TITLES[key], (folder / name).read_text(encoding="utf-8")) for key, name in _FILES.items()}


def paired(compare: Compare, model: str, recipes: Sequence[tuple[str, str]]) -> list[Document]:
    """Build the documents of pairs of recipes."""
    is_task = pl.col("measured_on").str.starts_with("task ")
    # Minimum, maximum and quantiles have no paired error.
    has_error = ~pl.col("statistic").str.contains(r"_p\d+_|_min_|_max_|_median_")
    found = []
    for (a, b), (of_pair, prompts, missing) in zip(recipes, compare(model, recipes), strict=True):
        pair = {"a": a, "b": b}
        parts = (
            (TASKS, of_pair.filter(is_task), pair),
            (TOKENS, of_pair.filter(~is_task, has_error), pair | {"prompts": list(prompts)}),
        )
        where = {"$1": model, "$3": [a, b]}
        tables = [
            table(TITLES[key], rows.select(COLUMNS[key]), {"key": key, "where": where | {"$2": [units]}}, width=80)
            for key, rows, units in parts
            if rows.height
        ]
        found.append({"tables": tables, "missing": [prose(reason) for reason in missing]})
    return found


def nearest(variants: Sequence[tuple[str, float | None]], count: int) -> list[tuple[int, int]]:
    """Choose the pairs of a file: those with similar KL first, which a reader cannot order from the overview.

    Args:
        variants: model and median KL of each variant; None for dense and unmeasured variants.
        count: maximum number of pairs.

    Returns:
        Positions, the smaller one first. Neighbours by KL within a model come before pairs with one variant between
        them, and so on; pairs without a KL come last.
    """
    ranks: dict[int, int] = {}
    counts: dict[str, int] = {}
    for n, (model, kl) in sorted(enumerate(variants), key=lambda variant: (variant[1][1] or 0.0, variant[0])):
        if kl is not None:
            ranks[n] = counts[model] = counts.get(model, 0) + 1

    def distance(pair: tuple[int, int]) -> tuple[float, int, int]:
        n, m = pair
        return (abs(ranks[n] - ranks[m]) if n in ranks and m in ranks else len(variants), n, m)

    pairs = ((n, m) for n, m in combinations(range(len(variants)), 2) if variants[n][0] == variants[m][0])
    return sorted(pairs, key=distance)[:count]

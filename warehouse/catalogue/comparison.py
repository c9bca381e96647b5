"""Comparison of pairs of variants of one model, token by token and sample by sample.

`sql/comparisons/` computes the statistics; this module checks that both sides were measured in the same way.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from prunescope.warehouse.catalogue.database import SQL, connected
from prunescope.warehouse.catalogue.queries import find_variant
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place

# Parameters of the first file are the model and the recipes; of the others, the model, the pairs and their recipes.
MEASURED, TOKENS, TASKS = (
    SQL / "comparisons" / f"{name}.sql" for name in ("measured_units", "compare_variants", "compare_tasks")
)
# By kind and recipe, the conditions of each unit.
_Measured: TypeAlias = Mapping[tuple[str, str], Mapping[str, Sequence[str | None]]]
# Names that a message lists.
_MAX_LISTED = 5


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        model: the dense model of both variants.
        prompts: prompts on which both were measured, with the same text.
        rows: one row per text or set of prompts × temperature × statistic, then one per task × statistic, see the
            SQL files; with columns of tasks if there is a task. Empty if nothing could be compared.
        missing: sentences about what could not be compared, and why.
    """

    model: str
    recipe_a: str
    recipe_b: str
    prompts: tuple[str, ...]
    rows: pa.Table
    missing: tuple[str, ...]


def compare(root: Place | str, variant_a: str, variant_b: str) -> Comparison:
    """Compare two variants on everything on which both were measured.

    A variant is `MODEL@RECIPE`, or a recipe that the warehouse has of one model only.

    Raises:
        WarehouseError: there is no such variant, they are of two models, were measured against different dense weights,
            or share no text, prompt or sample of a task; the message says which.
    """
    with connected(root) as connection:
        known = connection.execute("SELECT model, recipe FROM variants ORDER BY ALL").fetchall()
        (model, recipe_a), (model_b, recipe_b) = (find_variant(name, known) for name in (variant_a, variant_b))
        if model != model_b:
            raise WarehouseError(
                f"{variant_a} is of model {model} and {variant_b} of {model_b}; compare two variants of one model"
            )
        if recipe_a == recipe_b:
            raise WarehouseError(f"{variant_a} and {variant_b} are the same variant; name two")
        [result] = compare_pairs(connection, model, [(recipe_a, recipe_b)])
    if not result.rows.num_rows:
        raise WarehouseError(f"{variant_a} and {variant_b} share nothing to compare: {'; '.join(result.missing)}")
    return result


def compare_pairs(
    connection: duckdb.DuckDBPyConnection, model: str, pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    """Compare pairs of recipes of one model on an open catalogue, with a few queries for all of them.

    A pair has the recipes of A and of B. The memory needed grows with the number of pairs.

    Returns:
        One comparison per pair, in their order; `missing` explains one without rows.
    """
    recipes = sorted({recipe for pair in pairs for recipe in pair})
    measured: dict[tuple[str, str], dict[str, Sequence[str | None]]] = defaultdict(dict)
    query = MEASURED.read_text(encoding="utf-8")
    for kind, recipe, unit, conditions in connection.execute(query, [model, recipes]).fetchall():
        measured[kind, recipe][unit] = conditions
    refused = {pair: reason for pair in pairs if (reason := _other_dense_side(measured, *pair))}
    prompts = {pair: _same_prompts(measured, *pair) for pair in pairs if pair not in refused}
    parameter = [{"a": a, "b": b, "prompts": same} for (a, b), (same, _) in prompts.items()]
    tokens, tasks = (
        connection.sql(file.read_text(encoding="utf-8"), params=[model, parameter, recipes]).to_arrow_table()
        for file in (TOKENS, TASKS)
    )
    comparisons = []
    for a, b in pairs:
        same, reasons = prompts.get((a, b), ([], []))
        is_of_pair = (pc.field("recipe_a") == a) & (pc.field("recipe_b") == b)
        rows, of_tasks = (table.filter(is_of_pair).drop_columns(["recipe_a", "recipe_b"]) for table in (tokens, tasks))
        if of_tasks.num_rows:
            rows = pa.concat_tables([rows, of_tasks], promote_options="default")
        paired = set(rows["measured_on"].to_pylist())
        if (a, b) in refused:
            missing = [refused[a, b]]
        else:
            missing = [*_unpaired("text", measured, a, b, paired), *_unpaired("task", measured, a, b, paired), *reasons]
            if same and "prompts" not in paired:
                missing.append(f"{_listed(same)}: other dense tokens, or no temperature in common")
        comparisons.append(Comparison(model, a, b, tuple(same), rows, tuple(missing)))
    return comparisons


def _other_dense_side(measured: _Measured, recipe_a: str, recipe_b: str) -> str | None:
    """Return why two recipes cannot be compared; None if they were measured against the same dense weights."""
    sides = {*measured["dense", recipe_a], *measured["dense", recipe_b]}
    if len(sides) < 2:
        return None
    weights = " and ".join(f"{side[:12]}… in {side.rpartition(' ')[2]}" for side in sorted(sides))
    return f"{recipe_a} and {recipe_b} were measured against different dense weights ({weights}); run their study again"


def _unpaired(kind: str, measured: _Measured, recipe_a: str, recipe_b: str, paired: set[str]) -> Iterator[str]:
    """Yield why texts or tasks of either side are not compared."""
    of_a, of_b = (measured[kind, recipe] for recipe in (recipe_a, recipe_b))
    if kind == "text" and not of_a and not of_b:
        yield "neither was scored on a text"
    for unit in dict.fromkeys([*of_a, *of_b]):
        if f"{kind} {unit}" in paired:
            continue
        if unit not in of_a or unit not in of_b:
            yield f"only {recipe_a if unit in of_a else recipe_b} was scored on {kind} {unit}"
        elif kind == "task":
            yield f"task {unit} has no sample that both were asked in the same way"
        else:
            names = ("other contents (text_hash)", "context {} and {}", "stride {} and {}")
            both = zip(names, of_a[unit], of_b[unit], strict=True)
            differences = ", ".join(name.format(a, b) for name, a, b in both if a != b) or "no token in common"
            yield f"text {unit} was scored in two ways: {differences}"


def _same_prompts(measured: _Measured, recipe_a: str, recipe_b: str) -> tuple[list[str], list[str]]:
    """Return the prompts whose text is the same on both sides, and why others are not compared."""
    a, b = (measured["prompt", recipe] for recipe in (recipe_a, recipe_b))
    if without := [recipe for recipe, prompts in ((recipe_a, a), (recipe_b, b)) if not prompts]:
        who = "neither has a" if len(without) > 1 else f"{without[0]} has no"
        return [], [f"{who} teacher-forced generation"]
    reasons = [
        f"only {recipe} has {_listed(sorted(alone))}"
        for recipe, alone in ((recipe_a, set(a) - set(b)), (recipe_b, set(b) - set(a)))
        if alone
    ]
    both = sorted(set(a) & set(b))
    if others := [prompt for prompt in both if a[prompt] != b[prompt]]:
        reasons.append(f"{_listed(others)} of the same name: other texts")
    return [prompt for prompt in both if a[prompt] == b[prompt]], reasons


def _listed(prompts: list[str]) -> str:
    more = f" and {len(prompts) - _MAX_LISTED} more" if len(prompts) > _MAX_LISTED else ""
    return f"prompt{'' if len(prompts) == 1 else 's'} {', '.join(prompts[:_MAX_LISTED])}{more}"

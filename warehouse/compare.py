"""How two variants of one model differ, paired token by token and sample by sample, from `sql/comparisons/`.

The statistics stand in the SQL; here is only what has to be the same on both sides before a difference means anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from warehouse.catalogue import SQL, connect
from warehouse.errors import CatalogueError, NothingSharedError, WarehouseError
from warehouse.places import Place

# Parameters are the model, A, B and, for tokens, the prompts.
TOKENS, TASKS = (SQL / "comparisons" / f"compare_{of}.sql" for of in ("variants", "tasks"))
_SIDES = """
SELECT recipe, json_extract_string(inputs_json, '$.weight_hash') AS weights, dtype
FROM provenance
WHERE model = $1 AND recipe IN ($2, $3) AND table_name IN ('text_tokens', 'decoding_steps', 'task_samples')
GROUP BY ALL ORDER BY ALL
"""
_TEXTS = """
SELECT DISTINCT recipe, text_id, text_hash, context, stride FROM text_tokens
WHERE model = $1 AND recipe IN ($2, $3) ORDER BY ALL
"""
_PROMPTS = """
SELECT steps.recipe, steps.prompt_id, any_value(generations.prompt_text) AS text, any_value(made.prompts_hash) AS hash
FROM (
    SELECT DISTINCT model, recipe, prompt_id FROM decoding_steps
    WHERE model = $1 AND recipe IN ($2, $3) AND trajectory = 'teacher_forced'
) AS steps
LEFT JOIN generations USING (model, recipe, prompt_id)
LEFT JOIN (
    SELECT model, recipe, json_extract_string(inputs_json, '$.prompts_hash') AS prompts_hash
    FROM provenance WHERE table_name = 'decoding_steps'
) AS made USING (model, recipe)
GROUP BY ALL ORDER BY ALL
"""
_TASKS = """
SELECT DISTINCT recipe, task FROM task_samples WHERE model = $1 AND recipe IN ($2, $3) ORDER BY ALL
"""
# Names that one sentence lists.
_LISTED = 5


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        model: the dense model that both were made from.
        recipe_a: A.
        recipe_b: B.
        prompts: those that both were measured on with the same text.
        rows: one row per text or set of prompts × temperature × statistic, then one per task × statistic, see the
            SQL files; the columns of tasks are there where a task is.
        missing: sentences on what could not be compared, and why.
    """

    model: str
    recipe_a: str
    recipe_b: str
    prompts: tuple[str, ...]
    rows: pa.Table
    missing: tuple[str, ...]


def compare(root: Place | str, variant_a: str, variant_b: str) -> Comparison:
    """Compares two variants at everything that both were measured on.

    Args:
        root: the warehouse.
        variant_a: `MODEL@RECIPE`, or a recipe where the warehouse has it of one model.
        variant_b: the same.

    Raises:
        WarehouseError: there is no such variant, or they are of two models.
        NothingSharedError: they were measured against different dense weights, or share no text, prompt or sample of
            a task; the message says which.
    """
    with connect(root, explained=False) as connection:
        return compare_on(connection, variant_a, variant_b)


def compare_on(connection: duckdb.DuckDBPyConnection, variant_a: str, variant_b: str) -> Comparison:
    """Compares two variants as `compare` does, on an open catalogue."""
    model, recipe_a, recipe_b = _resolved(connection, variant_a, variant_b)
    asked = [model, recipe_a, recipe_b]
    _check_dense_sides(connection, asked)
    prompts, reasons = _same_prompts(connection, asked)
    tokens = _rows(connection, TOKENS, [*asked, prompts])
    tasks = _rows(connection, TASKS, asked)
    rows = pa.concat_tables([tokens, tasks], promote_options="default") if tasks.num_rows else tokens
    measured = set(rows["measured_on"].to_pylist())
    missing = [*_missing_texts(connection, asked, measured), *_missing_tasks(connection, asked, measured), *reasons]
    if prompts and "prompts" not in measured:
        missing.append(f"{_named(prompts)}: other dense tokens, or no temperature in common")
    if not measured:
        raise NothingSharedError(f"{variant_a} and {variant_b} share nothing to compare: {'; '.join(missing)}")
    return Comparison(model, recipe_a, recipe_b, tuple(prompts), rows, tuple(missing))


def _rows(connection: duckdb.DuckDBPyConnection, file: Path, parameters: Sequence[object]) -> pa.Table:
    try:
        return connection.sql(file.read_text(encoding="utf-8"), params=list(parameters)).to_arrow_table()
    except duckdb.ParserException as error:
        raise CatalogueError(f"{file}: {str(error).strip()}") from error


def _resolved(connection: duckdb.DuckDBPyConnection, variant_a: str, variant_b: str) -> tuple[str, str, str]:
    """The model, and both recipes."""
    known = connection.execute("SELECT model, recipe FROM variants ORDER BY ALL").fetchall()
    if not known:
        raise WarehouseError("the warehouse is empty; run a study first, such as `prunescope run demo`")
    (model_a, recipe_a), (model_b, recipe_b) = _found(variant_a, known), _found(variant_b, known)
    if model_a != model_b:
        raise WarehouseError(
            f"{variant_a} is of model {model_a} and {variant_b} of {model_b}; compare two variants of one model"
        )
    if recipe_a == recipe_b:
        raise WarehouseError(f"{variant_a} and {variant_b} are the same variant; name two")
    return model_a, recipe_a, recipe_b


def _found(variant: str, known: list[tuple[str, str]]) -> tuple[str, str]:
    found = [names for names in known if variant in {"@".join(names), names[1]}]
    if not found:
        raise WarehouseError(f"there is no variant {variant!r}; see `prunescope variants`")
    if len(found) > 1:
        raise WarehouseError(f"{variant!r} is a recipe of {', '.join(model for model, _ in found)}; write MODEL@RECIPE")
    return found[0]


def _check_dense_sides(connection: duckdb.DuckDBPyConnection, asked: list[str]) -> None:
    sides = {(weights, dtype) for _, weights, dtype in connection.execute(_SIDES, asked).fetchall()}
    if len(sides) > 1:
        told = " and ".join(f"{str(weights)[:12]}… in {dtype}" for weights, dtype in sorted(sides, key=str))
        raise NothingSharedError(
            f"{asked[1]} and {asked[2]} were measured against different dense weights ({told}); run their study again"
        )


def _missing_texts(connection: duckdb.DuckDBPyConnection, asked: list[str], measured: set[str]) -> list[str]:
    """Why each text of either side is not compared."""
    scored: dict[str, dict[str, tuple[object, ...]]] = {}
    for recipe, text, *how in connection.execute(_TEXTS, asked).fetchall():
        scored.setdefault(text, {})[recipe] = tuple(how)
    if not scored:
        return ["neither was scored on a text"]
    reasons = []
    for text, sides in scored.items():
        if f"text {text}" in measured:
            continue
        if len(sides) == 1:
            reasons.append(f"only {next(iter(sides))} was scored on text {text}")
            continue
        a, b = (sides[recipe] for recipe in asked[1:])
        told = [
            f"{what} {of_a} and {of_b}" if what != "text_hash" else "other contents (text_hash)"
            for what, of_a, of_b in zip(("text_hash", "context", "stride"), a, b, strict=True)
            if of_a != of_b
        ]
        reasons.append(f"text {text} was scored in two ways: {', '.join(told) or 'no token in common'}")
    return reasons


def _missing_tasks(connection: duckdb.DuckDBPyConnection, asked: list[str], measured: set[str]) -> list[str]:
    """Why each task of either side is not compared."""
    scored: dict[str, list[str]] = {}
    for recipe, task in connection.execute(_TASKS, asked).fetchall():
        scored.setdefault(task, []).append(recipe)
    return [
        f"only {recipes[0]} was scored on task {task}"
        if len(recipes) == 1
        else f"task {task} has no sample that both were asked in the same way"
        for task, recipes in scored.items()
        if f"task {task}" not in measured
    ]


def _same_prompts(connection: duckdb.DuckDBPyConnection, asked: list[str]) -> tuple[list[str], list[str]]:
    """The prompts of both sides whose text is certainly the same, and why each other one is not compared.

    The text is the same where the sides were measured with one set of prompts, or where their generations tell it.
    """
    sides: dict[str, dict[str, tuple[str | None, str | None]]] = {recipe: {} for recipe in asked[1:]}
    for recipe, prompt, *told in connection.execute(_PROMPTS, asked).fetchall():
        sides[recipe][prompt] = tuple(told)
    if without := [recipe for recipe, prompts in sides.items() if not prompts]:
        who = "neither has a" if len(without) > 1 else f"{without[0]} has no"
        return [], [f"{who} teacher-forced generation"]
    a, b = sides.values()
    same: list[str] = []
    reasons: list[str] = []
    for recipe, mine, theirs in ((asked[1], a, b), (asked[2], b, a)):
        if alone := sorted(set(mine) - set(theirs)):
            reasons.append(f"only {recipe} has {_named(alone)}")
    others: list[str] = []
    unknown: list[str] = []
    for prompt in sorted(set(a) & set(b)):
        (text_a, hash_a), (text_b, hash_b) = a[prompt], b[prompt]
        if (hash_a is not None and hash_a == hash_b) or (text_a is not None and text_a == text_b):
            same.append(prompt)
        else:
            (unknown if None in {text_a, text_b} else others).append(prompt)
    if others:
        reasons.append(f"{_named(others)} of the same name: other texts")
    if unknown:
        reasons.append(f"{_named(unknown)}: nothing says that the texts are the same (no generations)")
    return same, reasons


def _named(prompts: list[str]) -> str:
    more = f" and {len(prompts) - _LISTED} more" if len(prompts) > _LISTED else ""
    return f"prompt{'' if len(prompts) == 1 else 's'} {', '.join(prompts[:_LISTED])}{more}"

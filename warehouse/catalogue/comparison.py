"""How pairs of variants of one model differ, token by token and sample by sample, from `sql/comparisons/`.

The statistics stand in the SQL; here is only what has to be the same on both sides before a difference means anything.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from prunescope.warehouse.catalogue.database import SQL, connect
from prunescope.warehouse.core.errors import CatalogueError, NothingSharedError, WarehouseError
from prunescope.warehouse.storage.location import Place

# Parameters are the model, the pairs and their recipes.
TOKENS, TASKS = (SQL / "comparisons" / f"compare_{of}.sql" for of in ("variants", "tasks"))
_SIDES = """
SELECT recipe, json_extract_string(inputs_json, '$.weight_hash') AS weights, dtype
FROM provenance
WHERE model = $1 AND list_contains($2, recipe) AND table_name IN ('text_tokens', 'decoding_steps', 'task_samples')
GROUP BY ALL ORDER BY ALL
"""
_TEXTS = """
SELECT DISTINCT recipe, text_id, text_hash, context, stride FROM text_tokens
WHERE model = $1 AND list_contains($2, recipe) ORDER BY ALL
"""
_PROMPTS = """
SELECT steps.recipe, steps.prompt_id, any_value(generations.prompt_text) AS text, any_value(made.prompts_hash) AS hash
FROM (
    SELECT DISTINCT model, recipe, prompt_id FROM decoding_steps
    WHERE model = $1 AND list_contains($2, recipe) AND trajectory = 'teacher_forced'
) AS steps
LEFT JOIN generations USING (model, recipe, prompt_id)
LEFT JOIN (
    SELECT model, recipe, json_extract_string(inputs_json, '$.prompts_hash') AS prompts_hash
    FROM provenance WHERE table_name = 'decoding_steps'
) AS made USING (model, recipe)
GROUP BY ALL ORDER BY ALL
"""
_TASKS = """
SELECT DISTINCT recipe, task FROM task_samples WHERE model = $1 AND list_contains($2, recipe) ORDER BY ALL
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
            SQL files; the columns of tasks are there where a task is. No row where nothing could be compared.
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
    with connect(root) as connection:
        model, recipe_a, recipe_b = _resolved(connection, variant_a, variant_b)
        (found,) = compare_pairs(connection, model, [(recipe_a, recipe_b)])
    if not found.rows.num_rows:
        raise NothingSharedError(f"{variant_a} and {variant_b} share nothing to compare: {'; '.join(found.missing)}")
    return found


def compare_pairs(
    connection: duckdb.DuckDBPyConnection, model: str, pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    """Compares pairs of recipes of one model on an open catalogue, in a few queries for all of them.

    Args:
        connection: a catalogue.
        model: of all variants.
        pairs: recipes of A and of B; the memory that it takes grows with them.

    Returns:
        One comparison a pair, in their order; one without rows says in `missing` why.
    """
    recipes = sorted({recipe for pair in pairs for recipe in pair})
    measured = _measured(connection, model, recipes)
    refused = {pair: reason for pair in pairs if (reason := _other_dense_side(measured, *pair))}
    prompts = {pair: _same_prompts(measured, *pair) for pair in pairs if pair not in refused}
    named = [{"a": a, "b": b, "prompts": same} for (a, b), (same, _) in prompts.items()]
    tokens, tasks = (_rows(connection, file, [model, named, recipes]) for file in (TOKENS, TASKS))
    found = []
    for a, b in pairs:
        same, reasons = prompts.get((a, b), ([], []))
        rows, of_tasks = (_of_pair(table, a, b) for table in (tokens, tasks))
        if of_tasks.num_rows:
            rows = pa.concat_tables([rows, of_tasks], promote_options="default")
        paired = set(rows["measured_on"].to_pylist())
        if (a, b) in refused:
            missing = [refused[a, b]]
        else:
            missing = [*_missing_texts(measured, a, b, paired), *_missing_tasks(measured, a, b, paired), *reasons]
            if same and "prompts" not in paired:
                missing.append(f"{_named(same)}: other dense tokens, or no temperature in common")
        found.append(Comparison(model, a, b, tuple(same), rows, tuple(missing)))
    return found


def _rows(connection: duckdb.DuckDBPyConnection, file: Path, parameters: Sequence[object]) -> pa.Table:
    try:
        return connection.sql(file.read_text(encoding="utf-8"), params=list(parameters)).to_arrow_table()
    except duckdb.ParserException as error:
        raise CatalogueError(f"{file}: {str(error).strip()}") from error


def _of_pair(rows: pa.Table, recipe_a: str, recipe_b: str) -> pa.Table:
    """The rows of one pair, without its names."""
    is_wanted = (pc.field("recipe_a") == recipe_a) & (pc.field("recipe_b") == recipe_b)
    return rows.filter(is_wanted).drop_columns(["recipe_a", "recipe_b"])


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


@dataclass(frozen=True)
class _Measured:
    """On what each recipe was measured, before anything is paired.

    Attributes:
        dense: recipe → hash of the dense weights and dtype that it was measured against.
        texts: recipe → text → hash, context and stride.
        prompts: recipe → prompt → its text, and the hash of the prompts that it was among; None where not known.
        tasks: recipe → tasks.
    """

    dense: Mapping[str, set[tuple[str | None, str]]]
    texts: Mapping[str, dict[str, tuple[object, ...]]]
    prompts: Mapping[str, dict[str, tuple[str | None, str | None]]]
    tasks: Mapping[str, list[str]]


def _measured(connection: duckdb.DuckDBPyConnection, model: str, recipes: Sequence[str]) -> _Measured:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query, [model, recipes]).fetchall()

    found = _Measured(defaultdict(set), defaultdict(dict), defaultdict(dict), defaultdict(list))
    for recipe, *side in rows(_SIDES):
        found.dense[recipe].add(tuple(side))
    for recipe, text, *how in rows(_TEXTS):
        found.texts[recipe][text] = tuple(how)
    for recipe, prompt, *told in rows(_PROMPTS):
        found.prompts[recipe][prompt] = tuple(told)
    for recipe, task in rows(_TASKS):
        found.tasks[recipe].append(task)
    return found


def _other_dense_side(measured: _Measured, recipe_a: str, recipe_b: str) -> str | None:
    """Why nothing of two recipes may be compared; None where they were measured against the same dense weights."""
    sides = measured.dense[recipe_a] | measured.dense[recipe_b]
    if len(sides) < 2:
        return None
    told = " and ".join(f"{str(weights)[:12]}… in {dtype}" for weights, dtype in sorted(sides, key=str))
    return f"{recipe_a} and {recipe_b} were measured against different dense weights ({told}); run their study again"


def _missing_texts(measured: _Measured, recipe_a: str, recipe_b: str, paired: set[str]) -> list[str]:
    """Why each text of either side is not compared."""
    of_a, of_b = (measured.texts[recipe] for recipe in (recipe_a, recipe_b))
    if not of_a and not of_b:
        return ["neither was scored on a text"]
    reasons = []
    for text in dict.fromkeys([*of_a, *of_b]):
        if f"text {text}" in paired:
            continue
        if text not in of_a or text not in of_b:
            reasons.append(f"only {recipe_a if text in of_a else recipe_b} was scored on text {text}")
            continue
        told = [
            f"{what} {one} and {other}" if what != "text_hash" else "other contents (text_hash)"
            for what, one, other in zip(("text_hash", "context", "stride"), of_a[text], of_b[text], strict=True)
            if one != other
        ]
        reasons.append(f"text {text} was scored in two ways: {', '.join(told) or 'no token in common'}")
    return reasons


def _missing_tasks(measured: _Measured, recipe_a: str, recipe_b: str, paired: set[str]) -> list[str]:
    """Why each task of either side is not compared."""
    of_a, of_b = (measured.tasks[recipe] for recipe in (recipe_a, recipe_b))
    return [
        f"task {task} has no sample that both were asked in the same way"
        if task in of_a and task in of_b
        else f"only {recipe_a if task in of_a else recipe_b} was scored on task {task}"
        for task in dict.fromkeys([*of_a, *of_b])
        if f"task {task}" not in paired
    ]


def _same_prompts(measured: _Measured, recipe_a: str, recipe_b: str) -> tuple[list[str], list[str]]:
    """The prompts of both sides whose text is certainly the same, and why each other one is not compared.

    The text is the same where the sides were measured with one set of prompts, or where their generations tell it.
    """
    a, b = (measured.prompts[recipe] for recipe in (recipe_a, recipe_b))
    if without := [recipe for recipe, prompts in ((recipe_a, a), (recipe_b, b)) if not prompts]:
        who = "neither has a" if len(without) > 1 else f"{without[0]} has no"
        return [], [f"{who} teacher-forced generation"]
    same: list[str] = []
    reasons: list[str] = []
    for recipe, mine, theirs in ((recipe_a, a, b), (recipe_b, b, a)):
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

"""Document `index`: the content of the overview."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import polars as pl

from prunescope.pipelines.reporting.advice import MARKS, rule
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.findings import findings
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.queries import FINDINGS, VARIANT
from prunescope.pipelines.reporting.explorer.query_cache import (
    Document,
    QueryCache,
    columns,
    model_name,
    numbers,
    of_model,
    parts,
    rows,
    source,
)
from prunescope.pipelines.reporting.explorer.searches import searches
from prunescope.pipelines.reporting.explorer.verdicts import answers, basis, reason

# Trajectories that were drawn, by the name that the page gives them.
_TRAJECTORIES = {"forced": "teacher_forced", "own": "own_text", "fork": "fork"}
_CURVES = {"kl_median": "kl", **{f"one_minus_cos_{space}_median": space for space in "hzp"}}
_LOSSES = ("loss_writing", "loss_choosing", "loss_alive")
_MAX_CURVES = 6
# Maximum number of texts with a perplexity column, and of tasks with a score column.
_MAX_TEXTS, _MAX_TASKS = 3, 8
# The metric of a task's column is the first of these that the task has.
_METRICS = ("accuracy", "exact_match", "pass_at_1", "accuracy_letter")


class Column(NamedTuple):
    """One column of the overview's table.

    Attributes:
        name: key of its numbers in each variant.
        heading: a few words.
        doc: what its numbers are.
        form: how the page writes a number; `percent` are shares of 1.
        sql: key of the statement of its numbers.
        of: name of the total that a count is a part of.
        is_detail: whether it is hidden until the reader requests all columns.
    """

    name: str
    heading: str
    doc: str
    form: Literal["percent", "number", "count"]
    sql: str = "variants"
    of: str | None = None
    is_detail: bool = False


_KL = "KL(dense ‖ pruned)"
_GROWTH = f"increase of the mean {_KL} by reading its own text, after the first flip"
COLUMNS = (
    Column("parameters_removed_share", "removed", "parameters removed over all parameters", "percent"),
    Column("sparsity", "sparsity", "share of the prunable weights that are zero", "percent", is_detail=True),
    Column("sublayers_dropped_count", "dropped", "sublayers dropped", "count", is_detail=True),
    Column("loss_writing", "writing lost", "loss in writing that decides the verdict", "percent", "verdicts"),
    Column("loss_choosing", "choosing lost", "loss in choosing that decides the verdict", "percent", "verdicts"),
    Column("loss_alive", "looped", "texts that loop or end early, minus the dense model's", "percent", "verdicts"),
    Column("score_non_generative", "chosen right", "mean score of tasks answered by choosing", "percent", "task_means"),
    Column("score_generative", "written right", "mean score of tasks answered by writing", "percent", "task_means"),
    Column("kl_step0_nats", "KL, step 0, nats", f"{_KL} at the first generated token, mean", "number"),
    Column("kl_teacher_forced_median_nats", "KL, forced, nats", f"median {_KL}, on the dense tokens", "number"),
    Column("kl_own_text_median_nats", "KL, own text, nats", f"median {_KL}, on the variant's text", "number"),
    Column("kl_growth_nats", "KL, own − forced, nats", _GROWTH, "number", "damage", is_detail=True),
    Column("top1_agreement", "same top token", "tokens with the same most likely token, forced", "percent"),
    Column("first_flip_step_median", "first flip, step", "first step with another token, median", "count"),
    Column("prompts_flipped", "flipped", "texts that differ from the dense one", "count", of="prompts", is_detail=True),
    Column("prompts_collapsed", "collapsed", "texts that fall into a loop", "count", of="prompts", is_detail=True),
    Column("prompts_correct", "correct", "prompts answered correctly", "count", of="prompts_graded", is_detail=True),
    Column(
        "options_argmax_kept", "choices kept", "questions with the same choice", "count", of="questions", is_detail=True
    ),
    Column("ndcg_at_10", "nDCG@10", "retrieval, mean over the data sets", "percent", "ndcg"),
)


def variant_names(frames: QueryCache, order: DisplayOrder) -> list[tuple[str, str]]:
    """Return model and recipe of the variants in the order of the index: by model, the dense one first."""
    names = [(str(model), str(recipe)) for model, recipe in frames.all("names").iter_rows()]
    return sorted(names, key=lambda variant: order.of_variant(*variant))


def index(
    frames: QueryCache,
    study: str,
    title: str,
    facts: Sequence[Document],
    order: DisplayOrder,
    traces: Sequence[tuple[str, str]],
    without_data: Collection[str] = (),
) -> Document:
    """Build the document from the results of the statements.

    `facts` are what a reader needs to repeat the study, as `name` and `text`. `traces` has the ids of variant and
    prompt of each trace, `without_data` the names of figures without data.
    """
    variants = sorted(
        frames.all("variants").iter_rows(named=True), key=lambda row: order.of_variant(row["model"], row["recipe"])
    )
    models = list(dict.fromkeys(str(row["model"]) for row in variants))
    shown, entries = _variants(frames, variants, traces, order)
    asked = frames.all("prompts")
    in_order = sorted(asked.iter_rows(named=True), key=lambda row: order.of_prompt(row["model"], row["prompt_id"]))
    prompts = pl.DataFrame(in_order, schema=asked.schema)
    return {
        "study": label(study),
        "title": prose(title or study),
        "models": [model_name(model) for model in models],
        # By model, the lens of its layers in all documents but figures.
        "lenses": {row["model"]: row["lens"] for row in rows(frames.all("lens"))},
        # `name` is the displayed id.
        "prompts": [row | {"name": label(row["prompt_id"])} for row in rows(prompts, 4)],
        "columns": [column._asdict() for column in shown],
        "variants": entries,
        "curves": _curves(frames, models[0]) if models else [],
        "marks": MARKS,
        "verdict_basis": basis(frames.all("verdicts")),
        "verdict_rule": rule(),
        "answers": [answer for model in models for answer in answers(frames, model)],
        "claims": _sourced(frames, "claims"),
        "claims_by_model": _sourced(frames, "claims_by_model"),
        "findings": findings({key: frames.all(key) for key in FINDINGS}, models),
        "searches": searches(frames, models),
        "figures": sorted(map(figure_entry, FIGURES.values()), key=lambda entry: entry["name"] in without_data),
        "figures_without_data": [name for name in FIGURES if name in without_data],
        "facts": list(facts),
        # Sentences on what a file leaves out.
        "notes": [],
    }


def figure_entry(figure: Figure) -> Document:
    """Return a figure without its charts."""
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "alt": f"{figure.title}. {figure.caption}",
        "sql": f"figures/{figure.name}",
    }


def _sourced(frames: QueryCache, key: str) -> list[Document]:
    """Return the rows of a statement, each with its SQL."""
    raw = frames.all(key).iter_rows(named=True)
    return [shown | {"sql": source(key, row)} for shown, row in zip(rows(frames.all(key)), raw, strict=True)]


def _variants(
    frames: QueryCache, variants: Sequence[Mapping[str, Any]], traces: Sequence[tuple[str, str]], order: DisplayOrder
) -> tuple[list[Column], list[Document]]:
    """Return the columns with a number in some row, and the rows of the table of variants."""
    shown, values, intervals = _numbers(frames)
    names = [name for column in shown for name in (column.name, column.of) if name]
    verdicts = {(row["model"], row["recipe"]): row for row in frames.all("verdicts").iter_rows(named=True)}
    sparks = {
        tuple(map(str, key)): numbers(part["kl_mean_nats"], 3)
        for key, part in frames.all("sparks").partition_by(*VARIANT, "trajectory", as_dict=True).items()
    }
    kinds: dict[tuple[str, str], list[Document]] = {}
    for (model, recipe), part in frames.all("kinds").partition_by(VARIANT, as_dict=True, maintain_order=True).items():
        kinds[str(model), str(recipe)] = rows(part.drop(VARIANT), 4)
    prompts: dict[str, list[str]] = {}
    for variant_id, prompt_id in traces:
        prompts.setdefault(variant_id, []).append(prompt_id)
    entries = []
    for row in variants:
        key = (str(row["model"]), str(row["recipe"]))
        verdict = verdicts.get(key)
        entries.append(
            {
                "id": "@".join(key),
                "model": model_name(key[0]),
                "recipe": label(key[1]),
                "method": label(row["method"] or ""),
                "is_dense": key[1] == "dense",
                # As in `variant_verdict`; the dense model has none.
                "verdict": verdict["verdict"] if verdict else None,
                "verdict_reason": prose(reason(verdict)) if verdict else None,
                # Same tokens, right answers, alive.
                "words": [verdict[name] for name in ("fidelity", "quality", "alive")] if verdict else [],
                # Raw names: the filter of its rows in any statement.
                "where": dict(zip(VARIANT, key, strict=True)),
                "numbers": {name: values.get((*key, name)) for name in names},
                # The ends of 95 % intervals; null if an end is not known.
                "intervals": {name: intervals[*key, name] for name in names if (*key, name) in intervals},
                # Mean KL over prompts per step in nats, on the dense text and on the variant's.
                "spark": {name: sparks.get((*key, _TRAJECTORIES[name]), []) for name in ("forced", "own")},
                "kinds": kinds.get(key, []),
                # Ids of the prompts with a document of this variant's answer.
                "traces": sorted(prompts.get("@".join(key), ()), key=partial(order.of_prompt, key[0])),
            }
        )
    return shown, entries


def _numbers(
    frames: QueryCache,
) -> tuple[list[Column], dict[tuple[str, str, str], float | None], dict[tuple[str, str, str], list[float | None]]]:
    """Return the columns with a number, and numbers and ends of 95 % intervals by model, recipe and column."""
    values: dict[tuple[str, str, str], float | None] = {}
    intervals: dict[tuple[str, str, str], list[float | None]] = {}

    def add(frame: pl.DataFrame, name: pl.Expr, value: str | None, low: str = "", high: str = "") -> None:
        keys = frame.select(*VARIANT, name).rows()
        amounts = (numbers(frame[column], 6) if column else [None] * len(keys) for column in (value, low, high))
        for (model, recipe, column), amount, *ends in zip(keys, *amounts, strict=True):
            if amount is not None:
                values[model, recipe, column] = amount
            if ends != [None, None]:
                intervals[model, recipe, column] = ends

    variants, damage = frames.all("variants"), frames.all("damage")
    for column in variants.columns:
        if variants[column].dtype.is_numeric():
            add(variants, pl.lit(column), column)
    add(damage, pl.col("measure"), None, "amount_low", "amount_high")
    add(damage.filter(measure="kl_growth_nats"), pl.col("measure"), "amount", "amount_low", "amount_high")
    for loss in _LOSSES:
        add(frames.all("verdicts"), pl.lit(loss), loss, f"{loss}_low", f"{loss}_high")
    add(frames.all("task_means"), pl.format("score_{}", "measure"), "score", "score_low", "score_high")
    add(frames.all("ndcg"), pl.lit("ndcg_at_10"), "ndcg_at_10")
    shown = list(COLUMNS)
    for position, (text, rows_of) in enumerate([*parts(frames.all("perplexity"), "text_id").items()][:_MAX_TEXTS]):
        name, heading = f"perplexity_{position}", f"perplexity, {label(text)}"
        add(rows_of, pl.lit(name), "ppl_pruned", "ppl_low", "ppl_high")
        shown.append(Column(name, heading, "perplexity on the text", "number", "perplexity", is_detail=position > 0))
    scores = frames.all("scores").filter(pl.col("metric").cast(pl.String).is_in(_METRICS))
    for position, (task, rows_of) in enumerate([*parts(scores, "task").items()][:_MAX_TASKS]):
        metric = min(rows_of["metric"].cast(pl.String).unique().to_list(), key=_METRICS.index)
        name, heading = f"task_{position}", f"{label(task)}, {metric.replace('_', ' ')}"
        add(rows_of.filter(pl.col("metric") == metric), pl.lit(name), "value", "value_low", "value_high")
        shown.append(Column(name, heading, f"{metric} of the task", "percent", "scores", is_detail=True))
    own = set(variants.select(VARIANT).rows())
    known = {name for *variant, name in values if tuple(variant) in own}
    return [column for column in shown if column.name in known], values, intervals


def _curves(frames: QueryCache, model: str) -> list[Document]:
    """Return the medians over prompts by step of the variants that `told_apart` selects.

    A trajectory that was not measured is empty.
    """
    frame = of_model(frames.answer(FIGURES["generation"].query), model).with_columns(
        pl.col("recipe", "trajectory").cast(pl.String)
    )
    by_kl = frame.filter(trajectory="teacher_forced").group_by("recipe").agg(pl.col("kl_median").mean())
    found = []
    for recipe in told_apart(by_kl.sort("kl_median", "recipe")["recipe"].to_list()):
        own = frame.filter(recipe=recipe)
        steps = own.select(pl.col("step").unique().sort())
        entry: Document = {"id": f"{model}@{recipe}", "step": steps["step"].to_list()}
        for name, trajectory in _TRAJECTORIES.items():
            side = own.filter(trajectory=trajectory)
            curves = steps.join(side, on="step", how="left", maintain_order="left").select(*_CURVES).rename(_CURVES)
            entry[name] = {} if side.is_empty() else columns(curves, 3)
        found.append(entry)
    return found


def told_apart(recipes: Sequence[str]) -> list[str]:
    """Return at most `_MAX_CURVES` recipes in order of KL: those of searches, and evenly spread others."""
    found = [recipe for recipe in recipes if recipe.startswith("mixed-")][: _MAX_CURVES // 2]
    others = [recipe for recipe in recipes if recipe not in found]
    count = min(len(others), _MAX_CURVES - len(found))
    spread = {others[round(place * (len(others) - 1) / max(1, count - 1))] for place in range(count)}
    return [recipe for recipe in recipes if recipe in found or recipe in spread]

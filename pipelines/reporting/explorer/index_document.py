"""Document `index`: the content of the overview."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from prunescope.pipelines.reporting.advice import RULE
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.document_types import (
    Claim,
    Column,
    Fact,
    FigureEntry,
    GenerationCurves,
    Index,
    KindSummary,
    Number,
    Prompt,
    SharedClaim,
    Sparkline,
    VariantEntry,
)
from prunescope.pipelines.reporting.explorer.findings import findings
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.queries import FINDINGS, VARIANT
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache, number, numbers
from prunescope.pipelines.reporting.explorer.searches import searches
from prunescope.pipelines.reporting.explorer.verdicts import answers, basis, reason, source

# Trajectory of each curve.
_CURVES = {"forced": "teacher_forced", "own": "own_text", "fork": "fork"}
_SPACES = {"kl": "kl_median"} | {space: f"one_minus_cos_{space}_median" for space in "hzp"}
_LOSSES = ("loss_writing", "loss_choosing", "loss_alive")
_MAX_CURVES = 6
# Maximum number of texts with a perplexity column, and of tasks with a score column.
_MAX_TEXTS, _MAX_TASKS = 3, 8
# The metric of a task's column is the first of these that the task has.
_METRICS = ("accuracy", "exact_match", "pass_at_1", "accuracy_letter")


def _column(
    name: str,
    heading: str,
    doc: str,
    form: Literal["percent", "number", "count"],
    sql: str = "variants",
    *,
    of: str | None = None,
    is_detail: bool = False,
) -> Column:
    return Column(name=name, heading=heading, doc=doc, form=form, sql=sql, of=of, is_detail=is_detail)


_KL = "KL(dense ‖ pruned)"
COLUMNS: tuple[Column, ...] = (
    _column("parameters_removed_share", "removed", "parameters removed over all parameters", "percent"),
    _column("sparsity", "sparsity", "share of the prunable weights that are zero", "percent", is_detail=True),
    _column("sublayers_dropped_count", "dropped", "sublayers dropped", "count", is_detail=True),
    _column("loss_writing", "writing lost", "loss in writing that decides the verdict", "percent", "verdicts"),
    _column("loss_choosing", "choosing lost", "loss in choosing that decides the verdict", "percent", "verdicts"),
    _column("loss_alive", "looped", "texts that loop or end early, minus the dense model's", "percent", "verdicts"),
    _column(
        "score_non_generative", "chosen right", "mean score of tasks answered by choosing", "percent", "task_means"
    ),
    _column("score_generative", "written right", "mean score of tasks answered by writing", "percent", "task_means"),
    _column("kl_step0_nats", "KL, step 0, nats", f"{_KL} at the first generated token, mean", "number"),
    _column("kl_teacher_forced_median_nats", "KL, forced, nats", f"median {_KL}, on the dense tokens", "number"),
    _column("kl_own_text_median_nats", "KL, own text, nats", f"median {_KL}, on the variant's text", "number"),
    _column(
        "kl_growth_nats",
        "KL, own − forced, nats",
        f"increase of the mean {_KL} by reading its own text, after the first flip",
        "number",
        "damage",
        is_detail=True,
    ),
    _column("top1_agreement", "same top token", "tokens with the same most likely token, forced", "percent"),
    _column("first_flip_step_median", "first flip, step", "first step with another token, median", "count"),
    _column(
        "prompts_flipped", "flipped", "texts that differ from the dense one", "count", of="prompts", is_detail=True
    ),
    _column("prompts_collapsed", "collapsed", "texts that fall into a loop", "count", of="prompts", is_detail=True),
    _column("prompts_correct", "correct", "prompts answered correctly", "count", of="prompts_graded", is_detail=True),
    _column(
        "options_argmax_kept", "choices kept", "questions with the same choice", "count", of="questions", is_detail=True
    ),
    _column("ndcg_at_10", "nDCG@10", "retrieval, mean over the data sets", "percent", "ndcg"),
)


def variant_names(frames: QueryCache, order: DisplayOrder) -> list[tuple[str, str]]:
    """Return model and recipe of the variants in the order of the index: by model, the dense one first."""
    names = [(str(model), str(recipe)) for model, recipe in frames.all("names").iter_rows()]
    return sorted(names, key=lambda variant: order.of_variant(*variant))


def prompt_rows(frames: QueryCache, order: DisplayOrder) -> list[dict[str, Any]]:
    """Return the prompts in the order of the index."""
    rows = frames.all("prompts").iter_rows(named=True)
    return sorted(rows, key=lambda row: order.of_prompt(row["model"], row["prompt_id"]))


def index(
    frames: QueryCache,
    study: str,
    title: str,
    facts: Sequence[Fact],
    order: DisplayOrder,
    traces: Mapping[tuple[str, str], Collection[int]],
    without_data: Collection[str] = (),
    *,
    is_live: bool,
) -> Index:
    """Build the document.

    Args:
        frames: results of the statements.
        study: name of the study.
        title: title of the study.
        facts: what a reader needs to repeat the study.
        order: display order of variants and prompts.
        traces: by model and recipe, the positions of the prompts that have a trace.
        without_data: names of figures without data.
        is_live: whether the page can request more documents.
    """
    rows = sorted(
        frames.all("variants").iter_rows(named=True), key=lambda row: order.of_variant(row["model"], row["recipe"])
    )
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    columns, values = _numbers(frames, rows)
    curves = _curves(frames, models[0]) if models else []
    return {
        "study": label(study),
        "title": prose(title or study),
        "live": is_live,
        "models": [_model(model) for model in models],
        "lenses": {_model(model): lens for model, lens in frames.all("lens").iter_rows()},
        "prompts": [_prompt(row) for row in prompt_rows(frames, order)],
        "columns": columns,
        "variants": _variants(frames, rows, values, traces),
        "curves": curves,
        "verdict_basis": basis(frames.all("verdicts")),
        "verdict_rule": RULE,
        "answers": [answer for model in models for answer in answers(frames, model)],
        "claims": [_claim(row) for row in frames.all("claims").iter_rows(named=True)],
        "claims_by_model": [_shared_claim(row) for row in frames.all("claims_by_model").iter_rows(named=True)],
        "findings": findings({key: frames.all(key) for key in FINDINGS}, models),
        "searches": searches(frames, models),
        "figures": sorted(map(figure_entry, FIGURES.values()), key=lambda entry: entry["name"] in without_data),
        "figures_without_data": [name for name in FIGURES if name in without_data],
        "facts": list(facts),
        "notes": [],
    }


def _model(name: str) -> str:
    """Return the displayed name of a model, long enough to be unique: the page identifies models by it."""
    return label(name, 200)


def figure_entry(figure: Figure) -> FigureEntry:
    """Return a figure without its charts."""
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "alt": f"{figure.title}. {figure.caption}",
        "sql": f"figures/{figure.name}",
    }


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return {
        "model": _model(str(row["model"])),
        "prompt_id": row["prompt_id"],
        "name": label(row["prompt_id"]),
        "kind": label(row["kind"] or ""),
        "text": prose(row["prompt_text"] or ""),
        "gold": None if row["gold"] is None else label(row["gold"]),
        "steps": row["steps"] or 0,
        "place": row["place_in_order"],
        "variants": row["variants"],
        "flipped": row["variants_flipped"],
        "collapsed": row["variants_collapsed"],
        "graded": row["variants_graded"],
        "correct": row["variants_correct"],
        "is_correct_dense": row["is_correct_dense"],
        "first_flip_min": row["first_flip_step_min"],
        "first_flip_median": number(row["first_flip_step_median"]),
        "kl_step0": number(row["kl_step0_median_nats"], 4),
        "has_layers": row["has_layers"],
    }


def _kind(row: Mapping[str, Any]) -> KindSummary:
    return {
        "kind": label(row["kind"]),
        "prompts": row["prompts"],
        "flipped": row["prompts_flipped"],
        "collapsed": row["prompts_collapsed"],
        "graded": row["prompts_graded"],
        "correct": row["prompts_correct"],
        "flipped_ends": [number(end, 3) for end in row["flipped_ends"]],
        "collapsed_ends": [number(end, 3) for end in row["collapsed_ends"]],
        "correct_ends": [number(end, 3) for end in row["correct_ends"] or ()],
        "first_flip": number(row["first_flip_step_median"]),
        "kl_step0": number(row["kl_step0_nats"], 4),
    }


def _numbers(
    frames: QueryCache, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Column], dict[tuple[str, str], dict[str, float | None]]]:
    """Return the columns that have a number in some row, and each variant's numbers by column."""
    values: dict[tuple[str, str], dict[str, Any]] = {(row["model"], row["recipe"]): dict(row) for row in rows}
    for row in frames.all("verdicts").iter_rows(named=True):
        values[row["model"], row["recipe"]] |= {name: row[name] for name in _LOSSES}
    for row in frames.all("task_means").iter_rows(named=True):
        if (key := (row["model"], row["recipe"])) in values:
            values[key][f"score_{row['measure']}"] = row["score"]
    for row in frames.all("ndcg").iter_rows(named=True):
        if (key := (row["model"], row["recipe"])) in values:
            values[key]["ndcg_at_10"] = row["ndcg_at_10"]
    for row in frames.all("damage").filter(measure="kl_growth_nats").iter_rows(named=True):
        values[row["model"], row["recipe"]]["kl_growth_nats"] = row["amount"]
    columns = list(COLUMNS)
    perplexity = frames.all("perplexity").with_columns(pl.col("text_id").cast(pl.String))
    texts = perplexity["text_id"].unique(maintain_order=True).to_list()
    for position, text in enumerate(texts[:_MAX_TEXTS]):
        name, heading = f"perplexity_{position}", f"perplexity, {label(text)}"
        doc, is_detail = "perplexity on the text", position > 0
        columns.append(_column(name, heading, doc, "number", "perplexity", is_detail=is_detail))
        for row in perplexity.filter(text_id=text).iter_rows(named=True):
            if (key := (row["model"], row["recipe"])) in values:
                values[key][name] = row["ppl_pruned"]
    for name, rows_of in _task_scores(frames).items():
        task, metric = rows_of["task"][0], rows_of["metric"][0]
        heading = f"{label(task)}, {metric.replace('_', ' ')}"
        columns.append(_column(name, heading, f"{metric} of the task", "percent", "scores", is_detail=True))
        for row in rows_of.iter_rows(named=True):
            if (key := (row["model"], row["recipe"])) in values:
                values[key][name] = row["value"]
    shown = [column for column in columns if any(entry.get(column["name"]) is not None for entry in values.values())]
    return shown, {
        key: {
            name: number(entry.get(name))
            for column in shown
            for name in (column["name"], column["of"])
            if name is not None
        }
        for key, entry in values.items()
    }


def _variants(
    frames: QueryCache,
    rows: Sequence[Mapping[str, Any]],
    values: Mapping[tuple[str, str], dict[str, float | None]],
    traces: Mapping[tuple[str, str], Collection[int]],
) -> list[VariantEntry]:
    verdicts = {(row["model"], row["recipe"]): row for row in frames.all("verdicts").iter_rows(named=True)}
    sparks = _sparks(frames.all("sparks"))
    intervals = _intervals(frames)
    kinds: dict[tuple[str, str], list[KindSummary]] = {}
    for texts in frames.all("kinds").iter_rows(named=True):
        kinds.setdefault((texts["model"], texts["recipe"]), []).append(_kind(texts))
    entries: list[VariantEntry] = []
    for row in rows:
        key = (row["model"], row["recipe"])
        verdict, where = verdicts.get(key), dict(zip(VARIANT, key, strict=True))
        entries.append(
            {
                "id": "@".join(key),
                "model": _model(row["model"]),
                "recipe": label(row["recipe"]),
                "method": label(row["method"] or ""),
                "is_dense": row["recipe"] == "dense",
                "verdict": verdict["verdict"] if verdict else None,
                "verdict_reason": prose(reason(verdict)) if verdict else None,
                "words": [verdict[name] for name in ("fidelity", "quality", "alive")] if verdict else [],
                "where": where,
                "numbers": values[key],
                "intervals": intervals.get(key, {}),
                "spark": sparks.get(key, {"forced": [], "own": []}),
                "kinds": kinds.get(key, []),
                "traces": sorted(traces.get(key, ())),
            }
        )
    return entries


def _task_scores(frames: QueryCache) -> dict[str, pl.DataFrame]:
    """Return the rows of each task's column, by the column's name."""
    scores = frames.all("scores").with_columns(pl.col("task", "metric").cast(pl.String))
    scores = scores.filter(pl.col("metric").is_in(_METRICS))
    found: dict[str, pl.DataFrame] = {}
    for position, task in enumerate(scores["task"].unique(maintain_order=True).to_list()[:_MAX_TASKS]):
        own = scores.filter(task=task)
        metric = min(own["metric"].unique().to_list(), key=_METRICS.index)
        found[f"task_{position}"] = own.filter(metric=metric)
    return found


def _intervals(frames: QueryCache) -> dict[tuple[str, str], dict[str, list[float | None]]]:
    """Return the ends of the 95 % intervals of each variant's numbers by column; None if an end is not known."""
    found: dict[tuple[str, str], dict[str, list[float | None]]] = {}

    def add(row: Mapping[str, Any], column: str, name: str) -> None:
        ends = [number(row[f"{name}_low"]), number(row[f"{name}_high"])]
        if ends != [None, None]:
            found.setdefault((row["model"], row["recipe"]), {})[column] = ends

    for row in frames.all("damage").iter_rows(named=True):
        add(row, row["measure"], "amount")
    for row in frames.all("verdicts").iter_rows(named=True):
        for name in _LOSSES:
            add(row, name, name)
    for row in frames.all("task_means").iter_rows(named=True):
        add(row, f"score_{row['measure']}", "score")
    for name, rows_of in _task_scores(frames).items():
        for row in rows_of.iter_rows(named=True):
            add(row, name, "value")
    texts = frames.all("perplexity")["text_id"].cast(pl.String).unique(maintain_order=True).to_list()
    for row in frames.all("perplexity").iter_rows(named=True):
        add(row, f"perplexity_{texts.index(str(row['text_id']))}", "ppl")
    return found


def _curves(frames: QueryCache, model: str) -> list[GenerationCurves]:
    """Return the curves of a model's variants; if there are many, those that `told_apart` selects."""
    frame = frames.answer(FIGURES["generation"].query).filter(pl.col("model").cast(pl.String) == model)
    forced = pl.col("trajectory").cast(pl.String) == "teacher_forced"
    by_kl = frame.filter(forced).group_by("recipe").agg(pl.col("kl_median").mean()).sort("kl_median", "recipe")
    recipes = by_kl["recipe"].cast(pl.String).to_list()
    found: list[GenerationCurves] = []
    for recipe in told_apart(recipes):
        rows = frame.filter(pl.col("recipe").cast(pl.String) == recipe)
        steps = rows.select(pl.col("step").unique().sort())
        curves: dict[str, dict[str, list[Number]]] = {}
        for name, trajectory in _CURVES.items():
            side = rows.filter(pl.col("trajectory").cast(pl.String) == trajectory)
            aligned = steps.join(side, on="step", how="left", maintain_order="left")
            spaces = {space: numbers(aligned[column], 3) for space, column in _SPACES.items()}
            curves[name] = {} if side.is_empty() else spaces
        own, fork = curves["own"], curves["fork"]
        step = steps["step"].to_list()
        found.append({"id": f"{model}@{recipe}", "step": step, "forced": curves["forced"], "own": own, "fork": fork})
    return found


def told_apart(recipes: Sequence[str]) -> list[str]:
    """Return at most `_MAX_CURVES` recipes in order of KL: those of searches, and evenly spread others."""
    found = [recipe for recipe in recipes if recipe.startswith("mixed-")][: _MAX_CURVES // 2]
    others = [recipe for recipe in recipes if recipe not in found]
    count = min(len(others), _MAX_CURVES - len(found))
    spread = {others[round(place * (len(others) - 1) / max(1, count - 1))] for place in range(count)}
    return [recipe for recipe in recipes if recipe in found or recipe in spread]


def _sparks(frame: pl.DataFrame) -> dict[tuple[str, str], Sparkline]:
    sparks: dict[tuple[str, str], Sparkline] = {}
    parts = frame.partition_by("model", "recipe", "trajectory", as_dict=True, maintain_order=True)
    for (model, recipe, trajectory), part in parts.items():
        spark = sparks.setdefault((str(model), str(recipe)), {"forced": [], "own": []})
        spark["forced" if trajectory == "teacher_forced" else "own"] = numbers(part["kl_mean_nats"], 3)
    return sparks


def _claim(row: Mapping[str, Any]) -> Claim:
    return {
        "model": _model(str(row["model"])),
        "says": prose(row["says"]),
        "measure": None if row["measure"] == "all" else label(row["measure"]),
        "verdict": row["verdict"],
        "amount": number(row["amount"]),
        "low": number(row["amount_low"]),
        "high": number(row["amount_high"]),
        "null": number(row["null_amount"]),
        "n": row["n"],
        "units": row["units"],
        "sql": source("claims", model=row["model"], claim=row["claim"], measure=row["measure"]),
    }


def _shared_claim(row: Mapping[str, Any]) -> SharedClaim:
    return {
        "says": prose(row["says"]),
        "measure": None if row["measure"] == "all" else label(row["measure"]),
        "verdict": row["verdict"],
        "hold": label(row["models_hold"], 400),
        "fail": label(row["models_fail"], 400),
        "open": label(row["models_open"], 400),
        "sql": source("claims_by_model", claim=row["claim"], measure=row["measure"]),
    }

"""Which recipes a model bears: verdicts from predicted losses, or by a rule of the paper where data are few.

Predictions and the intervals of probes are made in SQL (loss_predictions, variant_verdict); running probes and asking
the warehouse belong to the caller.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.published import fact

SAFE, CHOOSING_ONLY, BROKEN, NOT_JUDGED = "safe", "non-generative only", "broken", "not judged"
VERDICTS = (SAFE, CHOOSING_ONLY, BROKEN, NOT_JUDGED)
# What loss is counted by, the first that is known of enough models.
MEASURES = ("score", "agreement")
WRITING, CHOOSING = "generative", "non_generative"
# A score that halves is gone, as critical k has it (q21). The variant above lost 22 % of its skill in MMLU.
GONE = 0.5
# With two, one that changes by chance is half of them already.
LEAST_QUESTIONS = 3
COLUMNS = {
    "recipe": pl.String,
    "verdict": pl.String,
    "is_certain": pl.Boolean,
    "basis": pl.String,
    "parameters_removed_share": pl.Float64,
    "probe": pl.String,
    "damage": pl.Float64,
    "damage_low": pl.Float64,
    "damage_high": pl.Float64,
    **{
        f"{name}_{kind}": pl.Float64
        for kind in (WRITING, CHOOSING)
        for name in ("predicted_loss", "predicted_loss_low", "predicted_loss_high", "loss")
    },
}

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """What to do with a model.

    Attributes:
        rows: one row a recipe, best first, columns as COLUMNS. `basis` is `prediction`, or `rule` where nothing was
            predicted; `probe` and `damage` are what the verdict follows from, under the rule with the 95 % interval
            of the damage; `is_certain` says that both ends of all intervals lead to the same verdict, NULL where there
            is no verdict; `loss_…` was measured, where it was.
        told: how far to trust it, in sentences.
    """

    rows: pl.DataFrame
    told: tuple[str, ...]


def published_kl_nats() -> float:
    """KL at the first generated token where writing is gone and choosing is not.

    Of Qwen2.5-7B without 8 attention sublayers, 2603.24652 (GSM8K 75.6 → 0, MMLU 74.2 → 63.2).
    """
    return fact("generation", "kl_step0_nats")


def rule() -> str:
    """How a verdict is reached where nothing is predicted."""
    return (
        "choosing is there where most choice prompts keep their likeliest option; writing where, besides, KL at the "
        f"first generated token is below {published_kl_nats():g} nats, at which the paper's writing is gone "
        "(2603.24652, 8 attention sublayers dropped), and at most the tolerated share of tokens has another likeliest "
        "one, for decoding feeds each back; is_certain where both ends of their 95 % intervals (over questions by "
        "Wilson, over five prompts or more by Student's t) lead to the same verdict"
    )


def advise(variants: pl.DataFrame, predictions: pl.DataFrame, tolerance: float) -> Advice:
    """Ranks the recipes of one model.

    Args:
        variants: a row of variant_verdict for each pruned variant of the model.
        predictions: its rows of loss_predictions.
        tolerance: share of the dense model's skill that may be lost where a verdict says that it is kept.
    """
    measure = next((name for name in MEASURES if _reach(predictions, name)), None)
    known = predictions.filter(pl.col("measure") == measure) if measure else predictions.clear()
    rows = [
        _by_prediction(variant, found, tolerance)
        if len(found := _narrowest(known, variant["recipe"])) == 2
        else _by_rule(variant, tolerance)
        for variant in variants.iter_rows(named=True)
    ]
    measured = _measured(predictions, measure)
    rows = [{**dict.fromkeys(COLUMNS), **row, **measured.get(row["recipe"], {})} for row in rows]
    rows.sort(key=lambda row: (VERDICTS.index(row["verdict"]), _severity(row), row["recipe"]))
    return Advice(pl.DataFrame(rows, schema=COLUMNS), tuple(_told(rows, predictions, measure, tolerance)))


def _reach(predictions: pl.DataFrame, measure: str) -> bool:
    """Whether losses of both kinds are predicted, with their intervals, for some variant."""
    found = predictions.filter(pl.col("measure") == measure, pl.col("predicted_loss_high").is_not_null())
    return {WRITING, CHOOSING} <= set(found["kind"])


def _narrowest(known: pl.DataFrame, recipe: str) -> dict[str, _Row]:
    """For each kind of task the prediction whose probe erred least elsewhere."""
    rows = known.filter(pl.col("recipe") == recipe, pl.col("predicted_loss_high").is_not_null())
    best = rows.sort("half_width", "probe").unique("kind", keep="first", maintain_order=True)
    return {row["kind"]: row for row in best.iter_rows(named=True)}


def _by_prediction(variant: _Row, found: Mapping[str, _Row], tolerance: float) -> dict[str, Any]:
    def at(bound: str) -> str:
        return _verdict(found[CHOOSING][bound], found[WRITING][bound], tolerance)

    verdict = at("predicted_loss")
    is_writing_kept = found[WRITING]["predicted_loss"] <= tolerance
    decisive = found[CHOOSING if verdict == BROKEN or (verdict == CHOOSING_ONLY and is_writing_kept) else WRITING]
    return {
        "recipe": variant["recipe"],
        "verdict": verdict,
        "is_certain": verdict == at("predicted_loss_low") == at("predicted_loss_high"),
        "basis": "prediction",
        "parameters_removed_share": variant["parameters_removed_share"],
        "probe": decisive["probe"],
        "damage": decisive["damage"],
        **{
            f"{name}_{kind}": found[kind][name]
            for kind in (WRITING, CHOOSING)
            for name in ("predicted_loss", "predicted_loss_low", "predicted_loss_high")
        },
    }


def _by_rule(variant: _Row, tolerance: float) -> dict[str, Any]:
    """A verdict without a prediction, see `rule`."""
    row = {
        "recipe": variant["recipe"],
        "verdict": NOT_JUDGED,
        "basis": "rule",
        "parameters_removed_share": variant["parameters_removed_share"],
    }
    if variant["kl_step0_nats"] is None or not variant["questions"]:
        return row

    limit = published_kl_nats()

    def at(end: str, unknown: float) -> str:
        kl = variant[f"kl_step0_nats{end}"]
        if variant[f"options_changed{end}"] >= GONE:
            return BROKEN
        is_first_token_kept = (unknown if kl is None else kl) < limit
        return SAFE if is_first_token_kept and variant[f"top1_change{end}"] <= tolerance else CHOOSING_ONLY

    verdict = at("", math.inf)
    # What is written can be told without questions; what is chosen cannot.
    if variant["questions"] < LEAST_QUESTIONS and verdict != SAFE:
        return row
    if verdict == BROKEN:
        probe, column = "options_changed", "options_changed"
    elif variant["kl_step0_nats"] >= limit:
        probe, column = "kl_step0", "kl_step0_nats"
    else:
        probe, column = "top1_change", "top1_change"
    damages = {f"damage{end}": variant[f"{column}{end}"] for end in ("", "_low", "_high")}
    is_certain = verdict == at("_low", 0.0) == at("_high", math.inf)
    return row | {"verdict": verdict, "is_certain": is_certain, "probe": probe} | damages


def _verdict(choosing: float, writing: float, tolerance: float) -> str:
    """What losses of both kinds mean."""
    if choosing > tolerance and choosing >= GONE:
        return BROKEN
    return SAFE if max(choosing, writing) <= tolerance else CHOOSING_ONLY


def _measured(predictions: pl.DataFrame, measure: str | None) -> dict[str, dict[str, float]]:
    """Losses of the model's variants that were scored, by recipe; of right answers, if both kinds had any to lose."""
    scored = predictions.filter(pl.col("loss").is_not_null())
    kinds = {name: set(scored.filter(pl.col("measure") == name)["kind"]) for name in MEASURES}
    shown = measure or max(MEASURES, key=lambda name: len(kinds[name]))
    found: dict[str, dict[str, float]] = {}
    for row in scored.filter(pl.col("measure") == shown).iter_rows(named=True):
        found.setdefault(row["recipe"], {})[f"loss_{row['kind']}"] = row["loss"]
    return found


def _is_contradicted(row: _Row, tolerance: float) -> bool:
    """Whether both losses were measured and lead to another verdict."""
    choosing, writing = row[f"loss_{CHOOSING}"], row[f"loss_{WRITING}"]
    is_known = choosing is not None and writing is not None and row["verdict"] != NOT_JUDGED
    return is_known and _verdict(choosing, writing, tolerance) != row["verdict"]


def _severity(row: _Row) -> tuple[bool, float]:
    """What orders recipes of one verdict: the loss in writing, behind it what has a probe only."""
    predicted = row[f"predicted_loss_{WRITING}"]
    return predicted is None, predicted if predicted is not None else (row["damage"] or 0.0)


def _told(rows: list[dict[str, Any]], predictions: pl.DataFrame, measure: str | None, tolerance: float) -> list[str]:
    """How far to trust the verdicts."""
    told = [
        f"safe: at most {tolerance:.0%} of the dense model's skill above a guess is lost, in writing and in choosing; "
        f"broken: choosing loses {GONE:.0%} or more; between them, non-generative only"
    ]
    by_rule = [row["recipe"] for row in rows if row["basis"] == "rule"]
    if measure:
        known = predictions.filter(pl.col("measure") == measure, pl.col("predicted_loss_high").is_not_null())
        numbers = (known.get_column(name).cast(pl.Int64).to_list() for name in ("n_models", "n_variants"))
        models, variants = numbers
        told.append(
            f"predicted ({measure}) from {min(models)} other models or more with {min(variants)} scored variants or "
            "more; an interval holds for 9 of 10 variants of a model no stranger than these: `prunescope question q31` "
            "says how often it did; is_certain where both of its ends lead to the same verdict"
        )
        above = _beyond(predictions, measure)
        if beyond := [recipe for recipe in by_rule if recipe in above]:
            told.append(f"beyond every probe that was seen, so by the rule: {', '.join(beyond)}")
        if unprobed := [recipe for recipe in by_rule if recipe not in above]:
            told.append(f"without a probe that predicts both losses, so by the rule: {', '.join(unprobed)}")
    else:
        others = min((_others(predictions, kind) for kind in (WRITING, CHOOSING)), default=0)
        known_models = f"{others} other model{'' if others == 1 else 's'}"
        told.append(
            f"too little data to predict losses: {known_models} with at least 5 variants scored on writing and on "
            "choosing, and 2 are needed"
        )
    if by_rule:
        told.append(f"the rule claims no calibration: {rule()}")
    if elsewhere := [row["recipe"] for row in rows if _is_contradicted(row, tolerance)]:
        told.append(
            f"tasks were run on them, and the losses measured there (loss_{WRITING}, loss_{CHOOSING}) lead to another "
            f"verdict, which counts more: {', '.join(elsewhere)}; view variant_verdict says how certain it is"
        )
    if any(row["verdict"] == NOT_JUDGED for row in rows):
        told.append(
            f"not judged: what was not computed, or was asked fewer than {LEAST_QUESTIONS} questions (prompts of the "
            "kind `choice`), which cannot tell what only chooses from what is broken"
        )
    return told


def _beyond(predictions: pl.DataFrame, measure: str) -> set[str]:
    """Recipes with a kind of loss that every probe they have could predict, were its damage not above all seen."""
    usable = predictions.filter(pl.col("measure") == measure, pl.col("half_width").is_not_null())
    above = usable.group_by("recipe", "kind").agg(pl.col("predicted_loss").is_null().all())
    return set(above.filter("predicted_loss")["recipe"])


def _others(predictions: pl.DataFrame, kind: str) -> int:
    """Other models from which a loss of that kind could be predicted."""
    found = predictions.filter(pl.col("kind") == kind)["n_models"].max()
    return found if isinstance(found, int) else 0

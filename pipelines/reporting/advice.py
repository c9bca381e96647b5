"""Verdicts on recipes, from predicted losses, or by a rule of the paper where too little data allow a prediction.

SQL computes the predictions (loss_predictions) and the intervals of the probes (variant_verdict).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.published import fact

SAFE, CHOOSING_ONLY, BROKEN, NOT_JUDGED = "safe", "non-generative only", "broken", "not judged"
VERDICTS = (SAFE, CHOOSING_ONLY, BROKEN, NOT_JUDGED)
# Measures of loss, in order of preference.
MEASURES = ("score", "agreement")
GENERATION, CHOICE = "generative", "non_generative"
# A score that halves counts as gone, as in the critical k of q21.
HALF_LOST = 0.5
# Of two questions, one that changes by chance is already half.
LEAST_QUESTIONS = 3
_BOUNDS = ("predicted_loss", "predicted_loss_low", "predicted_loss_high")
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
    **{f"{name}_{kind}": pl.Float64 for kind in (GENERATION, CHOICE) for name in (*_BOUNDS, "loss")},
}

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """Ranked recipes of one model.

    Attributes:
        rows: one row per recipe, best first, with the columns COLUMNS. `basis` is `prediction`, or `rule` where nothing
            was predicted. The verdict follows from `probe` and `damage`, which under the rule has a 95 % interval.
            `is_certain` says whether both ends of all intervals lead to the same verdict; NULL without a verdict.
            `loss_…` is the measured loss, if there is one.
        notes: sentences on how reliable the verdicts are.
    """

    rows: pl.DataFrame
    notes: tuple[str, ...]


def published_kl_nats() -> float:
    """Return the KL at the first generated token of a model that can still choose answers but not generate them.

    Published for Qwen2.5-7B without 8 attention sublayers, 2603.24652 (GSM8K 75.6 → 0, MMLU 74.2 → 63.2).
    """
    return fact("generation", "kl_step0_nats")


def rule() -> str:
    """Return the rule for verdicts without a prediction, in words."""
    return (
        "choosing is kept where most choice prompts keep their likeliest option; writing is kept where choosing is, KL "
        f"at the first generated token is below {published_kl_nats():g} nats, at which the paper's model no longer "
        "writes (2603.24652, 8 attention sublayers dropped), and the likeliest token changes at no more than the "
        "tolerated share of steps, because decoding feeds each token back; is_certain where both ends of the 95 % "
        "intervals (Wilson's over questions, Student's t over five prompts or more) lead to the same verdict"
    )


def advise(variants: pl.DataFrame, predictions: pl.DataFrame, tolerance: float) -> Advice:
    """Rank the recipes of one model.

    Args:
        variants: a row of variant_verdict for each pruned variant of the model.
        predictions: the model's rows of loss_predictions.
        tolerance: share of the dense model's skill that may be lost where a verdict says that the skill is kept.
    """
    # Rows with an interval; a verdict needs those of both kinds.
    predicted = predictions.filter(pl.col("predicted_loss_high").is_not_null())
    measure = next(
        (name for name in MEASURES if {GENERATION, CHOICE} <= set(predicted.filter(measure=name)["kind"])), None
    )
    predicted = predicted.filter(measure=measure) if measure else predicted.clear()
    measured = _measured_losses(predictions, measure)
    rows: list[dict[str, Any]] = []
    for variant in variants.iter_rows(named=True):
        # For each kind the prediction from the probe with the smallest error on other models.
        best = predicted.filter(recipe=variant["recipe"]).sort("half_width", "probe").unique("kind", keep="first")
        by_kind = {row["kind"]: row for row in best.iter_rows(named=True)}
        judged = _by_prediction(by_kind, tolerance) if len(by_kind) == 2 else _by_rule(variant, tolerance)
        common = {"recipe": variant["recipe"], "parameters_removed_share": variant["parameters_removed_share"]}
        rows.append({**dict.fromkeys(COLUMNS), **common, **judged, **measured.get(variant["recipe"], {})})
    rows.sort(key=lambda row: (VERDICTS.index(row["verdict"]), *_severity(row), row["recipe"]))
    return Advice(pl.DataFrame(rows, schema=COLUMNS), tuple(_notes(rows, predictions, measure, tolerance)))


def _by_prediction(by_kind: Mapping[str, _Row], tolerance: float) -> dict[str, Any]:
    def at(bound: str) -> str:
        return _verdict(by_kind[CHOICE][bound], by_kind[GENERATION][bound], tolerance)

    verdict = at("predicted_loss")
    keeps_generation = by_kind[GENERATION]["predicted_loss"] <= tolerance
    follows_choice = verdict == BROKEN or (verdict == CHOOSING_ONLY and keeps_generation)
    decisive = by_kind[CHOICE if follows_choice else GENERATION]
    return {
        "verdict": verdict,
        "is_certain": verdict == at("predicted_loss_low") == at("predicted_loss_high"),
        "basis": "prediction",
        "probe": decisive["probe"],
        "damage": decisive["damage"],
        **{f"{name}_{kind}": by_kind[kind][name] for kind in (GENERATION, CHOICE) for name in _BOUNDS},
    }


def _by_rule(variant: _Row, tolerance: float) -> dict[str, Any]:
    """Return a verdict without a prediction, see `rule`."""
    not_judged = {"verdict": NOT_JUDGED, "basis": "rule"}
    if variant["kl_step0_nats"] is None or not variant["questions"]:
        return not_judged
    limit = published_kl_nats()

    def at(end: str, unknown: float) -> str:
        kl = variant[f"kl_step0_nats{end}"]
        if variant[f"options_changed{end}"] >= HALF_LOST:
            return BROKEN
        is_first_token_kept = (unknown if kl is None else kl) < limit
        return SAFE if is_first_token_kept and variant[f"top1_change{end}"] <= tolerance else CHOOSING_ONLY

    verdict = at("", math.inf)
    # Only `safe` can be told without questions, which separate `broken` from `non-generative only`.
    if variant["questions"] < LEAST_QUESTIONS and verdict != SAFE:
        return not_judged
    if verdict == BROKEN:
        probe, column = "options_changed", "options_changed"
    elif variant["kl_step0_nats"] >= limit:
        probe, column = "kl_step0", "kl_step0_nats"
    else:
        probe, column = "top1_change", "top1_change"
    damages = {f"damage{end}": variant[f"{column}{end}"] for end in ("", "_low", "_high")}
    is_certain = verdict == at("_low", 0.0) == at("_high", math.inf)
    return {"verdict": verdict, "basis": "rule", "is_certain": is_certain, "probe": probe} | damages


def _verdict(choice: float, generation: float, tolerance: float) -> str:
    if choice > tolerance and choice >= HALF_LOST:
        return BROKEN
    return SAFE if max(choice, generation) <= tolerance else CHOOSING_ONLY


def _measured_losses(predictions: pl.DataFrame, measure: str | None) -> dict[str, dict[str, float]]:
    """Return the losses of the model's scored variants, by recipe.

    Without a measure, use the first measure with the most kinds of task.
    """
    scored = predictions.filter(pl.col("loss").is_not_null())
    measure = measure or max(MEASURES, key=lambda name: scored.filter(measure=name)["kind"].n_unique())
    losses: dict[str, dict[str, float]] = {}
    for row in scored.filter(measure=measure).iter_rows(named=True):
        losses.setdefault(row["recipe"], {})[f"loss_{row['kind']}"] = row["loss"]
    return losses


def _is_contradicted(row: _Row, tolerance: float) -> bool:
    """Return whether both losses were measured and lead to another verdict."""
    choice, generation = row[f"loss_{CHOICE}"], row[f"loss_{GENERATION}"]
    is_known = choice is not None and generation is not None and row["verdict"] != NOT_JUDGED
    return is_known and _verdict(choice, generation, tolerance) != row["verdict"]


def _severity(row: _Row) -> tuple[bool, float]:
    """Return the sort key within a verdict: predicted loss in generation, then recipes with a probe only."""
    predicted = row[f"predicted_loss_{GENERATION}"]
    return predicted is None, predicted if predicted is not None else (row["damage"] or 0.0)


def _notes(rows: list[dict[str, Any]], predictions: pl.DataFrame, measure: str | None, tolerance: float) -> list[str]:
    notes = [
        f"safe: at most {tolerance:.0%} of the dense model's skill above a guess is lost, in writing and in choosing; "
        f"broken: choosing loses {HALF_LOST:.0%} or more; between them, non-generative only"
    ]
    by_rule = [row["recipe"] for row in rows if row["basis"] == "rule"]
    if measure:
        known = predictions.filter(pl.col("predicted_loss_high").is_not_null(), measure=measure)
        models, variants = (min(known[name].cast(pl.Int64).to_list()) for name in ("n_models", "n_variants"))
        notes.append(
            f"predicted ({measure}) from at least {models} other models with at least {variants} scored variants; an "
            "interval holds for 9 of 10 variants of a model similar to these: `prunescope question q31` says how often "
            "it did; is_certain where both of its ends lead to the same verdict"
        )
        above = _beyond(predictions, measure)
        if beyond := [recipe for recipe in by_rule if recipe in above]:
            notes.append(f"more damage than any model had before, so by the rule: {', '.join(beyond)}")
        if unprobed := [recipe for recipe in by_rule if recipe not in above]:
            notes.append(f"without a probe that predicts both losses, so by the rule: {', '.join(unprobed)}")
    else:
        n_models = [predictions.filter(kind=kind)["n_models"].drop_nulls() for kind in (GENERATION, CHOICE)]
        others = min(max([0, *counts.cast(pl.Int64)]) for counts in n_models)
        notes.append(
            f"too little data to predict losses: {others} other model{'' if others == 1 else 's'} with at least 5 "
            "variants scored on writing and on choosing, and 2 are needed"
        )
    if by_rule:
        notes.append(f"the rule claims no calibration: {rule()}")
    if elsewhere := [row["recipe"] for row in rows if _is_contradicted(row, tolerance)]:
        notes.append(
            f"the losses measured in tasks (loss_{GENERATION}, loss_{CHOICE}) lead to another verdict, which counts "
            f"more: {', '.join(elsewhere)}; view variant_verdict says how certain it is"
        )
    if any(row["verdict"] == NOT_JUDGED for row in rows):
        notes.append(
            f"not judged: recipes that were not computed, or whose model was asked fewer than {LEAST_QUESTIONS} "
            f"questions (prompts of the kind `choice`), too few to tell {CHOOSING_ONLY} from {BROKEN}"
        )
    return notes


def _beyond(predictions: pl.DataFrame, measure: str) -> set[str]:
    """Return the recipes with a kind of loss for which all usable probes are above the damage seen in other models."""
    usable = predictions.filter(pl.col("half_width").is_not_null(), measure=measure)
    above = usable.group_by("recipe", "kind").agg(pl.col("predicted_loss").is_null().all())
    return set(above.filter("predicted_loss")["recipe"])

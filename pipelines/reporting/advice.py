"""Words for the verdicts that SQL gives (`sql/macros/verdict.sql`, `sql/comparisons/advise.sql`)."""

import polars as pl

from prunescope.pipelines.core.verdict_rule import MIN_UNITS

SAFE, CHOOSING_ONLY, NOT_SAFE, BROKEN = "safe", "non-generative only", "not safe", "broken"
TOO_LITTLE = "too little evidence"
EVIDENCE = {
    "score": "the dense model's right answers above a guess",
    "agreement": "the dense model's own answers above a guess",
    "prediction": "the dense model's skill, as predicted from other models",
    "tokens": "its most likely tokens",
    "options": "its choices",
}
RULE = (
    "safe: writing and choosing each lose at most 10 %, at the upper end of their 95 % intervals; broken: choosing "
    "loses half or more, at the lower end; non-generative only: writing surely loses more than 10 %, and choosing "
    "surely less than half; not safe: else one surely loses more than 10 %; else too little evidence. A loss is that "
    "beyond the noise floor, by the first that decides: right answers, the dense model's own answers, or the most "
    f"likely tokens or options of the study's prompts. Fewer than {MIN_UNITS} answers, prompts or questions support no "
    "verdict."
)


def advise(rows: pl.DataFrame, predictions: pl.DataFrame, tolerance: float) -> list[str]:
    """Return notes on the verdicts on the recipes of one model.

    Args:
        rows: rows of `sql/comparisons/advise.sql`.
        predictions: the model's rows of loss_predictions.
        tolerance: share of the dense model's skill that may be lost where a verdict says that the skill is kept.
    """
    notes = [RULE.replace("10 %", f"{100 * tolerance:g} %")]
    known = predictions.filter(pl.col("predicted_loss_high").is_not_null())
    if known.height:
        models, variants = (min(known[name].cast(pl.Int64).to_list()) for name in ("n_models", "n_variants"))
        notes.append(
            f"predicted from at least {models} other models with at least {variants} scored variants; an interval of a "
            "prediction holds for 9 of 10 variants of a model similar to these: `prunescope question q31` says how "
            "often it did"
        )
    else:
        n_models = [predictions.filter(kind=kind)["n_models"].drop_nulls() for kind in ("generative", "non_generative")]
        others = min(max([0, *counts.cast(pl.Int64)]) for counts in n_models)
        notes.append(
            f"too little data to predict losses: {others} other model{'' if others == 1 else 's'} with at least 5 "
            "variants scored on writing and on choosing, and 2 are needed"
        )
    unmeasured = pl.col("evidence_writing").is_null() | pl.col("evidence_choosing").is_null()
    if missing := rows.filter(unmeasured)["recipe"].to_list():
        notes.append(
            f"nothing of writing or nothing of choosing was measured for {', '.join(missing)}; a study with at least "
            f"{MIN_UNITS} prompts of the kind `choice` measures both"
        )
    if (greedy := rows.drop_nulls("n_greedy")).height:
        texts = max(greedy["n_greedy"].cast(pl.Int64).to_list())
        ends = greedy.select("recipe", "equal_tokens_95_low", "equal_tokens_95_high").rows()
        notes.append(
            f"tokens for which 95 % of greedy texts stay the dense model's own, from {texts} texts: "
            + ", ".join(f"{recipe} {_between(low, high)}" for recipe, low, high in ends)
        )
    return notes


def _between(low: int | None, high: int | None) -> str:
    if low is None:
        return "not known" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"

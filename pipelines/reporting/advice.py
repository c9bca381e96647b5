"""Words for the verdicts that SQL computes (`sql/macros/verdict.sql`, `sql/comparisons/advise.sql`)."""

import polars as pl

from prunescope.pipelines.core.verdict_rule import MIN_UNITS, TOLERANCE

SAFE, OTHER_TEXT, CHOOSING_ONLY = "safe", "writes other text", "chooses only"
NOT_SAFE, TOO_LITTLE = "not safe", "too little evidence"
VERDICTS = (SAFE, OTHER_TEXT, CHOOSING_ONLY, NOT_SAFE, TOO_LITTLE)
# Signs of the words, which say the same without colour, everywhere.
MARKS = {
    SAFE: "●",
    OTHER_TEXT: "◕",
    CHOOSING_ONLY: "◐",
    NOT_SAFE: "✕",
    TOO_LITTLE: "○",
    "holds": "✓",
    "fails": "✕",
    "does not hold": "✕",
}
EVIDENCE = {
    "score": "the right answers to tasks above a guess",
    "graded": "the right answers to the prompts above a guess",
    "agreement": "the dense model's own answers to tasks",
    "options": "the dense model's own choices",
    "prediction": "the dense model's skill, as predicted from other models",
}


def rule(tolerance: float = TOLERANCE) -> str:
    """Return how verdicts are made if this share may be lost, in words."""
    return (
        "Three things are judged. Fidelity: the same tokens as the dense model on its text. Quality: right answers, in "
        "writing and in choosing. Alive: no loop, and no end of the text before half of the dense length and before "
        f"an answer. Each holds if surely at most {100 * tolerance:g} % is lost beyond what rounding changes, and "
        "fails if surely more is lost. Surely means: the whole 95 % interval of one variant, over at least "
        f"{MIN_UNITS} prompts, questions or answers. Otherwise there is too little evidence. Safe: quality and alive "
        "hold. Chooses only: choosing holds, but writing or alive fails. Not safe: quality or alive fails in another "
        "way. Writes other text: alive holds, fidelity fails, and quality is not known. Quality is judged by the first "
        "of these that was measured on enough answers, regardless of its result: right answers to tasks, right answers "
        "to the prompts, and, if no right answer is known, the dense model's own answers, if they are not nearly "
        "always the same."
    )


def advise(rows: pl.DataFrame, predictions: pl.DataFrame, tolerance: float) -> list[str]:
    """Return notes on the verdicts on the recipes of one model.

    Args:
        rows: rows of `sql/comparisons/advise.sql`.
        predictions: the model's rows of loss_predictions.
        tolerance: share of the dense model's skill that may be lost if a verdict says that the skill is kept.
    """
    notes = [rule(tolerance)]
    known = predictions.filter(pl.col("predicted_loss_high").is_not_null())
    if known.height:
        models, variants = (min(known[name].cast(pl.Int64).to_list()) for name in ("n_models", "n_variants"))
        notes.append(
            f"Losses are predicted from at least {models} other models with at least {variants} scored variants. If "
            "the model is similar to these, the interval of a prediction holds for 9 of 10 variants. "
            "`prunescope question q31` shows how often it did."
        )
    else:
        n_models = [predictions.filter(kind=kind)["n_models"].drop_nulls() for kind in ("generative", "non_generative")]
        others = min(max([0, *counts.cast(pl.Int64)]) for counts in n_models)
        notes.append(
            "There are too little data to predict losses. That takes 2 other models with at least 5 variants scored on "
            f"writing and on choosing; the warehouse has {others}."
        )
    unmeasured = pl.any_horizontal(pl.col("evidence_writing", "evidence_choosing", "loss_alive").is_null())
    if missing := rows.filter(unmeasured)["recipe"].to_list():
        notes.append(
            f"For {', '.join(missing)}, writing, choosing or texts were not measured, or the dense model only guesses. "
            "All are measured by a study with texts and with prompts of the kind `choice` that the dense model answers "
            f"right, at least {MIN_UNITS} of them."
        )
    if (greedy := rows.drop_nulls("n_greedy")).height:
        texts = max(greedy["n_greedy"].cast(pl.Int64).to_list())
        ends = greedy.select("recipe", "equal_tokens_95_low", "equal_tokens_95_high").rows()
        notes.append(
            f"Number of tokens for which 95 % of greedy texts equal the dense model's, from {texts} texts: "
            + ", ".join(f"{recipe} {_between(low, high)}" for recipe, low, high in ends)
        )
    return notes


def _between(low: int | None, high: int | None) -> str:
    if low is None:
        return "not known" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"

"""The verdicts on the paper's claims: numbers worked out by hand, and every possible verdict."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.sql.built_tasks import task_sample, task_score
from tests.sql.warehouse_builder import Ask, Handmade, Row

ERROR = 0.02


def claims(ask: Ask, warehouse: Handmade) -> dict[tuple[str, str], Row]:
    """Return the rows by claim and measure."""
    return {(row["claim"], row["measure"]): row for row in ask(warehouse, "paper_claims")}


def scored(choosing: list[float], writing: list[float]) -> Handmade:
    """Build variants with a task of four options (dense score 0.65) and one of written answers (0.8)."""
    warehouse = Handmade().variant("dense").variant("noise-batch", method="noise")
    options = {"scoring": "full_text", "log_likelihoods": [-1.0, -2.0, -3.0, -4.0]}
    for task in ("arc", "guessed"):
        task_sample(warehouse, "dense", task, "s", **options)
    for index in range(len(choosing)):
        warehouse.variant(f"r{index}")
    names = ["dense", "noise-batch", *(f"r{index}" for index in range(len(choosing)))]
    for recipe, chosen, written in zip(names, [0.65, 0.0, *choosing], [0.8, 0.0, *writing], strict=True):
        task_score(warehouse, recipe, "arc", chosen, standard_error=ERROR)
        task_score(warehouse, recipe, "gsm8k", written, metric="exact_match", kind="generative", standard_error=ERROR)
        # Not above a guess by two standard errors: no score to lose.
        task_score(warehouse, recipe, "guessed", 0.28 if recipe == "dense" else 0.1, standard_error=ERROR)
    return warehouse


def test_losses_above_a_guess_count_over_variants_whose_writing_loses_half(ask: Ask) -> None:
    choosing, writing = [0.61, 0.57, 0.53, 0.65, 0.2], [0.0, 0.2, 0.4, 0.1, 0.5]
    rows = claims(ask, scored(choosing, writing))
    survives, gap = rows["choosing_survives", "score"], rows["writing_loses_more", "score"]
    # The last one loses only three eighths of its writing, and is left out.
    kept = (np.array(choosing[:4]) - 0.25) / 0.4
    left = np.array(writing[:4]) / 0.8
    errors = (ERROR * np.hypot(1, kept) / 0.4, ERROR * np.hypot(1, left) / 0.8)

    def half(values: np.ndarray, error: np.ndarray) -> float:
        return 1.959963984540054 * math.sqrt(values.var(ddof=1) / 4 + error.mean() ** 2)

    assert (survives["n"], survives["units"], survives["verdict"]) == (4, "variants", "holds")
    assert survives["amount"] == pytest.approx((1 - kept).mean())
    assert survives["amount_high"] == pytest.approx((1 - kept).mean() + half(1 - kept, errors[0]))
    assert gap["amount"] == pytest.approx((kept - left).mean())
    assert gap["amount_low"] == pytest.approx((kept - left).mean() - half(kept - left, np.hypot(*errors)))
    assert gap["verdict"] == "holds"


def test_a_refuted_claim_fails(ask: Ask) -> None:
    rows = claims(ask, scored([0.25, 0.27, 0.26], [0.3, 0.35, 0.3]))

    assert rows["choosing_survives", "score"]["verdict"] == "does not hold"
    assert rows["writing_loses_more", "score"]["verdict"] == "does not hold"


def test_one_broken_variant_leaves_a_claim_open(ask: Ask) -> None:
    row = claims(ask, scored([0.6], [0.0]))["choosing_survives", "score"]

    assert (row["n"], row["amount_low"], row["verdict"]) == (1, None, "too little data")


def test_without_broken_writing_there_is_no_claim(ask: Ask) -> None:
    assert not claims(ask, scored([0.6], [0.7]))


def test_shares_are_over_questions_sublayers_and_variants_with_wilsons_interval(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe, kept in (("a", 5), ("b", 6), ("c", 8)):
        warehouse.variant(recipe)
        for index in range(8):
            dense, same, other = [0.004, 0.003], [0.004, 0.003], [0.003, 0.004]
            warehouse.options(recipe, f"q{index}", dense, same if index < kept else other)
            # Free running moves c no further.
            warehouse.step(recipe, f"q{index}", 0, 1.0)
            warehouse.step(recipe, f"q{index}", 0, 1.0 if recipe == "c" else 2.0, trajectory="free_running")
        for layer, amplified in ((0, False), (1, True)):
            for sublayer in ("attn", "mlp"):
                moved = {"one_minus_cos_z": 0.1, "one_minus_cos_p": 0.2 if amplified else 0.05}
                warehouse.transition(recipe, "q0", 0, 1.0, layer=layer, sublayer=sublayer, **moved)
    rows = claims(ask, warehouse)

    # Question 5 keeps its choice in two of three variants, 6 and 7 in one.
    for claim, measure, times, n, units in (
        ("choice_is_kept", "all", 6, 8, "questions"),
        ("options_in_the_tail", "all", 8, 8, "questions"),
        ("softmax_amplifies", "normed", 2, 4, "sublayers"),
        ("decoding_feeds_back", "all", 2, 3, "variants"),
    ):
        row = rows[claim, measure]
        interval = stats.binomtest(times, n).proportion_ci(method="wilson")
        assert (row["n"], row["units"], row["amount"]) == (n, units, times / n), claim
        assert (row["amount_low"], row["amount_high"]) == pytest.approx((interval.low, interval.high)), claim
        assert row["verdict"] == ("holds" if interval.low > 0.5 else "too little data"), claim


def test_the_fit_is_the_mean_over_methods_with_the_error_of_their_jackknife(ask: Ask) -> None:
    chance, warehouse = np.random.default_rng(8), Handmade().model().variant("dense")
    for recipe, method, noise in (("w", "wanda", 0.5), ("m", "magnitude", 1.0)):
        warehouse.variant(recipe, method=method)
        for prompt in range(4):
            warehouse.step(recipe, f"p{prompt}", 0, 1.0)
            for step in range(6):
                kl = float(np.float32(chance.lognormal(-2, 1)))
                estimate = float(np.float32(kl * chance.lognormal(0, noise)))
                warehouse.transition(recipe, f"p{prompt}", step, kl, t3_kl_nats=estimate, var_p_dz=2 * estimate)
    row = claims(ask, warehouse)["second_order_fits", "T3 KL"]
    fits = [fit for fit in ask(warehouse, "paper_fits") if fit["theorem"] == "T3 KL"]

    assert len(fits) == row["n"] == 2
    mean = sum(fit["pearson_log10"] for fit in fits) / 2
    error = sum(fit["pearson_log10_se"] for fit in fits) / 2
    assert (row["amount"], row["amount_low"]) == pytest.approx((mean, mean - 1.959963984540054 * error))
    assert (row["amount_high"], row["verdict"]) == (
        pytest.approx(min(1, mean + 1.96 * error), rel=1e-4),
        "does not hold",
    )


def test_each_claim_lists_the_models_on_which_it_holds_fails_or_is_open(ask: Ask) -> None:
    warehouse = Handmade()
    for model, free, recipes in (("a", 2.0, 8), ("b", 0.5, 8), ("c", 2.0, 1)):
        warehouse.model(model).variant("dense", model=model)
        for recipe in (f"r{index}" for index in range(recipes)):
            warehouse.variant(recipe, model=model)
            warehouse.step(recipe, "q", 0, 1.0, model=model)
            warehouse.step(recipe, "q", 0, free, trajectory="free_running", model=model)
            if model == "a":
                for question in range(8):
                    warehouse.options(recipe, f"q{question}", [0.004, 0.003], [0.004, 0.003], model=model)
    rows = {row["claim"]: row for row in ask(warehouse, "q32_claims_by_model")}

    def said(claim: str) -> tuple[object, ...]:
        row = rows[claim]
        assert row["n_models"] == 3
        return row["models_hold"], row["models_fail"], row["models_open"], row["verdict"]

    assert said("decoding_feeds_back") == ("a", "b", "c", "differs")
    # Without data a claim is open.
    assert said("choice_is_kept") == ("a", "", "b, c", "too little data")


def test_a_claim_is_of_every_model_only_where_none_is_open(ask: Ask) -> None:
    warehouse = Handmade()
    for model in ("a", "b"):
        warehouse.model(model).variant("dense", model=model)
        for recipe in (f"r{index}" for index in range(8)):
            warehouse.variant(recipe, model=model)
            warehouse.step(recipe, "q", 0, 1.0, model=model)
            warehouse.step(recipe, "q", 0, 2.0, trajectory="free_running", model=model)
    (row,) = ask(warehouse, "q32_claims_by_model")
    assert (row["models_hold"], row["verdict"]) == ("a, b", "holds on every model")

"""The verdicts on the paper's claims: numbers worked out by hand, and every possible verdict."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.sql import reference_intervals
from tests.sql.built_tasks import task_sample, task_score
from tests.sql.reference_intervals import Interval
from tests.sql.warehouse_builder import Ask, Handmade, Row


def claims(ask: Ask, warehouse: Handmade) -> dict[tuple[str, str], Row]:
    """Return the rows by claim and measure."""
    return {(row["claim"], row["measure"]): row for row in ask(warehouse, "paper_claims")}


# Answers to each task.
N = 1000
GUESS = 0.25


def scored(choosing: list[float], writing: list[float], noise: tuple[float, float] = (0.65, 0.8)) -> Handmade:
    """Build variants with a task of four options (dense score 0.65) and one of written answers (0.8)."""
    warehouse = Handmade().variant("dense").variant("noise-batch", method="noise")
    options = {"scoring": "full_text", "log_likelihoods": [-1.0, -2.0, -3.0, -4.0]}
    for task in ("arc", "guessed"):
        task_sample(warehouse, "dense", task, "s", **options)
    for index in range(len(choosing)):
        warehouse.variant(f"r{index}")
    names = ["dense", "noise-batch", *(f"r{index}" for index in range(len(choosing)))]
    for recipe, chosen, written in zip(names, [0.65, noise[0], *choosing], [0.8, noise[1], *writing], strict=True):
        task_score(warehouse, recipe, "arc", chosen, n=N)
        task_score(warehouse, recipe, "gsm8k", written, metric="exact_match", kind="generative", n=N)
        # The whole interval of the dense score must be above a guess: no score to lose.
        task_score(warehouse, recipe, "guessed", 0.27 if recipe == "dense" else 0.1, n=N)
    return warehouse


def loss_of(score: float, dense: float, guess: float) -> tuple[float, Interval]:
    """Return the part of the dense score above a guess that is gone, and its interval."""
    ends = [tuple(end - guess for end in reference_intervals.wilson(round(share * N), N)) for share in (score, dense)]
    low, high = reference_intervals.of_ratio(score - guess, ends[0], dense - guess, ends[1])
    return (dense - score) / (dense - guess), (1 - high, 1 - low)


def beyond(loss: tuple[float, Interval], noise: tuple[float, Interval]) -> tuple[float, Interval]:
    """Return the difference of two losses."""
    return loss[0] - noise[0], reference_intervals.of_difference(*loss, *noise)


def test_losses_beyond_the_noise_count_over_variants_whose_writing_loses_half(ask: Ask) -> None:
    choosing, writing = [0.61, 0.57, 0.53, 0.65, 0.2], [0.0, 0.2, 0.25, 0.1, 0.35]
    rows = claims(ask, scored(choosing, writing, noise=(0.63, 0.75)))
    survives, gap = rows["choosing_survives", "score"], rows["writing_loses_more", "score"]
    noise = loss_of(0.63, 0.65, GUESS), loss_of(0.75, 0.8, 0)
    # The last one loses more than half of its writing, but not beyond the noise, and is left out.
    chosen = [beyond(loss_of(score, 0.65, GUESS), noise[0]) for score in choosing[:4]]
    written = [beyond(loss_of(score, 0.8, 0), noise[1]) for score in writing[:4]]
    gaps = [
        (write[0] - choose[0], reference_intervals.of_difference(*write, *choose))
        for write, choose in zip(written, chosen, strict=True)
    ]

    for row, numbers, verdict in ((survives, chosen, "holds"), (gap, gaps, "holds")):
        amounts = np.array([amount for amount, _ in numbers])
        over_variants = stats.t.ppf(0.975, 3) * amounts.std(ddof=1) / 2
        below = np.mean([amount - low for amount, (low, _) in numbers])
        above = np.mean([high - amount for amount, (_, high) in numbers])
        assert (row["n"], row["units"], row["rests_on"]) == (N, "answers", "answers: 1000, variants: 4")
        assert row["amount"] == pytest.approx(amounts.mean())
        assert row["amount_low"] == pytest.approx(amounts.mean() - math.hypot(below, over_variants), rel=1e-4)
        assert row["amount_high"] == pytest.approx(amounts.mean() + math.hypot(above, over_variants), rel=1e-4)
        assert row["verdict"] == verdict


def test_a_refuted_claim_fails(ask: Ask) -> None:
    rows = claims(ask, scored([0.25, 0.27, 0.26], [0.3, 0.35, 0.3]))

    assert rows["choosing_survives", "score"]["verdict"] == "does not hold"
    assert rows["writing_loses_more", "score"]["verdict"] == "does not hold"


def test_one_broken_variant_leaves_a_claim_open(ask: Ask) -> None:
    row = claims(ask, scored([0.6], [0.0]))["choosing_survives", "score"]

    assert (row["n"], row["amount_low"], row["verdict"]) == (N, None, "too little data")


def test_without_broken_writing_there_is_no_claim(ask: Ask) -> None:
    assert not claims(ask, scored([0.6], [0.7]))


def test_a_claim_of_two_answers_says_so_and_stays_open(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe in ("dense", *(f"r{index}" for index in range(6))):
        warehouse.variant(recipe)
        is_dense = recipe == "dense"
        answers = 40 if recipe in {"dense", "r0"} else 2  # the claim rests on what the variant with the fewest has
        for sample in range(16):
            right = [-1.0, -2.0, -3.0, -4.0] if is_dense or sample < 11 else [-2.0, -1.0, -3.0, -4.0]
            task_sample(warehouse, recipe, "arc", f"s{sample}", scoring="letter", log_likelihoods=right)
        task_score(warehouse, recipe, "arc", 1.0 if is_dense else 11 / 16, metric="accuracy_letter", n=16)
        task_score(
            warehouse,
            recipe,
            "gsm8k",
            float(is_dense),
            metric="agreement",
            kind="generative",
            n=answers,
            standard_error=None,
        )
        task_score(warehouse, recipe, "gsm8k", float(is_dense), metric="exact_match", kind="generative", n=answers)
    row = claims(ask, warehouse)["writing_loses_more", "score"]

    assert (row["n"], row["rests_on"], row["amount"]) == (2, "answers: 2, variants: 6", pytest.approx(1 - 5 / 12))
    assert row["amount_low"] < 0
    assert row["verdict"] == "too little data"


def test_shares_are_over_questions_and_prompts_with_wilsons_interval(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe, kept in (("a", 5), ("b", 6), ("c", 8)):
        warehouse.variant(recipe)
        for index in range(8):
            dense, same, other = [0.004, 0.003], [0.004, 0.003], [0.003, 0.004]
            warehouse.options(recipe, f"q{index}", dense, same if index < kept else other)
            # Free running moves c no further, and from q6 on b neither.
            farther = recipe == "a" or (recipe == "b" and index < 6)
            for step in (0, 1):
                # Up to the flip the two differ by rounding alone, which says nothing.
                free = 1.001 if not step else 2.0 if farther else 1.0
                warehouse.step(recipe, f"q{index}", step, 1.0)
                warehouse.step(recipe, f"q{index}", step, free, trajectory="free_running")
            warehouse.generation(recipe, f"q{index}", flip=0)
            for layer in (0, 1):
                for sublayer in ("attn", "mlp"):
                    # Layer 1 in every prompt, layer 0 in two of eight for most variants.
                    amplified = layer == 1 or (index < 2 and recipe != "c")
                    moved = {"one_minus_cos_z": 0.1, "one_minus_cos_p": 0.2 if amplified else 0.05}
                    warehouse.transition(recipe, f"q{index}", 0, 1.0, layer=layer, sublayer=sublayer, **moved)
    rows = claims(ask, warehouse)

    # Question 5 keeps its choice in two of three variants, 6 and 7 in one.
    for claim, times, units in (
        ("choice_is_kept", 6, "questions"),
        ("options_in_the_tail", 8, "questions"),
        ("decoding_feeds_back", 6, "prompts"),
    ):
        row = rows[claim, "all"]
        low, high = reference_intervals.wilson(times, 8)
        assert (row["n"], row["units"], row["amount"]) == (8, units, times / 8), claim
        assert (row["amount_low"], row["amount_high"]) == pytest.approx((low, high)), claim
        assert row["verdict"] == ("holds" if low > 0.5 else "too little data"), claim

    row = rows["softmax_amplifies", "normed"]
    # Four sublayers a prompt: all of them in two prompts, two in the others.
    share, ends = 5 / 8, reference_intervals.over_clusters([4, 4, *[2] * 6], [4] * 8)
    assert (row["n"], row["units"], row["amount"]) == (8, "prompts", share)
    assert row["rests_on"] == "prompts: 8, sublayers: 4"
    assert (row["amount_low"], row["amount_high"]) == pytest.approx(ends, rel=1e-3)


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

    assert (len(fits), row["n"], row["rests_on"]) == (2, 4, "prompts: 4, methods: 2")
    mean = sum(fit["pearson_log10"] for fit in fits) / 2
    error = sum(fit["pearson_log10_se"] for fit in fits) / 2
    # Fisher's transformation has the slope 1/(1 − r²).
    half = stats.t.ppf(0.975, 3) * error / (1 - mean**2)
    ends = (math.tanh(math.atanh(mean) - half), math.tanh(math.atanh(mean) + half))
    assert (row["amount"], row["amount_low"], row["amount_high"]) == pytest.approx((mean, *ends), rel=1e-4)
    assert row["verdict"] == "does not hold"


def texts(warehouse: Handmade, recipe: str, prompt: str, free: float, model: str) -> None:
    """Build two steps, of which the first flips, with a KL of 1 on the dense tokens."""
    for step in (0, 1):
        warehouse.step(recipe, prompt, step, 1.0, model=model)
        warehouse.step(recipe, prompt, step, free, trajectory="free_running", model=model)
    warehouse.generation(recipe, prompt, flip=0, model=model)


@pytest.mark.parametrize(("prompts", "verdict"), [(5, "too little data"), (6, "holds")])
def test_five_prompts_are_too_little_even_where_all_agree(ask: Ask, prompts: int, verdict: str) -> None:
    warehouse = Handmade().model().variant("dense").variant("a")
    for prompt in range(prompts):
        texts(warehouse, "a", f"q{prompt}", 2.0, "tiny")
        warehouse.transition("a", f"q{prompt}", 0, 1.0, one_minus_cos_z=0.1, one_minus_cos_p=0.2)
    rows = claims(ask, warehouse)
    assert {rows[claim]["verdict"] for claim in (("decoding_feeds_back", "all"), ("softmax_amplifies", "normed"))} == {
        verdict
    }


def test_a_text_that_never_parts_says_nothing_of_feedback(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("a")
    for step in range(3):
        warehouse.step("a", "p", step, 1.0).step("a", "p", step, 1.0 + 1e-6, trajectory="free_running")
    warehouse.generation("a", "p")
    assert ("decoding_feeds_back", "all") not in claims(ask, warehouse)


def test_each_claim_lists_the_models_on_which_it_holds_fails_or_is_open(ask: Ask) -> None:
    warehouse = Handmade()
    for model, free, recipes in (("a", 2.0, 8), ("b", 0.5, 8), ("c", 2.0, 1)):
        warehouse.model(model).variant("dense", model=model)
        for recipe in (f"r{index}" for index in range(recipes)):
            warehouse.variant(recipe, model=model)
            for prompt in range(1 if model == "c" else 8):
                texts(warehouse, recipe, f"q{prompt}", free, model)
            if model == "a":
                for question in range(8):
                    warehouse.options(recipe, f"q{question}", [0.004, 0.003], [0.004, 0.003], model=model)
    rows = {row["claim"]: row for row in ask(warehouse, "q33_claims_by_model")}

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
            for prompt in range(8):
                texts(warehouse, recipe, f"q{prompt}", 2.0, model)
    (row,) = ask(warehouse, "q33_claims_by_model")
    assert (row["models_hold"], row["verdict"]) == ("a, b", "holds on every model")

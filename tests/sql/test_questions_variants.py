"""The questions about temperatures and kinds of compression (q26 to q28), against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from prunescope.pipelines.recipes import parse_recipe
from tests.sql.built_tasks import mask_sample
from tests.sql.warehouse_builder import Ask, Handmade

RECIPE = "wanda-50"


def test_q26_finds_the_temperature_of_the_lowest_mean_over_shared_steps(ask: Ask) -> None:
    warehouse = Handmade().variant("noise-batch", method="noise")
    for temperature, kls in ((0.5, (1.0, 3.0)), (1.0, (0.5, 1.5)), (1.5, (2.0, 2.0))):
        for step, kl in enumerate(kls):
            warehouse.step(RECIPE, "p", step, kl, temperature=temperature)
            warehouse.step("noise-batch", "p", step, kl, temperature=temperature)
            warehouse.step("dense", "p", step, temperature=temperature)
    # Measured at one temperature only, this step would move its mean.
    warehouse.step(RECIPE, "p", 2, 99.0)
    warehouse.step("one-temperature", "p", 0, 1.0)

    assert ask(warehouse, "q26_temperature_of_lowest_kl") == [
        {
            "model": "tiny", "recipe": RECIPE, "trajectory": "teacher_forced", "n_temperatures": 3, "n": 2,
            "n_prompts": 1, "temperature_min": 0.5, "temperature_max": 1.5, "temperature_lowest": 1.0,
            "kl_lowest_nats": 1.0, "kl_highest_nats": 2.0, "is_at_edge": False, "p_value": None,
        }
    ]  # fmt: skip


def test_q26_gives_the_p_value_of_the_lowest_and_whether_it_is_at_an_edge(ask: Ask) -> None:
    warehouse = Handmade()
    kls = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.5], [3.0, 2.5], [1.0, 2.0]])
    for prompt, (cold, hot) in enumerate(kls):
        warehouse.step(RECIPE, f"p{prompt}", 0, cold, temperature=0.5).step(RECIPE, f"p{prompt}", 0, hot)
    (row,) = ask(warehouse, "q26_temperature_of_lowest_kl")
    p = stats.ttest_rel(kls[:, 1], kls[:, 0], alternative="greater").pvalue

    assert (row["temperature_lowest"], row["is_at_edge"], row["kl_lowest_nats"]) == (0.5, True, pytest.approx(1.6))
    assert row["p_value"] == pytest.approx(p, abs=0.002)
    assert 0 < row["p_value"] < 0.5


def test_q26_names_the_lower_of_two_equal_temperatures(ask: Ask) -> None:
    warehouse = Handmade().step(RECIPE, "p", 0, 1.0).step(RECIPE, "p", 0, 1.0, temperature=0.5)

    assert ask(warehouse, "q26_temperature_of_lowest_kl")[0]["temperature_lowest"] == 0.5


def compressed(**kls: float) -> Handmade:
    """Build recipes by name, `_` for `-`: the KL of four steps of one prompt; as many flip as the KL has nats."""
    warehouse = Handmade().variant("dense")
    for step in range(4):
        warehouse.step("dense", "p", step)
    for name, kl in kls.items():
        recipe = name.replace("_", "-")
        method = recipe.split("-")[0]
        warehouse.variant(recipe, method=method, removed=0.0 if method in {"gptq", "rtn"} else 0.5)
        for step in range(4):
            warehouse.step(recipe, "p", step, kl, flips=step < kl)
    return warehouse


def test_q27_compares_with_the_straight_line_between_the_neighbours_in_kl(ask: Ask) -> None:
    warehouse = compressed(wanda_50=2.0, gptq_8=1.0, gptq_4=3.0, rtn_4=1.0)
    rows = ask(warehouse, "select * from q27_pruning_against_quantization where measure = 'top1_change'")

    # Two of four steps flip at 2 nats, and so they do half-way between one at 1 and three at 3.
    shared = {"model": "tiny", "recipe": RECIPE, "measure": "top1_change", "kl_nats": 2.0, "value_pruned": 0.5}
    shared |= dict.fromkeys(("difference_low", "difference_high"))
    between = {"recipe_below": "gptq-8", "recipe_above": "gptq-4", "value_quantized": 0.5, "difference": 0.0}
    beyond = {"recipe_below": "rtn-4", "recipe_above": None, "value_quantized": None, "difference": None}
    assert rows == [shared | {"quantization": "gptq"} | between, shared | {"quantization": "rtn"} | beyond]


def test_q27_starts_every_line_at_the_dense_model(ask: Ask) -> None:
    warehouse = compressed(wanda_50=1.0, gptq_4=4.0)
    warehouse.generation("dense", "p", collapse=3).generation("dense", "q")
    warehouse.generation(RECIPE, "p", flip=0, collapse=1).generation(RECIPE, "q", flip=1, collapse=2)
    warehouse.generation("gptq-4", "p", flip=1, collapse=1).generation("gptq-4", "q", flip=1, collapse=1)
    rows = {row["measure"]: row for row in ask(warehouse, "q27_pruning_against_quantization")}

    assert set(rows) == {"top1_change", "kl_step0_nats", "flipped_share", "collapsed_share"}
    assert {row["recipe_below"] for row in rows.values()} == {"dense"}
    assert (rows["flipped_share"]["value_pruned"], rows["flipped_share"]["value_quantized"]) == (1.0, 0.25)
    # One of the dense model's own two texts loops already.
    assert rows["collapsed_share"]["value_quantized"] == 0.5 + 0.5 / 4
    assert rows["kl_step0_nats"]["difference"] == 0.0


def test_q27_takes_the_mean_of_quantized_variants_with_the_same_kl(ask: Ask) -> None:
    warehouse = compressed(wanda_50=1.0, gptq_4=1.0, gptq_4b=1.0)
    for row in warehouse.where("decoding_steps", recipe="gptq-4b", step=1):
        row.update(is_top1_same=False, rank_of_dense_top1=2, rank_of_pruned_top1=2)
    (row,) = ask(warehouse, "select * from q27_pruning_against_quantization where measure = 'top1_change'")

    assert (row["value_quantized"], row["recipe_below"], row["recipe_above"]) == (0.375, "gptq-4", "gptq-4")
    assert row["difference"] == -0.125


def test_q27_counts_a_composition_or_mixture_as_pruning_only_where_no_part_quantizes(ask: Ask) -> None:
    warehouse = compressed(wanda_50=1.0, gptq_4=4.0)
    mixtures = (
        "{name: mixed-pruned, method: mixed, treatments: {attn.0: drop, mlp.0: wanda-50}}",
        "{name: mixed-rounded, method: mixed, treatments: {attn.0: drop, mlp.0: wanda-50, mlp.1: rtn-4bit}}",
    )
    for recipe in map(parse_recipe, ("wanda-50+gptq-4bit", "attn-drop-1+wanda-50", *mixtures)):
        warehouse.variant(recipe.name, method=recipe.method, removed=0.5)
        warehouse.where("variants", recipe=recipe.name)[0]["parameters_json"] = recipe.parameters_json
        for step in range(4):
            warehouse.step(recipe.name, "p", step, 2.0)
    rows = ask(warehouse, "q27_pruning_against_quantization")

    assert {row["recipe"] for row in rows} == {"attn-drop-1+wanda-50", "mixed-pruned", RECIPE}
    assert {row["recipe_above"] for row in rows} == {"gptq-4"}


def test_q27_counts_a_checkpoint_as_pruning_only_where_nothing_else_changed(ask: Ask) -> None:
    warehouse = compressed(gptq_4=4.0, external_mask=1.0, external_values=1.0, external_layers=1.0)
    warehouse.where("variants", recipe="external-values")[0].update(weights_updated=400)
    warehouse.where("variants", recipe="external-layers")[0].update(weights_updated=400, sublayers_dropped=["attn.0"])
    rows = ask(warehouse, "q27_pruning_against_quantization")

    assert {row["recipe"] for row in rows} == {"external-mask", "external-layers"}


def calibrated(*pairs: tuple[str, str, str]) -> Handmade:
    """Build variants by name, hash of the parameters and hash of the calibration."""
    warehouse = Handmade()
    for recipe, parameters, calibration in pairs:
        warehouse.variant(recipe, share=parameters)
        warehouse.where("variants", recipe=recipe)[0].update(recipe_hash=parameters, calibration_hash=calibration)
    return warehouse


def test_q28_pairs_variants_that_differ_in_calibration_or_seed_and_in_nothing_else(ask: Ask) -> None:
    warehouse = calibrated(("a", "50", "c4"), ("b", "50", "help"), ("c", "50", "c4"), ("d", "60", "help"))
    for recipe, seed, calibration in (("r1", 1, "c4"), ("r2", 2, "c4"), ("r3", 3, "help")):
        warehouse.variant(recipe, method="block-drop", seed=seed, count=1)
        warehouse.where("variants", recipe=recipe)[0]["calibration_hash"] = calibration
    # Unreadable parameters cannot be known to be equal.
    for recipe, calibration in (("u1", "c4"), ("u2", "help")):
        warehouse.variant(recipe)
        warehouse.where("variants", recipe=recipe)[0].update(
            parameters_json="of an older version", calibration_hash=calibration
        )
    rows = ask(warehouse, "q28_sensitivity_to_calibration")

    assert [(row["recipe"], row["other_recipe"], row["differs_in"]) for row in rows] == [
        ("a", "b", "calibration"),
        ("b", "c", "calibration"),
        ("r1", "r2", "seed"),
    ]
    assert rows[0]["calibration_hash"] == rows[1]["other_calibration_hash"] == "c4"
    assert {row["matrices"] + row["n_steps"] for row in rows} == {0}
    assert rows[0]["jaccard_kept"] is rows[0]["kl_difference_nats"] is None


def test_q28_weights_the_overlap_of_masks_by_sampled_weights(ask: Ask) -> None:
    warehouse = calibrated(("a", "50", "c4"), ("b", "50", "help"))
    for recipe, small in (("a", "11110000"), ("b", "11001100")):
        mask_sample(warehouse, recipe, [bit == "1" for bit in small], module="small")
        mask_sample(warehouse, recipe, [True] * 8192 + [False] * 8192, module="large", layer=1)
        warehouse.where("mask_samples", recipe=recipe, module="large")[0]["weights"] = 4 * 16384
    mask_sample(warehouse, "a", [True], module="only here")
    for recipe, weights in (("a", 20_000), ("b", 30_000)):
        mask_sample(warehouse, recipe, [True] * 16384, module="of another shape")
        warehouse.where("mask_samples", recipe=recipe, module="of another shape")[0]["weights"] = weights
    (row,) = ask(warehouse, "q28_sensitivity_to_calibration")
    half = 4 * 8192

    # small: 2 kept by both, 6 by either, 2 removed by both, 6 by either; of large every sampled weight stands for four.
    assert row["matrices"] == 2
    assert row["jaccard_kept"] == row["jaccard_removed"] == pytest.approx((2 + half) / (6 + half))
    # By chance half of each half: 2 of 8 and a quarter of large by both, 6 and three quarters by either.
    assert row["expected_jaccard_kept"] == pytest.approx((2 + half / 2) / (6 + 3 * half / 2))
    assert row["expected_jaccard_removed"] == row["expected_jaccard_kept"]


def test_q28_has_no_overlap_of_removed_weights_where_none_are_removed(ask: Ask) -> None:
    warehouse = calibrated(("a", "4 bits", "c4"), ("b", "4 bits", "help"))
    for recipe in "ab":
        mask_sample(warehouse, recipe, [True] * 9)
    (row,) = ask(warehouse, "q28_sensitivity_to_calibration")

    assert (row["jaccard_kept"], row["expected_jaccard_kept"]) == (1.0, 1.0)
    assert row["jaccard_removed"] is row["expected_jaccard_removed"] is None


def test_q28_pairs_divergences_by_step_and_bounds_differences_over_prompts(ask: Ask) -> None:
    chance = np.random.default_rng(7)
    kls = chance.gamma(1, 1, (2, 6, 3)).astype(np.float32)
    warehouse = calibrated(("a", "50", "c4"), ("b", "50", "help"))
    for side, prompt, step in np.ndindex(kls.shape):
        warehouse.step("ab"[side], f"p{prompt}", step, float(kls[side, prompt, step]))
        warehouse.step("ab"[side], f"p{prompt}", step, 50.0, trajectory="free_running")
    warehouse.step("a", "only here", 0, 99.0)
    (row,) = ask(warehouse, "q28_sensitivity_to_calibration")
    difference = (kls[1] - kls[0]).astype(float)
    low, high = stats.ttest_1samp(difference.mean(axis=1), 0).confidence_interval(0.95)

    assert (row["n_steps"], row["n_prompts"]) == (18, 6)
    assert (row["kl_nats"], row["other_kl_nats"]) == (pytest.approx(kls[0].mean()), pytest.approx(kls[1].mean()))
    assert row["kl_difference_nats"] == pytest.approx(difference.mean(), rel=1e-5)
    ends = row["kl_difference_low_nats"], row["kl_difference_high_nats"]
    assert sum(ends) / 2 == pytest.approx(difference.mean(), rel=1e-4)
    # The quantile of Student's t is a series.
    assert ends[1] - ends[0] == pytest.approx(high - low, rel=1e-3)

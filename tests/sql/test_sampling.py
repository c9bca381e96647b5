"""Survival of sampled texts, their summary and the end of a text, against numbers worked out by hand or in numpy."""

import numpy as np
import pytest

from tests.sql.built_texts import sampled_text
from tests.sql.warehouse_builder import Ask, Handmade

STEPS = 3


def warehouse_of(texts: dict[str, list[tuple[list[float], bool]]]) -> Handmade:
    """Return a warehouse with the texts of the recipe r by prompt, and the dense model's, which never part."""
    warehouse = Handmade().model().variant("dense").variant("r")
    for prompt, samples in texts.items():
        for sample, (hazards, flips) in enumerate(samples):
            sampled_text(warehouse, "dense", prompt, sample, [0.0] * STEPS, flips=False)
            sampled_text(warehouse, "r", prompt, sample, hazards, flips=flips)
    return warehouse


def test_survival_is_the_kaplan_meier_share_and_its_expectation_multiplies_the_hazards(ask: Ask) -> None:
    # One text parts at step 0, one ends after step 1, one parts at step 2, one never parts.
    texts = {"a": [([0.5], True), ([0.1, 0.2], False)], "b": [([0.2, 0.4, 0.8], True), ([0.0, 0.0, 0.4], False)]}
    rows = ask(warehouse_of(texts), "select * from sampling_survival where recipe = 'r' order by step")
    assert [row["texts_at_risk"] for row in rows] == [4, 3, 3]
    assert [row["flips"] for row in rows] == [1, 0, 1]
    assert [row["equal_share"] for row in rows] == [0.75, 0.75, 0.5]
    hazards = [0.8 / 4, 0.6 / 3, 1.2 / 3]
    assert [row["equal_share_expected"] for row in rows] == pytest.approx(np.cumprod(1 - np.array(hazards)))
    # The spread of two prompts is known where they differ.
    assert [row["equal_share_low"] is None for row in rows] == [False, False, True]
    (row,) = ask(warehouse_of(texts), "select * from sampling_summary where recipe = 'r'")
    assert (row["prompts"], row["texts"], row["texts_flipped"]) == (2, 4, 2)
    assert row["flips_expected"] == pytest.approx(2.6)
    assert (row["first_flip_step_median"], row["first_flip_step_median_expected"]) == (2, 2)
    assert (row["equal_share"], row["equal_share_low"]) == (0.5, None)
    assert (row["correct_share_dense"], row["correct_difference"], row["collapsed_difference"]) == (1, -0.5, 0.5)
    (dense,) = ask(warehouse_of(texts), "select * from sampling_summary where recipe = 'dense'")
    assert (dense["equal_share"], dense["equal_share_expected"], dense["first_flip_step_median"]) == (1, 1, None)
    (question,) = ask(warehouse_of(texts), "q32_sampled_first_flip")
    assert (question["recipe"], question["flips_expected"]) == ("r", pytest.approx(2.6))


def test_where_every_text_has_parted_nothing_more_is_expected(ask: Ask) -> None:
    rows = ask(
        warehouse_of({"a": [([0.4], True)], "b": [([0.6], True)]}),
        "select equal_share, equal_share_expected from sampling_survival where recipe = 'r' order by step",
    )
    assert [tuple(row.values()) for row in rows] == [(0, 0.5), (0, None), (0, None)]
    (row,) = ask(warehouse_of({"a": [([0.4], True)], "b": [([0.6], True)]}), "q32_sampled_first_flip")
    assert (row["equal_share"], row["equal_share_expected"]) == (0, 0.5)


def test_intervals_of_survival_are_those_of_a_sandwich_over_prompts(ask: Ask) -> None:
    generator = np.random.default_rng(2)
    hazards = generator.uniform(0, 0.6, (8, 4, STEPS))
    draws = generator.uniform(size=hazards.shape) < hazards
    texts: dict[str, list[tuple[list[float], bool]]] = {}
    at_risk, flips, expected = (np.zeros((8, STEPS)) for _ in range(3))
    for prompt in range(8):
        texts[f"p{prompt}"] = []
        for sample in range(4):
            parted = np.flatnonzero(draws[prompt, sample])
            count = int(parted[0]) + 1 if len(parted) else STEPS
            texts[f"p{prompt}"].append((hazards[prompt, sample, :count].tolist(), bool(len(parted))))
            at_risk[prompt, :count] += 1
            expected[prompt, :count] += hazards[prompt, sample, :count]
            flips[prompt, count - 1] += bool(len(parted))
    rows = ask(warehouse_of(texts), "select * from sampling_survival where recipe = 'r' order by step")
    n, d, e = (side.sum(0) for side in (at_risk, flips, expected))
    for step, row in enumerate(rows):
        measured = (n - d)[step] / 32
        deviations = (at_risk - flips)[:, step] / 32 - 4 * measured / 32
        low = measured - 2.364624 * np.sqrt(8 / 7 * (deviations**2).sum())
        assert row["equal_share_low"] == pytest.approx(max(low, 0), abs=1e-3)
        hazard = (e / n)[: step + 1]
        survival = np.prod(1 - hazard)
        terms = (expected[:, : step + 1] - at_risk[:, : step + 1] * hazard) / (n[: step + 1] * (1 - hazard))
        error = np.sqrt(8 / 7 * ((survival * terms.sum(1)) ** 2).sum())
        assert row["equal_share_expected"] == pytest.approx(survival)
        assert row["equal_share_expected_high"] == pytest.approx(survival + 2.364624 * error, abs=1e-3)


def test_steps_behind_the_end_of_the_dense_text_are_in_no_mean(ask: Ask) -> None:
    warehouse = Handmade().model()
    for recipe in ("dense", "r", "noise-batch"):
        warehouse.variant(recipe, method="noise" if recipe.startswith("noise") else "wanda")
        warehouse.generation(recipe, "p", end_step=1 if recipe != "r" else None)
        for trajectory in ("teacher_forced", "free_running"):
            for step in range(4):
                kl = 0.0 if recipe == "dense" else 1.0 + 10 * (step > 1)
                warehouse.step(recipe, "p", step, kl, trajectory=trajectory, flips=recipe != "dense" and step > 1)
    summary = "select kl_teacher_forced_max_nats as most, top1_agreement as top1"
    (row,) = ask(warehouse, f"{summary} from variant_summary where recipe = 'r'")
    assert tuple(row.values()) == (1, 1)
    (noise,) = ask(warehouse, "select steps, kl_max_nats from noise_at_output")
    assert tuple(noise.values()) == (2, 1)
    for view in ("decoding_curve", "token_trace", "q14_before_and_after_the_answer"):
        count = "sum(n)" if view.startswith("q") else "count(*)"
        (rows,) = ask(warehouse, f"select {count} as n from {view} where recipe = 'r'")
        assert rows["n"] == (2 if view == "token_trace" else 4)

"""Survival of sampled texts, their summary and the end of a text, against numbers worked out by hand or in numpy."""

import numpy as np
import pytest

from tests.sql.built_tasks import speed
from tests.sql.built_texts import sampled_text
from tests.sql.warehouse_builder import Ask, Handmade

STEPS = 3


def warehouse_of(texts: dict[str, list[tuple[list[float], bool]]]) -> Handmade:
    """Return a warehouse with the texts of the recipe r by prompt, and the dense model's, which never part."""
    warehouse = Handmade().model().variant("dense").variant("r")
    for prompt, samples in texts.items():
        for sample, (hazards, flips) in enumerate(samples):
            sampled_text(warehouse, "dense", prompt, sample, [0.0] * STEPS, flips=False)
            # Behind the flip each text goes on; what is about its first flip must not read that.
            behind = [0.5] * (STEPS - len(hazards)) if flips else []
            sampled_text(warehouse, "r", prompt, sample, hazards, flips=flips, forced=behind, own=[*behind, 0.5])
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
    before = [hazard / (2 - hazard) for samples in texts.values() for hazards, _ in samples for hazard in hazards]
    assert row["total_variation_mean"] == pytest.approx(np.mean(before))
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


def lopsided() -> Handmade:
    """Build two prompts of two texts; those of the recipe r part at the first or second step and have other lengths."""
    warehouse = Handmade().model().variant("dense").variant("r").variant("noise-batch", method="noise", kind="batch")
    for prompt, lengths in (("a", (2, 3)), ("b", (4, 2))):
        for sample, steps in enumerate(lengths):
            sampled_text(warehouse, "dense", prompt, sample, [0.0] * steps, flips=False)
            sampled_text(warehouse, "noise-batch", prompt, sample, [0.001] * steps, flips=False)
    sampled_text(warehouse, "r", "a", 0, [0.5], flips=True, forced=[1.0], own=[0.25, 0.25])
    sampled_text(warehouse, "r", "a", 1, [0.1, 0.4], flips=True, forced=[2.5], own=[])
    sampled_text(warehouse, "r", "b", 0, [0.5], flips=True, forced=[1, 2, 3], own=[8.0])
    sampled_text(warehouse, "r", "b", 1, [0.2, 0.3], flips=True, forced=[], own=[0.5, 1.0])
    return warehouse


def test_sequence_kl_sums_whole_texts_from_their_writer_and_averages_the_samples_of_a_prompt(ask: Ask) -> None:
    rows = {row["trajectory"]: row for row in ask(lopsided(), "select * from sequence_kl where recipe = 'r'")}
    # The KL from the variant is twice as large in every row.
    for trajectory, sums, lengths in (
        ("teacher_forced", [[1.5, 3.0], [6.5, 0.5]], [[2, 3], [4, 2]]),
        ("own_text", [[2.0, 1.0], [17.0, 4.0]], [[3, 2], [2, 4]]),
    ):
        row, prompts = rows[trajectory], np.mean(sums, axis=1)
        assert (row["prompts"], row["texts"], row["texts_ended"], row["tokens"]) == (2, 4, 0, np.sum(lengths))
        mean, half = prompts.mean(), 12.7062 * prompts.std(ddof=1) / np.sqrt(2)
        assert row["sequence_kl_nats"] == pytest.approx(mean)
        assert row["sequence_kl_low_nats"] == pytest.approx(mean * np.exp(-half / mean), rel=1e-3)
        assert row["sequence_kl_high_nats"] == pytest.approx(mean * np.exp(half / mean), rel=1e-3)
        assert row["kl_per_token_nats"] == pytest.approx(np.sum(sums) / np.sum(lengths))
        assert row["kl_per_token_low_nats"] < row["kl_per_token_nats"] < row["kl_per_token_high_nats"]
    noise = "select sequence_kl_nats from sequence_kl where is_noise order by trajectory desc"
    assert [row["sequence_kl_nats"] for row in ask(lopsided(), noise)] == pytest.approx([0.00275, 0.0055])
    zero = "select distinct sequence_kl_nats, sequence_kl_low_nats from sequence_kl where recipe = 'dense'"
    assert [tuple(row.values()) for row in ask(lopsided(), zero)] == [(0, None)]
    question = ask(lopsided(), "q37_sequence_kl")
    assert [(row["trajectory"], row["sequence_kl_nats"]) for row in question] == [
        ("teacher_forced", pytest.approx(2.875)),
        ("own_text", pytest.approx(6)),
    ]
    assert [row["sequence_kl_noise_nats"] for row in question] == pytest.approx([0.00275, 0.0055])
    summary = "select sequence_kl_dense_pruned_nats, sequence_kl_pruned_dense_nats from variant_summary"
    (row,) = ask(lopsided(), f"{summary} where recipe = 'r'")
    assert tuple(row.values()) == pytest.approx((2.875, 6))


@pytest.mark.parametrize("trajectory", ["teacher_forced", "own_text"])
def test_a_text_that_is_not_measured_whole_takes_the_number_from_its_variant(ask: Ask, trajectory: str) -> None:
    warehouse = lopsided()
    rows = warehouse.rows["sampled_steps"]
    own = [row for row in rows if (row["recipe"], row["trajectory"], row["prompt_id"]) == ("r", trajectory, "b")]
    rows.remove(own[-1])
    left = ask(warehouse, "select trajectory from sequence_kl where recipe = 'r'")
    assert [row["trajectory"] for row in left] == ["own_text" if trajectory == "teacher_forced" else "teacher_forced"]
    sampled = "select trajectory from acceptance where recipe = 'r' and decoding = 'sampled'"
    assert ask(warehouse, sampled) == left
    direction = "dense_pruned" if trajectory == "teacher_forced" else "pruned_dense"
    column = f"sequence_kl_{direction}_nats"
    assert ask(warehouse, f"select {column} from variant_summary where recipe = 'r'") == [{column: None}]


def test_files_that_stop_at_the_flip_give_no_number_and_keep_their_survival(ask: Ask) -> None:
    warehouse = lopsided()
    expected = (
        ask(warehouse, "from sampling_survival order by all"),
        ask(warehouse, "from sampling_summary order by all"),
    )
    # A file of version 1 has the rows up to the flip, all of them of the dense text.
    warehouse.rows["sampled_steps"] = [
        row
        for row in warehouse.rows["sampled_steps"]
        if row["trajectory"] == "teacher_forced" and row["flip_probability"] is not None
    ]
    old = ask(warehouse, "from sampling_survival order by all"), ask(warehouse, "from sampling_summary order by all")
    assert old == expected
    # Texts that never part are whole, in the dense model's direction alone.
    complete = "select recipe, trajectory from sequence_kl order by recipe"
    assert [tuple(row.values()) for row in ask(warehouse, complete)] == [
        ("dense", "teacher_forced"),
        ("noise-batch", "teacher_forced"),
    ]


def test_a_nucleus_defines_no_sequence_kl_and_an_acceptance(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("r")
    for recipe in ("dense", "r"):
        sampled_text(warehouse, recipe, "a", 0, [0.0 if recipe == "dense" else 0.5], flips=False, top_p=0.95)
    assert ask(warehouse, "from sequence_kl") == []
    (row,) = ask(warehouse, "from acceptance where recipe = 'r' and trajectory = 'own_text'")
    assert row["acceptance_rate"] == pytest.approx(1 - 0.5 / 1.5)


def drafting(rates: dict[str, list[float]]) -> Handmade:
    """Build texts of the recipe r by prompt from the acceptance of every token; it writes 1.25 times as fast."""
    warehouse = Handmade().model().variant("dense").variant("r").variant("noise-batch", method="noise", kind="batch")
    for recipe in ("dense", "r", "noise-batch"):
        for prompt, accepted in rates.items():
            warehouse.generation(recipe, prompt, end_step=len(accepted) - 1 if recipe == "dense" else None)
            for step, rate in enumerate([*accepted, 0.0]):  # behind the end nothing counts
                shift = {"dense": 0.0, "r": 1 - rate, "noise-batch": 1e-4}[recipe]
                for temperature in (0.5, 1.0):
                    distance = shift if temperature == 1 else 0.0
                    kl = 2.5 * distance**2  # Pinsker
                    warehouse.step(recipe, prompt, step, kl, temperature=temperature, total_variation=distance)
    speed(warehouse, "r", ratio=1.25)
    return warehouse


RATES = {"a": [0.9, 0.5, 1.0, 0.8], "b": [0.2, 0.3], "c": [1.0, 1.0, 1.0]}


def test_acceptance_is_the_mean_over_tokens_of_one_minus_total_variation(ask: Ask) -> None:
    warehouse = drafting(RATES)
    rows = ask(warehouse, "select * from acceptance order by recipe")
    assert [row["recipe"] for row in rows] == ["dense", "noise-batch", "r"]
    assert [row["is_noise"] for row in rows] == [False, True, False]
    assert [row["acceptance_rate"] for row in rows] == pytest.approx([1, 1 - 1e-4, 6.7 / 9])
    (row,) = rows[2:]
    assert (row["decoding"], row["trajectory"], row["temperature"]) == ("greedy", "teacher_forced", 1)
    assert (row["prompts"], row["tokens"], row["acceptance_high"]) == (3, 9, 1)
    deviations = [sum(rate) - 6.7 / 9 * len(rate) for rate in RATES.values()]
    half = 4.302653 * np.sqrt(3 / 2 * np.square(deviations).sum()) / 9
    assert row["acceptance_low"] == pytest.approx(6.7 / 9 - half, abs=1e-6)
    (row,) = ask(warehouse, "select acceptance_rate from variant_summary where recipe = 'r'")
    assert row["acceptance_rate"] == pytest.approx(6.7 / 9)


def test_tokens_per_pass_multiply_the_acceptances_that_follow_each_other(ask: Ask) -> None:
    rows = ask(drafting(RATES), "select * from q38_best_draft order by draft_tokens")
    assert [row["draft_tokens"] for row in rows] == [1, 2, 3, 4]
    alpha = 6.7 / 9
    for row in rows:
        length, passes = row["draft_tokens"], []
        for rates in RATES.values():
            for start in range(len(rates) - length + 1):
                accepted, tokens = 1.0, 1.0
                for rate in rates[start : start + length]:
                    accepted *= rate
                    tokens += accepted
                passes.append(tokens)
        assert row["n_starts"] == len(passes)
        assert row["tokens_per_pass"] == pytest.approx(np.mean(passes))
        assert row["tokens_per_pass_independent"] == pytest.approx(sum(alpha**power for power in range(length + 1)))
        assert row["draft_cost"] == pytest.approx(0.8)
        assert row["speedup"] == pytest.approx(np.mean(passes) / (0.8 * length + 1))
    ends = [(row["prompts"], row["tokens_per_pass_low"] is None) for row in rows]
    assert ends == [(3, False), (3, False), (2, True), (1, True)]


def test_a_draft_of_which_every_token_is_accepted_gives_its_length_and_one_more(ask: Ask) -> None:
    rows = ask(drafting({"a": [1.0] * 9}), "select * from q38_best_draft order by draft_tokens")
    found = [(row["draft_tokens"], row["tokens_per_pass"], row["tokens_per_pass_independent"]) for row in rows]
    assert found == [(length, length + 1, length + 1) for length in range(1, 9)]


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

"""The questions about generations, options and recipes (q11 on), against numbers that can be worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from tests.sql import reference_intervals
from tests.sql.reference_intervals import auc_of_pairs
from tests.sql.warehouse_builder import Ask, Handmade

RECIPE = "wanda-50"


def test_q11_describes_the_choice_at_the_first_flip(ask: Ask) -> None:
    warehouse = Handmade().generation("dense", "p").generation(RECIPE, "p", flip=1).generation(RECIPE, "q")
    for step in range(3):
        for trajectory in ("teacher_forced", "free_running"):
            warehouse.step(
                RECIPE,
                "p",
                step,
                1.0 + step,
                trajectory=trajectory,
                flips=step >= 1,
                margin_dense=0.25 * step,
                rank_of_pruned_top1=1 + 3 * step,
            )
    flipped, kept = ask(warehouse, "q11_first_flip")

    assert (flipped["prompt_id"], flipped["first_flip_step"], flipped["kind"]) == ("p", 1, "open")
    assert (flipped["token_text_dense"], flipped["token_text_pruned"]) == ("d1", "x1")
    assert (flipped["margin_dense"], flipped["rank_of_pruned_top1"], flipped["kl_dense_pruned_nats"]) == (0.25, 4, 2.0)
    assert (kept["prompt_id"], kept["first_flip_step"], kept["token_text_dense"]) == ("q", None, None)


def test_q12_counts_steps_from_flip_to_loop_without_loops_of_the_dense_text(ask: Ask) -> None:
    warehouse = Handmade().generation("dense", "p").generation("dense", "q", collapse=2, repeat_rate=0.75)
    warehouse.generation(RECIPE, "p", flip=3, collapse=10, distinct_1=0.5, distinct_2=0.25, repeat_rate=0.5)
    warehouse.generation(RECIPE, "q", flip=5, collapse=2).generation(RECIPE, "r", flip=5).generation(RECIPE, "s")
    warehouse.generation(RECIPE, "t", flip=4, collapse=4)
    rows = {row["prompt_id"]: row for row in ask(warehouse, "q12_flip_to_collapse")}

    assert {prompt: row["steps_to_collapse"] for prompt, row in rows.items()} == {
        "p": 7,
        "q": None,
        "r": None,
        "s": None,
        "t": 0,
    }
    assert (rows["p"]["distinct_1"], rows["p"]["distinct_2"], rows["p"]["repeat_rate"]) == (0.5, 0.25, 0.5)
    assert (rows["p"]["collapse_step_dense"], rows["q"]["collapse_step_dense"]) == (None, 2)
    assert (rows["q"]["repeat_rate_dense"], rows["r"]["repeat_rate_dense"]) == (0.75, None)


def parted(recipes: dict[str, dict[str, float]], prompts: int = 8) -> Handmade:
    """Build texts that flip at step 0, with two more steps of each trajectory's KL, scaled by 1, 2, … per prompt."""
    warehouse = Handmade().model().variant("dense")
    for recipe, kls in recipes.items():
        warehouse.variant(recipe, method="noise" if recipe.startswith("noise") else "wanda")
        warehouse.generation(recipe, "same")
        warehouse.step(recipe, "same", 1, 50.0).step(recipe, "same", 1, 50.0, trajectory="own_text")
        for prompt in range(prompts):
            warehouse.generation(recipe, f"p{prompt}", flip=0)
            for trajectory, kl in kls.items():
                warehouse.step(recipe, f"p{prompt}", 0, 0.0 if trajectory == "fork" else 50.0, trajectory=trajectory)
                warehouse.step(recipe, f"p{prompt}", 1, kl * (prompt + 1), trajectory=trajectory)
                warehouse.step(recipe, f"p{prompt}", 2, 3 * kl * (prompt + 1), trajectory=trajectory)
    return warehouse


def test_q13_compares_trajectories_behind_the_flip_paired_by_prompt(ask: Ask) -> None:
    kls = {"teacher_forced": 1.0, "own_text": 1.5, "free_running": 4.0, "fork": 5.0}
    (row,) = ask(parted({RECIPE: kls}), "q13_own_text_against_forced")
    scale = np.arange(1, 9)

    assert (row["recipe"], row["is_noise"], row["n_prompts"]) == (RECIPE, False, 8)
    for trajectory, kl in kls.items():
        assert row[f"kl_{trajectory}_median_nats"] == np.median([kl * scale, 3 * kl * scale])
    for name, gaps in (("own_minus_forced", 2 * 0.5 * scale), ("free_minus_fork", -2 * 1.0 * scale)):
        half = stats.t.ppf(0.975, 7) * gaps.std(ddof=1) / np.sqrt(8)
        assert row[f"{name}_nats"] == pytest.approx(gaps.mean())
        ends = (row[f"{name}_low_nats"], row[f"{name}_high_nats"])
        assert ends == pytest.approx((gaps.mean() - half, gaps.mean() + half), rel=1e-3)
    # Every text has the same ratio: its error is not known.
    assert (row["own_over_forced"], row["own_over_forced_low"]) == (pytest.approx(1.5), None)
    assert (row["own_text_is"], row["free_running_is"]) == ("further", "nearer")


def test_q13_corrects_its_verdicts_for_the_number_of_variants_and_says_nothing_of_five_prompts(ask: Ask) -> None:
    kls = {"teacher_forced": 1.0, "own_text": 1.5, "fork": 5.0, "free_running": 5.0}

    def verdicts(warehouse: Handmade) -> set[object]:
        rows = ask(warehouse, "q13_own_text_against_forced")
        return {row["own_text_is"] for row in rows if not row["is_noise"]}

    # The mean of 1 … 8 is 5.2 standard errors: t with 7 degrees of freedom exceeds that in 0.13 % of studies, on both
    # sides, which is 5 % of 40 comparisons. Noise is no comparison.
    assert verdicts(parted({f"r{place:02}": kls for place in range(20)})) == {"further"}
    assert verdicts(parted({f"r{place:02}": kls for place in range(80)})) == {"no difference shown"}
    assert verdicts(parted({RECIPE: kls} | {f"noise-{place:02}": kls for place in range(80)})) == {"further"}
    assert verdicts(parted({RECIPE: kls}, prompts=5)) == {None}


def test_q13_reads_the_steps_that_all_texts_of_a_prompt_have_if_they_are_two_or_more(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant(RECIPE)
    # The text of "letter" ends after its first token, where KL is large. A fork has its own end and has no later rows.
    for prompt, end, fork in (("p", 2, 3), ("letter", 1, 3), ("fork", 3, 2), ("short fork", 3, 1), ("no fork", 3, 0)):
        warehouse.generation("dense", prompt, end_step=end).generation(RECIPE, prompt, flip=0, end_step=3)
        for trajectory, last in {"teacher_forced": 4, "own_text": 3, "free_running": 4, "fork": fork}.items():
            for step in range(last + 1):
                number = ("teacher_forced", "own_text", "free_running", "fork").index(trajectory)
                kl = step + number if prompt in {"p", "fork"} and step <= 2 else 50.0
                warehouse.step(RECIPE, prompt, step, float(kl), trajectory=trajectory)
    (row,) = ask(warehouse, "q13_own_text_against_forced")
    found = {name: row[f"kl_{name}_median_nats"] for name in ("teacher_forced", "own_text", "free_running", "fork")}
    assert found == {"teacher_forced": 1.5, "own_text": 2.5, "free_running": 3.5, "fork": 4.5}
    assert (row["n_prompts"], row["own_minus_forced_nats"], row["free_minus_fork_nats"]) == (2, 1.0, -1.0)


def answered(kept: dict[str, int], kls: dict[str, dict[str, float]], *, graded: bool = True) -> Handmade:
    """Build eight prompts, the first six of whose dense answers are right.

    Each variant repeats the answers to the first `kept` prompts. It is right if the dense model is wrong.
    """
    warehouse = Handmade().model().variant("dense")
    for recipe in ("dense", *kept):
        if recipe != "dense":
            warehouse.variant(recipe)
        for prompt in range(8):
            same = recipe == "dense" or prompt < kept[recipe]
            given = {"answer": "12" if same else "13", "is_correct": same == (prompt < 6) if graded else None}
            # Forks lose no answer: what counts is the variant's own text.
            given |= {"text_fork": "so", "answer_fork": "12", "is_correct_fork": prompt < 6 if graded else None}
            warehouse.generation(recipe, f"p{prompt}", flip=None if recipe == "dense" else 0, **given)
            for trajectory, kl in kls.get(recipe, {}).items():
                for step in (1, 2):
                    warehouse.step(recipe, f"p{prompt}", step, kl, trajectory=trajectory)
    return warehouse


def test_trajectories_are_compared_with_the_order_by_lost_answers(ask: Ask) -> None:
    kept = {"a": 8, "b": 7, "c": 5, "d": 3, "e": 1}
    forced, free = [0.1, 0.3, 0.2, 0.9, 0.8], [9.0, 8.0, 7.0, 9.5, 5.0]
    kls = {name: {"teacher_forced": one, "free_running": other, "fork": 5.0}
           for name, one, other in zip(kept, forced, free, strict=True)}  # fmt: skip
    rows = {(row["trajectory"], row["answers"]): row for row in ask(answered(kept, kls), "trajectory_summary")}

    assert len(rows) == 6
    # b gains what it does not repeat: of six right answers it loses none, and of all eight one.
    for answers, n_answers, lost in (("right", 6, [0, 0, 1, 3, 5]), ("same", 8, [0, 1, 3, 5, 7])):
        for name, values in (("teacher_forced", forced), ("free_running", free)):
            expected = stats.spearmanr(values, lost).statistic
            half = 1.959963984540054 * np.sqrt((1 + expected**2 / 2) / 2)
            ends = np.tanh(np.arctanh(expected) + half * np.array([-1, 1]))
            row = rows[name, answers]
            assert (row["n_answers"], row["n_variants"]) == (n_answers, 5)
            assert row["rank_correlation"] == pytest.approx(expected)
            assert (row["rank_correlation_low"], row["rank_correlation_high"]) == pytest.approx(tuple(ends))
            assert row["kl_median_nats"] == pytest.approx(np.median(values))
        assert rows["fork", answers]["rank_correlation"] is None


@pytest.mark.parametrize("graded", [True, False])
def test_answers_that_are_only_guessed_or_not_graded_have_no_order_by_right_ones(ask: Ask, graded: bool) -> None:
    kls = {name: {"teacher_forced": kl} for name, kl in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    warehouse = answered({"a": 8, "b": 4, "c": 2}, kls, graded=graded)
    for prompt in range(8):
        # Six right answers of eight to two options have an interval that contains 1/2.
        warehouse.options("dense", f"p{prompt}", [0.5, 0.25], [0.5, 0.25])
    (row,) = ask(warehouse, "trajectory_summary")

    assert (row["answers"], row["n_answers"], row["rank_correlation"]) == ("same", 8, pytest.approx(1))


def test_q14_separates_the_answer_from_the_steps_after_it(ask: Ask) -> None:
    warehouse = Handmade().generation("dense", "p", answer_end=1).generation("dense", "q")
    for prompt, step, kl in (("p", 0, 1.0), ("p", 1, 2.0), ("p", 2, 5.0), ("q", 0, 8.0)):
        warehouse.step(RECIPE, prompt, step, kl).step(RECIPE, prompt, step, 9.0, temperature=0.5)
        warehouse.step("dense", prompt, step)
    rows = {row["phase"]: row for row in ask(warehouse, "q14_before_and_after_the_answer")}

    assert {phase: (row["n"], row["n_prompts"], row["kl_mean_nats"]) for phase, row in rows.items()} == {
        "before": (2, 1, 1.5),
        "after": (1, 1, 5.0),
        "no end": (1, 1, 8.0),
    }
    assert {phase: row["kl_share"] for phase, row in rows.items()} == {"before": 3 / 16, "after": 5 / 16, "no end": 0.5}


def test_q15_agrees_with_the_area_over_all_pairs_and_an_independent_interval(ask: Ask) -> None:
    chance = np.random.default_rng(2)
    margin = np.round(chance.uniform(0, 4, (12, 10)), 1).astype(np.float32)
    entropy = chance.uniform(0, 3, margin.shape).astype(np.float32)
    is_flip = margin + chance.normal(0, 1, margin.shape) < 1
    warehouse = Handmade()
    for prompt, step in np.ndindex(margin.shape):
        values = {"margin_dense": margin[prompt, step], "entropy_dense_nats": entropy[prompt, step]}
        warehouse.step(RECIPE, f"p{prompt:02}", step, 1.0, flips=bool(is_flip[prompt, step]), **values)
        warehouse.step("dense", f"p{prompt:02}", step)
    by_entropy, by_margin = ask(warehouse, "q15_flip_predictors")

    for row, score in ((by_entropy, entropy), (by_margin, -margin)):
        half = reference_intervals.half_width(lambda weights, score=score: auc_of_pairs(score, is_flip, weights), 12)
        ends = reference_intervals.of_auc(auc_of_pairs(score, is_flip), half)
        assert (row["n"], row["n_prompts"], row["n_flips"]) == (120, 12, is_flip.sum())
        assert row["auc"] == pytest.approx(auc_of_pairs(score, is_flip), rel=1e-5)
        assert (row["auc_low"], row["auc_high"]) == pytest.approx(ends, rel=1e-3)


def test_q15_has_no_row_for_two_flips_and_no_interval_for_perfect_separation(ask: Ask) -> None:
    warehouse = Handmade()
    for prompt in range(6):
        for step in range(4):
            warehouse.step("perfect", f"p{prompt}", step, 1.0, flips=step == 0, margin_dense=float(step))
            warehouse.step("rare", f"p{prompt}", step, 1.0, flips=step == 0 and prompt < 2, margin_dense=float(step))
    rows = {row["recipe"]: row for row in ask(warehouse, "q15_flip_predictors") if row["predictor"] == "margin"}

    assert (rows["perfect"]["auc"], rows["perfect"]["auc_low"], rows["perfect"]["auc_high"]) == (1.0, None, None)
    assert (rows["rare"]["n_flips"], rows["rare"]["auc"]) == (2, None)


def moved_options(chance: np.random.Generator, warehouse: Handmade, recipe: str, prompt: str) -> tuple[float, ...]:
    """Add a question with four options among ten tokens; return KL of the vocabulary, options and rest, and masses."""
    dense, pruned = chance.dirichlet(np.ones(10)), chance.dirichlet(np.ones(10))
    parts = [stats.entropy(dense[part], pruned[part]) for part in (slice(10), slice(4), slice(4, 10))]
    kls = {"kl_dense_pruned_nats": parts[0], "kl_options_dense_pruned_nats": parts[1]}
    warehouse.options(recipe, prompt, dense[:4].tolist(), pruned[:4].tolist(), **kls)
    return (*parts, dense[:4].sum(), pruned[:4].sum())


def test_q16_compares_the_options_with_the_rest_of_the_vocabulary(ask: Ask) -> None:
    chance = np.random.default_rng(5)
    warehouse = Handmade().model().variant("dense").variant(RECIPE).variant("noise-batch", method="noise")
    warehouse.options("dense", "p0", [0.5, 0.25], [0.5, 0.25])
    for recipe in (RECIPE, "noise-batch"):
        numbers = np.array([moved_options(chance, warehouse, recipe, f"p{prompt}") for prompt in range(20)])
        (row,) = ask(warehouse, f"select * from q16_options_against_vocabulary where recipe = '{recipe}'")
        whole, options, rest, mass, mass_pruned = numbers.T

        assert (row["n_questions"], row["is_noise"]) == (20, recipe == "noise-batch")
        assert row["kl_vocabulary_mean_nats"] == pytest.approx(whole.mean(), rel=1e-6)
        assert row["kl_options_mean_nats"] == pytest.approx(options.mean(), rel=1e-6)
        # By the chain rule, as over the tokens themselves; on either side of the options' KL.
        assert row["kl_rest_mean_nats"] == pytest.approx(rest.mean(), rel=1e-5)
        assert 0 < (options < rest).sum() < 20
        assert row["options_share"] == pytest.approx((mass * options).sum() / whole.sum(), rel=1e-6)
        assert (row["mass_dense_mean"], row["mass_pruned_mean"]) == pytest.approx((mass.mean(), mass_pruned.mean()))


def test_q17_counts_questions_whose_first_option_stays_while_others_swap(ask: Ask) -> None:
    warehouse = Handmade()
    for prompt, pruned in (("p", [0.4, 0.2, 0.1]), ("q", [0.4, 0.1, 0.2]), ("r", [0.1, 0.2, 0.4])):
        warehouse.step(RECIPE, prompt, 0).options(RECIPE, prompt, [0.4, 0.2, 0.1], pruned)
    (row,) = ask(warehouse, "q17_ranking_lost")

    assert (row["n_questions"], row["argmax_kept"], row["kept_but_reordered"], row["ranking_kept"]) == (3, 2, 1, 1)
    assert (row["kendall_tau_mean"], row["kendall_tau_min"]) == (pytest.approx(1 / 9, rel=1e-5), -1.0)


def test_q18_places_the_options_in_the_vocabulary(ask: Ask) -> None:
    warehouse = Handmade().model().step(RECIPE, "p", 0)
    warehouse.options(RECIPE, "p", [0.25, 0.125], [0.25, 0.25], ranks_dense=[20, 40], ranks_pruned=[1, 3])

    assert ask(warehouse, "q18_options_in_the_tail") == [
        {
            "model": "tiny", "recipe": RECIPE, "prompt_id": "p", "n_options": 2, "rank_dense_best": 20,
            "rank_dense_median": 30.0, "rank_dense_worst": 40, "rank_dense_share": 0.3, "mass_dense": 0.375,
            "rank_pruned_best": 1, "rank_pruned_median": 2.0, "rank_pruned_worst": 3, "rank_pruned_share": 0.02,
            "mass_pruned": 0.5,
        }
    ]  # fmt: skip


def test_q24_compares_kinds_of_drop_at_the_same_share_and_does_not_extrapolate(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe, method, removed, kl in (
        ("attn-drop-4", "attn-drop", 0.125, 0.5),
        ("mlp-drop-1", "mlp-drop", 0.0625, 1.0),
        ("mlp-drop-4", "mlp-drop", 0.25, 4.0),
        ("block-drop-4", "block-drop", 0.5, 9.0),
    ):
        warehouse.variant(recipe, method=method, removed=removed).step(recipe, "p", 0, kl)
    warehouse.variant(RECIPE, sparsity=0.5).step(RECIPE, "p", 0, 1.0)
    rows = ask(warehouse, "q24_attention_mlp_block")
    others = {(row["recipe"], row["other_method"]): row["kl_other_nats"] for row in rows}
    attn_against_mlp = next(row for row in rows if row["recipe"] == "attn-drop-4" and row["other_method"] == "mlp-drop")

    assert others == {
        ("attn-drop-4", "mlp-drop"): 2.0,  # a third of the way from (0.0625, 1) to (0.25, 4)
        ("attn-drop-4", "block-drop"): 2.25,  # a quarter of the way from the dense model
        ("mlp-drop-1", "attn-drop"): 0.25,
        ("mlp-drop-1", "block-drop"): 1.125,
        ("mlp-drop-4", "attn-drop"): None,
        ("mlp-drop-4", "block-drop"): 4.5,
        ("block-drop-4", "attn-drop"): None,
        ("block-drop-4", "mlp-drop"): None,
    }
    assert attn_against_mlp["kl_ratio"] == 0.25


def test_q24_interpolates_nothing_where_the_shares_are_equal(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe, method, kl in (("attn-drop-1", "attn-drop", 1.0), ("mlp-drop-1", "mlp-drop", 4.0)):
        warehouse.variant(recipe, method=method, removed=0.25).step(recipe, "p", 0, kl)
    rows = ask(warehouse, "select recipe, kl_other_nats, kl_ratio from q24_attention_mlp_block order by recipe")

    assert [tuple(row.values()) for row in rows] == [("attn-drop-1", 4.0, 0.25), ("mlp-drop-1", 1.0, 4.0)]


def test_q25_compares_a_pattern_with_unstructured_pruning_of_equal_method_and_sparsity(ask: Ask) -> None:
    warehouse = Handmade().variant("dense")
    for recipe, kl, sparsity, parameters in (
        ("wanda-50", 0.5, 0.5, {"keep": None, "block": None}),
        ("wanda-50-again", 0.75, 0.5, {}),
        ("wanda-2of4", 2.0, 0.501, {"keep": 2, "block": 4}),
        ("wanda-1of4", 8.0, 0.75, {"keep": 1, "block": 4}),
    ):
        warehouse.variant(recipe, sparsity=sparsity, **parameters).step(recipe, "p", 0, kl)
    rows = {row["recipe"]: row for row in ask(warehouse, "q25_pattern_cost")}

    assert {recipe: (row["pattern"], row["baseline_recipe"], row["kl_ratio"]) for recipe, row in rows.items()} == {
        "wanda-50": ("unstructured", "wanda-50", 1.0),
        "wanda-50-again": ("unstructured", "wanda-50", 1.5),
        "wanda-2of4": ("2:4", "wanda-50", 4.0),
        "wanda-1of4": ("1:4", None, None),
    }
    assert rows["wanda-2of4"]["top1_agreement"] == rows["wanda-2of4"]["baseline_top1_agreement"] == 1.0

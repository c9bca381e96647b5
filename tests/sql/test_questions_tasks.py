"""The questions about tasks and retrieval (q19 to q23, q30), against numbers that can be worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from prunescope.warehouse.catalogue.database import SQL
from tests.sql import reference_intervals
from tests.sql.built_tasks import retrieval_query, retrieval_score, task_sample, task_score
from tests.sql.warehouse_builder import Ask, Handmade

RECIPE = "wanda-50"


def about(value: float) -> object:
    """Compare but for rounding."""
    return pytest.approx(value, rel=1e-6, abs=1e-9)


def test_q19_pairs_the_two_ways_of_asking_sample_by_sample(ask: Ask) -> None:
    warehouse = Handmade()
    # Right option 0. Label and text: both right, label alone, label alone, neither (one chooses 1, the other 2).
    for sample, letter, whole, per_byte in (
        ("a", [-1, -2, -3], [-1, -2, -3], [-1, -2, -3]),
        ("b", [-1, -2, -3], [-2, -1, -3], [-1, -2, -3]),
        ("c", [-1, -2, -3], [-2, -1, -3], [-2, -1, -3]),
        ("d", [-2, -1, -3], [-3, -2, -1], [-3, -2, -1]),
    ):
        task_sample(warehouse, RECIPE, "arc", sample, scoring="letter", log_likelihoods=letter)
        task_sample(warehouse, RECIPE, "arc", sample, scoring="full_text", log_likelihoods=whole, per_byte=per_byte)
    # Scored one way only, and without options: no pair.
    task_sample(warehouse, RECIPE, "arc", "e", scoring="letter")
    task_sample(warehouse, RECIPE, "arc", "a")
    (row,) = ask(warehouse, "q19_label_against_full_option")
    low, high = reference_intervals.wilson(1, 4)

    assert row == {
        "model": "tiny", "recipe": RECIPE, "task": "arc", "n_samples": 4, "accuracy_letter": 0.75,
        "accuracy_full_text": 0.25, "accuracy_full_text_per_byte": 0.5, "same_answer": 0.25,
        "same_answer_low": about(low), "same_answer_high": about(high), "only_letter_correct": 2,
        "only_full_text_correct": 0, "mcnemar_p": about(0.5),
    }  # fmt: skip


def test_q19_takes_the_first_of_equal_options_and_has_no_test_without_disagreement(ask: Ask) -> None:
    warehouse = Handmade()
    for scoring in ("letter", "full_text"):
        task_sample(warehouse, "dense", "arc", "a", scoring=scoring, log_likelihoods=[-1, -1], target=0)
    (row,) = ask(warehouse, "q19_label_against_full_option")

    assert (row["recipe"], row["same_answer"], row["accuracy_letter"], row["mcnemar_p"]) == ("dense", 1, 1, None)


def test_q20_finds_flips_that_the_accuracy_hides(ask: Ask) -> None:
    warehouse = Handmade()
    for sample, dense, pruned in (
        ("a", True, True),
        ("b", True, False),
        ("c", True, False),
        ("d", False, True),
        ("e", False, False),
    ):
        task_sample(warehouse, "dense", "gsm8k", sample, is_correct=dense)
        task_sample(warehouse, RECIPE, "gsm8k", sample, is_correct=pruned)
    # Two different wrong answers, no answer on one side, and no right answer.
    task_sample(warehouse, "dense", "gsm8k", "f", is_correct=False)
    task_sample(warehouse, RECIPE, "gsm8k", "f", is_correct=False, answer="14")
    task_sample(warehouse, "dense", "gsm8k", "g", is_correct=False)
    task_sample(warehouse, RECIPE, "gsm8k", "g", is_correct=False, answer=None)
    task_sample(warehouse, "dense", "gsm8k", "h", is_correct=None)
    task_sample(warehouse, RECIPE, "gsm8k", "h", is_correct=None, answer="15")
    task_sample(warehouse, RECIPE, "gsm8k", "only here")
    (row,) = ask(warehouse, "select * from q20_answers_flipped where metric = 'exact_match'")
    low, high = stats.binomtest(6, 8).proportion_ci(method="wilson")

    assert row == {
        "model": "tiny", "recipe": RECIPE, "task": "gsm8k", "metric": "exact_match", "n_samples": 8, "n_graded": 7,
        "accuracy_dense": about(3 / 7), "accuracy_pruned": about(2 / 7), "accuracy_change": about(-1 / 7), "lost": 2,
        "gained": 1, "flipped": 6, "flip_share": 0.75, "flip_share_low": about(low), "flip_share_high": about(high),
        "hidden_flips": 5, "mcnemar_p": about(1.0),
    }  # fmt: skip


def test_q20_tests_flips_as_task_comparisons_does(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe in ("dense", RECIPE):
        task_sample(warehouse, recipe, "gsm8k", "a", is_correct=True)
    query = "select question.mcnemar_p, mart.mcnemar_p as own from q20_answers_flipped as question"
    (row, *_) = ask(warehouse, f"{query} inner join task_comparisons as mart using (model, recipe, task, metric)")
    assert row == {"mcnemar_p": 1.0, "own": 1.0}


def test_q20_has_no_accuracy_where_no_sample_has_a_right_answer(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe in ("dense", RECIPE):
        task_sample(warehouse, recipe, "open", "a", is_correct=None)
    row, _ = ask(warehouse, "q20_answers_flipped")

    assert row["accuracy_dense"] is row["accuracy_change"] is row["mcnemar_p"] is None
    assert (row["n_graded"], row["flipped"], row["flip_share"]) == (0, 0, 0.0)


def cliff(scores: dict[int, float]) -> Handmade:
    """Build scores by number of dropped attention sublayers; 0 is the dense model."""
    warehouse = Handmade()
    for count, score in scores.items():
        recipe = f"attn-drop-{count}" if count else "dense"
        warehouse.variant(recipe, method="attn-drop", count=count, by="influence")
        task_score(warehouse, recipe, "gsm8k", score, kind="generative")
    return warehouse


def test_q21_interpolates_where_the_score_halves_and_its_interval(ask: Ask) -> None:
    (row,) = ask(cliff({0: 0.8, 4: 0.7, 8: 0.3, 12: 0.0}), "q21_critical_drops")
    # Half the dense score is 0.4, three quarters of the way from 0.7 to 0.3.
    dense = reference_intervals.wilson(80, 100)

    def excess(right: int) -> tuple[float, float]:
        """Return both ends of a score of 100 answers minus half the dense one."""
        half = (dense[0] / 2, dense[1] / 2)
        return reference_intervals.of_difference(right / 100, reference_intervals.wilson(right, 100), 0.4, half)

    # The lower end crosses between 4 and 8 drops, the upper one between 8 and 12.
    (low, _), (low_next, high), (_, high_next) = excess(70), excess(30), excess(0)

    assert {name: row[name] for name in row if name not in {"model", "task_group", "metric", "kind"}} == {
        "method": "attn-drop",
        "chosen_by": "influence",
        "score_dense": 0.8,
        "n_points": 3,
        "k_largest": 12,
        "score_at_largest": 0.0,
        "critical_k": about(7.0),
        "critical_k_low": about(4 + 4 * low / (low - low_next)),
        "critical_k_high": about(8 + 4 * high / (high - high_next)),
        **dict.fromkeys(("critical_k_top1", "critical_k_kl", "first_flip_k", "first_maths_flip_k")),
    }


def test_q21_extrapolates_nothing(ask: Ask) -> None:
    (beyond,) = ask(cliff({0: 0.8, 4: 0.7, 8: 0.45}), "q21_critical_drops")

    assert (beyond["critical_k"], beyond["critical_k_high"], beyond["k_largest"]) == (None, None, 8)
    assert 4 < beyond["critical_k_low"] < 8


def test_q21_takes_the_first_fall_and_averages_variants_of_equal_k(ask: Ask) -> None:
    warehouse = cliff({0: 0.8, 2: 0.4, 4: 0.8})
    for seed, score in ((1, 0.2), (2, 0.4)):
        recipe = f"attn-drop-2-random{seed}"
        warehouse.variant(recipe, method="attn-drop", count=2, by="random", seed=seed)
        task_score(warehouse, recipe, "gsm8k", score, kind="generative", standard_error=0.03)
    rows = {row["chosen_by"]: row for row in ask(warehouse, "q21_critical_drops")}

    assert rows["influence"]["critical_k"] == 2.0
    assert rows["random"]["score_at_largest"] == about(0.3)
    assert rows["random"]["critical_k"] == about(2 * 0.4 / 0.5)


def test_q21_shows_halved_probes_and_the_first_flipped_answer(ask: Ask) -> None:
    warehouse = cliff({0: 0.8, 2: 0.7, 4: 0.3, 6: 0.0})
    nats = {2: (0.1, 0.3), 4: (1.0, 2.0), 6: (3.0, 3.2)}
    warehouse.generation("dense", "sum", kind="maths", answer="12").generation("dense", "why", answer="so")
    task_score(warehouse, "dense", "gsm8k", 0.5, kind="generative", metric="exact_match")
    for sample in ("a", "b"):
        task_sample(warehouse, "dense", "gsm8k", sample)
    for count, (first, second) in nats.items():
        recipe = f"attn-drop-{count}"
        for step in range(4):
            warehouse.step(recipe, "p", step, first, flips=step < count).step(recipe, "q", step, second, flips=step < 1)
        # An open prompt's answer is no maths answer; the maths one flips at 4, a sample of the task at 6.
        answer = "12" if count < 4 else None
        warehouse.generation(recipe, "sum", kind="maths", answer=answer).generation(recipe, "why", answer="else")
        task_sample(warehouse, recipe, "gsm8k", "a")
        task_sample(warehouse, recipe, "gsm8k", "b", is_correct=count < 6)
        task_score(warehouse, recipe, "gsm8k", 0.5, kind="generative", metric="exact_match")
    rows = {row["metric"]: row for row in ask(warehouse, "q21_critical_drops")}
    row, kept = rows["accuracy"], [1.0, *(math.exp(-sum(pair) / 2) for pair in nats.values())]
    # top1: 1, then 5/8, 3/8 and 3/8 of the steps; the mean KL passes ln 2 between 2 and 4.
    critical_top1 = 2 + 2 * (5 / 8 - 1 / 2) / (5 / 8 - 3 / 8)
    critical_kl = 2 + 2 * (kept[1] - 0.5) / (kept[1] - kept[2])

    assert (row["critical_k_top1"], row["critical_k_kl"]) == (about(critical_top1), about(critical_kl))
    assert rows["top1_agreement"]["critical_k"] == row["critical_k_top1"]
    assert rows["kl_kept"]["score_at_largest"] == about(kept[3])
    assert rows["kl_step0_kept"]["score_at_largest"] == about(kept[3])
    assert (rows["kl_kept"]["kind"], rows["kl_kept"]["task_group"]) == ("probe", "probes")
    assert rows["kl_kept"]["critical_k_low"] < row["critical_k_kl"] < rows["kl_kept"]["critical_k_high"]
    assert (rows["exact_match"]["first_flip_k"], row["first_maths_flip_k"]) == (6, 4)
    assert row["first_flip_k"] is None, "no sample is read by this metric"


def test_q21_takes_only_scores_where_more_is_better_and_that_can_halve(ask: Ask) -> None:
    warehouse = cliff({0: 0.0, 4: 0.0})
    for recipe, perplexity in (("dense", 10.0), ("attn-drop-4", 40.0)):
        task_score(warehouse, recipe, "wikitext2", perplexity, kind="perplexity", metric="word_perplexity")

    assert ask(warehouse, "q21_critical_drops") == []


def test_q21_takes_a_group_of_tasks_as_one_score_and_each_kind_of_task_apart(ask: Ask) -> None:
    warehouse = Handmade()
    # By number of dropped sublayers: the small task halves at once, the large one late, and it weighs three times.
    for count, small, large in ((0, 0.8, 0.6), (2, 0.2, 0.6), (4, 0.0, 0.2)):
        recipe = f"attn-drop-{count}" if count else "dense"
        warehouse.variant(recipe, method="attn-drop", count=count, by="influence")
        task_score(warehouse, recipe, "mmlu_law", small, n=50, group="mmlu")
        task_score(warehouse, recipe, "mmlu_sums", large, n=150, group="mmlu")
        task_score(warehouse, recipe, "mmlu_essay", 1 - count / 8, kind="generative", group="mmlu")
    # Only one task's answer flips, among those with options.
    for recipe, answered in (("dense", -1), ("attn-drop-2", -3)):
        task_sample(warehouse, recipe, "mmlu_law", "a", scoring="letter", log_likelihoods=[answered, -2])
        task_score(warehouse, recipe, "mmlu_law", 0.5, metric="accuracy_letter", group="mmlu")
    # Of three sublayers one task alone is known, whose score is no mean over the group.
    warehouse.variant("attn-drop-3", method="attn-drop", count=3, by="influence")
    task_score(warehouse, "attn-drop-3", "mmlu_law", 0.0, n=50, group="mmlu")
    rows = {(row["task_group"], row["kind"], row["metric"]): row for row in ask(warehouse, "q21_critical_drops")}

    chosen = rows["mmlu", "non_generative", "accuracy"]
    dense, two, four = (0.8 + 3 * 0.6) / 4, (0.2 + 3 * 0.6) / 4, (0.0 + 3 * 0.2) / 4
    assert chosen["score_dense"] == about(dense)
    assert chosen["critical_k"] == about(2 + 2 * (two - dense / 2) / (two - four))
    assert rows["mmlu", "generative", "accuracy"]["critical_k"] == about(4.0)
    assert rows["mmlu", "non_generative", "accuracy_letter"]["first_flip_k"] == 2
    assert chosen["first_flip_k"] is None
    assert len(rows) == 3


def test_q22_compares_the_losses_of_choosing_and_writing(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant(RECIPE)
    for task, kind, dense, pruned in (
        ("arc", "non_generative", 0.8, 0.8),
        ("boolq", "non_generative", 0.5, 0.4),
        ("gsm8k", "generative", 0.5, 0.1),
        ("lambada", "perplexity", 10.0, 20.0),
        ("mbpp", "generative", 0.0, 0.0),
    ):
        for recipe, value in (("dense", dense), (RECIPE, pruned)):
            metric = "word_perplexity" if kind == "perplexity" else "accuracy"
            task_score(warehouse, recipe, task, value, kind=kind, metric=metric, standard_error=0.02)
    # A second metric of one task does not make it count twice.
    for recipe, value in (("dense", 0.4), (RECIPE, 0.32)):
        task_score(warehouse, recipe, "boolq", value, metric="accuracy_per_byte", standard_error=0.025)
    (row,) = ask(warehouse, "q22_generative_gap")

    def room(dense: int, pruned: int) -> np.ndarray:
        """Return how far the ratio of two scores of 100 answers each may be below and above."""
        both = [(right / 100, reference_intervals.wilson(right, 100)) for right in (pruned, dense)]
        low, high = reference_intervals.of_ratio(*both[0], *both[1])
        return np.array([pruned / dense - low, high - pruned / dense])

    boolq = (room(50, 40) + room(40, 32)) / 2
    choosing, writing = np.hypot(room(80, 80), boolq) / 2, room(50, 10)
    below, above = math.hypot(writing[0], choosing[1]), math.hypot(writing[1], choosing[0])
    assert row == {
        "model": "tiny", "recipe": RECIPE, "measure": "score", "method": "wanda", "n_non_generative": 2,
        "n_generative": 1, "loss_non_generative": about(0.1), "loss_generative": about(0.8),
        "kept_non_generative": about(math.sqrt(0.8)), "kept_generative": about(0.2), "loss_gap": about(-0.7),
        "loss_gap_low": about(-0.7 - below), "loss_gap_high": about(-0.7 + above),
    }  # fmt: skip


def test_q22_counts_the_dense_models_own_answers_apart_from_right_ones(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant(RECIPE)
    # A model too weak for the task scores nothing, but its answers change.
    for metric, dense, pruned in (("exact_match", 0.0, 0.0), ("agreement", 1.0, 0.25)):
        task_score(warehouse, "dense", "gsm8k", dense, kind="generative", metric=metric)
        task_score(warehouse, RECIPE, "gsm8k", pruned, kind="generative", metric=metric)
    for metric, dense, pruned in (("accuracy", 0.5, 0.4), ("agreement", 1.0, 0.9)):
        task_score(warehouse, "dense", "arc", dense, metric=metric)
        task_score(warehouse, RECIPE, "arc", pruned, metric=metric)
    score, agreement = ask(warehouse, "q22_generative_gap")

    assert (score["measure"], score["loss_non_generative"], score["loss_generative"]) == ("score", about(0.2), None)
    assert (agreement["measure"], agreement["loss_gap"]) == ("agreement", about(0.1 - 0.75))


def test_q22_has_no_gap_with_one_kind_of_task(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant("one").variant("two")
    for recipe, value in (("dense", 0.8), ("one", 0.4), ("two", 0.0)):
        task_score(warehouse, recipe, "arc", value, standard_error=None)
        if recipe != "one":
            task_score(warehouse, recipe, "gsm8k", value, kind="generative")
    one, two = ask(warehouse, "q22_generative_gap")

    assert (one["n_generative"], one["loss_generative"], one["loss_gap"]) == (0, None, None)
    assert (two["loss_gap"], two["kept_generative"]) == (0.0, 0.0)
    assert two["loss_gap_low"] < 0 < two["loss_gap_high"]


def test_q23_ranks_variants_by_probe_and_by_task(ask: Ask) -> None:
    chance = np.random.default_rng(5)
    probes, losses = chance.gamma(1, 1, 7), chance.integers(0, 5, 7) / 10
    warehouse = Handmade().step("dense", "p", 0)
    task_score(warehouse, "dense", "gsm8k", 0.9)
    task_score(warehouse, "dense", "wikitext2", 10.0, kind="perplexity", metric="word_perplexity")
    for index, (probe, loss) in enumerate(zip(probes, losses, strict=True)):
        recipe = f"r{index}"
        for prompt, share in (("p", 0.5), ("q", 1.5)):
            warehouse.step(recipe, prompt, 0, probe * share).step(recipe, prompt, 1, 5.0)
            warehouse.step(recipe, prompt, 0, 99.0, trajectory="free_running")
        task_score(warehouse, recipe, "gsm8k", 0.9 - loss)
        task_score(warehouse, recipe, "wikitext2", 10.0 + probe, kind="perplexity", metric="word_perplexity")
    rows = {(row["probe"], row["task_group"]): row for row in ask(warehouse, "q23_probes_rank_variants")}
    row = rows["kl_step0", "gsm8k"]
    spearman = float(stats.spearmanr(probes, losses).statistic)
    # The variance of Fisher's z of ranks of independent pairs.
    half = stats.norm.ppf(0.975) * math.sqrt((1 + spearman**2 / 2) / (7 - 3))

    assert row["n_variants"] == 7
    assert row["spearman"] == about(spearman)
    assert row["kendall_tau_b"] == about(stats.kendalltau(probes, losses).statistic)
    assert row["spearman_low"] == about(math.tanh(math.atanh(spearman) - half))
    assert row["spearman_high"] == about(math.tanh(math.atanh(spearman) + half))
    # A perplexity that rises is a loss, so that a probe equal to it ranks as it does.
    assert rows["var_p_step0", "wikitext2"]["spearman"] == about(1.0)
    assert rows["top1_change", "gsm8k"]["spearman"] is None, "no token changes, so nothing varies"


def test_q23_ranks_by_the_score_of_a_group_of_tasks(ask: Ask) -> None:
    warehouse = Handmade()
    # Over all samples the score falls with the probe; in neither task does it.
    scores = {"mmlu_law": (0.9, 0.8, 0.9, 0.2, 0.3, 0.0), "mmlu_sums": (0.8, 0.8, 0.6, 0.7, 0.5, 0.45)}
    for index, recipe in enumerate(("dense", *(f"r{index}" for index in range(5)))):
        if index:
            warehouse.step(recipe, "p", 0, float(index))
        for task, n in (("mmlu_law", 50), ("mmlu_sums", 150)):
            task_score(warehouse, recipe, task, scores[task][index], n=n, group="mmlu")
    # A mean over one of the two tasks is no score of the group.
    warehouse.step("half", "p", 0, 9.0)
    task_score(warehouse, "half", "mmlu_law", 0.9, n=50, group="mmlu")
    (row,) = ask(warehouse, "select * from q23_probes_rank_variants where probe = 'kl_step0'")

    assert (row["task_group"], row["kind"], row["metric"]) == ("mmlu", "non_generative", "accuracy")
    assert (row["n_variants"], row["spearman"], row["kendall_tau_b"]) == (5, about(1.0), about(1.0))


def test_q23_has_no_row_for_four_variants(ask: Ask) -> None:
    warehouse = Handmade()
    task_score(warehouse, "dense", "gsm8k", 0.9)
    for index in range(4):
        warehouse.step(f"r{index}", "p", 0, index + 1.0)
        task_score(warehouse, f"r{index}", "gsm8k", 0.8 - index / 10)
    row = ask(warehouse, "select * from q23_probes_rank_variants where probe = 'kl_step0'")[0]

    assert (row["n_variants"], row["spearman"], row["spearman_low"], row["kendall_tau_b"]) == (4, None, None, None)


def test_q30_relates_the_shift_of_embeddings_to_the_loss_of_retrieval(ask: Ask) -> None:
    chance = np.random.default_rng(6)
    warehouse = Handmade().variant("noise-batch", method="noise")
    cosines = np.round(chance.uniform(0.5, 1, (5, 2)), 1)
    lost = np.round((1 - cosines) / 2 + chance.uniform(0, 0.2, cosines.shape), 2)
    for at in range(5):
        retrieval_score(warehouse, "dense", f"set{at}", 0.5)
        retrieval_score(warehouse, "noise-batch", f"set{at}", 0.5)
        for variant in range(2):
            retrieval_score(warehouse, f"r{variant}", f"set{at}", 0.5 * (1 - lost[at, variant]))
            retrieval_score(warehouse, f"r{variant}", f"set{at}", cosines[at, variant], metric="embedding_cosine")
    rows = ask(warehouse, "q30_retrieval_loss")
    ranks = [stats.rankdata(np.round(values, 6).ravel()).reshape(5, 2) for values in (1 - cosines, lost)]
    half = reference_intervals.half_width(
        lambda weights: reference_intervals.weighted_correlation(ranks[0], ranks[1], weights), 5
    )
    spearman = float(np.corrcoef(ranks[0].ravel(), ranks[1].ravel())[0, 1])

    assert [(row["recipe"], row["data_set"]) for row in rows] == [
        (f"r{i}", f"set{j}") for i in (0, 1) for j in range(5)
    ]
    assert rows[0]["ndcg_loss_share"] == about(lost[0, 0])
    assert rows[0]["ndcg_loss"] == about(lost[0, 0] / 2)
    [told] = {(row["spearman"], row["spearman_low"], row["spearman_high"]) for row in rows}
    assert told == pytest.approx((spearman, *reference_intervals.on_fishers_scale(spearman, half)), rel=1e-3)


def test_q30_keeps_a_row_without_a_cosine_and_has_no_share_of_nothing(ask: Ask) -> None:
    warehouse = Handmade()
    retrieval_score(warehouse, "dense", "news", 0.0)
    retrieval_score(warehouse, RECIPE, "news", 0.25)
    (row,) = ask(warehouse, "q30_retrieval_loss")

    assert (row["ndcg_loss"], row["ndcg_loss_share"], row["embedding_cosine"]) == (-0.25, None, None)
    assert row["spearman"] is row["spearman_low"] is None


def test_q30_pairs_queries_for_the_interval_of_a_loss(ask: Ask) -> None:
    chance = np.random.default_rng(2)
    dense, pruned = chance.uniform(0.3, 1, 20), chance.uniform(0.2, 0.9, 20)
    warehouse = Handmade()
    for recipe, values in (("dense", dense), (RECIPE, pruned), ("same", dense)):
        retrieval_score(warehouse, recipe, "news", float(values.mean()), n=20)
        for query, value in enumerate(values):
            retrieval_query(warehouse, recipe, "news", f"q{query}", float(value))
    other, same = sorted(ask(warehouse, "q30_retrieval_loss"), key=lambda row: row["recipe"] == "same")
    ratio = pruned.mean() / dense.mean()
    error = np.sqrt(20 / 19 * ((pruned - ratio * dense) ** 2).sum()) / 20 / dense.mean()
    half = stats.t.ppf(0.975, 19) * error
    assert (other["ndcg_loss_share_low"], other["ndcg_loss_share_high"]) == pytest.approx(
        (1 - ratio - half, 1 - ratio + half), rel=1e-3
    )
    unseen = reference_intervals.wilson(0, 20)[1]
    assert (same["ndcg_loss_share_low"], same["ndcg_loss_share_high"]) == pytest.approx((-unseen, unseen), abs=1e-6)


def test_a_score_of_all_or_none_has_wilsons_interval(ask: Ask) -> None:
    warehouse, right = Handmade(), {"all": 10, "none": 0}
    for task, count in right.items():
        task_score(warehouse, RECIPE, task, count / 10, n=10, standard_error=0.0)
    rows = {row["task"]: row for row in ask(warehouse, (SQL / "explorer" / "scores.sql").read_text("utf-8"))}
    for task, count in right.items():
        ends = rows[task]["value_low"], rows[task]["value_high"]
        assert ends == pytest.approx(reference_intervals.wilson(count, 10)), task

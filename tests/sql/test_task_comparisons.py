"""Paired statistics of tasks, against scipy, numerical references, and Holm's rule as it is written."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.sql import reference_intervals
from tests.sql.built_tasks import task_sample, task_score
from tests.sql.test_questions_tasks import about
from tests.sql.warehouse_builder import Ask, Handmade, Row

RECIPE = "wanda-50"


def written(warehouse: Handmade, recipe: str, right: list[bool | None], task: str = "gsm8k") -> None:
    """Add one written answer a sample."""
    for sample, is_correct in enumerate(right):
        task_sample(warehouse, recipe, task, f"s{sample:03d}", is_correct=is_correct)


def strict(ask: Ask, warehouse: Handmade, view: str = "task_comparisons") -> list[Row]:
    """Return the rows of strictly extracted answers."""
    return ask(warehouse, f"select * from {view} where metric = 'exact_match'")


def test_pairs_have_the_test_of_scipy_and_an_interval_of_their_change(ask: Ask) -> None:
    chance = np.random.default_rng(1)
    dense, pruned = chance.random(40) < 0.7, chance.random(40) < 0.45
    warehouse = Handmade()
    written(warehouse, "dense", dense.tolist())
    written(warehouse, RECIPE, pruned.tolist())
    (row,) = strict(ask, warehouse)
    lost, gained = int((dense & ~pruned).sum()), int((pruned & ~dense).sum())
    changes = pruned.astype(float) - dense
    low, high = reference_intervals.of_paired_change(lost, gained, 40)

    assert (row["n_samples"], row["n_graded"], row["lost"], row["gained"]) == (40, 40, lost, gained)
    assert (row["accuracy_dense"], row["accuracy_pruned"]) == (about(dense.mean()), about(pruned.mean()))
    assert row["accuracy_change"] == about(changes.mean())
    assert row["mcnemar_p"] == about(stats.binomtest(lost, lost + gained).pvalue)
    assert (row["accuracy_change_low"], row["accuracy_change_high"]) == (about(low), about(high))


def test_no_flip_all_flips_one_sample_and_an_even_split_have_their_exact_p(ask: Ask) -> None:
    cases: dict[str, tuple[list[bool], list[bool], int, int, float]] = {
        "no flip": ([True] * 6, [True] * 6, 0, 0, 1.0),
        "all lost": ([True] * 6, [False] * 6, 6, 0, 2 * 0.5**6),
        "all gained": ([False] * 6, [True] * 6, 0, 6, 2 * 0.5**6),
        "one sample": ([True], [False], 1, 0, 1.0),
        "even split": ([True, False] * 3, [False, True] * 3, 3, 3, 1.0),
    }
    warehouse = Handmade()
    for task, (dense, pruned, *_) in cases.items():
        written(warehouse, "dense", dense, task)
        written(warehouse, RECIPE, pruned, task)
    rows = {row["task"]: row for row in strict(ask, warehouse)}

    for task, (dense, _, lost, gained, p) in cases.items():
        row = rows[task]
        assert (row["lost"], row["gained"], row["mcnemar_p"]) == (lost, gained, about(p))
        assert row["accuracy_change"] == about((gained - lost) / len(dense))
        # The interval and the test never contradict each other.
        assert (row["accuracy_change_low"] <= 0 <= row["accuracy_change_high"]) == (p >= 0.05)
        assert row["accuracy_change_low"] < row["accuracy_change_high"]


def test_samples_that_one_side_was_not_judged_on_are_counted_and_untested(ask: Ask) -> None:
    warehouse = Handmade()
    written(warehouse, "dense", [True, True, None, True, False, True, None])
    written(warehouse, RECIPE, [False, None, True, True, True, True, None])
    (row,) = strict(ask, warehouse)

    assert (row["n_samples"], row["n_graded"], row["lost"], row["gained"]) == (7, 4, 1, 1)
    assert (row["accuracy_dense"], row["accuracy_pruned"]) == (0.75, 0.75)
    ends = reference_intervals.of_paired_change(1, 1, 4)
    assert (row["accuracy_change_low"], row["accuracy_change_high"]) == (about(ends[0]), about(ends[1]))


def test_ungraded_samples_give_no_accuracy_no_test_and_no_place_in_the_family(ask: Ask) -> None:
    warehouse = Handmade()
    written(warehouse, "dense", [None, True])
    written(warehouse, RECIPE, [None, None])
    written(warehouse, "rtn-4bit", [None, False])
    rows = {row["recipe"]: row for row in strict(ask, warehouse)}

    nothing = ("accuracy_dense", "accuracy_change", "mcnemar_p", "holm_p", "log_likelihood_change", "margin_change")
    assert {rows[RECIPE][name] for name in nothing} == {None}
    assert (rows["rtn-4bit"]["n_tests"], rows["rtn-4bit"]["holm_p"]) == (1, 1.0)


def test_other_requests_under_the_same_name_are_no_pair(ask: Ask) -> None:
    warehouse = Handmade()
    task_sample(warehouse, "dense", "gsm8k", "a")
    task_sample(warehouse, "dense", "gsm8k", "b")
    task_sample(warehouse, RECIPE, "gsm8k", "a", is_correct=False)
    task_sample(warehouse, RECIPE, "gsm8k", "b", is_correct=False, sample_hash="five worked examples more")
    (row,) = strict(ask, warehouse)

    assert (row["n_samples"], row["lost"]) == (1, 1)


def test_holms_correction_follows_his_rule_on_ties_too(ask: Ask) -> None:
    warehouse = Handmade().variant("noise-batch", method="noise")
    lost = {"a": 0, "b": 9, "c": 5, "d": 9, "e": 2, "f": 7, "noise-batch": 9}
    written(warehouse, "dense", [True] * 10)
    written(warehouse, "dense", [True] * 10, task="other")
    for recipe, count in lost.items():
        written(warehouse, recipe, [False] * count + [True] * (10 - count))
    written(warehouse, "b", [True] * 10, task="other")
    rows = {row["recipe"]: row for row in strict(ask, warehouse) if row["task"] == "gsm8k"}
    p = {recipe: stats.binomtest(lost[recipe], lost[recipe]).pvalue if lost[recipe] else 1.0 for recipe in rows}

    def holm(recipe: str) -> float:
        """Return the largest (m − rank + 1)·p of the p-values that are not above this one, at most 1."""
        ordered = sorted(p.values())
        return max(min(1.0, (len(p) - at) * one) for at, one in enumerate(ordered) if one <= p[recipe])

    assert sorted(rows) == list("abcdef"), "noise is compared with no recipe"
    assert {recipe: row["holm_p"] for recipe, row in rows.items()} == {recipe: about(holm(recipe)) for recipe in rows}
    assert {row["n_tests"] for row in rows.values()} == {6}


def test_all_pairs_of_variants_are_compared_and_tested_as_one_family(ask: Ask) -> None:
    warehouse = Handmade().variant("noise-batch", method="noise")
    chance = np.random.default_rng(4)
    shares = {"dense": 0.9, RECIPE: 0.6, "a'b": 0.1, "noise-batch": 0.9}
    right = {recipe: (chance.random(30) < share).tolist() for recipe, share in shares.items()}
    right[RECIPE][3] = right["a'b"][20] = None
    for recipe, answers in right.items():
        written(warehouse, recipe, answers[:20], "one")
        written(warehouse, recipe, answers[20:], "two")
    task_sample(warehouse, "dense", "two", "asked otherwise", sample_hash="with examples")
    task_sample(warehouse, RECIPE, "two", "asked otherwise", is_correct=False)
    rows = {(row["recipe"], row["other_recipe"]): row for row in strict(ask, warehouse, "pairwise_flips")}

    recipes = ["dense", RECIPE, "a'b"]
    pairs = [(one, other) for one in recipes for other in recipes if one != other]
    assert sorted(rows) == sorted(pairs), "noise is compared with no recipe"
    p = {}
    for one, other in pairs:
        both = [(x, y) for x, y in zip(right[one], right[other], strict=True) if x is not None and y is not None]
        lost, gained = both.count((True, False)), both.count((False, True))
        p[one, other] = stats.binomtest(lost, lost + gained).pvalue
        row = rows[one, other]
        assert (row["n_tasks"], row["n_samples"], row["n_tests"]) == (2, len(both), 3)
        assert (row["n_right"], row["other_n_right"]) == (sum(x for x, _ in both), sum(y for _, y in both))
        assert (row["lost"], row["gained"], row["lost_share"]) == (lost, gained, about(lost / len(both)))
        assert row["mcnemar_p"] == about(p[one, other])
    # Holm's rule over the three pairs, each of which has two rows.
    ordered = sorted(p.values())[::2]
    for pair, one in p.items():
        steps = [min(1.0, (3 - at) * each) for at, each in enumerate(ordered) if each <= one * (1 + 1e-9)]
        assert rows[pair]["holm_p"] == about(max(steps))


def test_holms_family_is_the_recipes_of_one_study_and_a_second_study_changes_nothing(ask: Ask) -> None:
    def found(studies: dict[str, str]) -> dict[str, tuple[str, int, float]]:
        warehouse = Handmade()
        warehouse.studies = studies
        written(warehouse, "dense", [True] * 10)
        for count, recipe in enumerate(studies, start=5):
            written(warehouse, recipe, [False] * count + [True] * (10 - count))
        return {row["recipe"]: (row["study"], row["n_tests"], row["holm_p"]) for row in strict(ask, warehouse)}

    first = {"a": "one", "b": "one"}
    alone, both = found(first), found(first | {"c": "two", "d": "two", "e": "two"})
    assert alone == {recipe: both[recipe] for recipe in first}
    # Five and six of ten answers lost, at two tests; seven to nine at three.
    assert {recipe: p for recipe, (*_, p) in both.items()} == {
        "a": about(2 * 0.5**5),
        "b": about(2 * 2 * 0.5**6),
        "c": about(2 * 0.5**7),
        "d": about(2 * 2 * 0.5**8),
        "e": about(3 * 2 * 0.5**9),
    }
    assert [n for _, n, _ in both.values()] == [2, 2, 3, 3, 3]


def test_targets_move_in_log_likelihood_and_margin_before_an_answer_turns(ask: Ask) -> None:
    chance = np.random.default_rng(3)
    dense, pruned = (np.float32(-chance.exponential(3, (12, 4))).astype(float) for _ in range(2))
    size, target = chance.integers(3, 20, (12, 4)), chance.integers(0, 4, 12)
    warehouse = Handmade()
    for recipe, likelihoods in (("dense", dense), (RECIPE, pruned)):
        for sample, row in enumerate(likelihoods):
            options = {"log_likelihoods": row.tolist(), "target": int(target[sample])}
            per_byte = np.float32(row / size[sample]).astype(float).tolist()
            task_sample(warehouse, recipe, "arc", f"{sample:02d}", scoring="full_text", per_byte=per_byte, **options)
            task_sample(warehouse, recipe, "arc", f"{sample:02d}", scoring="letter", **options)
    rows = {row["metric"]: row for row in ask(warehouse, "task_comparisons")}

    def figures(likelihoods: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for every sample: log-likelihood of the target, its margin over the best other, if it is the best."""
        samples = np.arange(12)
        own = likelihoods[samples, target]
        others = np.where(np.eye(4, dtype=bool)[target], -np.inf, likelihoods).max(axis=1)
        return own, own - others, own > others

    for metric, scale in (("accuracy", 1), ("accuracy_letter", 1), ("accuracy_per_byte", size)):
        before, after = (figures(likelihoods / scale) for likelihoods in (dense, pruned))
        row = rows[metric]
        assert row["lost"] == int((before[2] & ~after[2]).sum())
        assert row["gained"] == int((after[2] & ~before[2]).sum())
        for name, place in (("log_likelihood_change", 0), ("margin_change", 1)):
            changes = after[place] - before[place]
            low, high = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
            assert row[name] == pytest.approx(changes.mean(), rel=1e-5)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), rel=1e-3)


def test_the_first_of_equal_options_answers_and_one_option_has_no_margin(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe in ("dense", RECIPE):
        task_sample(warehouse, recipe, "tie", "a", scoring="letter", log_likelihoods=[-1, -1, -1], target=1)
        # One option is right where it is the likeliest text of all, which only the harness knows.
        task_sample(warehouse, recipe, "one", "a", scoring="full_text", log_likelihoods=[-2])
        warehouse.rows["task_samples"][-1]["is_correct"] = False
    answers = [row for row in ask(warehouse, "task_answers") if row["recipe"] == RECIPE]
    rows = {row["task"]: row for row in answers if row["metric"] != "accuracy_per_byte"}

    assert (rows["tie"]["answer"], rows["tie"]["is_correct"], rows["tie"]["target_margin"]) == ("A", False, 0.0)
    assert (rows["one"]["answer"], rows["one"]["is_correct"], rows["one"]["target_margin"]) == ("A", False, None)
    # As named in task_scores; over its bytes a single option gives the same.
    assert [row["metric"] for row in answers if row["task"] == "one"] == ["lm_eval/acc"]


def test_a_single_option_cannot_be_guessed_so_its_task_counts_as_lost(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe, value in (("dense", 0.6), (RECIPE, 0.15)):
        warehouse.variant(recipe)
        task_sample(warehouse, recipe, "lambada", "a", scoring="full_text", log_likelihoods=[-2])
        task_score(warehouse, recipe, "lambada", value, metric="lm_eval/acc", standard_error=0.01)
    (row,) = ask(warehouse, "task_losses")

    assert (row["kind"], row["n_tasks"], row["loss"]) == ("non_generative", 1, about(0.75))


def test_a_score_at_the_end_of_its_scale_has_an_error(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe, agreement, right in (("dense", 1.0, 0.75), (RECIPE, 0.0, 0.0)):
        warehouse.variant(recipe)
        for metric, value in (("agreement", agreement), ("exact_match", right)):
            error = math.sqrt(value * (1 - value) / 8)
            task_score(warehouse, recipe, "sums", value, metric=metric, kind="generative", n=8, standard_error=error)
    losses = {row["measure"]: row for row in ask(warehouse, "task_losses")}

    # That the dense model agrees with itself is certain; 0 of 8 may be up to a third.
    wilson = stats.binomtest(0, 8).proportion_ci(method="wilson")
    agreement, score = losses["agreement"], losses["score"]
    assert (agreement["loss"], agreement["loss_high"], agreement["loss_low"]) == (1.0, 1.0, about(1 - wilson.high))
    assert agreement["loss_se"] == about(wilson.high / (2 * stats.norm.ppf(0.975)))
    assert (score["loss"], score["loss_high"]) == (1.0, 1.0)
    assert score["loss_low"] < agreement["loss_low"]


def test_texts_are_weighted_by_their_bytes(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe, first, second in (("dense", -200.0, -30.0), (RECIPE, -260.0, -45.0)):
        for sample, nats, size in (("a", first, 100), ("b", second, 10)):
            of_text = {"options": None, "target": None, "answer": None, "is_correct": None, "target_index": 0}
            task_sample(warehouse, recipe, "wiki", sample, scoring="letter", log_likelihoods=[nats])
            warehouse.rows["task_samples"][-1].update(
                of_text, scoring="rolling", option_log_likelihoods_per_byte=[nats / size]
            )
    (row,) = ask(warehouse, "task_comparisons")

    # The logarithm of dense over pruned perplexity a byte, of bytes as they are read.
    assert (row["metric"], row["log_likelihood_change"]) == ("byte_perplexity", about((-305 + 230) / 110))
    assert (row["n_graded"], row["mcnemar_p"]) == (0, None)
    assert ask(warehouse, "q20_answers_flipped") == ask(warehouse, "task_flips") == []


def test_every_changed_answer_is_listed_with_its_direction(ask: Ask) -> None:
    warehouse = Handmade()
    cases = {
        "kept": (True, "12", True, "12"),
        "lost": (True, "12", False, None),
        "gained": (False, None, True, "12"),
        "wrong in another way": (False, "3", False, "4"),
        "unknown": (None, "3", None, "4"),
    }
    for sample, (before, said, after, says) in cases.items():
        task_sample(warehouse, "dense", "gsm8k", sample, is_correct=before, answer=said)
        task_sample(warehouse, RECIPE, "gsm8k", sample, is_correct=after, answer=says)
    rows = {row["sample_id"]: row for row in strict(ask, warehouse, "task_flips")}

    assert {sample: row["direction"] for sample, row in rows.items()} == {
        "lost": "lost",
        "gained": "gained",
        "wrong in another way": "other",
        "unknown": "other",
    }
    assert (rows["lost"]["answer_dense"], rows["lost"]["answer_pruned"]) == ("12", None)
    assert rows["lost"]["question"] == "question lost"


def test_a_program_is_judged_once_and_not_as_text(ask: Ask) -> None:
    warehouse = Handmade()
    for recipe in ("dense", RECIPE):
        for sample in ("a", "b"):
            task_sample(warehouse, recipe, "humaneval", sample, verdict="passed")
        task_sample(warehouse, recipe, "humaneval", "c", is_correct=None, verdict="not_run")
    (row,) = ask(warehouse, "task_comparisons")

    assert (row["metric"], row["n_samples"], row["n_graded"], row["accuracy_pruned"]) == ("pass_at_1", 3, 2, 1.0)


def test_the_best_constant_answer_is_a_guess_where_letters_or_equal_options_allow_one(ask: Ask) -> None:
    warehouse = Handmade()
    cases = {"boolq": (["no", "yes"], "full_text"), "letters": (["A", "B"], "letter"), "texts": (None, "full_text")}
    for task, (options, scoring) in cases.items():
        for sample in range(10):
            target = int(sample < 7)
            given = {} if options is None else {"options": options}
            nats = [-2.0, -1.0] if target else [-1.0, -2.0]
            task_sample(
                warehouse, "dense", task, f"s{sample}", scoring=scoring, log_likelihoods=nats, target=target, **given
            )
        for recipe, score in (("dense", 1.0), (RECIPE, 0.7)):
            task_score(warehouse, recipe, task, score, metric="accuracy", n=100)
            task_score(warehouse, recipe, task, score, metric="agreement", n=100)
    query = "select task_group, metric, guess from score_pairs"
    assert {(row["task_group"], row["metric"]): row["guess"] for row in ask(warehouse, query)} == {
        ("boolq", "accuracy"): about(0.7),
        ("letters", "accuracy"): about(0.7),
        ("texts", "accuracy"): about(0.5),
        ("boolq", "agreement"): about(0.5),
        ("letters", "agreement"): about(0.5),
        ("texts", "agreement"): about(0.5),
    }

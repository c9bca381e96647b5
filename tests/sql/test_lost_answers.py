"""Answers three ways (lost_answers, q41), against counts by hand and intervals computed in other ways."""

import pytest

from tests.sql import reference_intervals
from tests.sql.built_tasks import task_sample
from tests.sql.test_questions_tasks import about
from tests.sql.warehouse_builder import Ask, Handmade, Row

RECIPE = "wanda-50"
# Whether the dense text, the fork and the variant's text are right; None where no token flips.
CASES: tuple[tuple[bool, bool | None, bool], ...] = (
    (True, None, True),
    (True, False, False),
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (False, False, True),
    (False, False, False),
)


def answered(warehouse: Handmade, *cases: tuple[bool, bool | None, bool], recipe: str = RECIPE) -> None:
    """Add graded prompts with their answers three ways; the dense rows belong to the first recipe that is added."""
    for number, (dense, fork, pruned) in enumerate(cases):
        if recipe == RECIPE:
            warehouse.generation("dense", f"p{number}", is_correct=dense, answer="12" if dense else "13")
        warehouse.generation(
            recipe,
            f"p{number}",
            flip=None if fork is None else 2,
            is_correct=pruned,
            answer="12" if pruned else "14",
            text_fork=None if fork is None else "so",
            answer_fork=None if fork is None else "12" if fork else "13",
            is_correct_fork=fork,
        )


def of_metric(rows: list[Row], metric: str) -> Row:
    (row,) = [row for row in rows if row["metric"] == metric]
    return row


def test_lost_answers_are_counted_by_what_loses_them(ask: Ask) -> None:
    warehouse = Handmade()
    answered(warehouse, *CASES)
    warehouse.generation("dense", "not graded")
    warehouse.generation(RECIPE, "not graded", flip=1, text_fork="so")
    rows = ask(warehouse, "lost_answers")
    share = reference_intervals.wilson(1, 2)
    # The macro's change is a gain; two answers are lost by the fork and one is gained, and after it the reverse.
    first, following = (reference_intervals.of_paired_change(*counts, 7) for counts in ((1, 2), (2, 1)))

    assert of_metric(rows, "exact_match") == {
        "model": "tiny", "recipe": RECIPE, "text_source": "(prompts)", "metric": "exact_match", "measure": "score",
        "is_noise": False, "n_answers": 7, "n_flipped": 6, "n_right_dense": 4, "n_right_fork": 3,
        "n_right_pruned": 4, "n_lost": 2, "n_lost_by_first_token": 1, "n_lost_after": 1, "n_recovered": 1,
        "n_gained": 2, "n_gained_by_first_token": 1, "first_token_share": 0.5,
        "first_token_share_low": about(share[0]), "first_token_share_high": about(share[1]), "unrelated_share": 1.0,
        "first_token_loss": about(1 / 7), "first_token_loss_low": about(first[0]),
        "first_token_loss_high": about(first[1]), "following_loss": about(-1 / 7),
        "following_loss_low": about(following[0]), "following_loss_high": about(following[1]),
    }  # fmt: skip


def chosen(right: int, prompts: int) -> Handmade:
    """Build two maths prompts, of which one answer is right, and some with four options; the variant loses them all."""
    warehouse = Handmade()
    answered(warehouse, (True, True, False), (False, False, False))
    for number in range(prompts):
        warehouse.generation("dense", f"c{number}", answer="A", is_correct=number < right)
        wrong = {"answer": "B", "is_correct": False, "answer_fork": "C", "is_correct_fork": False, "text_fork": "C"}
        warehouse.generation(RECIPE, f"c{number}", flip=0, **wrong)
        for temperature in (0.5, 1.0):
            shares = [0.4, 0.3, 0.1, 0.1]
            warehouse.options("dense", f"c{number}", shares, shares, temperature=temperature)
    return warehouse


# With eight answers to four options, five right ones are the fewest whose whole Wilson interval is above 1/4.
@pytest.mark.parametrize(("right", "counted", "lost"), [(0, 2, 1), (4, 2, 1), (5, 10, 6), (8, 10, 9)])
def test_answers_to_options_count_only_where_the_dense_model_does_not_guess(
    ask: Ask, right: int, counted: int, lost: int
) -> None:
    assert (reference_intervals.wilson(right, 8)[0] > 1 / 4) == (right > 4)
    row = of_metric(ask(chosen(right, 8), "lost_answers"), "exact_match")

    assert (row["n_answers"], row["n_lost"], row["n_lost_by_first_token"]) == (counted, lost, lost - 1)
    # An unrelated answer is the right one of four in a quarter of cases, and never the right number.
    assert row["unrelated_share"] == about((1 + 0.75 * (lost - 1)) / lost)


def test_agreement_counts_all_options_and_says_what_an_unrelated_answer_loses(ask: Ask) -> None:
    rows = [row for table in ("lost_answers", "q41_lost_answers") for row in ask(chosen(0, 8), table)]

    for row in [row for row in rows if row["metric"] == "agreement"]:
        assert (row["n_answers"], row["n_lost"], row["unrelated_share"]) == (10, 10, about((2 + 8 * 0.75) / 10))
    assert len(rows) == 4


def test_agreement_takes_the_dense_answer_as_the_right_one(ask: Ask) -> None:
    warehouse = Handmade()
    answered(warehouse, *CASES)
    # Without an answer of the dense model nothing can agree; a text that has none any more has lost it.
    for prompt, dense, pruned in (("a", None, "12"), ("b", "12", None)):
        warehouse.generation("dense", prompt, answer=dense)
        warehouse.generation(RECIPE, prompt, flip=0, text_fork="12", answer_fork="12", answer=pruned)
    row = of_metric(ask(warehouse, "lost_answers"), "agreement")

    # Forks agree with the dense model in the first, third, sixth and seventh case and in b; variants where both are 12.
    assert (row["measure"], row["n_answers"], row["n_right_dense"]) == ("agreement", 8, 8)
    assert (row["n_right_fork"], row["n_right_pruned"]) == (5, 2)
    assert (row["n_lost"], row["n_lost_by_first_token"], row["n_lost_after"], row["n_gained"]) == (6, 2, 4, 0)


@pytest.mark.parametrize(
    ("cases", "lost", "first", "share"),
    [
        ([(True, None, True)] * 4, 0, 0, None),
        ([(True, False, False)] * 4, 4, 4, 1.0),
        ([(True, True, False)] * 4, 4, 0, 0.0),
        ([(False, False, True), (False, False, False)] * 2, 0, 0, None),
    ],
    ids=["none lost", "all lost by one token", "all lost after it", "none right"],
)
def test_no_loss_all_lost_and_none_right_have_their_ends(
    ask: Ask, cases: list[tuple[bool, bool | None, bool]], lost: int, first: int, share: float | None
) -> None:
    warehouse = Handmade()
    answered(warehouse, *cases)
    row = of_metric(ask(warehouse, "lost_answers"), "exact_match")
    interval = (None, None) if share is None else tuple(map(about, reference_intervals.wilson(first, lost)))

    assert (row["n_lost"], row["n_lost_by_first_token"], row["first_token_share"]) == (lost, first, share)
    assert (row["first_token_share_low"], row["first_token_share_high"]) == interval
    total = (row["n_right_dense"] - row["n_right_pruned"]) / 4
    assert row["first_token_loss"] + row["following_loss"] == about(total)
    assert row["first_token_loss_low"] <= row["first_token_loss"] <= row["first_token_loss_high"]


def test_a_task_has_its_strict_lenient_and_agreeing_answers(ask: Ask) -> None:
    warehouse = Handmade()
    for sample, strict, lenient in (("a", False, True), ("b", False, False), ("c", True, True)):
        task_sample(warehouse, "dense", "gsm8k", sample)
        fork = {"first_flip_step": 4, "text_fork": "so", "is_correct_fork": strict, "is_correct_lenient_fork": lenient}
        fork |= {"answer_lenient_fork": "12" if lenient else "13"}
        task_sample(warehouse, RECIPE, "gsm8k", sample, is_correct=False, **fork)
    task_sample(warehouse, "dense", "gsm8k", "other worked examples")
    task_sample(warehouse, RECIPE, "gsm8k", "other worked examples", is_correct=False, sample_hash="more")
    rows = {row["metric"]: row for row in ask(warehouse, "lost_answers")}

    assert set(rows) == {"exact_match", "exact_match_lenient", "agreement"}
    for metric, first in (("exact_match", 2), ("exact_match_lenient", 1), ("agreement", 1)):
        row = rows[metric]
        assert (row["text_source"], row["n_answers"], row["n_flipped"], row["n_lost"]) == ("gsm8k", 3, 3, 3)
        assert (row["n_lost_by_first_token"], row["n_lost_after"]) == (first, 3 - first)


def test_a_program_has_one_score_and_one_that_did_not_run_has_none(ask: Ask) -> None:
    warehouse = Handmade()
    fork = {"first_flip_step": 4, "text_fork": "so", "is_correct_fork": True, "answer_lenient_fork": "12"}
    for sample, outcome, is_correct in (("a", "failed", False), ("b", "passed", True), ("c", "not_run", None)):
        task_sample(
            warehouse, "dense", "code", sample, is_correct=None if is_correct is None else True, verdict="passed"
        )
        flip = fork if is_correct is False else {}
        task_sample(warehouse, RECIPE, "code", sample, is_correct=is_correct, verdict=outcome, **flip)
    rows = {row["metric"]: row for row in ask(warehouse, "lost_answers")}

    assert set(rows) == {"pass_at_1", "agreement"}
    row = rows["pass_at_1"]
    assert (row["n_answers"], row["n_flipped"], row["n_lost"], row["n_lost_after"]) == (2, 1, 1, 1)


def test_rows_of_older_files_which_have_no_forks_do_not_count(ask: Ask) -> None:
    warehouse = Handmade()
    answered(warehouse, (True, None, True), (True, None, True))
    warehouse.generation("dense", "flipped", is_correct=True)
    warehouse.generation(RECIPE, "flipped", flip=0, is_correct=False)
    for recipe in ("dense", RECIPE):
        task_sample(warehouse, recipe, "gsm8k", "a", is_correct=recipe == "dense", token_ids=None)

    assert ask(warehouse, "lost_answers") == []


def test_q41_shows_noise_as_the_largest_loss_beside_each_variant(ask: Ask) -> None:
    warehouse = Handmade()
    answered(warehouse, *CASES)
    for name, cases in (("noise-batch", CASES[:1] * 7), ("noise-bfloat16", (*CASES[:1], (True, False, False)))):
        warehouse.variant(name, method="noise")
        answered(warehouse, *cases, recipe=name)
    rows = ask(warehouse, "select * from q41_lost_answers where metric = 'exact_match'")
    noise = ask(warehouse, "select recipe, n_answers, is_noise from lost_answers where metric = 'exact_match'")

    assert [row["recipe"] for row in rows] == [RECIPE]
    assert (rows[0]["first_token_loss_noise"], rows[0]["following_loss_noise"]) == (0.5, about(0))
    assert {(row["recipe"], row["is_noise"]) for row in noise} == {
        (RECIPE, False),
        ("noise-batch", True),
        ("noise-bfloat16", True),
    }

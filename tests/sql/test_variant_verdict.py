"""Verdicts on handmade evidence, with what must be said of each, and the layers with the most damage."""

from functools import cache

import numpy as np
import polars as pl
import pytest

from prunescope.pipelines.core.verdict_rule import MIN_UNITS
from prunescope.pipelines.reporting.advice import BROKEN, CHOOSING_ONLY, NOT_SAFE, SAFE, TOO_LITTLE
from tests.benchmarks.verdicts import judged, rates, simulated
from tests.sql.built_tasks import task_sample, task_score
from tests.sql.warehouse_builder import Ask, Handmade, Memory, Row, prepared

# Dense model, noise floor and pruned variants of every case.
NOISE = "noise-batch"
KEPT, CHANGED = [0.4, 0.3], [0.3, 0.4]


def by_recipe(rows: list[Row]) -> dict[str, Row]:
    return {row["recipe"]: row for row in rows}


def started(*recipes: str) -> Handmade:
    """Build the variants of a model with a noise floor."""
    warehouse = Handmade().model().variant("dense").variant(NOISE, method="noise")
    for recipe in recipes:
        warehouse.variant(recipe)
    return warehouse


def prompted(warehouse: Handmade, recipe: str, changes: list[int], tokens: int = 10) -> None:
    """Build a text a prompt, of whose teacher-forced tokens so many change."""
    for index, changed in enumerate(changes):
        for step in range(tokens):
            warehouse.step(recipe, f"p{index}", step, 0.01 * changed, flips=step < changed)
        warehouse.generation(recipe, f"p{index}", flip=0 if changed else None)


def questioned(warehouse: Handmade, recipe: str, changed: int, questions: int) -> None:
    """Build questions, of which so many change their most likely option."""
    for index in range(questions):
        warehouse.options(recipe, f"q{index}", KEPT, CHANGED if index < changed else KEPT)


def answered(warehouse: Handmade, recipe: str, task: str, right: int, answers: int, *, kind: str) -> None:
    """Build a task's answers, the first ones right."""
    share = right / answers
    options = {"scoring": "full_text", "log_likelihoods": [-1.0, -2.0, -3.0, -4.0]}
    for index in range(answers):
        is_right = index < right
        given = options | {"target": 0 if is_right else 1} if kind == "non_generative" else {"is_correct": is_right}
        task_sample(warehouse, recipe, task, f"s{index}", **given)
    metric = "accuracy" if kind == "non_generative" else "exact_match"
    task_score(warehouse, recipe, task, share, metric=metric, n=answers, kind=kind)


@cache
def memory() -> Memory:
    return Memory()


def verdicts(warehouse: Handmade) -> dict[str, Row]:
    memory().fill(warehouse)
    connection = memory().connection
    connection.execute("begin")
    try:
        rows = prepared(connection, "from variant_verdict left join variant_ranking using (model, recipe)")
        return by_recipe(rows.pl().to_dicts())
    finally:
        connection.execute("rollback")  # the tables that were computed are views again


def said(rows: dict[str, Row]) -> dict[str, str]:
    return {recipe: row["verdict"] for recipe, row in rows.items()}


def test_the_rule_follows_from_the_ends_of_both_intervals() -> None:
    cases = {
        ((0.0, 0.1), (-0.1, 0.1)): SAFE,
        ((0.0, 0.11), (0.0, 0.1)): TOO_LITTLE,
        ((0.11, 0.9), (0.0, 0.1)): CHOOSING_ONLY,
        ((0.11, 0.9), (0.2, 0.49)): CHOOSING_ONLY,
        ((0.0, 0.05), (0.11, 0.3)): NOT_SAFE,
        ((0.05, 0.2), (0.11, 0.3)): NOT_SAFE,
        ((0.11, 0.9), (0.2, 0.5)): NOT_SAFE,
        ((0.11, 0.9), None): NOT_SAFE,
        ((0.11, 0.9), (0.5, 0.8)): BROKEN,
        (None, (0.5, 0.8)): BROKEN,
        (None, (0.0, 0.1)): TOO_LITTLE,
        ((0.0, 0.1), None): TOO_LITTLE,
        (None, None): TOO_LITTLE,
    }
    with Handmade().opened() as connection:
        for (writing, choosing), expected in cases.items():
            ends = [*(writing or (None, None)), *(choosing or (None, None))]
            query = "select verdict_of(?::double, ?::double, ?::double, ?::double, 0.1), verdict_min_units()"
            assert connection.execute(query, ends).fetchall() == [(expected, MIN_UNITS)], (writing, choosing)


def test_variants_that_change_nothing_are_safe_and_all_of_them_are_nearest() -> None:
    warehouse = started("a", "b", "c")
    for recipe in ("dense", NOISE, "a", "b", "c"):
        prompted(warehouse, recipe, [0] * 40)
        questioned(warehouse, recipe, 0, 40)
    rows = verdicts(warehouse)

    assert set(said(rows).values()) == {SAFE}
    assert {row["evidence_writing"] for row in rows.values()} == {"tokens"}
    assert all(row["is_nearest"] and row["place"] == 1 for row in rows.values())


def test_the_same_on_few_prompts_is_too_little_evidence_and_says_how_many_would_do() -> None:
    warehouse = started("a")
    for recipe in ("dense", "a"):
        prompted(warehouse, recipe, [0] * 12)
        questioned(warehouse, recipe, 0, 12)
    [row] = verdicts(warehouse).values()

    assert (row["verdict"], row["undecided"], row["unit_needed"]) == (
        TOO_LITTLE,
        "both",
        "prompts and as many questions",
    )
    # None of 12 prompts: up to z² / (12 + z²) = 0.242 of the tokens may change; 12 · (0.242 / 0.1)² = 71 would do.
    assert row["units_needed"] == 71


def test_more_of_one_kind_is_asked_for_only_where_it_can_change_the_verdict() -> None:
    warehouse = started("without questions", "lost", "at the tolerance")
    for recipe, changed in (("dense", 0), ("without questions", 0), ("lost", 3), ("at the tolerance", 1)):
        prompted(warehouse, recipe, [changed] * 12)
        if recipe in {"dense", "lost"}:
            questioned(warehouse, recipe, 0, 12)
    rows = verdicts(warehouse)

    assert {recipe: row["undecided"] for recipe, row in rows.items()} == {
        "without questions": None,
        "lost": "writing",
        "at the tolerance": None,
    }
    assert rows["lost"]["units_needed"] == MIN_UNITS
    with warehouse.opened() as connection:
        needed = prepared(connection, "select units_needed from decisive_evidence where recipe = 'at the tolerance'")
        assert needed.fetchall() == [(None,)], "no number of prompts tells a loss of 0.1 from 0.1"


def test_one_prompt_says_neither_which_variant_is_safe_nor_which_is_nearest() -> None:
    warehouse = started("a", "b")
    for recipe, changed in (("dense", 0), ("a", 1), ("b", 9)):
        prompted(warehouse, recipe, [changed])
    rows = verdicts(warehouse)

    assert set(said(rows).values()) == {TOO_LITTLE}
    assert {row["is_nearest"] for row in rows.values()} == {None}


def test_a_variant_that_cannot_be_compared_leaves_the_nearest_unknown() -> None:
    """Of the third variant another model's prompts were measured, so that it shares none with the others."""
    warehouse = started("a", "b", "c")
    for recipe, changes in (("dense", [0] * 50), ("a", [1, 2] * 20), ("b", [2, 1] * 20)):
        prompted(warehouse, recipe, changes)
    for index in range(40, 50):
        warehouse.step("c", f"p{index}", 0, 0.1 + index, flips=True)
        warehouse.generation("c", f"p{index}", flip=0)
    rows = verdicts(warehouse)

    assert {row["is_nearest"] for row in rows.values()} == {None}


def test_more_writing_could_make_a_lossy_choice_one_for_choosing_only() -> None:
    warehouse = started("a")
    for recipe, changes in (("dense", [0] * 40), ("a", [0, 0, 0, 3] * 10)):
        prompted(warehouse, recipe, changes)
        questioned(warehouse, recipe, 40 if recipe == "a" else 0, 200)
    [row] = verdicts(warehouse).values()

    assert (row["verdict"], row["undecided"], row["unit_needed"]) == (NOT_SAFE, "writing", "prompts")
    assert row["units_needed"] > 40


def test_where_one_number_is_not_known_none_is_given_for_both() -> None:
    """A tenth of the tokens changes, which no number of prompts would decide."""
    warehouse = started("a")
    for recipe, changes in (("dense", [0] * 40), ("a", [0, 2] * 20)):
        prompted(warehouse, recipe, changes)
        questioned(warehouse, recipe, 3 if recipe == "a" else 0, 32)
    [row] = verdicts(warehouse).values()

    assert (row["verdict"], row["loss_writing"], row["undecided"]) == (TOO_LITTLE, pytest.approx(0.1), "both")
    assert row["units_needed"] is None


def test_ties_are_all_nearest_whatever_their_names() -> None:
    warehouse = started("a", "b", "far")
    rng = np.random.default_rng(0)
    changes = rng.integers(0, 4, 40).tolist()
    for recipe, of_recipe in (("dense", [0] * 40), ("b", changes), ("a", changes[::-1]), ("far", [8, 9] * 20)):
        prompted(warehouse, recipe, of_recipe)
    rows = verdicts(warehouse)

    assert {recipe: row["is_nearest"] for recipe, row in rows.items()} == {"a": True, "b": True, "far": False}
    assert {recipe: row["place"] for recipe, row in rows.items()} == {"a": 1, "b": 1, "far": 3}
    assert rows["far"]["difference_low"] > rows["far"]["difference"] / 2


def test_a_measure_in_which_all_variants_are_at_the_limit_does_not_rank_them() -> None:
    """Every text flips, which has the narrowest interval and tells nothing apart."""
    warehouse = started("a", "b")
    for recipe, changes in (("dense", [0] * 40), ("a", [1, 2] * 20), ("b", [6, 9] * 20)):
        prompted(warehouse, recipe, changes)
    rows = verdicts(warehouse)

    assert {row["measure"] for row in rows.values()} == {"kl_step0_nats"}
    assert (rows["a"]["is_nearest"], rows["b"]["is_nearest"]) == (True, False)


def test_a_huge_variance_leaves_the_verdict_open() -> None:
    """Four of 40 prompts change wholly, so that a tenth of the tokens does, give or take as much."""
    warehouse = started("a")
    for recipe, changes in (("dense", [0] * 40), ("a", [10] * 5 + [0] * 35)):
        prompted(warehouse, recipe, changes)
        questioned(warehouse, recipe, 0, 40)
    [row] = verdicts(warehouse).values()

    assert row["verdict"] == TOO_LITTLE
    # Student's t over 40 prompts.
    assert row["loss_writing"] - row["loss_writing_low"] == pytest.approx(
        2.0227 * np.sqrt(0.125 * 0.875 / 39), rel=1e-3
    )
    assert row["units_needed"] == pytest.approx(40 * (2.0227 * np.sqrt(0.125 * 0.875 / 39) / 0.025) ** 2, abs=1.5)


def test_a_loss_as_large_as_that_of_the_noise_floor_is_none() -> None:
    warehouse = started("a", "b")
    for recipe, first in (("dense", [0]), (NOISE, [2, 3]), ("a", [2, 3]), ("b", [5, 6])):
        prompted(warehouse, recipe, first * (40 // len(first)))
        questioned(warehouse, recipe, {NOISE: 16, "a": 16, "b": 16}.get(recipe, 0), 400)
    rows = verdicts(warehouse)

    assert said(rows) == {"a": SAFE, "b": CHOOSING_ONLY}
    assert rows["a"]["loss_writing"] == rows["a"]["loss_choosing"] == 0
    assert rows["b"]["loss_writing"] == pytest.approx(0.3)


def test_four_answers_are_no_basis_where_forty_prompts_are() -> None:
    warehouse = started("a")
    for recipe, right in (("dense", 4), ("a", 0)):
        prompted(warehouse, recipe, [0] * 40)
        questioned(warehouse, recipe, 0, 40)
        answered(warehouse, recipe, "gsm8k", right, 4, kind="generative")
        answered(warehouse, recipe, "arc", right, 4, kind="non_generative")
    [row] = verdicts(warehouse).values()

    assert (row["verdict"], row["evidence_writing"], row["evidence_choosing"]) == (SAFE, "tokens", "options")


def test_a_task_that_the_dense_model_does_not_solve_beyond_a_guess_is_no_basis() -> None:
    warehouse = started("a")
    for recipe, right in (("dense", 27), ("a", 2)):  # a guess is right in 25 of 100
        prompted(warehouse, recipe, [0] * 2)
        answered(warehouse, recipe, "arc", right, 100, kind="non_generative")
        questioned(warehouse, recipe, 0, 40)
    [row] = verdicts(warehouse).values()

    assert row["evidence_choosing"] == "options"


def test_letters_of_the_same_questions_are_no_further_answers() -> None:
    """Sixteen questions, scored by whole options and by letters."""
    warehouse = started("a")
    for recipe in ("dense", "a"):
        prompted(warehouse, recipe, [0] * 2)
        for index in range(16):
            for scoring in ("full_text", "letter"):
                is_same = recipe == "dense" or index < 12
                task_sample(warehouse, recipe, "arc", f"s{index}", scoring=scoring, is_answer_same=is_same)
        task_score(warehouse, recipe, "arc", 1 if recipe == "dense" else 0.75, metric="agreement", n=16)
    [row] = verdicts(warehouse).values()

    assert (row["evidence_choosing"], row["n_choosing"], row["verdict"]) == ("agreement", 16, TOO_LITTLE)


def test_right_answers_count_more_than_tokens_unless_they_leave_the_verdict_open() -> None:
    warehouse = started("kept", "lost", "open")
    for recipe, right, changes in (("dense", 90, 0), ("kept", 90, 3), ("lost", 20, 0), ("open", 80, 3)):
        prompted(warehouse, recipe, [changes, changes + 1] * 20 if changes else [0] * 40)
        answered(warehouse, recipe, "gsm8k", right, 100, kind="generative")
        answered(warehouse, recipe, "arc", 90, 100, kind="non_generative")
    rows = verdicts(warehouse)

    assert said(rows) == {"kept": SAFE, "lost": CHOOSING_ONLY, "open": CHOOSING_ONLY}
    assert {recipe: row["evidence_writing"] for recipe, row in rows.items()} == {
        "kept": "score",
        "lost": "score",
        "open": "tokens",
    }


def test_one_task_against_many_weighs_as_one() -> None:
    """Of five tasks that choose, one is gone: a fifth is lost, less than half."""
    warehouse = started("a")
    for recipe in ("dense", "a"):
        prompted(warehouse, recipe, [0] * 40)
        for task in range(5):
            right = 10 if recipe == "a" and not task else 90
            answered(warehouse, recipe, f"arc{task}", right, 100, kind="non_generative")
    [row] = verdicts(warehouse).values()

    assert row["loss_choosing"] == pytest.approx((80 / 65) / 5)
    assert (row["verdict"], row["n_choosing"], row["undecided"]) == (NOT_SAFE, 500, None)


def test_a_variant_without_questions_can_be_unsafe_but_not_safe() -> None:
    warehouse = started("a", "b")
    for recipe, changes in (("dense", [0] * 40), ("a", [0] * 40), ("b", [5, 6] * 20)):
        prompted(warehouse, recipe, changes)
    rows = verdicts(warehouse)

    assert said(rows) == {"a": TOO_LITTLE, "b": NOT_SAFE}
    assert rows["a"]["loss_choosing"] is None


def test_loops_are_counted_with_the_earliest_step_and_the_dense_models_own(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("a")
    for recipe, collapses in (("dense", (None, 9)), ("a", (7, 4))):
        for index, step in enumerate(collapses):
            warehouse.generation(recipe, f"p{index}")
            warehouse.where("generations", recipe=recipe, prompt_id=f"p{index}")[0].update(collapse_step=step)
    [row] = ask(warehouse, "variant_verdict")

    assert (row["prompts_collapsed"], row["collapse_step_first"], row["prompts_collapsed_dense"]) == (2, 4, 1)


def carried(*scopes: str, isolated: int = 2) -> Handmade:
    """Build two changed sublayers, the second with three times the KL of the first, and an unchanged one."""
    warehouse = Handmade().model().variant("dense").variant("a")
    for layer, kl in ((0, 0.1), (1, 0.3)):
        warehouse.step("a", "p", layer, kl)
        for scope in scopes:
            if scope == "local" or layer < isolated:
                size = kl if scope == "local" else 4 - 10 * kl
                warehouse.transition("a", "p", 0, size, layer=layer, scope=scope)
        warehouse.transition("a", "p", 0, 9.0, layer=layer, sublayer="mlp", is_changed=False)
    return warehouse


def test_a_sublayers_share_is_of_the_sum_over_those_that_were_changed(ask: Ask) -> None:
    rows = ask(carried("local"), "select * from layer_kl_share order by place_in_order")

    assert [(row["layer"], row["sublayer"], row["scope"]) for row in rows] == [
        (1, "attn", "local"),
        (0, "attn", "local"),
    ]
    assert [row["share_of_kl"] for row in rows] == pytest.approx([0.75, 0.25])


def test_isolated_effects_are_preferred_where_all_sublayers_have_them(ask: Ask) -> None:
    query = "select layer, scope from layer_kl_share order by place_in_order"

    # Alone at the output the first costs 3, the second 1.
    assert ask(carried("local", "isolated"), query) == [
        {"layer": 0, "scope": "isolated"},
        {"layer": 1, "scope": "isolated"},
    ]


def test_one_scope_holds_for_the_whole_variant(ask: Ask) -> None:
    rows = ask(carried("local", "isolated", isolated=1), "select layer, scope from layer_kl_share order by layer")

    assert rows == [{"layer": 0, "scope": "local"}, {"layer": 1, "scope": "local"}]


def test_equal_sublayers_are_ordered_by_depth_and_prompts_by_their_last_divergence(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("a")
    warehouse.step("a", "p", 0, 0.5, flips=True)
    for layer in (0, 1):
        warehouse.transition("a", "p", 0, 0.2, layer=layer)
        for sublayer in ("attn", "mlp"):
            is_parted = layer == 1
            warehouse.transition(
                "a", "p", 0, 0.2, layer=layer, sublayer=sublayer, scope="propagated", flips=is_parted,
                is_changed=sublayer == "attn",
            )  # fmt: skip
    rows = ask(
        warehouse, "select layer, share_of_kl, place_in_order, prompts_parted from layer_kl_share order by layer"
    )

    assert [(row["layer"], row["place_in_order"], row["prompts_parted"]) for row in rows] == [(0, 1, 0), (1, 2, 1)]
    assert [row["share_of_kl"] for row in rows] == pytest.approx([0.5, 0.5])


def test_the_dense_model_and_noise_have_no_row(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("noise-batch", method="noise")
    for recipe in ("dense", "noise-batch"):
        prompted(warehouse, recipe, [0])
        questioned(warehouse, recipe, 0, 1)
        warehouse.transition(recipe, "p", 0, 0.0, is_changed=False)

    assert pl.DataFrame(ask(warehouse, "variant_verdict")).is_empty()
    assert pl.DataFrame(ask(warehouse, "layer_kl_share")).is_empty()


def test_statements_about_simulated_studies_are_wrong_in_at_most_a_twentieth_of_the_cases() -> None:
    """Sixty studies of six variants with known losses; the benchmark `verdicts` simulates a thousand."""
    frames, truth = simulated(60, seed=1)
    table = rates(judged(frames), truth)

    assert all(table[statement]["said"] >= 5 for statement in (SAFE, BROKEN, CHOOSING_ONLY, NOT_SAFE, "nearest"))
    assert {statement: row["wrong of those said"] > 0.05 for statement, row in table.items()} == dict.fromkeys(
        table, False
    )

"""Verdicts on handmade evidence, with what must be said of each, and the layers with the most damage."""

import math
from functools import cache

import numpy as np
import polars as pl
import pytest

from prunescope.pipelines.core.verdict_rule import MIN_UNITS, TOLERANCE
from prunescope.pipelines.reporting.advice import CHOOSING_ONLY, NOT_SAFE, OTHER_TEXT, SAFE, TOO_LITTLE
from tests.benchmarks.verdicts import MEASURES, judged, rates, simulated
from tests.sql.built_tasks import task_sample, task_score
from tests.sql.warehouse_builder import Ask, Handmade, Memory, Row, prepared

# Dense model, noise floor and pruned variants of every case.
NOISE = "noise-batch"
KEPT, CHANGED = [0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1]
DENSE_TOKENS = 12


def by_recipe(rows: list[Row]) -> dict[str, Row]:
    return {row["recipe"]: row for row in rows}


def started(*recipes: str, removed: dict[str, float] | None = None) -> Handmade:
    """Build the variants of a model with a noise floor."""
    warehouse = Handmade().model().variant("dense").variant(NOISE, method="noise")
    for recipe in recipes:
        warehouse.variant(recipe, removed=(removed or {}).get(recipe, 0.0))
    return warehouse


def prompted(warehouse: Handmade, recipe: str, changes: list[int], tokens: int = 10) -> None:
    """Build teacher-forced tokens of each prompt, of which so many change."""
    for index, changed in enumerate(changes):
        for step in range(tokens):
            warehouse.step(recipe, f"p{index}", step, 0.01 * changed, flips=step < changed)


def written(warehouse: Handmade, recipe: str, texts: str, right: str | None = None) -> None:
    """Build a text per letter: o in order, l loops, e ends early, a ends as early with an answer, h ends at half.

    `right` says with a 1 or a 0 of each text whether its answer is right.
    """
    for index, fate in enumerate(texts):
        warehouse.generation(
            recipe,
            f"p{index}",
            flip=0 if fate != "o" else None,
            collapse=9 if fate == "l" else None,
            is_correct=None if right is None else right[index] == "1",
            end_step={"e": 5, "a": 5, "h": 6}.get(fate),
            answer="7" if fate == "a" else None,
            token_ids=list(range(DENSE_TOKENS)),
        )


def questioned(
    warehouse: Handmade,
    recipe: str,
    changed: int,
    questions: int,
    gold: list[str] | None = None,
    others: int | None = None,
) -> None:
    """Build questions, of which so many change their most likely option from A to B; `gold` has right options.

    In the last `others`, half of them if not given, the dense model chooses D, and a change is to C.
    """
    others = questions // 2 if others is None and gold is None else others or 0
    for index in range(questions):
        sides = [KEPT, CHANGED if index < changed else KEPT]
        if index >= questions - others:
            sides = [side[::-1] for side in sides]
        warehouse.options(recipe, f"q{index}", *sides, gold=gold[index] if gold else None)


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


def test_the_verdict_follows_from_the_words_of_its_measures() -> None:
    holds, fails, unknown = "holds", "fails", TOO_LITTLE
    cases = {  # fidelity, writing, choosing, alive
        (fails, holds, holds, holds): SAFE,
        (unknown, holds, holds, holds): SAFE,
        (holds, holds, unknown, holds): TOO_LITTLE,
        (holds, holds, holds, unknown): TOO_LITTLE,
        (fails, None, holds, holds): OTHER_TEXT,
        (fails, unknown, unknown, holds): OTHER_TEXT,
        (fails, fails, holds, holds): CHOOSING_ONLY,
        (fails, holds, holds, fails): CHOOSING_ONLY,
        (fails, fails, None, holds): NOT_SAFE,
        (fails, holds, fails, holds): NOT_SAFE,
        (fails, unknown, unknown, fails): NOT_SAFE,
        (None, None, None, None): TOO_LITTLE,
    }
    with Handmade().opened() as connection:
        for words, expected in cases.items():
            query = "select verdict_of(?::varchar, ?::varchar, ?::varchar, ?::varchar)"
            assert connection.execute(query, list(words)).fetchall() == [(expected,)], words


@pytest.mark.parametrize(
    ("low", "high", "units", "word"),
    [(-0.1, 0.1, 30, "holds"), (0.0, 0.11, 30, TOO_LITTLE), (0.11, 0.9, 30, "fails"), (0.1, 0.9, 30, TOO_LITTLE),
     (0.11, 0.9, 29, TOO_LITTLE), (None, None, 30, TOO_LITTLE), (0.0, 0.0, 29, TOO_LITTLE)],
)  # fmt: skip
def test_a_word_needs_its_whole_interval_on_one_side_and_enough_units(low, high, units, word) -> None:
    with Handmade().opened() as connection:
        query = "select word_of('graded', ?::double, ?::double, ?, verdict_tolerance())"
        assert connection.execute(query, [low, high, units]).fetchall() == [(word,)]
        thresholds = connection.execute("select verdict_tolerance(), verdict_min_units()").fetchall()
        assert [tuple(map(float, row)) for row in thresholds] == [(TOLERANCE, MIN_UNITS)]


@pytest.mark.parametrize("variants", [1, 6, 12, 100])
def test_intervals_that_hold_together_divide_the_error_by_the_number_of_variants(variants: int) -> None:
    """No loss in n units is by chance likelier than at the end of the interval; exp(−n p) for large n."""
    n = 100_000
    with Handmade().opened() as connection:
        query = "select wilson_interval(0, ?::bigint)[2], held_together(0, wilson_interval(0, ?::bigint)[2], ?)"
        [(alone, together)] = connection.execute(query, [n, n, variants]).fetchall()
        # Student's t over 30 prompts, one-sided at 2.5 % over all variants.
        [(wide,)] = connection.execute("select held_together(0, t_quantile_975(29), ?)", [variants]).fetchall()
        [(needed,)] = connection.execute("select quantile_against_best(2 * ?, 29)", [variants]).fetchall()

    assert (1 - together) ** n == pytest.approx((1 - alone) ** n / variants, rel=1e-2)
    assert wide >= needed - 0.01


def test_a_variant_that_neither_loops_nor_loses_is_told_from_one_that_loops() -> None:
    """Both change more than a tenth of the tokens."""
    warehouse = started("mild", "loops")
    for recipe, changes, texts, right in (
        ("dense", [0] * 40, "o" * 40, "1" * 40),
        ("mild", [2, 3] * 20, "o" * 40, "1" * 40),
        ("loops", [8, 9] * 20, "l" * 31 + "o" * 9, "1" * 20 + "0" * 20),
    ):
        prompted(warehouse, recipe, changes)
        written(warehouse, recipe, texts, right)
        questioned(warehouse, recipe, 0, 40)
    rows = verdicts(warehouse)

    assert said(rows) == {"mild": SAFE, "loops": CHOOSING_ONLY}
    words = {recipe: tuple(row[name] for name in ("fidelity", "quality", "alive")) for recipe, row in rows.items()}
    assert words == {"mild": ("fails", "holds", "holds"), "loops": ("fails", "fails", "fails")}
    assert (rows["loops"]["prompts_lost"], rows["loops"]["n_alive"]) == (31, 40)
    assert rows["loops"]["loss_alive"] == pytest.approx(31 / 40)
    assert rows["loops"]["loss_writing"] == pytest.approx(0.5)
    assert rows["mild"]["loss_fidelity"] == pytest.approx(0.25)


def test_a_variant_that_differs_only_in_rounding_loses_nothing() -> None:
    """It changes as many tokens, answers and choices as the noise does, and loops as often, in other places."""
    rng = np.random.default_rng(3)
    warehouse = started("rounded")
    changes = rng.binomial(10, 0.25, 60)
    fates = rng.choice(list("ol"), 60, p=[0.75, 0.25])
    right = rng.choice(list("10"), 60, p=[0.75, 0.25])
    prompted(warehouse, "dense", [0] * 60)
    written(warehouse, "dense", "o" * 60, "1" * 60)
    questioned(warehouse, "dense", 0, 60)
    for recipe in (NOISE, "rounded"):
        for values in (changes, fates, right):
            rng.shuffle(values)
        prompted(warehouse, recipe, changes.tolist())
        written(warehouse, recipe, "".join(fates), "".join(right))
        for index, place in enumerate(rng.permutation(60).tolist()):
            sides = [KEPT, CHANGED if place < 15 else KEPT]
            warehouse.options(recipe, f"q{index}", *(side[:: 1 if index < 30 else -1] for side in sides))
    [row] = verdicts(warehouse).values()

    assert [row[f"loss_{measure}"] for measure in MEASURES] == pytest.approx([0] * 4, abs=1e-12)
    assert all(row[f"loss_{measure}_low"] < 0 < row[f"loss_{measure}_high"] for measure in MEASURES)
    assert "fails" not in [row[measure] for measure in MEASURES]
    assert row["verdict"] == TOO_LITTLE


def test_a_text_ends_early_before_half_of_the_dense_text_without_an_answer() -> None:
    warehouse = started("a")
    written(warehouse, "dense", "o" * 38 + "ll")
    written(warehouse, "a", "eeahl" + "o" * 33 + "lo")
    [row] = verdicts(warehouse).values()

    # Where nothing else was measured, the dense model is the null: it loops in two, one of them another than here.
    assert (row["prompts_lost"], row["n_alive"]) == (4, 40)
    assert row["loss_alive"] == pytest.approx((4 - 2) / 40)
    net = np.array([1, 1, 0, 0, 1, *[0] * 33, 0, -1])
    student = 2.0227 * net.std(ddof=1) / math.sqrt(40)
    assert row["loss_alive"] - row["loss_alive_low"] == pytest.approx(student, rel=1e-3)


def test_right_answers_that_are_gained_are_set_against_lost_ones() -> None:
    warehouse = started("a")
    dense, pruned = "1" * 30 + "0" * 20, "1" * 22 + "0" * 8 + "1" * 5 + "0" * 15
    written(warehouse, "dense", "o" * 50, dense)
    written(warehouse, "a", "o" * 50, pruned)
    [row] = verdicts(warehouse).values()

    assert (row["evidence_writing"], row["n_writing"]) == ("graded", 30)
    assert row["loss_writing"] == pytest.approx((8 - 5) / 30)
    net, weight = np.array([*[0] * 22, *[1] * 8, *[-1] * 5, *[0] * 15]), np.array([1] * 30 + [0] * 20)
    influence = (net - 0.1 * weight) / 30
    student = 2.0096 * math.sqrt(50 / 49 * (influence**2).sum())
    assert row["loss_writing_high"] - row["loss_writing"] == pytest.approx(student, rel=1e-3)


def test_right_options_count_only_where_the_dense_model_is_right_beyond_a_guess() -> None:
    """The dense model chooses A in 60 questions of four options; the variant chooses B in 12 of them."""
    rows = {}
    for right in (45, 18):
        warehouse = started("a")
        for recipe in ("dense", "a"):
            gold = ["A"] * right + ["C"] * (60 - right)
            questioned(warehouse, recipe, 12 if recipe == "a" else 0, 60, gold)
        [rows[right]] = verdicts(warehouse).values()

    assert {right: row["evidence_choosing"] for right, row in rows.items()} == {45: "graded", 18: None}
    assert rows[45]["loss_choosing"] == pytest.approx(12 / (45 - 60 / 4))


@pytest.mark.parametrize(("others", "word"), [(0, TOO_LITTLE), (10, TOO_LITTLE), (20, "holds")])
def test_a_constant_answer_shows_nothing_of_choosing(others: int, word: str) -> None:
    """All 100 choices are kept, and 100 without `others` are the same; of 10 in 100, 5 to 18 % may be others."""
    warehouse = started("a")
    for recipe in ("dense", "a"):
        questioned(warehouse, recipe, 0, 100, others=others)
        written(warehouse, recipe, "o" * 40 if recipe == "dense" else "l" * 40)
    [row] = verdicts(warehouse).values()

    assert (row["choosing"], row["verdict"]) == (word, CHOOSING_ONLY if word == "holds" else NOT_SAFE)


def test_a_constant_answerer_is_told_from_one_that_loops() -> None:
    """The dense model answers A to 100 questions, in 32 of them rightly, and writes the answer too."""
    warehouse = started("mild", "loops")
    gold = ["A"] * 32 + ["B"] * 68
    for recipe, changed, text in (("dense", 0, "o"), ("mild", 20, "o"), ("loops", 95, "l")):
        questioned(warehouse, recipe, changed, 100, gold)
        for index in range(100):
            right = gold[index] == ("B" if index < changed else "A")
            warehouse.generation(
                recipe, f"q{index}", collapse=9 if text == "l" else None, is_correct=right, token_ids=[1, 2, 3]
            )
        prompted(warehouse, recipe, [0 if recipe == "dense" else 5, 0 if recipe == "dense" else 4] * 50)
    rows = verdicts(warehouse)

    assert said(rows) == {"mild": OTHER_TEXT, "loops": NOT_SAFE}
    assert {(row["evidence_writing"], row["evidence_choosing"]) for row in rows.values()} == {(None, None)}


def test_written_answers_among_options_count_above_a_guess_and_apart_from_others() -> None:
    """The dense model is right on 45 of 60 prompts with options, the variant on 33; both on 35 of 40 others."""
    warehouse = started("a")
    for recipe, right in (("dense", 45), ("a", 33)):
        questioned(warehouse, recipe, 0, 60, ["A"] * 60)
        for index in range(100):
            is_correct = index < right if index < 60 else index < 95
            name = f"q{index}" if index < 60 else f"open{index}"
            warehouse.generation(recipe, name, is_correct=is_correct)
    [row] = verdicts(warehouse).values()

    assert row["loss_writing"] == pytest.approx((45 - 33) / (45 - 60 / 4 + 35))
    assert row["n_writing"] == 60 + 35


def test_two_right_answers_are_no_basis_whatever_the_number_of_prompts() -> None:
    warehouse = started("a")
    for recipe, right in (("dense", "11"), ("a", "00")):
        written(warehouse, recipe, "o" * 100, right + "0" * 98)
    [row] = verdicts(warehouse).values()

    assert (row["writing"], row["n_writing"], row["loss_writing"]) == (TOO_LITTLE, 2, 1.0)


def test_the_upper_end_is_at_most_all_of_what_can_be_lost() -> None:
    """The dense model chooses 45 of 60 right; without 29 of them the variant is at a guess, without 40 below it."""
    rows = {}
    for changed in (29, 40):
        warehouse = started("a")
        for recipe in ("dense", "a"):
            questioned(warehouse, recipe, changed if recipe == "a" else 0, 60, ["A"] * 45 + ["C"] * 15)
        [rows[changed]] = verdicts(warehouse).values()

    assert (rows[29]["loss_choosing"], rows[29]["loss_choosing_high"]) == (pytest.approx(29 / 30), 1.0)
    assert rows[40]["loss_choosing"] == rows[40]["loss_choosing_high"] == pytest.approx(40 / 30)


def test_the_source_of_evidence_depends_on_what_was_measured_and_not_on_what_it_shows() -> None:
    """A hundred answers leave the loss open where forty graded prompts would show it."""
    warehouse = started("kept", "open", "lost")
    for recipe, right, graded in (("dense", 90, "1" * 40), ("kept", 90, "0" * 40), ("open", 80, "0" * 40),
                                  ("lost", 20, "1" * 40)):  # fmt: skip
        written(warehouse, recipe, "o" * 40, graded)
        answered(warehouse, recipe, "gsm8k", right, 100, kind="generative")
    rows = verdicts(warehouse)

    assert {row["evidence_writing"] for row in rows.values()} == {"score"}
    assert {recipe: row["writing"] for recipe, row in rows.items()} == {
        "kept": "holds",
        "open": TOO_LITTLE,
        "lost": "fails",
    }


def test_four_answers_are_no_basis_if_there_are_forty_prompts() -> None:
    warehouse = started("a")
    for recipe, right in (("dense", 4), ("a", 0)):
        written(warehouse, recipe, "o" * 40, "1" * 40)
        questioned(warehouse, recipe, 0, 40)
        answered(warehouse, recipe, "gsm8k", right, 4, kind="generative")
        answered(warehouse, recipe, "arc", right, 4, kind="non_generative")
    [row] = verdicts(warehouse).values()

    assert (row["verdict"], row["evidence_writing"], row["evidence_choosing"]) == (SAFE, "graded", "options")


def test_letters_of_the_same_questions_are_no_further_answers() -> None:
    """Sixteen questions, scored by whole options and by letters."""
    warehouse = started("a")
    for recipe in ("dense", "a"):
        for index in range(16):
            for scoring in ("full_text", "letter"):
                is_same = recipe == "dense" or index < 12
                task_sample(warehouse, recipe, "arc", f"s{index}", scoring=scoring, is_answer_same=is_same)
        task_score(warehouse, recipe, "arc", 1 if recipe == "dense" else 0.75, metric="agreement", n=16)
    [row] = verdicts(warehouse).values()

    assert (row["evidence_choosing"], row["n_choosing"], row["verdict"]) == ("agreement", 16, TOO_LITTLE)


def test_one_task_against_many_weighs_as_one() -> None:
    """One of five tasks that choose is gone: a fifth is lost."""
    warehouse = started("a")
    for recipe in ("dense", "a"):
        for task in range(5):
            right = 10 if recipe == "a" and not task else 90
            answered(warehouse, recipe, f"arc{task}", right, 100, kind="non_generative")
    [row] = verdicts(warehouse).values()

    assert row["loss_choosing"] == pytest.approx((80 / 65) / 5)
    assert (row["verdict"], row["choosing"], row["n_choosing"]) == (NOT_SAFE, "fails", 500)


def test_too_little_evidence_says_how_much_would_decide() -> None:
    warehouse = started("a")
    for recipe in ("dense", "a"):
        prompted(warehouse, recipe, [0 if recipe == "dense" else 1] * 12)
        written(warehouse, recipe, "o" * 12)
        questioned(warehouse, recipe, 0, 12)
    [row] = verdicts(warehouse).values()

    # None of 12: up to z² / (12 + z²) = 0.242 may be lost; 12 · (0.242 / 0.1)² = 71 would do. No number tells a loss
    # of 0.1 from 0.1.
    assert row["loss_fidelity"] == pytest.approx(0.1)
    assert row["would_decide"] == "alive: 71, choosing: 71"


def test_a_huge_variance_leaves_fidelity_open() -> None:
    """Five of 40 prompts change wholly, so that an eighth of the tokens does, give or take as much."""
    warehouse = started("a")
    for recipe, changes in (("dense", [0] * 40), ("a", [10] * 5 + [0] * 35)):
        prompted(warehouse, recipe, changes)
    [row] = verdicts(warehouse).values()

    assert row["fidelity"] == TOO_LITTLE
    # Student's t over 40 prompts.
    assert row["loss_fidelity"] - row["loss_fidelity_low"] == pytest.approx(
        2.0227 * np.sqrt(0.125 * 0.875 / 39), rel=1e-3
    )


def test_variants_are_ranked_only_against_those_of_about_their_size() -> None:
    """Neighbours of the large ones differ by 0.7 and 1.1 points, the outer two by nearly two."""
    removed = {"quantized": 0.0, "small": 0.004, "large": 0.394, "larger": 0.401, "largest": 0.412}
    warehouse = started(*removed, removed=removed)
    for recipe, changes in (("dense", 0), ("quantized", 1), ("small", 1), ("large", 3), ("larger", 6), ("largest", 2)):
        prompted(warehouse, recipe, [changes, changes + 1, changes] * 10 if changes else [0] * 30)
    rows = verdicts(warehouse)

    assert {recipe: (row["band"], row["place"], row["is_nearest"]) for recipe, row in rows.items()} == {
        "quantized": (1, 1, True),
        "small": (2, 1, True),
        "large": (3, 1, True),
        "larger": (3, 2, False),
        "largest": (4, 1, True),
    }
    assert rows["larger"]["difference"] == pytest.approx(0.3)
    assert rows["large"]["band_removed_share"] == pytest.approx(0.3975)


def test_one_prompt_says_neither_what_holds_nor_which_variant_is_nearest() -> None:
    warehouse = started("a", "b")
    for recipe, changed in (("dense", 0), ("a", 1), ("b", 9)):
        prompted(warehouse, recipe, [changed])
    rows = verdicts(warehouse)

    assert set(said(rows).values()) == {TOO_LITTLE}
    assert {row["is_nearest"] for row in rows.values()} == {None}


def test_a_variant_that_cannot_be_compared_leaves_the_nearest_unknown() -> None:
    """The third variant shares no prompt with the others."""
    warehouse = started("a", "b", "c")
    for recipe, changes in (("dense", [0] * 50), ("a", [1, 2] * 20), ("b", [2, 1] * 20)):
        prompted(warehouse, recipe, changes)
    for index in range(40, 50):
        warehouse.step("c", f"p{index}", 0, 0.1 + index, flips=True)
    rows = verdicts(warehouse)

    assert {row["is_nearest"] for row in rows.values()} == {None}


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
        written(warehouse, recipe, "o")
        questioned(warehouse, recipe, 0, 1)
        warehouse.transition(recipe, "p", 0, 0.0, is_changed=False)

    assert pl.DataFrame(ask(warehouse, "variant_verdict")).is_empty()
    assert pl.DataFrame(ask(warehouse, "layer_kl_share")).is_empty()


def test_statements_about_simulated_studies_are_wrong_in_at_most_a_twentieth_of_the_cases() -> None:
    """Sixty studies of six variants with known losses; the benchmark `verdicts` simulates a thousand."""
    frames, truth = simulated(60, seed=1)
    table = rates(judged(frames), truth)

    assert min(row["said"] for row in table.values()) >= 20
    assert max(row["wrong of those said"] for row in table.values()) <= 0.05

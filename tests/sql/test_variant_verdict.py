"""Verdicts and the layers with the most damage, worked out by hand; the rule equals that of `prunescope advise`."""

import polars as pl
import pytest

from prunescope.pipelines.reporting.advice import BROKEN, CHOOSING_ONLY, NOT_JUDGED, SAFE, advise
from prunescope.pipelines.reporting.explorer.verdicts import TOLERANCE
from tests.sql.built_tasks import task_sample, task_score
from tests.sql.warehouse_builder import Ask, Handmade, Row

ERROR = 0.01


def by_recipe(rows: list[Row]) -> dict[str, Row]:
    return {row["recipe"]: row for row in rows}


def scored(*losses: tuple[str, float, float], measure: str = "accuracy", error: float | None = ERROR) -> Handmade:
    """Build variants with their losses in writing and in choosing."""
    warehouse = Handmade().model()
    # A single option cannot be guessed.
    task_sample(warehouse, "dense", "arc", "s", scoring="full_text", log_likelihoods=[-1.0])
    for recipe, writing, choosing in (("dense", 0.0, 0.0), *losses):
        warehouse.variant(recipe)
        task_score(warehouse, recipe, "arc", 1 - choosing, metric=measure, standard_error=error)
        task_score(warehouse, recipe, "gsm8k", 1 - writing, metric=measure, kind="generative", standard_error=error)
    return warehouse


def probed(warehouse: Handmade, recipe: str, kl: float, *, changed: int, options: tuple[bool, ...]) -> None:
    """Build ten forced tokens, of which so many change, and a question each that keeps its choice or not."""
    for step in range(10):
        warehouse.step(recipe, "p", step, kl if step == 0 else min(kl, 0.01), flips=step >= 10 - changed)
    for index, is_kept in enumerate(options):
        pruned = [0.4, 0.3] if is_kept else [0.3, 0.4]
        warehouse.options(recipe, f"q{index}", [0.4, 0.3], pruned)
    warehouse.generation(recipe, "p")


def test_tasks_decide_where_both_kinds_were_scored_and_intervals_set_the_certainty(ask: Ask) -> None:
    rows = by_recipe(
        ask(
            scored(
                ("mild", 0.05, 0.02),
                ("mute", 0.9, 0.05),
                ("frail", 0.9, 0.3),
                ("only chooses worse", 0.02, 0.3),
                ("halved", 0.9, 0.5),
                ("gone", 0.9, 0.8),
                ("edge", 0.09, 0.02),
            ),
            "variant_verdict",
        )
    )

    assert {recipe: row["verdict"] for recipe, row in rows.items()} == {
        "mild": SAFE,
        "mute": CHOOSING_ONLY,
        "frail": CHOOSING_ONLY,
        "only chooses worse": CHOOSING_ONLY,
        "halved": BROKEN,
        "gone": BROKEN,
        "edge": SAFE,
    }
    assert {row["basis"] for row in rows.values()} == {"tasks"}
    assert {row["measure"] for row in rows.values()} == {"score"}
    # 0.09 of the writing is lost, give or take 1.96 · √(0.01² + (0.91 · 0.01)²) = 0.027.
    assert rows["edge"]["loss_writing_high"] == pytest.approx(0.09 + 1.959964 * 0.01352, abs=1e-4)
    assert {recipe: row["is_certain"] for recipe, row in rows.items()} == {
        "mild": True,
        "mute": True,
        "frail": True,
        "only chooses worse": True,
        "halved": False,
        "gone": True,
        "edge": False,
    }


def test_agreement_decides_where_the_dense_model_has_no_right_answers(ask: Ask) -> None:
    [row] = ask(scored(("a", 0.5, 0.0), measure="agreement"), "variant_verdict")

    assert (row["measure"], row["verdict"]) == ("agreement", CHOOSING_ONLY)


def test_a_loss_without_an_error_has_a_verdict_without_certainty(ask: Ask) -> None:
    [row] = ask(scored(("a", 0.0, 0.0), error=None), "variant_verdict")

    assert (row["verdict"], row["is_certain"], row["loss_writing_low"]) == (SAFE, None, None)


def by_rule(warehouse: Handmade) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return the verdicts of the view and of `advise` on the same rows."""
    with warehouse.opened() as connection:
        variants = connection.sql("from variant_verdict").pl()
        advised = advise(variants, connection.sql("from loss_predictions").pl(), TOLERANCE).rows
    return by_recipe(variants.to_dicts()), by_recipe(advised.to_dicts())


def test_without_tasks_the_prompts_decide_by_the_rule_of_advise() -> None:
    warehouse = Handmade().model().variant("dense").variant("noise-batch", method="noise").variant("unmeasured")
    probed(warehouse, "dense", 0.0, changed=0, options=(True, True))
    cases = {
        "mild": (0.59, 1, (True, True, True), SAFE),
        "first token gone": (0.6, 0, (True, True, True), CHOOSING_ONLY),
        "tokens change": (0.1, 2, (True, True, False), CHOOSING_ONLY),
        "half of the choices gone": (0.1, 0, (True, False, False, True), BROKEN),
        "one of one gone": (2.0, 9, (False,), NOT_JUDGED),
        "two of two left, writing gone": (2.0, 9, (True, True), NOT_JUDGED),
        "one of one gone, writing kept": (0.1, 0, (False,), NOT_JUDGED),
        "two of two left, writing kept": (0.1, 0, (True, True), SAFE),
        "no question": (0.1, 0, (), NOT_JUDGED),
    }
    for recipe, (kl, changed, options, _) in cases.items():
        warehouse.variant(recipe)
        probed(warehouse, recipe, kl, changed=changed, options=options)
    rows, advised = by_rule(warehouse)

    expected = {recipe: case[-1] for recipe, case in cases.items()} | {"unmeasured": NOT_JUDGED}
    assert {recipe: row["verdict"] for recipe, row in rows.items()} == expected
    assert {recipe: row["verdict"] for recipe, row in advised.items()} == expected
    for recipe, row in rows.items():
        # One prompt bounds no KL, and no verdict is without it.
        assert row["is_certain"] == advised[recipe]["is_certain"] == (None if expected[recipe] == NOT_JUDGED else False)
        assert row["basis"] == (None if expected[recipe] == NOT_JUDGED else "generations")
    # By Wilson 2 of 4 are 0.15 to 0.85.
    gone = rows["half of the choices gone"]
    assert (gone["options_changed_low"], gone["options_changed_high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_the_ends_of_intervals_decide_the_certainty_of_a_verdict() -> None:
    """Use six prompts of six tokens, whose KL at the first is 0.1, 0.2, … 0.6 times a factor, and six questions."""
    warehouse = Handmade().model().variant("dense")
    # Factor of the KL, tokens that change in the first prompt, questions that change.
    cases = {
        "mild": (1.0, 0, 0),
        "wide": (1.2, 0, 0),
        "clustered": (0.1, 6, 0),
        "gone": (1.0, 0, 6),
        "some": (1.0, 0, 2),
    }
    for recipe, (factor, flips, changed) in cases.items():
        warehouse.variant(recipe)
        for prompt in range(6):
            for step in range(6):
                warehouse.step(
                    recipe, f"p{prompt}", step, factor * (prompt + 1) / 10, flips=not prompt and step < flips
                )
            pruned = [0.3, 0.4] if prompt < changed else [0.4, 0.3]
            warehouse.options(recipe, f"q{prompt}", [0.4, 0.3], pruned)
            warehouse.generation(recipe, f"p{prompt}")
    rows, advised = by_rule(warehouse)

    assert {recipe: (row["verdict"], row["is_certain"]) for recipe, row in rows.items()} == {
        "mild": (SAFE, True),
        "wide": (SAFE, False),
        "clustered": (CHOOSING_ONLY, False),
        "gone": (BROKEN, True),
        "some": (SAFE, False),
    }
    assert {recipe: row["is_certain"] for recipe, row in advised.items()} == {
        recipe: row["is_certain"] for recipe, row in rows.items()
    }

    def ends(recipe: str, column: str) -> tuple[float, float]:
        return rows[recipe][f"{column}_low"], rows[recipe][f"{column}_high"]

    # 0.35 ± 2.5706 · 0.18708 / √6; none of 36 tokens and none of 6 questions, z² / (n + z²); all of 6, n / (n + z²).
    assert ends("mild", "kl_step0_nats") == pytest.approx((0.35 - 0.19633, 0.35 + 0.19633), rel=1e-3)
    assert ends("mild", "top1_change") == pytest.approx((0.0, 3.8415 / 39.8415), abs=1e-5)
    assert ends("mild", "options_changed") == pytest.approx((0.0, 3.8415 / 9.8415), abs=1e-5)
    assert ends("gone", "options_changed") == pytest.approx((6 / 9.8415, 1.0), abs=1e-5)
    # One prompt of six changes whole: 1/6 ± 2.5706 / 6, not below 0, where 36 tokens by themselves gave 0.08 to 0.32.
    assert ends("clustered", "top1_change") == pytest.approx((0.0, (1 + 2.5706) / 6), rel=1e-3)


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
        probed(warehouse, recipe, 0.0, changed=0, options=(True,))
        warehouse.transition(recipe, "p", 0, 0.0, is_changed=False)

    assert pl.DataFrame(ask(warehouse, "variant_verdict")).is_empty()
    assert pl.DataFrame(ask(warehouse, "layer_kl_share")).is_empty()

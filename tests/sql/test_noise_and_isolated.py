"""Noise variants, which only set a floor, and isolated rows, which belong to a few views."""

from collections.abc import Iterator

import duckdb
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from prunescope.pipelines.evaluation.traces.stored_states import AT_OUTPUT
from prunescope.warehouse.catalogue import database
from tests.sql.built_texts import text_token
from tests.sql.built_whole import whole_warehouse
from tests.sql.warehouse_builder import Ask, Handmade, materialized, rows_of

VIEWS = database.view_sql()
# Noise, and views that have it as the null beside the pruned variants.
ABOUT_NOISE = {
    "claim_variants",
    "local_transitions",
    "noise_at_output",
    "noise_floor",
    "noise_variants",
    "q07_amplification",
    "q13_own_text_against_forced",
    "q16_options_against_vocabulary",
    "steps_after_flip",
    "trajectory_ends",
    "trajectory_gaps",
    "variant_temperatures",
}
# Views of the answers and scores of all variants, noise and dense too; comparisons read them.
OF_EVERY_VARIANT = {
    "acceptance",
    "graded_answers",
    "greedy_hazards",
    "greedy_steps",
    "greedy_survival",
    "greedy_survival_summary",
    "imported_comparisons",
    "lost_answers",
    "metric_losses",
    "sampled_sequences",
    "sampling_summary",
    "sampling_survival",
    "score_pairs",
    "sequence_kl",
    "task_answers",
    "task_group_scores",
    "text_token_losses",
    "text_statistics",
    "text_window_errors",
    "token_acceptance",
}
ABOUT_ISOLATED = {"sublayer_kl_attribution", "layer_kl_share", "q29_isolated_against_joint", "q43_rescue"}
COMPARED = [
    name for name, view in VIEWS.items() if view.layer != "staging" and name not in ABOUT_NOISE | OF_EVERY_VARIANT
]


@pytest.fixture(scope="module")
def without_isolated() -> Iterator[duckdb.DuckDBPyConnection]:
    warehouse = whole_warehouse()
    rows = warehouse.rows["layer_transitions"]
    warehouse.rows["layer_transitions"] = [row for row in rows if row["scope"] not in AT_OUTPUT]
    with materialized(warehouse.opened()) as connection:
        yield connection


def columns_of(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    return [column[0] for column in connection.execute(f"select * from {name} limit 0").description]


@pytest.mark.third(1)
@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_of_recipes_exclude_noise(name: str, whole: duckdb.DuckDBPyConnection) -> None:
    told = [column for column in columns_of(whole, name) if column in {"recipe", "baseline_recipe"}]
    for column in told:
        assert rows_of(whole, f"select * from {name} where {column} like 'noise%'") == []


@pytest.mark.third(2)
@pytest.mark.parametrize("name", [name for name in COMPARED if name not in ABOUT_ISOLATED])
def test_isolated_rows_change_no_view_that_is_not_about_them(
    name: str, whole: duckdb.DuckDBPyConnection, without_isolated: duckdb.DuckDBPyConnection
) -> None:
    kept = f"where scope not in {AT_OUTPUT}" if "scope" in columns_of(whole, name) else ""
    key = next(line for line in VIEWS[name].header.splitlines() if line.startswith("key: ")).removeprefix("key: ")
    query = f"select * from {name} {kept} order by {key}"
    found, expected = (connection.sql(query).pl() for connection in (whole, without_isolated))
    assert len(found) > 0
    assert_frame_equal(found, expected, rel_tol=1e-9)


def noisy(*, has_local: bool = True) -> Handmade:
    """Build a model with two noise variants, one of which changes nothing, and one recipe; 21 positions of a prompt.

    A sublayer alone moves half as far as the whole model, a tenth as far at the output; without `has_local` these rows
    are those of earlier releases.
    """
    warehouse = Handmade().model().variant("dense").variant("wanda-50", sparsity=0.5)
    for kind, size in (("bfloat16", 1.0), ("batch", 0.0)):
        recipe = f"noise-{kind}"
        warehouse.variant(recipe, method="noise", kind=kind)
        for step in range(21):
            for layer in (0, 1):
                kl = size * step * (layer + 1) / 1000
                where = {"layer": layer, "sublayer": "mlp"}
                for scope, share in (("propagated", 1.0), ("local", 0.5), ("isolated", 0.1)):
                    own = kl * share * (has_local or scope == "propagated")
                    shift = {"one_minus_cos_h": own / 2, "total_variation": own / 4}
                    warehouse.transition(recipe, "p", step, own, scope=scope, is_changed=has_local, **where, **shift)
            warehouse.step(recipe, "p", step, size * step / 500, flips=size > 0 and step == 20)
            warehouse.step(recipe, "p", step, 9.0, trajectory="free_running")
        warehouse.generation(recipe, "p", flip=20 if size else None)
        warehouse.generation(recipe, "q")
    return warehouse


@pytest.mark.parametrize("has_local", [True, False])
def test_the_noise_floor_is_the_largest_quantile_of_any_noise_variant(has_local: bool, ask: Ask) -> None:
    first, last = ask(noisy(has_local=has_local), "select * from noise_floor where scope = 'propagated' order by layer")
    assert (first["layer"], first["sublayer"], first["lens"], first["temperature"]) == (0, "mlp", "normed", 1.0)
    assert (first["noise_variants"], first["positions"]) == (2, 21)
    # 21 values from 0 to 20: the 95th percentile is the 20th of them.
    assert (first["kl_p95_nats"], first["kl_max_nats"]) == (pytest.approx(0.019), pytest.approx(0.020))
    assert (last["kl_p95_nats"], last["kl_max_nats"]) == (pytest.approx(0.038), pytest.approx(0.040))
    assert (first["one_minus_cos_h_p95"], first["one_minus_cos_h_max"]) == (pytest.approx(0.0095), pytest.approx(0.010))
    assert (first["one_minus_cos_z_p95"], first["one_minus_cos_p_p95"]) == pytest.approx((0.00019, 0.0019))
    assert (first["total_variation_p95"], first["total_variation_max"]) == pytest.approx((0.00475, 0.005))


def test_noise_at_the_output_shows_the_first_flip_by_rounding(ask: Ask) -> None:
    rounded, alike = ask(noisy(), "select * from noise_at_output order by recipe desc")
    assert (rounded["recipe"], rounded["temperature"], rounded["steps"]) == ("noise-bfloat16", 1.0, 21)
    assert (rounded["kl_median_nats"], rounded["kl_p95_nats"], rounded["kl_max_nats"]) == (
        pytest.approx(0.020),
        pytest.approx(0.038),
        pytest.approx(0.040),
    )
    assert rounded["top1_agreement"] == pytest.approx(20 / 21)
    assert (rounded["prompts"], rounded["prompts_flipped"], rounded["first_flip_step_min"]) == (2, 1, 20)
    assert (alike["kl_max_nats"], alike["prompts_flipped"], alike["first_flip_step_min"]) == (0.0, 0, None)


@pytest.mark.parametrize(("kl", "is_below"), [(0.0379, True), (0.0381, False)])
def test_a_divergence_at_the_output_is_marked_where_rounding_alone_makes_as_much(
    kl: float, is_below: bool, ask: Ask
) -> None:
    warehouse = noisy().step("wanda-50", "p", 0, kl)
    (summary,) = ask(warehouse, "select * from variant_summary where recipe = 'wanda-50'")
    assert (summary["kl_noise_p95_nats"], summary["is_below_noise"]) == (pytest.approx(0.038), is_below)
    (step,) = ask(warehouse, "decoding_curve")
    assert step["is_below_noise"] is is_below


def test_layers_and_isolated_effects_are_compared_with_noise_at_their_places(ask: Ask) -> None:
    warehouse = noisy()
    for scope in ("local", "isolated", "propagated"):
        warehouse.transition("wanda-50", "p", 0, 0.009, layer=0, sublayer="mlp", scope=scope)
    warehouse.transition("wanda-50", "p", 0, 0.03, layer=0, sublayer="attn")
    rows = ask(warehouse, "select * from layer_summary where recipe = 'wanda-50'")
    found = {(row["sublayer"], row["scope"]): (row["kl_noise_p95_nats"], row["is_below_noise"]) for row in rows}
    assert found == {
        ("mlp", "local"): (pytest.approx(0.0095), True),
        ("mlp", "propagated"): (pytest.approx(0.019), True),
        ("mlp", "isolated"): (pytest.approx(0.0019), False),
        ("attn", "local"): (None, None),
    }


def test_zeros_that_earlier_releases_stored_for_single_sublayers_are_no_floor(ask: Ask) -> None:
    warehouse = noisy(has_local=False).transition("wanda-50", "p", 0, 0.001, layer=0, sublayer="mlp")
    assert ask(warehouse, "select distinct scope from noise_floor") == [{"scope": "propagated"}]
    (row,) = ask(warehouse, "select kl_noise_p95_nats, is_below_noise from layer_summary")
    assert set(row.values()) == {None}


def test_a_text_is_compared_with_the_noise_of_the_same_text(ask: Ask) -> None:
    warehouse = noisy()
    for position in range(1, 22):
        for text, size in (("wiki", 1.0), ("code", 10.0)):
            text_token(warehouse, "noise-bfloat16", position, size * (position - 1) / 1000, text=text)
            text_token(warehouse, "noise-batch", position, 0.0, text=text)
            text_token(warehouse, "wanda-50", position, 0.05, text=text)
    rows = ask(warehouse, "select * from kld_summary order by text_id")
    found = [(row["recipe"], row["text_id"], row["kl_noise_p95_nats"], row["is_below_noise"]) for row in rows]
    assert found == [("wanda-50", "code", pytest.approx(0.19), True), ("wanda-50", "wiki", pytest.approx(0.019), False)]


def test_without_noise_nothing_is_marked(ask: Ask) -> None:
    warehouse = Handmade().variant("wanda-50").step("wanda-50", "p", 0, 1.0).transition("wanda-50", "p", 0, 1.0)
    for view in ("variant_summary", "decoding_curve", "layer_summary"):
        (row,) = ask(warehouse, view)
        assert row["is_below_noise"] is None


# Sublayer → local estimate and isolated effect, in nats; the joint drop is 2 at every position.
CAUSES = {(0, "attn"): (0.1, 0.4), (0, "mlp"): (0.2, 0.2), (1, "attn"): (0.4, 0.1), (1, "mlp"): (0.5, 0.5)}


def causes(positions: int = 3, joint: float = 2.0) -> Handmade:
    warehouse = Handmade().model().step("wanda-50", "p", 0, joint).step("dense", "p", 0)
    for step in range(positions):
        for (layer, sublayer), (estimate, effect) in CAUSES.items():
            where = {"layer": layer, "sublayer": sublayer}
            warehouse.transition("wanda-50", "p", step, 0.8 * estimate, t3_kl_nats=estimate, **where)
            warehouse.transition("wanda-50", "p", step, effect * (step + 1), scope="isolated", **where)
            whole = joint * (step + 1) if (layer, sublayer) == (1, "mlp") else 7.0
            warehouse.transition("wanda-50", "p", step, whole, scope="propagated", **where)
            warehouse.transition("wanda-50", "p", step, 99.0, scope="isolated", lens="raw", **where)
            warehouse.transition("wanda-50", "p", step, 99.0, scope="isolated", temperature=0.5, **where)
    return warehouse


def test_three_causes_show_estimate_isolated_effect_and_share(ask: Ask) -> None:
    rows = ask(causes(), "select * from sublayer_kl_attribution order by layer, sublayer")
    assert [(row["layer"], row["sublayer"]) for row in rows] == list(CAUSES)
    for row, (estimate, effect) in zip(rows, CAUSES.values(), strict=True):
        assert (row["positions"], row["temperature"]) == (3, 1.0)
        assert row["t3_local_nats"] == pytest.approx(estimate)
        assert row["kl_local_nats"] == pytest.approx(0.8 * estimate)
        assert row["kl_isolated_nats"] == pytest.approx(2 * effect)
        assert row["kl_joint_nats"] == pytest.approx(4.0)
        assert row["isolated_share"] == pytest.approx(effect / 2)
        assert row["isolated_over_local"] == pytest.approx(2 * effect / (0.8 * estimate))


def test_untouched_sublayers_and_variants_without_isolated_rows_have_no_causes(ask: Ask) -> None:
    warehouse = Handmade().model().step("wanda-50", "p", 0).step("other", "p", 0)
    warehouse.transition("wanda-50", "p", 0, is_changed=False).transition(
        "wanda-50", "p", 0, is_changed=False, scope="isolated"
    )
    warehouse.transition("other", "p", 0, 1.0).transition("other", "p", 0, 1.0, scope="propagated")
    assert ask(warehouse, "sublayer_kl_attribution") == []
    assert ask(warehouse, "q29_isolated_against_joint") == []


def test_q29_adds_the_isolated_effects_up_position_by_position(ask: Ask) -> None:
    (row,) = ask(causes(), "q29_isolated_against_joint")
    # 0.4 + 0.2 + 0.1 + 0.5 = 1.2 of 2 nats, at each of three positions.
    assert row == {
        "model": "tiny", "recipe": "wanda-50", "n": 3, "n_sublayers": 4, "kl_sum_median_nats": pytest.approx(2.4),
        "kl_joint_median_nats": pytest.approx(4.0), "sum_over_joint": pytest.approx(0.6),
        "sum_over_joint_p10": pytest.approx(0.6), "sum_over_joint_p90": pytest.approx(0.6),
        "spearman_local_isolated": None, "worst_layer": 1, "worst_sublayer": "mlp",
        "worst_isolated_share": pytest.approx(0.25),
    }  # fmt: skip


def test_q29_ranks_sublayers_as_an_independent_spearman_does(ask: Ask) -> None:
    warehouse = Handmade().model().step("wanda-50", "p", 0, 1.0)
    estimates = [0.3, 0.1, 0.4, 0.1, 0.5, 0.9, 0.2, 0.6, 0.5, 0.35, 0.8, 0.7]
    effects = [0.2, 0.1, 0.6, 0.3, 0.4, 0.8, 0.2, 0.9, 0.5, 0.3, 0.6, 0.7]
    for layer, (estimate, effect) in enumerate(zip(estimates, effects, strict=True)):
        warehouse.transition("wanda-50", "p", 0, estimate, t3_kl_nats=estimate, layer=layer)
        warehouse.transition("wanda-50", "p", 0, effect, scope="isolated", layer=layer)
    (row,) = ask(warehouse, "q29_isolated_against_joint")
    assert row["spearman_local_isolated"] == pytest.approx(stats.spearmanr(estimates, effects).statistic)
    assert (row["worst_layer"], row["worst_sublayer"]) == (7, "attn")
    assert row["kl_joint_median_nats"] is row["sum_over_joint"] is row["worst_isolated_share"] is None


def test_positions_behind_the_end_of_the_dense_text_are_in_no_summary_of_layers(ask: Ask) -> None:
    """The position of the end-of-text token itself predicts nothing of the text, and is no step."""
    warehouse = Handmade().model().variant("dense").variant("r").variant("noise-batch", method="noise")
    for recipe in ("dense", "r", "noise-batch"):
        warehouse.generation(recipe, "p", end_step=1).generation(recipe, "longer")
    for recipe, scope in (("r", "local"), ("noise-batch", "propagated")):
        for prompt in ("p", "longer"):
            warehouse.step(recipe, prompt, 0, 1.0)
            for step in range(3):
                kl, moved = (100.0, 0.01) if step == 2 and prompt == "p" else (1.0, 0.2)
                shifts = {"one_minus_cos_z": 0.1, "one_minus_cos_p": moved}
                warehouse.transition(recipe, prompt, step, kl, scope=scope, **shifts)
    for row in warehouse.rows["layer_transitions"]:
        row["step"] = None if row["kl_dense_pruned_nats"] == 100 else row["step"]
    (summary,) = ask(warehouse, "select positions, kl_mean_nats from layer_summary where recipe = 'r'")
    assert tuple(summary.values()) == (5, 1.0)
    (noise,) = ask(warehouse, "select positions, kl_max_nats from noise_floor")
    assert tuple(noise.values()) == (5, 1.0)
    (claim,) = ask(warehouse, "select amount from claim_numbers where claim = 'softmax_amplifies'")
    assert claim == {"amount": 1.0}
    (most,) = ask(warehouse, "select max(kl_dense_pruned_nats) as most from transitions_at_reference")
    assert most == {"most": 1.0}

"""Every question over the demo's measurements: plausible answers, and known ones."""

import re
from itertools import product

import duckdb
import polars as pl
import pytest

from prunescope.warehouse.catalogue import database

VIEWS = database.view_sql()
QUESTIONS = {name[:3]: name for name, view in VIEWS.items() if view.layer == "questions"}
KEYED = [name for name, view in VIEWS.items() if view.layer != "staging"]
PRUNED = {"magnitude-50", "wanda-50", "wanda-2of4", "attn-drop-4", "mlp-drop-4", "block-drop-4"}
# Tasks, retrieval, roundings, other temperatures and calibrations, scope isolated, sampled texts, searches, forks, and
# every layer: the demo's tables in this folder have none of them.
UNASKED = {f"q{n}" for n in (19, 20, 22, 23, 26, 27, 28, 29, 30, 31, 32, 34, 35, 36, 37, 41, 42)}


def of(connection: duckdb.DuckDBPyConnection, question: str, where: str = "true") -> pl.DataFrame:
    """Return the rows of a question, numbers as floats."""
    rows = connection.sql(f"select * from {QUESTIONS[question]} where {where}").pl()
    assert len(rows) > 0
    return rows.with_columns(pl.col(pl.Decimal, pl.Float32).cast(pl.Float64))


def test_the_questions_are_those_of_the_paper_and_twelve_more() -> None:
    assert sorted(QUESTIONS) == [f"q{number:02}" for number in range(1, 43)]


@pytest.mark.third(2)
@pytest.mark.parametrize("name", KEYED)
def test_keys_identify_rows_and_no_figure_is_infinite(name: str, measured: duckdb.DuckDBPyConnection) -> None:
    [key] = re.findall(r"^key: (.+)$", VIEWS[name].header, re.MULTILINE)
    rows = measured.sql(f"select * from {name}").pl()
    floats = rows.select(pl.col(pl.Float32, pl.Float64))

    assert rows.select(key.split(", ")).is_duplicated().sum() == 0
    assert not any(series.is_infinite().any() or series.is_nan().any() for series in floats)


@pytest.mark.parametrize("question", sorted(set(QUESTIONS) - UNASKED))
def test_a_question_answers_for_every_pruned_variant(question: str, measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, question)
    # Noise is the null of some questions.
    rows = rows.filter(~pl.col("is_noise")) if "is_noise" in rows.columns else rows
    recipes = set(rows["recipe"]) if "recipe" in rows.columns else PRUNED
    expected = {"q24": {name for name in PRUNED if "drop" in name}, "q25": {name for name in PRUNED if "-" in name}}
    expected["q25"] -= expected["q24"]

    assert recipes == expected.get(question, PRUNED)


@pytest.mark.parametrize("question", sorted(UNASKED))
def test_a_question_that_was_not_measured_has_no_row(question: str, measured: duckdb.DuckDBPyConnection) -> None:
    assert measured.execute(f"select count(*) from {QUESTIONS[question]}").fetchall() == [(0,)]


def test_without_tasks_the_critical_drops_are_those_of_the_probes(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q21")
    drops, probes = ("attn-drop", "mlp-drop", "block-drop"), ("top1_agreement", "kl_kept", "kl_step0_kept")
    assert set(rows.select("method", "kind", "metric").iter_rows()) == set(product(drops, ("probe",), probes))


def test_q01_finds_a_tenth_of_spikes_and_bounds_correlations_over_three_prompts(
    measured: duckdb.DuckDBPyConnection,
) -> None:
    rows = of(measured, "q01")

    assert set(rows["n"]) == {54}
    assert set(rows["n_spikes"]) == {6}
    assert rows["auc"].is_between(0, 1).all()
    assert rows["spearman"].is_between(-1, 1).all()
    assert rows["top_decile_lift"].is_between(0, 9).all()
    assert (rows["spearman_low"] <= rows["spearman"]).all()
    assert (rows["spearman"] <= rows["spearman_high"]).all()
    # The last attention is closest to the output, so its local variance predicts it best.
    wanda = rows.filter(pl.col("recipe") == "wanda-50", pl.col("lens") == "normed")
    assert wanda["auc"].max() > 0.6


@pytest.mark.parametrize("question", ["q02", "q03", "q04"])
def test_the_theorems_hold_roughly_behind_one_sublayer(question: str, measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, question, "scope = 'local' and lens = 'normed'")

    # Of a drop one layer is stored, with 56 positions up to the ends of the texts: there the reverse KL scatters more.
    few = (pl.col("n") == 56) & (pl.col("pearson_log10") < 0.85)
    assert rows.filter(~few)["pearson_log10"].min() > 0.85
    assert [round(value, 4) for value in rows.filter(few)["pearson_log10"]] == [0.8218] * 2 * (question == "q04")
    assert rows["ratio_median"].is_between(0.5, 2).all()
    assert (rows["ratio_p10"] <= rows["ratio_median"]).all()
    assert (rows["ratio_median"] <= rows["ratio_p90"]).all()


def test_theorem_1_is_the_closest_and_theorem_3_closer_than_theorem_2(measured: duckdb.DuckDBPyConnection) -> None:
    where = "scope = 'local' and lens = 'normed'"
    first = of(measured, "q02", f"{where} and theorem = 'T1 h'")["share_within_10_percent"].median()
    second = of(measured, "q03", where)["share_within_10_percent"].median()
    third = of(measured, "q04", f"{where} and direction = 'dense_pruned'")["share_within_10_percent"].median()

    assert first > third > second


def test_q05_the_estimates_are_better_at_the_smallest_deviations(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q05", "scope = 'local' and lens = 'normed' and theorem = 'T3 KL'").sort("decile")
    shares = rows["share_within_10_percent"]

    assert rows["decile"].to_list() == list(range(1, 11))
    assert (rows["truth_max"][:-1] <= rows["truth_min"][1:]).all()
    assert shares[:3].mean() > shares[-3:].mean()


def test_q06_the_first_layers_move_furthest_across(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q06", "scope = 'local' and lens = 'raw' and recipe = 'magnitude-50'")

    assert rows["share_non_local"].is_between(0, 1).all()
    assert rows.sort("orth_rel_h_median")["layer"][-1] in (0, 29)


def test_q07_the_softmax_amplifies_in_the_middle_of_the_model(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q07", "scope = 'local' and lens = 'normed' and layer = 15")

    assert (rows["z_to_p_median"] > 1).all()
    assert rows["share_amplified"].is_between(0.5, 1).all()
    assert (rows["h_to_z_p10"] <= rows["h_to_z_p90"]).all()


def test_q08_and_q09_describe_shifts_of_positive_length(measured: duckdb.DuckDBPyConnection) -> None:
    compression, parts = of(measured, "q08"), of(measured, "q09")

    assert (compression["z_over_h_median"] > 0).all()
    assert compression["share_compressed"].is_between(0, 1).all()
    assert parts["orthogonal_share_median"].is_between(0, 1).all()
    assert (parts["par_rel_median"].abs() <= parts["par_rel_abs_median"] + 1e-12).all()


def test_q10_the_weighted_variance_follows_the_divergence_better_than_the_uniform_one(
    measured: duckdb.DuckDBPyConnection,
) -> None:
    rows = of(measured, "q10", "scope = 'local' and lens = 'normed'")

    assert (rows["pearson_log10_var_p_kl"] > rows["pearson_log10_var_uniform_kl"]).all()


def test_q10_has_no_figure_of_pruned_weights_for_rows_of_a_version_without_them(
    measured: duckdb.DuckDBPyConnection,
) -> None:
    rows = of(measured, "q10")
    without = {name for name in rows.columns if rows[name].is_null().all()}
    assert without == {name for name in rows.columns if name.startswith("q_") or "_q_" in name or "_rq_" in name}


def test_q11_at_the_first_flip_both_models_disagree_about_one_choice(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q11", "first_flip_step is not null")

    assert (rows["token_text_dense"] != rows["token_text_pruned"]).all()
    assert (rows["rank_of_pruned_top1"] >= 2).all()
    assert (rows["margin_dense"] >= 0).all()
    assert (rows["kl_dense_pruned_nats"] > 0).all()


def test_q12_a_collapse_comes_after_the_flip(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q12")

    assert (rows["steps_to_collapse"].drop_nulls() >= 0).all()
    assert rows["repeat_rate"].is_between(0, 1).all()
    assert len(rows) == 18


def test_q13_free_running_is_far_from_what_the_dense_text_shows(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q13", "not is_noise")

    assert (rows["kl_free_running_median_nats"] > rows["kl_teacher_forced_median_nats"]).all()
    assert rows["n_prompts"].is_between(1, 3).all()


def test_q14_the_phases_share_out_the_whole_divergence(measured: duckdb.DuckDBPyConnection) -> None:
    sums = of(measured, "q14").group_by("recipe", "trajectory").agg(pl.col("kl_share").sum(), pl.col("n").sum())

    assert sums["kl_share"].to_list() == pytest.approx([1.0] * 12)
    # Three texts, of up to 24 tokens; free running ends with the shorter text of each.
    ends = measured.sql(
        "select recipe, sum(least(coalesce(v.end_step, 23), coalesce(d.end_step, 23)) + 1) as n from generations v "
        "join (select prompt_id, end_step from generations where recipe = 'dense') d using (prompt_id) group by recipe"
    ).pl()
    expected = dict(ends.rows())
    for recipe, trajectory, _, n in sums.rows():
        assert n == (54 if trajectory == "teacher_forced" else expected[recipe])


def test_q15_a_small_margin_predicts_flips(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q15")

    assert rows["auc"].min() == pytest.approx(0.594517, rel=1e-4)
    assert rows.filter(pl.col("auc_low") > pl.col("auc")).is_empty()


def test_q16_to_q18_the_options_are_four_tokens_at_the_top(measured: duckdb.DuckDBPyConnection) -> None:
    against, ranking, places = of(measured, "q16", "not is_noise"), of(measured, "q17"), of(measured, "q18")

    assert against["mass_dense_mean"].unique().to_list() == pytest.approx([0.805388], rel=1e-4)
    assert against["options_share"].is_between(0, 1).all()
    assert (against["kl_rest_mean_nats"] > 0).all()
    assert against["argmax_kept"].to_list() == ranking["argmax_kept"].to_list()
    assert ranking["kendall_tau_mean"].is_between(-1, 1).all()
    assert places["rank_dense_worst"].unique().to_list() == [4]


def test_q24_attention_is_the_cheapest_to_drop_at_equal_parameters(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q24", "recipe = 'attn-drop-4'")

    assert (rows["kl_ratio"] < 1).all()


def test_q25_a_pattern_costs_more_than_free_choice(measured: duckdb.DuckDBPyConnection) -> None:
    [row] = of(measured, "q25", "pattern = '2:4'").to_dicts()

    assert (row["baseline_recipe"], row["kl_ratio"] > 1) == ("wanda-50", True)


def test_kld_summary_has_rounding_far_below_pruning(measured: duckdb.DuckDBPyConnection) -> None:
    rows = measured.sql("select * from kld_summary where recipe <> 'dense'").pl()

    assert (rows["kl_mean_nats"] > 10 * rows["kl_noise_mean_nats"]).all()
    assert (rows["kl_p001_nats"] >= rows["kl_min_nats"]).all()
    assert (rows["ppl_difference"] > 0).all()
    assert (rows["ppl_difference_se_iid"] > 0).all()
    assert rows["top1_agreement_noise"].is_between(0.8, 1).all()
    assert not rows["is_below_noise"].any()

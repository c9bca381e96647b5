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
# every layer, and thinking: the demo's tables in this folder have none of them.
UNASKED = {f"q{n}" for n in (19, 20, 22, 23, 26, 27, 28, 29, 30, 31, 32, 34, 35, 36, 37, 41, 42, 43, 44)}


def of(connection: duckdb.DuckDBPyConnection, question: str, where: str = "true") -> pl.DataFrame:
    """Return the rows of a question, numbers as floats."""
    rows = connection.sql(f"select * from {QUESTIONS[question]} where {where}").pl()
    assert len(rows) > 0, (
        f"{question} has no answer to `{where}` here; if it asks what the demo does not measure, UNASKED names it"
    )
    return rows.with_columns(pl.col(pl.Decimal, pl.Float32).cast(pl.Float64))


def test_the_questions_are_numbered_without_a_gap_and_the_first_forty_four_stay() -> None:
    # tests/assets/defs/graph.txt has the names of all.
    assert sorted(QUESTIONS) == [f"q{number:02}" for number in range(1, max(len(QUESTIONS), 44) + 1)]


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

    assert recipes == expected.get(question, PRUNED), (
        "a question answers for every pruned variant, and for noise only with a column is_noise; "
        "one about some variants has them in `expected`"
    )


@pytest.mark.parametrize("question", sorted(UNASKED))
def test_a_question_that_was_not_measured_has_no_row(question: str, measured: duckdb.DuckDBPyConnection) -> None:
    assert measured.execute(f"select count(*) from {QUESTIONS[question]}").fetchall() == [(0,)], (
        "the demo answers it: remove it from UNASKED"
    )


def test_without_tasks_the_critical_drops_are_those_of_the_probes(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q21")
    drops, probes = ("attn-drop", "mlp-drop", "block-drop"), ("top1_agreement", "kl_kept", "kl_step0_kept")
    assert set(rows.select("method", "kind", "metric").iter_rows()) == set(product(drops, ("probe",), probes))


# What must hold in every row, or in the answer as a whole, of a question about the demo.
LOCAL = "scope = 'local' and lens = 'normed'"
HOLDS = [
    ("q01", "true", "bool_and(n = 54 and n_spikes = 6 and auc between 0 and 1 and top_decile_lift between 0 and 9)"),
    ("q01", "true", "bool_and(spearman_low between -1 and spearman and spearman_high between spearman and 1)"),
    # The last attention is closest to the output, so its local variance predicts it best.
    ("q01", "recipe = 'wanda-50' and lens = 'normed'", "max(auc) > 0.6"),
    # Of a drop one layer is stored, with 56 positions up to the ends of the texts: there the reverse KL scatters more.
    *((name, LOCAL, "bool_and(pearson_log10 > 0.85)") for name in ("q02", "q03")),
    ("q04", LOCAL, "bool_and(pearson_log10 > 0.85 or n = 56 and round(pearson_log10, 4) = 0.8218)"),
    ("q04", LOCAL, "count_if(pearson_log10 <= 0.85) = 2"),
    *((name, LOCAL, "bool_and(ratio_median between 0.5 and 2)") for name in ("q02", "q03", "q04")),
    *((name, LOCAL, "bool_and(ratio_median between ratio_p10 and ratio_p90)") for name in ("q02", "q03", "q04")),
    ("q06", "scope = 'local' and lens = 'raw'", "bool_and(share_non_local between 0 and 1)"),
    (
        "q06",
        "scope = 'local' and lens = 'raw' and recipe = 'magnitude-50'",
        "arg_max(layer, orth_rel_h_median) in (0, 29)",
    ),
    ("q07", f"{LOCAL} and layer = 15", "bool_and(z_to_p_median > 1 and share_amplified between 0.5 and 1)"),
    ("q07", f"{LOCAL} and layer = 15", "bool_and(h_to_z_p10 <= h_to_z_p90)"),
    ("q08", "true", "bool_and(z_over_h_median > 0 and share_compressed between 0 and 1)"),
    ("q09", "true", "bool_and(orthogonal_share_median between 0 and 1)"),
    ("q09", "true", "bool_and(abs(par_rel_median) <= par_rel_abs_median + 1e-12)"),
    ("q10", LOCAL, "bool_and(pearson_log10_var_p_kl > pearson_log10_var_uniform_kl)"),
    ("q11", "first_flip_step is not null", "bool_and(token_text_dense <> token_text_pruned)"),
    ("q11", "first_flip_step is not null", "bool_and(rank_of_pruned_top1 >= 2 and margin_dense >= 0)"),
    ("q11", "first_flip_step is not null", "bool_and(kl_dense_pruned_nats > 0)"),
    ("q12", "true", "count(*) = 18 and bool_and(repeat_rate between 0 and 1 and coalesce(steps_to_collapse, 0) >= 0)"),
    ("q13", "not is_noise", "bool_and(kl_free_running_median_nats > kl_teacher_forced_median_nats)"),
    ("q13", "not is_noise", "bool_and(n_prompts between 1 and 3)"),
    ("q15", "true", "abs(min(auc) - 0.594517) < 5e-5 and not bool_or(auc_low > auc)"),
    ("q16", "not is_noise", "bool_and(abs(mass_dense_mean - 0.805388) < 8e-5 and options_share between 0 and 1)"),
    ("q16", "not is_noise", "bool_and(kl_rest_mean_nats > 0)"),
    ("q17", "true", "bool_and(kendall_tau_mean between -1 and 1)"),
    ("q18", "true", "bool_and(rank_dense_worst = 4)"),
    ("q24", "recipe = 'attn-drop-4'", "bool_and(kl_ratio < 1)"),
    ("q25", "pattern = '2:4'", "bool_and(baseline_recipe = 'wanda-50' and kl_ratio > 1)"),
]


@pytest.mark.parametrize(("question", "where", "holds"), HOLDS)
def test_the_answers_are_plausible(question: str, where: str, holds: str, measured: duckdb.DuckDBPyConnection) -> None:
    query = f"select count(*) > 0, {holds} from {QUESTIONS[question]} where {where}"
    assert measured.execute(query).fetchall() == [(True, True)]


def test_theorem_1_is_the_closest_and_theorem_3_closer_than_theorem_2(measured: duckdb.DuckDBPyConnection) -> None:
    first = of(measured, "q02", f"{LOCAL} and theorem = 'T1 h'")["share_within_10_percent"].median()
    second = of(measured, "q03", LOCAL)["share_within_10_percent"].median()
    third = of(measured, "q04", f"{LOCAL} and direction = 'dense_pruned'")["share_within_10_percent"].median()

    assert first > third > second


def test_q05_the_estimates_are_better_at_the_smallest_deviations(measured: duckdb.DuckDBPyConnection) -> None:
    rows = of(measured, "q05", f"{LOCAL} and theorem = 'T3 KL'").sort("decile")
    shares = rows["share_within_10_percent"]

    assert rows["decile"].to_list() == list(range(1, 11))
    assert (rows["truth_max"][:-1] <= rows["truth_min"][1:]).all()
    assert shares[:3].mean() > shares[-3:].mean()


def test_q10_has_no_figure_of_pruned_weights_for_rows_of_a_version_without_them(
    measured: duckdb.DuckDBPyConnection,
) -> None:
    rows = of(measured, "q10")
    without = {name for name in rows.columns if rows[name].is_null().all()}
    assert without == {name for name in rows.columns if name.startswith("q_") or "_q_" in name or "_rq_" in name}


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


def test_q16_and_q17_keep_the_same_choices(measured: duckdb.DuckDBPyConnection) -> None:
    kept = (
        of(measured, question, where)["argmax_kept"] for question, where in (("q16", "not is_noise"), ("q17", "true"))
    )
    assert next(kept).to_list() == next(kept).to_list()


def test_kld_summary_has_rounding_far_below_pruning(measured: duckdb.DuckDBPyConnection) -> None:
    rows = measured.sql("select * from kld_summary where recipe <> 'dense'").pl()

    assert (rows["kl_mean_nats"] > 10 * rows["kl_noise_mean_nats"]).all()
    assert (rows["kl_p001_nats"] >= rows["kl_min_nats"]).all()
    assert (rows["ppl_difference"] > 0).all()
    assert (rows["ppl_difference_se_iid"] > 0).all()
    assert rows["top1_agreement_noise"].is_between(0.8, 1).all()
    assert not rows["is_below_noise"].any()

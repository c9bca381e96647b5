"""Grain of the views: joins multiply no rows, and rows of one model stay out of another's answer."""

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prunescope.warehouse.catalogue import database
from tests.sql.built_whole import NO_ROWS

VIEWS = database.view_sql()
KEYED = [name for name, view in VIEWS.items() if view.layer != "staging"]
PRUNED = "recipe <> 'dense' and recipe not like 'noise%'"
COMPARED = "recipe not like 'noise%'"
FORCED = "trajectory = 'teacher_forced'"
AT_REFERENCE = f"temperature = 1 and {COMPARED}"
LOCAL = f"temperature = 1 and scope = 'local' and is_changed and {PRUNED}"
MOVED = f"temperature = 1 and (is_changed or scope = 'propagated') and {PRUNED}"
POINTS = f"""(
    select count_if(one_minus_cos_h > 0) + count_if(one_minus_cos_z > 0)
        + count_if(one_minus_cos_p > 0) + count_if(kl_dense_pruned_nats > 0)
    from layer_transitions where {COMPARED}
)"""
BOTH_KL = "count_if(kl_dense_pruned_nats > 0) + count_if(kl_pruned_dense_nats > 0)"
SPACES_MOVED = " + ".join(f"count_if(orth_rel_{space} > 0 or par_rel_{space} <> 0)" for space in "hzp")
# Strict and lenient, summed and per byte: most samples are read twice.
READINGS = "sum(case when scoring = 'letter' then 1 else 2 end)"

# A count over the view, and the same count over the stored rows below it.
WEIGHTS_REMOVED = f"{PRUNED} and recipe not like 'rtn%'"
ACCEPTED = """(
    (select count(*) from decoding_steps where temperature = 1 and trajectory in ('teacher_forced', 'own_text'))
    + (select count(*) from sampled_steps)
)"""
COUNTS = {
    "decoding_curve": ("count(*)", f"(select count(*) from decoding_steps where {COMPARED})"),
    "first_divergent_layer": (
        "sum(steps)",
        f"(select count(*) from decoding_steps where {AT_REFERENCE} and {FORCED} and {PRUNED})",
    ),
    "estimate_fit": (
        "sum(n)",
        f"(select count_if(kl_pruned_dense_nats > 0) from layer_transitions where {COMPARED}) + {POINTS}",
    ),
    "estimate_points": ("count(*)", POINTS),
    "greedy_steps": (
        "count(*)",
        f"(select count(*) from decoding_steps where temperature = 1 and {FORCED} and recipe <> 'dense')",
    ),
    "greedy_survival": (
        "sum(flips)",
        "(select count(distinct row(model, recipe, prompt_id)) from decoding_steps"
        f" where {FORCED} and not is_top1_same)",
    ),
    "greedy_survival_summary": ("sum(texts)", "(select count(*) from generations where recipe <> 'dense')"),
    "imported_comparisons": ("count(*)", "(select count(*) from imported_scores)"),
    "kld_summary": ("sum(tokens)", f"(select count(*) from text_tokens where {COMPARED})"),
    "layer_summary": ("sum(positions)", f"(select count(*) from layer_transitions where {COMPARED})"),
    "noise_at_output": ("sum(steps)", f"(select count(*) from decoding_steps where recipe like 'noise%' and {FORCED})"),
    "noise_floor": ("sum(positions)", "(select count(*) from layer_transitions where recipe like 'noise%')"),
    "option_shift": ("count(*)", f"(select sum(len(options)) from option_subspace where {COMPARED})"),
    "decoding_at_reference": ("count(*)", f"(select count(*) from decoding_steps where {AT_REFERENCE})"),
    "reference_temperature": ("count(*)", f"(select count(*) from variants where {COMPARED})"),
    "representation_shifts": ("count(*)", f"(select count(*) from layer_transitions where {MOVED})"),
    "sampling_summary": ("sum(texts)", "(select count(*) from sampled_generations)"),
    "sampling_survival": ("sum(flips)", "(select count(first_flip_step) from sampled_generations)"),
    "sampled_sequences": ("sum(tokens)", "(select count(*) from sampled_steps)"),
    "sequence_kl": ("sum(tokens)", "(select count(*) from sampled_steps)"),
    "token_acceptance": ("count(*)", ACCEPTED),
    "acceptance": ("sum(tokens)", ACCEPTED),
    "search_treatments": ("count(*)", "(select sum(n_treated) from stg_search_trials)"),
    "search_front": ("sum(n_trials)", "(select count(*) from search_trials)"),
    "search_path": ("count(*)", "(select count(*) from search_trials)"),
    "search_interaction": ("count(*)", "(select count(*) from search_trials)"),
    "search_allocation": (
        "count(*)",
        "(select count(*) from search_trials where is_result) * (select count(distinct (layer, sublayer))"
        " from search_effects)",
    ),
    "search_matrices": (
        "count(*)",
        "(select count(*) from search_trials where is_result) * (select count(distinct (layer, sublayer, matrix))"
        " from search_effects where matrix <> 'all')",
    ),
    "search_units": (
        "sum(size)",
        f"(select 2 * count(*) from text_tokens where {WEIGHTS_REMOVED}) + (select count(*) from decoding_steps"
        f" where {AT_REFERENCE} and {FORCED} and {WEIGHTS_REMOVED})"
        f" + (select count(*) from generations where {WEIGHTS_REMOVED})"
        f" + (select count(*) from option_subspace where {AT_REFERENCE} and {WEIGHTS_REMOVED})",
    ),
    "search_variants": ("count(*)", f"(select 2 * count(*) from variants where {WEIGHTS_REMOVED})"),
    "q35_choosing_by_p_against_controls": (
        "count(*)",
        "(select count(*) from search_trials where is_result and strategy <> 'searched')",
    ),
    "q37_sequence_kl": ("sum(tokens)", f"(select count(*) from sampled_steps where {PRUNED})"),
    # A text of eight steps has 36 starts of drafts of one to eight tokens.
    "q38_best_draft": (
        "sum(n_starts)",
        "(select 4.5 * count(*) from (from sampled_steps select recipe, trajectory union all"
        f" from decoding_steps select recipe, trajectory where temperature = 1) where {FORCED} and {PRUNED})",
    ),
    "q36_do_effects_add": ("sum(n_allocations)", "(select count(*) from search_trials)"),
    "speed_summary": ("count(*)", f"(select count(*) from speed where {COMPARED})"),
    "lost_answers": (
        "sum(n_answers) filter (where measure = 'score')",
        "(select count(*) from generations where recipe <> 'dense')"
        " + (select 2 * count(*) from task_samples where recipe <> 'dense' and scoring = 'greedy')",
    ),
    "task_answers": ("count(*)", f"(select {READINGS} from task_samples)"),
    "task_comparisons": ("sum(n_samples)", f"(select {READINGS} from task_samples where {PRUNED})"),
    "task_pairs": ("count(*)", f"(select {READINGS} from task_samples where {PRUNED})"),
    "sublayer_kl_attribution": (
        "sum(positions)",
        "(select count(*) from layer_transitions where temperature = 1 and scope = 'isolated' and lens = 'normed'"
        f" and is_changed and {PRUNED})",
    ),
    "token_trace": (
        "count(*)",
        f"(select count(*) from decoding_steps where {AT_REFERENCE} and trajectory = 'free_running')",
    ),
    "variant_summary": ("count(*)", f"(select count(*) from variants where {COMPARED})"),
    "q01_spike_predictors": ("sum(n)", f"(select count(*) from layer_transitions where {LOCAL})"),
    "q02_fit_of_theorem_1": (
        "sum(n)",
        "(select count_if(one_minus_cos_h > 0) + count_if(one_minus_cos_z > 0)"
        f" from layer_transitions where {AT_REFERENCE})",
    ),
    "q03_fit_of_theorem_2": (
        "sum(n)",
        f"(select count(*) from layer_transitions where one_minus_cos_p > 0 and {COMPARED})",
    ),
    "q04_fit_of_theorem_3": ("sum(n)", f"(select {BOTH_KL} from layer_transitions where {COMPARED})"),
    "q05_bias_by_deviation": ("sum(n)", POINTS),
    "q06_non_local_layers": ("sum(n)", f"(select count(*) from layer_transitions where {MOVED})"),
    "q07_amplification": (
        "sum(n)",
        "(select count(*) from layer_transitions where one_minus_cos_h > 0 and one_minus_cos_z > 0)",
    ),
    "q08_head_compression": ("sum(n)", f"(select count(*) from layer_transitions where orth_rel_h > 0 and {MOVED})"),
    "q09_parallel_against_orthogonal": ("sum(n)", f"(select {SPACES_MOVED} from layer_transitions where {MOVED})"),
    "q10_weighting_of_the_variance": (
        "sum(n)",
        f"(select count(*) from layer_transitions where var_uniform_dz > 0 and {MOVED})",
    ),
    "q11_first_flip": ("count(*)", f"(select count(*) from generations where {PRUNED})"),
    "q12_flip_to_collapse": ("count(*)", f"(select count(*) from generations where {PRUNED})"),
    "q13_own_text_against_forced": (
        "sum(n_prompts)",
        "(select count(*) from (select 1 from decoding_steps inner join generations using (model, recipe, prompt_id)"
        " where temperature = 1 and step > first_flip_step group by model, recipe, prompt_id"
        " having count(distinct step) >= 2))",
    ),
    "q14_before_and_after_the_answer": (
        "sum(n)",
        f"(select count(*) from decoding_steps where temperature = 1 and {PRUNED})",
    ),
    "q15_flip_predictors": (
        "sum(n)",
        f"(select 2 * count(*) from decoding_steps where temperature = 1 and {FORCED} and {PRUNED})",
    ),
    "q16_options_against_vocabulary": (
        "sum(n_questions)",
        "(select count(*) from option_subspace where recipe <> 'dense')",
    ),
    "q17_ranking_lost": (
        "sum(n_questions)",
        f"(select count(*) from option_subspace where temperature = 1 and {PRUNED})",
    ),
    "q18_options_in_the_tail": (
        "sum(n_options)",
        f"(select sum(len(options)) from option_subspace where temperature = 1 and {PRUNED})",
    ),
    "q19_label_against_full_option": (
        "sum(n_samples)",
        f"(select count(*) from task_samples where scoring = 'letter' and {COMPARED})",
    ),
    "q20_answers_flipped": ("sum(n_samples)", f"(select {READINGS} from task_samples where {PRUNED})"),
    "q22_generative_gap": ("count(*)", f"(select count(*) from variants where {PRUNED})"),
    "q26_temperature_of_lowest_kl": ("2 * sum(n)", f"(select count(*) from decoding_steps where {PRUNED})"),
    "q29_isolated_against_joint": (
        "4 * sum(n)",
        "(select count(*) from layer_transitions where temperature = 1 and scope = 'propagated' and lens = 'normed'"
        f" and {PRUNED} and recipe not like 'rtn%')",
    ),
    "q44_thinking_against_answer": (
        "sum(n_fidelity)",
        f"(select 2 * count(*) from generations where thinking_steps > 0 and {PRUNED})",
    ),
    "q32_sampled_first_flip": ("sum(texts)", f"(select count(*) from sampled_generations where {PRUNED})"),
    "q30_retrieval_loss": (
        "count(*)",
        f"(select count(*) from retrieval_scores where metric = 'ndcg_at_10' and {PRUNED})",
    ),
}


def key_of(name: str) -> str:
    [line] = [line for line in VIEWS[name].header.splitlines() if line.startswith("key: ")]
    return line.removeprefix("key: ")


def rows(connection: duckdb.DuckDBPyConnection, name: str) -> pl.DataFrame:
    return connection.sql(f"select * from {name} where model = 'tiny' order by {key_of(name)}").pl()


@pytest.mark.third(0)
@pytest.mark.parametrize("name", [name for name in KEYED if "across" not in VIEWS[name].parts])
def test_a_second_model_with_the_same_names_changes_nothing_for_the_first(
    name: str, whole: duckdb.DuckDBPyConnection, crowded: duckdb.DuckDBPyConnection
) -> None:
    alone, beside = rows(whole, name), rows(crowded, name)

    assert len(alone) > 0, f"{name} has no rows: {NO_ROWS}"
    assert_frame_equal(alone, beside, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("name", COUNTS)
def test_a_view_has_as_many_rows_as_its_source(name: str, crowded: duckdb.DuckDBPyConnection) -> None:
    [(counted, stored)] = crowded.execute(f"select {', '.join(COUNTS[name])} from {name}").fetchall()

    assert stored > 0, f"{name} has no rows: {NO_ROWS}"
    assert counted == stored

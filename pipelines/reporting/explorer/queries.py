"""The SQL behind every number, sentence and document, by the key that the page links to.

It is only stated here; the caller runs it. What the figures ask stands with the figures.
"""

from prunescope.pipelines.reporting.charts import flip_matrix
from prunescope.pipelines.reporting.explorer.finding_queries import ANSWERS, FINDINGS, LOOPS
from prunescope.pipelines.reporting.explorer.query import PROMPT, VARIANT, Query

_LENS = "(select if(count_if(lens = 'normed') > 0, 'normed', min(lens)) from stg_layer_transitions)"

STATEMENTS: dict[str, Query] = {
    "lens": Query("Through which lens layers are shown", f"select {_LENS} as lens"),
    "names": Query(
        "The variants, model by model, the dense one first",
        "select model, recipe from stg_variants where not is_noise order by model, recipe <> 'dense', recipe",
    ),
    "written": Query(
        "The texts that pruned variants wrote",
        """\
select model, recipe, prompt_id
from stg_generations as texts
anti join noise_variants using (model, recipe)
where recipe <> 'dense'
order by model, recipe, prompt_id""",
    ),
    "variants": Query(
        "What each variant removed and how far its output moved",
        """\
select model, recipe, method, parameters_removed_share, sparsity, sublayers_dropped_count, kl_step0_nats,
       kl_teacher_forced_median_nats, kl_free_running_median_nats, top1_agreement, first_flip_step_median,
       prompts_flipped, prompts_collapsed, prompts_correct, prompts_graded, prompts, options_argmax_kept, questions,
       kl_noise_p95_nats
from variant_summary
order by model, recipe <> 'dense', recipe""",
        VARIANT,
    ),
    "verdicts": Query("What each pruned variant still bears", "select * from variant_verdict", VARIANT),
    "losses": Query(
        "What each variant loses in tasks, by kind",
        "select model, recipe, measure, kind, n_tasks, loss, loss_se from task_losses order by all",
        VARIANT,
    ),
    "perplexity": Query(
        "Perplexity on the study's texts",
        """\
select model, recipe, text_id, tokens, ppl_dense, ppl_pruned, ppl_pruned_se, ln_ppl_ratio, ln_ppl_ratio_se,
       kl_mean_nats, kl_mean_nats_se, kl_median_nats, kl_p99_nats, kl_noise_p95_nats, top1_agreement, delta_p_rms
from kld_summary
order by model, recipe, text_id""",
        VARIANT,
    ),
    "ndcg": Query(
        "Retrieval, mean nDCG@10 over the data sets",
        """\
select model, recipe, avg(value) as ndcg_at_10, count(*) as data_sets
from stg_retrieval_scores
where metric = 'ndcg_at_10'
group by model, recipe
order by model, recipe""",
        VARIANT,
    ),
    "prompts": Query(
        "The prompts, and how long the dense model's text to each is",
        """\
select model, prompt_id, any_value(kind) as kind, any_value(prompt_text) as prompt_text, any_value(gold) as gold,
       max(len(token_ids)) filter (where recipe = 'dense') as steps
from stg_generations
group by model, prompt_id
order by model, prompt_id""",
    ),
    "texts": Query(
        "Every text beside the dense model's",
        """\
select one.model, one.recipe, one.prompt_id, one.text, one.first_flip_step, one.collapse_step, one.answer_end_step,
       one.answer, one.is_correct, dense.text as text_dense, dense.collapse_step as collapse_step_dense,
       dense.answer_end_step as answer_end_step_dense, dense.answer as answer_dense,
       dense.is_correct as is_correct_dense
from stg_generations as one
left join stg_generations as dense
    on one.model = dense.model and one.prompt_id = dense.prompt_id and dense.recipe = 'dense'
anti join noise_variants on one.model = noise_variants.model and one.recipe = noise_variants.recipe
order by one.model, one.recipe, one.prompt_id""",
        PROMPT,
    ),
    "sparks": Query(
        "Mean KL over prompts at every step, on the dense model's tokens and on its own",
        """\
select model, recipe, trajectory, step, avg(kl_dense_pruned_nats) as kl_mean_nats
from decoding_at_reference
where recipe <> 'dense'
group by model, recipe, trajectory, step
order by model, recipe, trajectory, step""",
        VARIANT,
    ),
    "steps": Query(
        "Every generated token with its divergence",
        """\
select model, recipe, prompt_id, trajectory, step, token_text_dense, token_text_pruned, is_same_token,
       kl_dense_pruned_nats, entropy_dense_nats, entropy_pruned_nats, margin_dense, margin_pruned, rank_of_dense_top1,
       one_minus_cos_h, one_minus_cos_z, one_minus_cos_p, is_top1_same
from decoding_at_reference
where recipe <> 'dense'
order by model, recipe, prompt_id, trajectory, step""",
        PROMPT,
    ),
    "text_means": Query(
        "Mean KL of every text, on the dense model's tokens and on its own",
        """\
select model, recipe, prompt_id,
       avg(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_forced_mean_nats,
       avg(kl_dense_pruned_nats) filter (where trajectory = 'free_running') as kl_free_mean_nats
from decoding_at_reference
where recipe <> 'dense'
group by model, recipe, prompt_id
order by model, recipe, prompt_id""",
        PROMPT,
    ),
    "top": Query(
        "The most likely tokens of both sides at every step",
        """\
select model, recipe, prompt_id, trajectory, step, side, rank, token_text, probability_dense, probability_pruned
from stg_top_tokens
where recipe <> 'dense' and rank <= 10
order by model, recipe, prompt_id, trajectory, step, side, rank""",
        PROMPT,
    ),
    "layers": Query(
        "How far h, z and p moved behind every sublayer, step by step",
        f"""\
select model, recipe, prompt_id, scope, layer, sublayer, step, is_changed, one_minus_cos_h, one_minus_cos_z,
       one_minus_cos_p, kl_dense_pruned_nats, is_top1_same
from stg_layer_transitions as transitions
semi join reference_temperature using (model, recipe, temperature)
where recipe <> 'dense' and step is not null and lens = {_LENS}
order by model, recipe, prompt_id, scope, layer, sublayer, step""",  # noqa: S608 - our own text
        PROMPT,
    ),
    "layer_means": Query(
        "How far every sublayer moves h, z and p, over prompts and positions",
        f"""\
select model, recipe, scope, layer, sublayer, is_changed, positions, one_minus_cos_h_mean, one_minus_cos_z_mean,
       one_minus_cos_p_mean, kl_mean_nats, kl_median_nats, kl_noise_p95_nats
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where recipe <> 'dense' and lens = {_LENS}
order by model, recipe, scope, layer, sublayer""",  # noqa: S608 - our own text
        VARIANT,
    ),
    "carriers": Query(
        "Which of the changed sublayers carry the damage",
        """\
select model, recipe, layer, sublayer, scope, kl_alone_nats, share_of_kl, place_in_order, prompts_parted
from layer_kl_share
order by model, recipe, place_in_order""",
        VARIANT,
    ),
    "parts": Query(
        "Where each text leaves the dense one, and behind which sublayer",
        """\
select model, recipe, prompt_id, step, layer, sublayer, from_layer, from_sublayer, kl_output_nats, margin_dense,
       is_margin_low
from first_divergent_layer
order by model, recipe, prompt_id""",
        PROMPT,
    ),
    "collapses": Query(
        "Every text that falls into a loop where the dense model's does not, earliest first",
        f"{LOOPS}\norder by one.model, one.collapse_step, verdicts.kl_step0_nats, one.recipe, one.prompt_id",
        PROMPT,
    ),
    "options": Query(
        "Each answer option of each question on both sides",
        """\
select options.model, options.recipe, options.prompt_id, options.option, options.p_options_dense,
       options.p_options_pruned, options.p_full_dense, options.p_full_pruned, options.rank_dense, options.rank_pruned,
       questions.mass_dense, questions.mass_pruned, questions.kl_options_dense_pruned_nats,
       questions.kl_dense_pruned_nats, questions.gold, questions.is_argmax_same
from option_shift as options
inner join stg_option_subspace as questions using (model, recipe, prompt_id, temperature)
semi join reference_temperature using (model, recipe, temperature)
where options.recipe <> 'dense'
order by options.model, options.recipe, options.prompt_id, options.option_index""",
        PROMPT,
    ),
    "facts": Query(
        "How each variant was made",
        """\
select model, recipe, method, parameters_json, recipe_hash, weights_prunable, weights_masked, weights_updated, sparsity,
       parameters_removed, parameters_removed_share, sublayers_dropped, sublayers_changed, facts_json, variant_hash,
       calibration_hash, file_bytes, seconds, peak_memory_bytes
from stg_variants
where not is_noise
order by model, recipe""",
        VARIANT,
    ),
    "scores": Query(
        "Scores of the tasks beside the dense model's",
        """\
select one.model, one.recipe, one.task, one.metric, one.kind, one.value, one.standard_error, one.n,
       dense.value as value_dense, dense.standard_error as standard_error_dense
from stg_task_scores as one
left join stg_task_scores as dense
    on one.model = dense.model and one.task = dense.task and one.metric = dense.metric and dense.recipe = 'dense'
order by one.model, one.recipe, one.task, one.metric""",
        VARIANT,
    ),
    "comparisons": Query(
        "Gained and lost answers against the dense model, with exact tests",
        """\
select model, recipe, task, metric, n_samples, accuracy_dense, accuracy_pruned, accuracy_change, accuracy_change_low,
       accuracy_change_high, lost, gained, mcnemar_p, holm_p, margin_change, margin_change_low, margin_change_high
from task_comparisons
order by model, recipe, task, metric""",
        VARIANT,
    ),
    "flips": Query(
        "The samples whose answer pruning changed",
        """\
select model, recipe, task, metric, sample_id, direction, question, target, answer_dense, answer_pruned, margin_change
from task_flips
order by model, recipe, task, metric, direction <> 'lost', sample_id""",
        VARIANT,
    ),
    # As the figure asks it, so that one answer serves both.
    "turns": Query("Right answers that every two variants do not share", flip_matrix.QUERY, (*VARIANT, "other_recipe")),
    "retrieval": Query(
        "Retrieval beside the dense model's",
        """\
select one.model, one.recipe, one.data_set, one.metric, one.value, one.standard_error, one.n,
       dense.value as value_dense
from stg_retrieval_scores as one
left join stg_retrieval_scores as dense
    on
        one.model = dense.model and one.data_set = dense.data_set and one.metric = dense.metric
        and dense.recipe = 'dense'
order by one.model, one.recipe, one.data_set, one.metric""",
        VARIANT,
    ),
    "speed": Query("Speed of each variant", "select * from speed_summary order by all", VARIANT),
    "claims": Query(
        "The paper's claims, and whether they hold here",
        """\
select model, claim, measure, says, amount, amount_low, amount_high, n, units, verdict
from paper_claims
order by model, case verdict when 'holds' then 0 when 'does not hold' then 1 else 2 end, claim, measure""",
        ("model", "claim", "measure"),
    ),
    **ANSWERS,
    **FINDINGS,
}

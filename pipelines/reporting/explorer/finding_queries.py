"""SQL of the sentences in `verdicts` and `findings`: one row per sentence, one column per number."""

from prunescope.pipelines.reporting.explorer.query import Query

MODEL = ("model",)
LOOPS = """\
select one.model, one.recipe, one.prompt_id, one.first_flip_step, one.collapse_step, verdicts.parameters_removed_share,
       verdicts.kl_step0_nats
from stg_generations as one
inner join stg_generations as dense
    on one.model = dense.model and one.prompt_id = dense.prompt_id and dense.recipe = 'dense'
inner join variant_verdict as verdicts on one.model = verdicts.model and one.recipe = verdicts.recipe
where one.collapse_step is not null and dense.collapse_step is null"""

ANSWERS: dict[str, Query] = {
    "answers/safe": Query(
        "Variants by verdict, best first",
        """\
with ranked as (
    select *,
           row_number() over (
               partition by model
               order by list_position(['safe', 'non-generative only', 'broken', 'not judged'], verdict),
                        loss_writing, loss_choosing, kl_step0_nats, recipe
           ) as place
    from variant_verdict
)
select model, count(*) as variants,
       count(*) filter (where verdict = 'safe') as safe,
       list(recipe order by place) filter (where verdict = 'safe') as recipes_safe,
       list(recipe order by place) filter (where verdict = 'non-generative only') as recipes_choosing_only,
       list(recipe order by place) filter (where verdict = 'broken') as recipes_broken,
       list(recipe order by place) filter (where verdict = 'not judged') as recipes_not_judged,
       count(*) filter (where verdict = 'safe' and not is_certain) as open_safe,
       count(*) filter (where verdict = 'non-generative only' and not is_certain) as open_choosing_only,
       count(*) filter (where verdict = 'broken' and not is_certain) as open_broken,
       arg_min(recipe, place) filter (where verdict <> 'not judged') as nearest,
       count(*) filter (where basis = 'tasks') as by_tasks,
       count(*) filter (where basis = 'generations') as by_generations,
       min(loss_writing) filter (where basis = 'tasks') as loss_writing_min,
       max(loss_writing) filter (where basis = 'tasks') as loss_writing_max,
       min(loss_choosing) filter (where basis = 'tasks') as loss_choosing_min,
       max(loss_choosing) filter (where basis = 'tasks') as loss_choosing_max
from ranked
group by model
order by model""",
        MODEL,
    ),
    "answers/retrieval": Query(
        "Retrieval: variants within a tenth of the dense model's nDCG@10, the others, and the worst",
        """\
with means as (
    select model, recipe, avg(ndcg_dense) as ndcg_dense, avg(ndcg_loss_share) as loss,
           avg(embedding_cosine) as embedding_cosine, count(*) as data_sets
    from q30_retrieval_loss
    where ndcg_loss_share is not null
    group by model, recipe
)
select model, count(*) as variants, max(data_sets) as data_sets, max(ndcg_dense) as ndcg_dense,
       count(*) filter (where loss <= 0.1) as kept,
       list(recipe order by loss, recipe) filter (where loss <= 0.1) as recipes_kept,
       list(recipe order by loss, recipe) filter (where loss > 0.1) as recipes_lost,
       arg_max(recipe, loss) as worst, max(loss) as worst_loss, arg_max(embedding_cosine, loss) as worst_cosine
from means
group by model
order by model""",
        MODEL,
    ),
    "answers/collapse": Query(
        "Variants that fall into a loop where the dense model does not: their number, the mildest, the earliest loop",
        f"""\
with loops as (
{LOOPS}
),
ranked as (
    select model, recipe, prompt_id, first_flip_step, collapse_step, variants.kl_step0_nats,
           row_number() over (
               partition by model
               order by collapse_step is null, variants.kl_step0_nats, collapse_step, recipe, prompt_id
           ) as by_kl,
           row_number() over (
               partition by model order by collapse_step, variants.kl_step0_nats, recipe, prompt_id
           ) as by_step
    -- Only a variant with a text can loop.
    from (select * from variant_verdict semi join stg_generations using (model, recipe)) as variants
    left join loops using (model, recipe)
)
select model, count(distinct recipe) as variants,
       count(distinct recipe) filter (where collapse_step is not null) as variants_collapsed,
       max(recipe) filter (where by_kl = 1) as mildest_recipe,
       max(prompt_id) filter (where by_kl = 1) as mildest_prompt_id,
       max(kl_step0_nats) filter (where by_kl = 1) as mildest_kl_step0_nats,
       max(first_flip_step) filter (where by_kl = 1) as mildest_first_flip_step,
       max(collapse_step) filter (where by_kl = 1) as mildest_collapse_step,
       max(recipe) filter (where by_step = 1) as earliest_recipe,
       max(prompt_id) filter (where by_step = 1) as earliest_prompt_id,
       max(first_flip_step) filter (where by_step = 1) as earliest_first_flip_step,
       max(collapse_step) filter (where by_step = 1) as earliest_collapse_step
from ranked
group by model
order by model""",  # noqa: S608 - our own text
        MODEL,
    ),
    "answers/sublayers": Query(
        "The three sublayers that are most often among the three with the largest KL of a variant",
        """\
-- A variant with at most three changed sublayers has all of them among its top three, so that it is left out.
with counted as (
    select *
    from layer_kl_share
    qualify count(*) over (partition by model, recipe) > 3
),
sums as (
    select model, layer, sublayer, count(*) as variants, avg(share_of_kl) as share_mean,
           count(*) filter (where place_in_order <= 3) as variants_top3
    from counted
    group by model, layer, sublayer
)
select *
from sums
where variants_top3 > 0
qualify row_number() over (partition by model order by variants_top3 desc, share_mean desc, layer, sublayer) <= 3
order by model, variants_top3 desc, share_mean desc, layer, sublayer""",
        MODEL,
    ),
    "answers/carriers": Query(
        "The three sublayers with the largest KL of the mildest variant that loops, or of the mildest if none does",
        f"""\
with loops as (
{LOOPS}
),
chosen as (
    select model, first(recipe order by collapse_step is null, kl_step0_nats, collapse_step, recipe) as recipe
    from (select model, recipe, kl_step0_nats from variant_verdict)
    left join (select model, recipe, collapse_step from loops) using (model, recipe)
    group by model
)
select model, recipe, layer, sublayer, share_of_kl, place_in_order
from layer_kl_share
inner join chosen using (model, recipe)
where share_of_kl > 0 and place_in_order <= 3
order by model, place_in_order""",  # noqa: S608 - our own text
        MODEL,
    ),
    "answers/parts": Query(
        "Layer from which on the most likely token at the first flip differs, over all texts",
        """\
select model, count(*) as texts, quantile_disc(from_layer, 0.1) as layer_p10,
       quantile_disc(from_layer, 0.5) as layer_p50, quantile_disc(from_layer, 0.9) as layer_p90
from first_divergent_layer
where from_layer is not null
group by model
order by model""",
        MODEL,
    ),
}

FINDINGS: dict[str, Query] = {
    "findings/flips": Query(
        "Pruned texts that differ from the dense ones or fall into a loop",
        """\
select model, sum(prompts)::bigint as texts, sum(prompts_flipped)::bigint as texts_flipped,
       sum(prompts_collapsed)::bigint as texts_collapsed,
       min(first_flip_step_median) as first_flip_step_min, max(first_flip_step_median) as first_flip_step_max
from variant_summary
where recipe <> 'dense'
group by model
order by model""",
        MODEL,
    ),
    "findings/answers": Query(
        "Variants that answer as many prompts correctly as the dense model",
        """\
select dense.model, dense.prompts_graded as graded, dense.prompts_correct as correct_dense, count(*) as variants,
       list(pruned.recipe order by pruned.recipe) filter (where pruned.prompts_correct >= dense.prompts_correct)
           as recipes_as_good
from variant_summary as dense
-- A variant that is pruned but not measured yet has answered no prompt.
inner join variant_summary as pruned
    on dense.model = pruned.model and pruned.recipe <> 'dense' and pruned.prompts > 0
where dense.recipe = 'dense' and dense.prompts_graded > 0
group by dense.model, dense.prompts_graded, dense.prompts_correct
order by dense.model""",
        MODEL,
    ),
    "findings/first_token": Query(
        "Smallest and largest KL at the first generated token",
        """\
select model, count(*) as variants, min(kl_step0_nats) as least_nats, max(kl_step0_nats) as most_nats,
       first(recipe order by kl_step0_nats, recipe) as least_recipe,
       last(recipe order by kl_step0_nats, recipe) as most_recipe
from variant_summary
where recipe <> 'dense' and kl_step0_nats is not null
group by model
order by model""",
        MODEL,
    ),
    "findings/feedback": Query(
        "KL free running against KL teacher forced, medians over variants",
        """\
select model, count(*) as variants, median(kl_free_running_median_nats) as free_nats,
       median(kl_teacher_forced_median_nats) as forced_nats,
       count(*) filter (where kl_free_running_median_nats > kl_teacher_forced_median_nats) as variants_further,
       list(recipe order by recipe) filter (where kl_free_running_median_nats <= kl_teacher_forced_median_nats)
           as recipes_not_further
from variant_summary
where recipe <> 'dense' and kl_free_running_median_nats is not null and kl_teacher_forced_median_nats is not null
group by model
order by model""",
        MODEL,
    ),
    "findings/noise": Query(
        "KL of rounding alone, and the variants below it",
        """\
select model, max(kl_noise_p95_nats) as kl_noise_p95_nats, count(is_below_noise) as variants,
       list(recipe order by recipe) filter (where is_below_noise) as recipes_below
from variant_summary
where recipe <> 'dense'
group by model
having max(kl_noise_p95_nats) is not null
order by model""",
        MODEL,
    ),
    "findings/options": Query(
        "Choices among the options before and after pruning",
        """\
with ranking as (
    select model, recipe, prompt_id,
           string_agg(option_index, ',' order by p_options_dense desc, option_index) as dense,
           string_agg(option_index, ',' order by p_options_pruned desc, option_index) as pruned,
           sum(p_full_dense) as mass_dense, sum(p_full_pruned) as mass_pruned
    from option_shift
    semi join reference_temperature using (model, recipe, temperature)
    where recipe <> 'dense'
    group by model, recipe, prompt_id
)
select model, count(*) as choices,
       count(*) filter (where split_part(dense, ',', 1) = split_part(pruned, ',', 1)) as argmax_kept,
       count(*) filter (where split_part(dense, ',', 1) <> split_part(pruned, ',', 1)) as argmax_changed,
       count(*) filter (where dense = pruned) as ranking_kept,
       median(mass_dense) as mass_dense_median, median(mass_pruned) as mass_pruned_median
from ranking
group by model
order by model""",
        MODEL,
    ),
    "findings/texts": Query(
        "Perplexity and KL on the study's texts, of the variants with the smallest and the largest perplexity",
        """\
select model, text_id, count(*) as variants, first(tokens order by ppl_pruned, recipe) as tokens,
       first(ppl_dense order by ppl_pruned, recipe) as ppl_dense,
       first(recipe order by ppl_pruned, recipe) as least_recipe,
       last(recipe order by ppl_pruned, recipe) as most_recipe,
       min(ppl_pruned) as least_ppl, max(ppl_pruned) as most_ppl,
       first(kl_mean_nats order by ppl_pruned, recipe) as least_kl_mean_nats,
       last(kl_mean_nats order by ppl_pruned, recipe) as most_kl_mean_nats,
       first(top1_agreement order by ppl_pruned, recipe) as least_top1_agreement,
       last(top1_agreement order by ppl_pruned, recipe) as most_top1_agreement
from kld_summary
semi join (select model, recipe from variant_summary where method <> 'dense') using (model, recipe)
group by model, text_id
order by model, text_id""",
        ("model", "text_id"),
    ),
    "findings/amplification": Query(
        "Shift of h, z and p behind one changed sublayer",
        """\
select model, lens, count(*) as sublayers,
       median(one_minus_cos_h_mean) as h, median(one_minus_cos_z_mean) as z, median(one_minus_cos_p_mean) as p,
       count(*) filter (where one_minus_cos_z_mean > one_minus_cos_h_mean) as z_over_h,
       count(*) filter (where one_minus_cos_p_mean > one_minus_cos_z_mean) as p_over_z,
       count(*) - count(*) filter (where one_minus_cos_p_mean > one_minus_cos_z_mean) as p_not_over_z
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where is_changed and scope = 'local'
group by model, lens
order by model, lens desc""",
        ("model", "lens"),
    ),
    "findings/attention_or_mlp": Query(
        "KL of dropping equally many attention and MLP sublayers, for the fewest and the most",
        """\
with pairs as (
    select model, sublayers_dropped_count as dropped,
           max(kl_step0_nats) filter (where method = 'attn-drop') as kl_attn,
           max(kl_step0_nats) filter (where method = 'mlp-drop') as kl_mlp,
           max(parameters_removed_share) filter (where method = 'attn-drop') as share_attn,
           max(parameters_removed_share) filter (where method = 'mlp-drop') as share_mlp
    from variant_summary
    where method in ('attn-drop', 'mlp-drop') and kl_step0_nats is not null and sublayers_dropped_count > 0
    group by model, sublayers_dropped_count
    having count(*) filter (where method = 'attn-drop') = 1 and count(*) filter (where method = 'mlp-drop') = 1
)
select model, count(*) as numbers, count(*) filter (where kl_attn < kl_mlp) as numbers_attention_milder,
       min(dropped) as fewest, arg_min(kl_attn, dropped) as fewest_kl_attn, arg_min(kl_mlp, dropped) as fewest_kl_mlp,
       arg_min(share_attn, dropped) as fewest_share_attn, arg_min(share_mlp, dropped) as fewest_share_mlp,
       max(dropped) as most, arg_max(kl_attn, dropped) as most_kl_attn, arg_max(kl_mlp, dropped) as most_kl_mlp,
       arg_max(share_attn, dropped) as most_share_attn, arg_max(share_mlp, dropped) as most_share_mlp
from pairs
group by model
order by model""",
        MODEL,
    ),
    "findings/fit": Query(
        "Estimates against measurements behind one changed sublayer, and their correlation",
        """\
with points as (
    select model, recipe, scope, theorem, estimate, truth
    from estimate_points
    where estimate > 0 and truth > 0 and scope in ('local', 'propagated')
      and lens = (select if(count_if(lens = 'normed') > 0, 'normed', min(lens)) from estimate_points)
),
variants as (
    select model, theorem, scope, recipe, corr(ln(estimate), ln(truth)) as log_correlation
    from points
    group by model, theorem, scope, recipe
),
correlations as (
    select model, theorem,
           median(log_correlation) filter (where scope = 'local') as log_correlation,
           min(log_correlation) filter (where scope = 'local') as log_correlation_min,
           max(log_correlation) filter (where scope = 'local') as log_correlation_max,
           median(log_correlation) filter (where scope = 'propagated') as log_correlation_propagated
    from variants
    where isfinite(log_correlation)
    group by model, theorem
)
select model, theorem, count(*) as points,
       median(estimate / truth) as ratio_median,
       quantile_cont(estimate / truth, 0.1) as ratio_p10,
       quantile_cont(estimate / truth, 0.9) as ratio_p90,
       count(*) filter (where truth > 0.05) as large_points,
       median(estimate / truth) filter (where truth > 0.05) as large_ratio_median,
       any_value(log_correlation) as log_correlation,
       any_value(log_correlation_min) as log_correlation_min,
       any_value(log_correlation_max) as log_correlation_max,
       any_value(log_correlation_propagated) as log_correlation_propagated
from points
left join correlations using (model, theorem)
where scope = 'local'
group by model, theorem
order by model, theorem""",
        ("model", "theorem"),
    ),
}

-- How much does a variant depend on the tokens that it was calibrated on?
-- grain: one row per pair of variants of one model whose recipes are the same but for their calibration or seed.
-- key: model, recipe, other_recipe
-- inputs: pruned_variants, stg_mask_samples, decoding_at_reference
-- how to read: pairs of recipes whose parameters are the same but whose calibration tokens differ (differs_in
--   `calibration`: another text, size or seed of the draw), or whose parameters differ only in `seed` (differs_in
--   `seed`); every pair once. jaccard_kept and jaccard_removed are the overlap of the two masks, over all matrices,
--   each sample weighted by the number of weights that it represents; expected_* is the overlap of independent masks of
--   the same sizes. KL(dense‖pruned) is teacher forced, at the reference temperature. Its difference is paired by
--   prompt and step, with Student's t over prompts as the interval (NULL below two, and if none deviates). Masks
--   without samples and steps that only one of the two has are excluded; NULL if nothing is left.
-- reason: a result that changes with 128 random sequences is a result about these sequences. The view is long because
--   it compares the same pairs by their masks and by their KL.
-- columns:
--   other_recipe: The second of the pair, later in the alphabet
--   differs_in: What differs: calibration or seed [label]
--   calibration_hash: SHA-256 of the first one's calibration tokens
--   other_calibration_hash: SHA-256 of the second one's calibration tokens
--   matrices: Matrices with samples of both masks [matrices]
--   jaccard_kept: Weights that both keep over weights that at least one keeps [share]
--   expected_jaccard_kept: The same for independent masks of these sizes, matrix by matrix [share]
--   jaccard_removed: Weights that both remove over weights that at least one removes; NULL if none are removed [share]
--   expected_jaccard_removed: The same for independent masks of these sizes, matrix by matrix [share]
--   n_steps: Steps that both were measured at [steps]
--   n_prompts: Prompts that they come from [prompts]
--   kl_nats: Mean KL of the first one there [nats]
--   other_kl_nats: Mean KL of the second one there [nats]
--   kl_difference_nats: Second minus first [nats] = other_kl_nats − kl_nats
--   kl_difference_low_nats: Lower end of its 95 % interval, paired, Student's t over prompts [nats]
with described as (
    select
        *,
        -- calibration_hash identifies the tokens, whether the recipe or the study names them.
        json_merge_patch(try_cast(parameters_json as json), '{"calibration": null}') as uncalibrated,
        -- The parameters without their seed, to find recipes that differ in it alone.
        json_merge_patch(try_cast(parameters_json as json), '{"calibration": null, "seed": null}') as seedless
    from pruned_variants
    where try_cast(parameters_json as json) is not null
),

pairs as (
    select
        one.model, one.recipe,
        other.recipe as other_recipe,
        one.method,
        case when one.uncalibrated = other.uncalibrated then 'calibration' else 'seed' end as differs_in,
        one.calibration_hash,
        other.calibration_hash as other_calibration_hash
    from described as one
    inner join described as other using (model, method, seedless)
    where
        one.recipe < other.recipe and case
            when one.uncalibrated = other.uncalibrated then one.calibration_hash <> other.calibration_hash
            else one.calibration_hash is not distinct from other.calibration_hash
        end
),

matrices as (
    select
        pairs.model, pairs.recipe, pairs.other_recipe,
        cast(one.weights as double) / one.sampled as scale,
        one.sampled,
        bit_count(one.kept) as kept,
        bit_count(other.kept) as other_kept,
        bit_count(one.kept & other.kept) as both_kept
    from pairs
    inner join stg_mask_samples as one using (model, recipe)
    -- The same positions: a file of another revision of the model may have other shapes.
    inner join stg_mask_samples as other using (model, layer, sublayer, module, weights, sampled)
    where pairs.other_recipe = other.recipe
),

mask_sums as (
    select
        model, recipe, other_recipe,
        count(*) as matrices,
        sum(scale * both_kept) as both_kept,
        sum(scale * (kept + other_kept - both_kept)) as either_kept,
        sum(scale * (sampled - kept - other_kept + both_kept)) as both_removed,
        sum(scale * (sampled - both_kept)) as either_removed,
        sum(scale * kept * other_kept / sampled) as both_kept_expected,
        sum(scale * (kept + other_kept - kept * other_kept / sampled)) as either_kept_expected,
        sum(scale * (sampled - kept) * (sampled - other_kept) / sampled) as both_removed_expected,
        sum(scale * (sampled - kept * other_kept / sampled)) as either_removed_expected
    from matrices
    group by all
),

prompt_sums as (
    select
        pairs.model, pairs.recipe, pairs.other_recipe, one.prompt_id,
        cast(count(*) as double) as steps,
        sum(cast(one.kl_dense_pruned_nats as double)) as kl_sum_nats,
        sum(cast(other.kl_dense_pruned_nats as double)) as other_kl_sum_nats
    from pairs
    inner join decoding_at_reference as one using (model, recipe)
    inner join decoding_at_reference as other using (model, prompt_id, trajectory, step, temperature)
    where pairs.other_recipe = other.recipe and one.trajectory = 'teacher_forced'
    group by all
),

divergences as (
    select
        model, recipe, other_recipe,
        cast(sum(steps) as bigint) as n_steps,
        count(*) as n_prompts,
        sum(kl_sum_nats) / sum(steps) as kl_nats,
        sum(other_kl_sum_nats) / sum(steps) as other_kl_nats,
        half_width_of_mean(other_kl_sum_nats - kl_sum_nats, steps) as half_width
    from prompt_sums
    group by all
)

select
    pairs.model, pairs.recipe, pairs.other_recipe, pairs.method, pairs.differs_in, pairs.calibration_hash,
    pairs.other_calibration_hash,
    coalesce(mask_sums.matrices, 0) as matrices,
    mask_sums.both_kept / nullif(mask_sums.either_kept, 0) as jaccard_kept,
    mask_sums.both_kept_expected / nullif(mask_sums.either_kept_expected, 0) as expected_jaccard_kept,
    mask_sums.both_removed / nullif(mask_sums.either_removed, 0) as jaccard_removed,
    mask_sums.both_removed_expected / nullif(mask_sums.either_removed_expected, 0) as expected_jaccard_removed,
    coalesce(divergences.n_steps, 0) as n_steps,
    coalesce(divergences.n_prompts, 0) as n_prompts,
    divergences.kl_nats, divergences.other_kl_nats,
    divergences.other_kl_nats - divergences.kl_nats as kl_difference_nats,
    divergences.other_kl_nats - divergences.kl_nats - divergences.half_width as kl_difference_low_nats,
    divergences.other_kl_nats - divergences.kl_nats + divergences.half_width as kl_difference_high_nats
from pairs
left join mask_sums using (model, recipe, other_recipe)
left join divergences using (model, recipe, other_recipe)
order by pairs.model, pairs.recipe, pairs.other_recipe

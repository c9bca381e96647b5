-- On its own text, is a variant further from the dense model than on the dense text? Is free running beyond a fork?
-- grain: one row per model × recipe with a text that flips, noise variants included as nulls.
-- key: model, recipe
-- inputs: steps_after_flip, trajectory_gaps, noise_variants
-- how to read: all numbers are over the steps after the first flip that all of a prompt's texts have, at least two of
--   them (steps_after_flip): in an answer of one letter nothing can be fed back. On own_text both models read the
--   variant's text, on teacher_forced the dense one. fork is the dense model alone: its text against the one that it
--   writes after the variant's first different token. free_running compares a step of one text with the same step of
--   another, so it says something about pruning only if it exceeds fork. Differences and factors are means over
--   prompts, of the difference or the logarithm of the ratio of each prompt's means, with Student's 95 % interval for
--   each variant alone. The two verdicts are corrected for the number of pruned variants of the model (Bonferroni), and
--   say nothing below 6 prompts. trajectory_summary compares the order of variants with that by their answers.
-- reason: whether decoding feeds the error back is a question about the same text, read by both models.
-- columns:
--   is_noise: Whether nothing is pruned: the null of the other rows
--   n_prompts: Prompts whose texts go on for two steps or more after the flip [prompts]
--   kl_teacher_forced_median_nats: Median KL(dense‖pruned), both reading the dense text [nats]
--   kl_own_text_median_nats: Median KL(dense‖pruned), both reading the variant's text [nats]
--   kl_free_running_median_nats: Median KL(dense‖pruned), each reading its own text [nats]
--   kl_fork_median_nats: Median KL of the dense model on its text and on the fork [nats]
--   own_minus_forced_nats: Mean difference over prompts; above 0 its own text takes the variant further [nats]
--   own_minus_forced_low_nats: Lower end of its 95 % interval [nats]
--   own_over_forced: Geometric mean over prompts of the ratio of means [ratio]
--   own_over_forced_low: Lower end of its 95 % interval [ratio]
--   own_text_is: further, nearer, or no difference shown: own_minus_forced_nats against 0 [label]
--   free_minus_fork_nats: Mean difference over prompts; above 0 it exceeds what one other token costs [nats]
--   free_minus_fork_low_nats: Lower end of its 95 % interval [nats]
--   free_running_is: further, nearer, or no difference shown: free_minus_fork_nats against 0 [label]
with medians as (
    select
        model, recipe,
        count(distinct prompt_id) as n_prompts,
        median(kl_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_median_nats,
        median(kl_nats) filter (where trajectory = 'own_text') as kl_own_text_median_nats,
        median(kl_nats) filter (where trajectory = 'free_running') as kl_free_running_median_nats,
        median(kl_nats) filter (where trajectory = 'fork') as kl_fork_median_nats
    from steps_after_flip
    group by all
),

gaps as (
    select
        model, recipe,
        mean_over_units(own_minus_forced_nats) as own,
        mean_over_units(own_over_forced_ln) as ratio,
        mean_over_units(free_minus_fork_nats) as free
    from trajectory_gaps
    group by all
),

counted as (
    select
        medians.*,
        gaps.own, gaps.ratio, gaps.free,
        noise_variants.recipe is not null as is_noise,
        count_if(noise_variants.recipe is null) over (partition by medians.model) as comparisons
    from medians
    inner join gaps using (model, recipe)
    left join noise_variants using (model, recipe)
)

select
    model, recipe, is_noise, n_prompts, kl_teacher_forced_median_nats, kl_own_text_median_nats,
    kl_free_running_median_nats, kl_fork_median_nats,
    own['mean'] as own_minus_forced_nats,
    own['mean'] - own['half_width'] as own_minus_forced_low_nats,
    own['mean'] + own['half_width'] as own_minus_forced_high_nats,
    exp(ratio['mean']) as own_over_forced,
    exp(ratio['mean'] - ratio['half_width']) as own_over_forced_low,
    exp(ratio['mean'] + ratio['half_width']) as own_over_forced_high,
    direction_of_mean(own, comparisons) as own_text_is,
    free['mean'] as free_minus_fork_nats,
    free['mean'] - free['half_width'] as free_minus_fork_low_nats,
    free['mean'] + free['half_width'] as free_minus_fork_high_nats,
    direction_of_mean(free, comparisons) as free_running_is
from counted
order by model, is_noise, recipe

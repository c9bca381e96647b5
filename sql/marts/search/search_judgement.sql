-- Each mixed variant against every other variant of the same budget, on the study's own data.
-- grain: one row per mixed variant × other variant × measure that both have.
-- key: model, recipe, other_recipe, measure
-- inputs: search_candidates, search_units
-- how to read: the study that ran the search measures nothing that its search saw; another study may. The other
--   variants remove more of the layers' weights, or at most 0.5 percentage points less; if the budget is bytes, of
--   their bytes in 16 bits. Variants chosen for milliseconds are left out. Both sides are measured on the same windows,
--   prompts or questions. difference is the mixed variant minus the other one, paired by these units: below 0 the mixed
--   variant does less damage, but for same_steps and same_options above 0. Intervals are Student's t over windows or
--   prompts, on a logarithmic scale for means and perplexities, on a linear one for differences; NULL below two units
--   or if none deviates. Those of same_steps are linear, between the fewest and the most steps that the texts can
--   share; NULL below three prompts, because two bound nothing. Those of same_options are Wilson's over questions, and
--   Newcombe's for pairs for the difference. They are not corrected for the number of others. The best published
--   variant is chosen by the same data, in its own favour.
-- reason: the claim of a search is that its recipe beats published ones at the same budget.
-- columns:
--   strategy: Strategy that chose the mixed variant: searched or a control; NULL if it was written by hand [label]
--   budget: Unit of the target that it was chosen for: parameters or bytes; NULL if it was written by hand [label]
--   other_recipe: Name of the variant that it is compared with
--   measure: kl_texts, mean KL(dense‖pruned) on texts; perplexity on texts; kl_prompts, the same KL on prompts, teacher
--     forced; same_steps, mean number of steps that a free-running text shares with the dense one; same_options, share
--     of the study's questions in which the dense model's option is chosen [label]
--   removed_share: Share of the layers' weights, or of their bytes if that is the budget, that it removes [share]
--   other_removed_share: That of the other variant [share]
--   is_published: Whether the other variant is not a mixed one
--   amount: The measure of the mixed variant [nats, tokens, steps or share]
--   amount_low: Lower end of its 95 % interval [nats, tokens, steps or share]
--   other_amount: The measure of the other variant [nats, tokens, steps or share]
--   other_low: Lower end of its 95 % interval [nats, tokens, steps or share]
--   difference: The mixed variant minus the other [nats, tokens, steps or share] = amount − other_amount
--   difference_low: Lower end of its 95 % interval, paired by window or prompt [nats, tokens, steps or share]
--   n_units: Windows, prompts or questions that both were measured on [units]
--   is_better: Whether the mixed variant does less damage, if the interval of the difference excludes 0; else NULL
--   is_best_published: Whether this published variant does best against the mixed one; the first by name if several do
with pairs as (
    select
        mixed.model, mixed.recipe, mixed.strategy, mixed.budget,
        other.recipe as other_recipe,
        case when mixed.budget = 'bytes' then mixed.bytes_share else mixed.removed_share end as removed_share,
        case when mixed.budget = 'bytes' then other.bytes_share else other.removed_share end as other_removed_share,
        other.is_published
    from search_candidates as mixed
    inner join search_candidates as other using (model)
    where
        mixed.recipe <> other.recipe and not mixed.is_published
        and mixed.budget is distinct from 'milliseconds'
        -- The last digits of a share are rounding errors.
        and case
            when mixed.budget = 'bytes' then other.bytes_share - mixed.bytes_share
            else other.removed_share - mixed.removed_share
        end >= -budget_slack() - 1e-9
),

-- The units of both variants of a pair. A slope is how far the measure moves if its mean moves by one.
paired as (
    select
        pairs.model, pairs.recipe, pairs.other_recipe, own.measure, own.size, own.total,
        theirs.total as other_total,
        own.largest_total,
        if(own.measure = 'perplexity', exp(sum(own.total) over of_pair / sum(own.size) over of_pair), 1) as slope,
        if(own.measure = 'perplexity', exp(sum(theirs.total) over of_pair / sum(own.size) over of_pair), 1)
            as other_slope
    from pairs
    inner join search_units as own using (model, recipe)
    inner join search_units as theirs using (model, measure, unit, size)
    where pairs.other_recipe = theirs.recipe
    window of_pair as (partition by pairs.model, pairs.recipe, pairs.other_recipe, own.measure)
),

spreads as (
    select
        model, recipe, other_recipe, measure,
        sum(total) / sum(size) as mean,
        sum(largest_total) / sum(size) as largest_mean,
        half_width_of_mean(total, size) as half_width,
        sum(other_total) / sum(size) as other_mean,
        half_width_of_mean(other_total, size) as other_half_width,
        half_width_of_mean(slope * total - other_slope * other_total, size) as half_width_of_difference,
        cast(count_if(total < other_total) as bigint) as n_lower,
        cast(count_if(total > other_total) as bigint) as n_higher,
        count(*) as n_units
    from paired
    group by all
),

amounts as (
    select
        *,
        if(measure = 'perplexity', exp(mean), mean) as amount,
        if(measure = 'perplexity', exp(other_mean), other_mean) as other_amount,
        case measure
            when 'perplexity' then [exp(mean - half_width), exp(mean + half_width)]
            when 'same_options' then wilson_interval(mean * n_units, n_units)
            when 'same_steps' then interval_within(mean, half_width, 0, largest_mean, n_units)
            else interval_of_positive_mean(mean, half_width)
        end as ends,
        case measure
            when 'perplexity' then [exp(other_mean - other_half_width), exp(other_mean + other_half_width)]
            when 'same_options' then wilson_interval(other_mean * n_units, n_units)
            when 'same_steps' then interval_within(other_mean, other_half_width, 0, largest_mean, n_units)
            else interval_of_positive_mean(other_mean, other_half_width)
        end as other_ends,
        case measure
            when 'same_options' then interval_of_paired_change(n_lower, n_higher, n_units)
            when 'same_steps'
                then
                    interval_within(
                        amount - other_amount, half_width_of_difference, -largest_mean, largest_mean, n_units
                    )
            else [
                amount - other_amount - half_width_of_difference, amount - other_amount + half_width_of_difference
            ]
        end as difference_ends,
        if(measure in ('same_steps', 'same_options'), -1, 1) as direction
    from spreads
)

select
    pairs.model, pairs.recipe, pairs.strategy, pairs.budget, pairs.other_recipe, amounts.measure, pairs.removed_share,
    pairs.other_removed_share, pairs.is_published, amounts.amount,
    amounts.ends[1] as amount_low,
    amounts.ends[2] as amount_high,
    amounts.other_amount,
    amounts.other_ends[1] as other_low,
    amounts.other_ends[2] as other_high,
    amounts.amount - amounts.other_amount as difference,
    amounts.difference_ends[1] as difference_low,
    amounts.difference_ends[2] as difference_high,
    amounts.n_units,
    case
        when difference_low > 0 or difference_high < 0 then amounts.direction * difference < 0
    end as is_better,
    pairs.is_published
    and row_number() over (
        partition by pairs.model, pairs.recipe, amounts.measure, pairs.is_published
        order by amounts.direction * difference desc, pairs.other_recipe asc
    ) = 1 as is_best_published
from pairs
inner join amounts using (model, recipe, other_recipe)
order by pairs.model, pairs.recipe, amounts.measure, pairs.other_recipe

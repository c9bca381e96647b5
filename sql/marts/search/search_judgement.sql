-- Each mixed variant against every other variant that removes as many weights, on the study's own data.
-- grain: one row per mixed variant × other variant × measure that both have.
-- key: model, recipe, other_recipe, measure
-- inputs: search_candidates, search_units
-- how to read: the study that searched measures nothing that its search saw; another study may. Others remove at most
--   0.5 percentage points less of the layers' weights, or more. Both sides are over the windows or prompts that both
--   were measured on. difference is the mixed variant minus the other one, paired by
--   window or prompt, so that what these have in common cancels: below 0 the mixed variant does less damage, but above
--   0 where measure is first_flip_step. Intervals are Student's t over windows or prompts: of KL on a logarithmic
--   scale, of a perplexity that of its logarithm, of a median Woodruff's; NULL below two units, where none deviates,
--   and of a median where the interval of its share exceeds 0 to 1. They are not corrected for the number of others.
--   The best published variant is chosen by the same data, in its own favour.
-- reason: the claim of a search is that its recipe beats published ones at the same budget. The view is long because
--   three kinds of measure share one way of pairing.
-- columns:
--   other_recipe: Name of the variant that it is compared with
--   measure: kl_texts, mean KL(dense‖pruned) on texts; perplexity on texts; kl_prompts, the same KL on prompts, teacher
--     forced; first_flip_step, the median step at which a free-running text leaves the dense one [label]
--   other_removed_share: Share of the layers' weights that the other variant removes [share]
--   other_method: Method of the other variant [label]
--   is_published: Whether the other variant is no mixed one
--   amount: The measure of the mixed variant [nats, tokens or step]
--   amount_low: Lower end of its 95 % interval [nats, tokens or step]
--   amount_high: Upper end of it [nats, tokens or step]
--   other_amount: The measure of the other variant [nats, tokens or step]
--   other_low: Lower end of its 95 % interval [nats, tokens or step]
--   other_high: Upper end of it [nats, tokens or step]
--   difference: The mixed variant minus the other [nats, tokens or step] = amount − other_amount
--   difference_low: Lower end of its 95 % interval, paired by window or prompt [nats, tokens or step]
--   difference_high: Upper end of it [nats, tokens or step]
--   n_units: Windows or prompts that both were measured on [windows or prompts]
--   is_better: Whether the mixed variant does less damage, where the interval of the difference excludes 0; else NULL
--   is_best_published: Whether no other published variant does less damage by this measure; several where equal
with

pairs as (
    select
        mixed.model,
        mixed.recipe,
        other.recipe as other_recipe,
        mixed.removed_share,
        other.removed_share as other_removed_share,
        other.method as other_method,
        other.is_published
    from search_candidates as mixed
    inner join search_candidates as other
        on
            mixed.model = other.model
            and mixed.recipe <> other.recipe
            -- The last digits of a share are rounding.
            and other.removed_share >= mixed.removed_share - 0.005 - 1e-9
    where not mixed.is_published
),

-- The units of both variants of a pair, in rows of their own.
sides as (
    select
        pairs.model,
        pairs.recipe,
        pairs.other_recipe,
        own.measure,
        own.unit,
        own.size,
        unnest(['own', 'other']) as side,
        unnest([own.total, theirs.total]) as total
    from pairs
    inner join search_units as own
        on pairs.model = own.model and pairs.recipe = own.recipe
    inner join search_units as theirs
        on
            pairs.model = theirs.model
            and pairs.other_recipe = theirs.recipe
            and own.measure = theirs.measure
            and own.unit = theirs.unit
            and own.size = theirs.size
),

-- Of a median the amount is 1 above it and 1/2 at it: their mean is the share of units above, and the interval of that
-- share gives the median's (Woodruff).
placed as (
    select
        *,
        median(total) over of_side as middle,
        case
            when measure <> 'first_flip_step' then total
            when total > median(total) over of_side then 1
            when total = median(total) over of_side then 0.5
            else 0
        end as amount
    from sides
    window of_side as (partition by model, recipe, other_recipe, measure, side)
),

influences as (
    select
        *,
        (amount - size * sum(amount) over of_side / sum(size) over of_side) / sum(size) over of_side as influence
    from placed
    window of_side as (partition by model, recipe, other_recipe, measure, side)
),

spreads as (
    select
        model,
        recipe,
        other_recipe,
        measure,
        side,
        count(*) as n_units,
        sum(amount) / sum(size) as mean,
        any_value(middle) as middle,
        half_width_over_clusters(influence) as half_width,
        list_sort(list(total)) as sorted
    from influences
    group by model, recipe, other_recipe, measure, side
),

amounts as (
    select
        *,
        case measure when 'perplexity' then exp(mean) when 'first_flip_step' then middle else mean end as amount,
        case
            when measure = 'perplexity' then [exp(mean - half_width), exp(mean + half_width)]
            when measure <> 'first_flip_step' then interval_of_positive_mean(mean, half_width)
            -- An interval of the share that exceeds 0 to 1 does not bound the median.
            when half_width < 0.5
                then [
                    sorted[cast(1 + floor((0.5 - half_width) * n_units) as bigint)],
                    sorted[cast(ceil((0.5 + half_width) * n_units) as bigint)]
                ]
        end as ends
    from spreads
),

-- How far the measure moves when its mean, or the share of units above the median, moves by one.
slopes as (
    select
        *,
        case measure
            when 'perplexity' then amount
            when 'first_flip_step' then (ends[2] - ends[1]) / (2 * half_width)
            else 1
        end as slope
    from amounts
),

by_unit as (
    select
        influences.model,
        influences.recipe,
        influences.other_recipe,
        influences.measure,
        influences.unit,
        case
            when count(slopes.slope) = 2
                then sum(if(influences.side = 'own', 1, -1) * influences.influence * slopes.slope)
        end as influence
    from influences
    inner join slopes
        on
            influences.model = slopes.model
            and influences.recipe = slopes.recipe
            and influences.other_recipe = slopes.other_recipe
            and influences.measure = slopes.measure
            and influences.side = slopes.side
    group by
        influences.model, influences.recipe, influences.other_recipe, influences.measure, influences.unit
),

differences as (
    select
        model,
        recipe,
        other_recipe,
        measure,
        half_width_over_clusters(influence) as half_width
    from by_unit
    group by model, recipe, other_recipe, measure
),

compared as (
    select
        pairs.model,
        pairs.recipe,
        pairs.other_recipe,
        own.measure,
        pairs.removed_share,
        pairs.other_removed_share,
        pairs.other_method,
        pairs.is_published,
        own.amount,
        own.ends[1] as amount_low,
        own.ends[2] as amount_high,
        theirs.amount as other_amount,
        theirs.ends[1] as other_low,
        theirs.ends[2] as other_high,
        own.amount - theirs.amount as difference,
        own.amount - theirs.amount - differences.half_width as difference_low,
        own.amount - theirs.amount + differences.half_width as difference_high,
        own.n_units,
        if(own.measure = 'first_flip_step', -1, 1) as direction
    from pairs
    inner join slopes as own
        on pairs.model = own.model and pairs.recipe = own.recipe and pairs.other_recipe = own.other_recipe
    inner join slopes as theirs
        on
            own.model = theirs.model
            and own.recipe = theirs.recipe
            and own.other_recipe = theirs.other_recipe
            and own.measure = theirs.measure
            and theirs.side = 'other'
    left join differences
        on
            own.model = differences.model
            and own.recipe = differences.recipe
            and own.other_recipe = differences.other_recipe
            and own.measure = differences.measure
    where own.side = 'own'
)

select
    model,
    recipe,
    other_recipe,
    measure,
    removed_share,
    other_removed_share,
    other_method,
    is_published,
    amount,
    amount_low,
    amount_high,
    other_amount,
    other_low,
    other_high,
    difference,
    difference_low,
    difference_high,
    n_units,
    case
        when difference_low > 0 or difference_high < 0 then direction * difference < 0
    end as is_better,
    is_published
    and direction * other_amount = min(direction * other_amount) filter (where is_published) over of_measure
        as is_best_published
from compared
window of_measure as (partition by model, recipe, measure)
order by model, recipe, measure, other_recipe

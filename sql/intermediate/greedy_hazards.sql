-- The predicted probability that a variant changes a token, at later steps and for prompts that the fit did not see.
-- grain: one row per model × recipe × prompt × step of the second half; noise included, dense excluded.
-- key: model, recipe, prompt_id, step
-- inputs: greedy_steps
-- how to read: flip_probability = 1 / (1 + exp(−a − b × margin_over_shift)). a and b are fitted per variant by maximum
--   likelihood to the first half of the steps of the model's longest text, without the fifth of the prompts that
--   contains the row's prompt. flip_probability_constant is the share of flips in the same steps. Neither uses the
--   prompt, the later steps or the variant's own text. A model with one prompt or one step has no predictions.
-- reason: a hazard must predict steps and prompts that it was not fitted to.
-- columns:
--   margin_over_shift: As in greedy_steps [ratio]
--   flip_probability: Predicted probability of is_flip [probability]
--   flip_probability_constant: The same if the hazard is constant over steps [probability]
--   decile: Tenth of the variant's rows in the order of flip_probability, from 1 [number]
with recursive prompts as (
    select
        model, prompt_id,
        -- MD5 is the same in every version of DuckDB, unlike its own hash function.
        cast(md5_number(prompt_id) % 5 as integer) as fold,
        max(max(step)) over (partition by model) as last_step
    from greedy_steps
    group by model, prompt_id
),

steps as (
    select
        greedy_steps.*,
        prompts.fold,
        2 * greedy_steps.step <= prompts.last_step as is_first_half
    from greedy_steps
    inner join prompts using (model, prompt_id)
),

folds as (
    select distinct model, fold
    from prompts
),

counts as (
    select
        model, recipe, fold, margin_over_shift,
        count(*) as n,
        count(*) filter (where is_flip) as flips
    from steps
    where is_first_half
    group by all
),

-- The data that remain if the prompts of a fold are left out.
training as (
    select
        counts.model, counts.recipe, folds.fold, counts.margin_over_shift,
        cast(sum(counts.n) as double) as n,
        cast(sum(counts.flips) as double) as flips
    from counts
    inner join folds using (model)
    where counts.fold <> folds.fold
    group by all
),

-- Newton's method from 0. A penalty of 0.005 (a² + b²) keeps a fit finite if margin_over_shift separates the flips.
fits as (
    select
        model, recipe, fold,
        0 as iteration,
        cast(0 as double) as a,
        cast(0 as double) as b
    from training
    group by all
    union all
    select
        model, recipe, fold,
        iteration + 1 as iteration,
        a + (h_bb * g_a - h_ab * g_b) / (h_aa * h_bb - h_ab ** 2) as a,
        b + (h_aa * g_b - h_ab * g_a) / (h_aa * h_bb - h_ab ** 2) as b
    from (
        select
            model, recipe, fold, iteration, a, b,
            sum(flips - n * p) - 0.01 * a as g_a,
            sum((flips - n * p) * x) - 0.01 * b as g_b,
            sum(n * p * (1 - p)) + 0.01 as h_aa,
            sum(n * p * (1 - p) * x) as h_ab,
            sum(n * p * (1 - p) * x ** 2) + 0.01 as h_bb
        from (
            select
                fits.*,
                training.n, training.flips,
                training.margin_over_shift as x,
                1 / (1 + exp(-fits.a - fits.b * training.margin_over_shift)) as p
            from fits
            inner join training using (model, recipe, fold)
            where fits.iteration < 20
        ) as predictions
        group by model, recipe, fold, iteration, a, b
    ) as sums
),

shares as (
    select
        model, recipe, fold,
        sum(flips) / sum(n) as flip_probability_constant
    from training
    group by all
),

predicted as (
    select
        steps.*,
        1 / (1 + exp(-fits.a - fits.b * steps.margin_over_shift)) as flip_probability,
        shares.flip_probability_constant
    from steps
    inner join fits using (model, recipe, fold)
    inner join shares using (model, recipe, fold)
    where fits.iteration = 20 and not steps.is_first_half
)

select
    model, recipe, prompt_id, step, is_flip, margin_over_shift, flip_probability, flip_probability_constant,
    cast(
        ntile(10) over (partition by model, recipe order by flip_probability, prompt_id, step) as integer
    ) as decile
from predicted

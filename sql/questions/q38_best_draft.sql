-- Which variant is the best draft for its own dense model?
-- grain: one row per model × recipe × decoding × length of the draft, from 1 to 8 tokens.
-- key: model, recipe, decoding, draft_tokens
-- inputs: token_acceptance, acceptance, speed_summary
-- how to read: the variant drafts draft_tokens tokens; the dense model checks them in one pass and adds one of its own.
--   Two numbers are measured. acceptance_rate comes from the distributions of both models along the dense model's
--   texts. draft_cost is the time of a written token of the variant over the dense model's, from `speed` at the
--   smallest batch and the longest prompt; NULL without `speed`. The rest is arithmetic. tokens_per_pass is the mean
--   over all starts in a text of 1 + a₁ + a₁a₂ + …, with the acceptances a of the tokens that follow, so it takes into
--   account that rejections cluster. tokens_per_pass_independent is (1 − α^(γ+1))/(1 − α), with the acceptance rate α
--   for every token. speedup is tokens_per_pass over draft_tokens × draft_cost + 1, as if a pass over draft_tokens + 1
--   tokens took the time of one. That is true if weights limit the speed, else an upper limit. Below 1 drafting does
--   not pay. The interval of tokens_per_pass is Student's t over prompts. The dense recipe and noise variants are
--   excluded.
-- reason: a pruned model whose answers are not good enough may still be useful as a draft, which changes no output.
-- columns:
--   draft_tokens: Tokens that the variant drafts per pass of the dense model, γ [tokens]
--   n_starts: Places in the texts at which a whole draft fits [tokens]
--   tokens_per_pass: Expected tokens per pass of the dense model, from the acceptances along the texts [tokens]
--   tokens_per_pass_low: Lower end of its 95 % interval, Student's t over prompts [tokens]
--   tokens_per_pass_independent: The same if all tokens were accepted independently at the same rate [tokens]
--   draft_cost: Time of a token of the variant over that of the dense model; NULL without `speed` [ratio]
--   speedup: Expected speed of speculative sampling over the dense model's own [ratio] =
--     tokens_per_pass/(draft_tokens × draft_cost + 1)
with next_tokens as (
    select
        model, recipe, decoding, prompt_id,
        list(acceptance) over (
            partition by model, recipe, decoding, prompt_id, sample
            order by step
            rows between current row and 7 following
        ) as acceptances
    from token_acceptance
    where trajectory = 'teacher_forced'
),

drafts as (
    select
        *,
        unnest(range(1, len(acceptances) + 1)) as draft_tokens
    from next_tokens
),

prompts as (
    select
        model, recipe, decoding, prompt_id, draft_tokens,
        sum(
            1 + list_sum(
                list_transform(range(1, draft_tokens + 1), lambda length: list_product(acceptances[1:length]))
            )
        ) as tokens,
        count(*) as n_starts
    from drafts
    group by all
),

passes as (
    select
        model, recipe, decoding, draft_tokens,
        count(*) as prompts,
        cast(sum(n_starts) as bigint) as n_starts,
        sum(tokens) / sum(n_starts) as tokens_per_pass,
        half_width_of_mean(tokens, n_starts) as half_width
    from prompts
    group by all
),

costs as (
    select
        model, recipe,
        1 / arg_min(decode_speedup, row(batch, -length, -new_tokens)) as draft_cost
    from speed_summary
    group by all
)

select
    passes.model, passes.recipe, passes.decoding, passes.draft_tokens, rates.temperature, passes.prompts,
    passes.n_starts, rates.acceptance_rate, passes.tokens_per_pass,
    interval_within(passes.tokens_per_pass, passes.half_width, 1, passes.draft_tokens + 1, passes.prompts)[1]
        as tokens_per_pass_low,
    interval_within(passes.tokens_per_pass, passes.half_width, 1, passes.draft_tokens + 1, passes.prompts)[2]
        as tokens_per_pass_high,
    case
        when rates.acceptance_rate < 1
            then (1 - rates.acceptance_rate ** (passes.draft_tokens + 1)) / (1 - rates.acceptance_rate)
        else passes.draft_tokens + 1
    end as tokens_per_pass_independent,
    costs.draft_cost,
    passes.tokens_per_pass / (passes.draft_tokens * costs.draft_cost + 1) as speedup
from passes
inner join acceptance as rates using (model, recipe, decoding)
left join costs using (model, recipe)
where rates.trajectory = 'teacher_forced' and passes.recipe <> 'dense' and not rates.is_noise
order by
    passes.model asc, passes.decoding asc, speedup desc nulls last, passes.tokens_per_pass desc, passes.recipe asc,
    passes.draft_tokens asc

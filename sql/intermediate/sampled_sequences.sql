-- The sampled texts that both models were measured along to the end, with sums over their tokens.
-- grain: one row per variant × trajectory × prompt × sample; dense and noise variants included.
-- key: model, recipe, trajectory, prompt_id, sample
-- inputs: stg_sampled_generations, stg_sampled_steps
-- how to read: a sum over a text includes its end-of-text token. If one of a variant's texts in a trajectory has fewer
--   steps than tokens, the variant has no rows in that trajectory. This is so in older files, which stop at the flip:
--   the other texts alone would be those that never part.
-- reason: single place that says which sampled texts are complete.
-- columns:
--   tokens: Tokens of the text [tokens]
--   has_ended: Whether the text ends with an end-of-text token; others are cut at the study's length
--   kl_text_nats: Sum of the KL over the tokens, from the model that wrote the text to the other one: KL(dense‖pruned)
--     in teacher_forced, KL(pruned‖dense) in own_text [nats]
with writers as (
    select
        *,
        unnest(['own_text', 'teacher_forced']) as trajectory
    from stg_sampled_generations
),

texts as (
    select
        own.model, own.recipe, writers.trajectory, own.prompt_id, own.sample, own.temperature, own.top_p,
        len(writers.token_ids) as tokens,
        writers.end_step is not null as has_ended
    from stg_sampled_generations as own
    inner join writers using (model, prompt_id, sample)
    where writers.recipe = if(writers.trajectory = 'own_text', own.recipe, 'dense')
),

sums as (
    select
        model, recipe, trajectory, prompt_id, sample,
        count(*) as steps,
        sum(
            case trajectory when 'teacher_forced' then kl_dense_pruned_nats else kl_pruned_dense_nats end
        ) as kl_text_nats
    from stg_sampled_steps
    group by all
)

select
    texts.model, texts.recipe, texts.trajectory, texts.prompt_id, texts.sample, texts.temperature, texts.top_p,
    texts.tokens, texts.has_ended, sums.kl_text_nats
from texts
left join sums using (model, recipe, trajectory, prompt_id, sample)
qualify
    count_if(sums.steps is distinct from texts.tokens) over (
        partition by texts.model, texts.recipe, texts.trajectory
    ) = 0

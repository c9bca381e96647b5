-- The top tokens of each side have ranks from 1 without a gap, in falling logits, and the first is the emitted token.
-- grain: one row per top token out of place.
-- inputs: stg_top_tokens, stg_decoding_steps, stg_models
-- reason: the list and the step are written separately and must describe the same distribution.
with lists as (
    select
        model, recipe, prompt_id, trajectory, step, side, rank, token_id,
        case side when 'dense' then logit_dense else logit_pruned end as own_logit,
        row_number() over side_list as place,
        lag(own_logit) over side_list as own_logit_before,
        lead(own_logit) over side_list as own_logit_behind
    from stg_top_tokens
    window side_list as (partition by model, recipe, prompt_id, trajectory, step, side order by rank)
),

emitted as (
    -- Greedy tokens do not depend on the temperature.
    select distinct model, recipe, prompt_id, trajectory, step, token_id_dense, token_id_pruned
    from stg_decoding_steps
)

select lists.model, lists.recipe, lists.prompt_id, lists.trajectory, lists.step, lists.side, lists.rank, lists.token_id
from lists
left join emitted using (model, recipe, prompt_id, trajectory, step)
left join stg_models as models using (model)
where
    lists.rank <> lists.place
    or lists.own_logit > lists.own_logit_before
    or (
        lists.rank = 1
        -- Tokens come from decoding, the list from dense logits plus shift: rounding may reverse a tie.
        and coalesce(lists.own_logit - lists.own_logit_behind, 1) > tie_margin(models.dtype, lists.recipe)
        and lists.token_id is distinct from case lists.side
            when 'dense' then emitted.token_id_dense
            else emitted.token_id_pruned
        end
    )

-- The step and the sublayer at which each pruned model first differs from the dense one, and the dense model's margin
-- there.
-- grain: one row per model × recipe × prompt.
-- key: model, recipe, prompt_id
-- inputs: decoding_at_reference, stg_layer_transitions
-- how to read: step is the first at which the pruned model emits another token; until then both models have read the
--   same tokens. layer and sublayer are the first after which the most likely token differs at that step, read through
--   the final norm and the head (scope propagated, lens normed). In early layers the most likely token is not settled,
--   so the two models may differ and agree again. from_layer and from_sublayer are where they start to differ all the
--   way up to the output. margin_dense is the margin of the dense model's output at the step, lens_margin_dense the
--   margin after the sublayer. is_margin_low says that less than a quarter of the prompt's steps have a smaller
--   margin; it is NULL below four steps. All columns are NULL if the prompt never flips. The columns about layers are
--   also NULL if the step was not measured in scope propagated with lens normed. The dense recipe and noise variants
--   are excluded.
-- reason: one row says where a generation first differs, and whether the dense model was undecided there. The view is
--   long because steps and layers must be joined before either is aggregated.
-- columns:
--   step: First step whose token differs from the dense model's; NULL if none does [step]
--   layer: First layer after whose sublayer the most likely token differs at that step
--   sublayer: The sublayer of that layer
--   lens_kl_nats: KL(dense‖pruned) after that sublayer, through lens normed [nats]
--   lens_margin_dense: Dense logit of the first token minus that of the second after that sublayer, through lens
--     normed [logit]
--   from_layer: Layer of the sublayer from which on the most likely token differs up to the output
--   from_sublayer: The sublayer of that layer
--   kl_output_nats: KL(dense‖pruned) of the output at that step [nats]
--   margin_dense: Dense logit of the output's first token minus that of its second at that step [logit]
--   margin_share_below: Share of the prompt's other steps at which the dense model's margin is smaller [share]
--   is_margin_low: Whether the margin is among the lowest quarter of its prompt's steps = margin_share_below < 0.25
--   steps: Steps of the prompt [steps]
with

-- The dense model reads its own tokens in these trajectories, and the pruned model reads the same up to the first flip.
steps as (
    select
        model, recipe, prompt_id, step,
        any_value(temperature) as temperature,
        bool_or(not is_same_token) as is_flip,
        first(token_text_dense order by trajectory) as token_text_dense,
        first(token_text_pruned order by trajectory) as token_text_pruned,
        first(margin_dense order by trajectory desc) as margin_dense,
        first(kl_dense_pruned_nats order by trajectory desc) as kl_output_nats
    from decoding_at_reference
    where recipe <> 'dense' and trajectory in ('teacher_forced', 'free_running')
    group by all
),

ranked as (
    select
        *,
        count(*) over (partition by model, recipe, prompt_id) as steps,
        percent_rank() over (partition by model, recipe, prompt_id order by margin_dense) as margin_share_below
    from steps
),

prompts as (
    select
        model, recipe, prompt_id,
        any_value(steps) as steps,
        min(step) filter (where is_flip) as step
    from ranked
    group by all
),

flips as (
    select ranked.*
    from ranked
    inner join prompts using (model, recipe, prompt_id, step)
),

sublayers as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id, transitions.layer, transitions.sublayer,
        2 * transitions.layer + cast(transitions.sublayer = 'mlp' as integer) as place,
        transitions.is_top1_same, transitions.kl_dense_pruned_nats, transitions.margin_dense
    from stg_layer_transitions as transitions
    inner join flips using (model, recipe, prompt_id, step, temperature)
    where transitions.scope = 'propagated' and transitions.lens = 'normed'
),

compared as (
    select
        *,
        max(place) filter (where is_top1_same) over (partition by model, recipe, prompt_id) as last_same
    from sublayers
),

layers as (
    select
        model, recipe, prompt_id,
        arg_min(layer, place) as layer,
        arg_min(sublayer, place) as sublayer,
        arg_min(kl_dense_pruned_nats, place) as lens_kl_nats,
        arg_min(margin_dense, place) as lens_margin_dense,
        arg_min(layer, place) filter (where place > coalesce(last_same, -1)) as from_layer,
        arg_min(sublayer, place) filter (where place > coalesce(last_same, -1)) as from_sublayer
    from compared
    where not is_top1_same
    group by all
)

select
    prompts.model, prompts.recipe, prompts.prompt_id, prompts.step, flips.token_text_dense, flips.token_text_pruned,
    layers.layer, layers.sublayer, layers.lens_kl_nats, layers.lens_margin_dense, layers.from_layer,
    layers.from_sublayer, flips.kl_output_nats, flips.margin_dense, flips.margin_share_below,
    case when prompts.steps >= 4 then flips.margin_share_below < 0.25 end as is_margin_low,
    prompts.steps
from prompts
left join flips using (model, recipe, prompt_id)
left join layers using (model, recipe, prompt_id)

-- KL of mixed and published variants on the study's own data, and the measured objective of the results of searches.
-- grain: one row per model × panel × variant, or result of a strategy.
-- inputs: search_variants, search_front
-- how to read: method names the control that chose a mixed variant, such as `mixed, hidden`.
with judged as (
    select
        model,
        'judged' as panel,
        recipe,
        concat_ws(', ', method, nullif(strategy, 'searched')) as method,
        strategy,
        '' as search_id,
        removed_share, measured_on,
        kl_mean_nats as nats,
        kl_low as low,
        kl_high as high,
        n_units as n
    from search_variants
    -- Texts if the model was measured on any: `texts` sorts after `prompts`.
    qualify measured_on = max(measured_on) over (partition by model)
),

results as (
    select
        model,
        'trials' as panel,
        coalesce(recipe, '') as recipe,
        'mixed' as method,
        strategy,
        search as search_id,
        removed as removed_share,
        'items' as measured_on,
        measured_nats as nats,
        measured_low as low,
        measured_high as high,
        n_items as n
    from search_front
)

select * from judged
union all
select * from results
order by model, panel, method, strategy, search_id, removed_share, recipe

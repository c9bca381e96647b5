-- The variants that leave zeros in the weights, with their pattern and sparsity.
-- grain: one row per masked variant.
-- key: model, recipe
-- inputs: stg_variants
-- columns:
--   pattern: kept:block, such as 2:4, or `unstructured`
--   sparsity_percent: sparsity in whole per cent [%]
-- how to read: pruned neurons and heads are not patterns of weights and are excluded. So are noise variants, mixed
--   recipes, whose sublayers may have several patterns, and compositions, because it is not known which part made the
--   zeros.
-- reason: single definition of a sparsity pattern.
select
    model, recipe, method, sparsity,
    cast(round(100 * sparsity) as integer) as sparsity_percent,
    coalesce(
        json_extract_string(try_cast(parameters_json as json), '$.keep')
        || ':'
        || json_extract_string(try_cast(parameters_json as json), '$.block'),
        'unstructured'
    ) as pattern
from stg_variants
where
    sparsity > 0 and not is_noise
    and method not in ('composed', 'mixed')
    and json_extract(try_cast(parameters_json as json), '$.share') is null

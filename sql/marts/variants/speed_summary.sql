-- How much faster than the dense model a variant prefills and decodes, and how much of its memory it needs.
-- grain: one row per model × recipe × batch × length × new tokens.
-- key: model, recipe, batch, length, new_tokens
-- inputs: stg_speed, noise_variants
-- how to read: both sides of a ratio were timed alternately, in one run on one machine; above 1 the variant is faster.
--   equal_sides is the distance from 1 of the dense model timed against itself on the same machine: a speedup within it
--   is not a speedup. Zeros in a matrix are multiplied like any number, and quantized weights are computed as dense
--   ones, so masks and quantization show no speedup. Dropped sublayers do, because they do not run (sublayers_skipped).
--   Noise variants are excluded.
-- reason: times of two machines are not comparable, ratios within one run are.
-- columns:
--   prefill_speedup: Prompt tokens per second relative to the dense model [ratio] =
--     prefill_tokens_per_second/prefill_tokens_per_second_dense
--   decode_speedup: Written tokens per second relative to the dense model [ratio] =
--     decode_tokens_per_second/decode_tokens_per_second_dense
--   first_token_speedup: Dense time to the first token over the variant's [ratio] =
--     seconds_to_first_token_dense/seconds_to_first_token
--   peak_memory_ratio: Peak memory relative to the dense model's; NULL if that is not known [ratio] =
--     peak_memory_bytes/peak_memory_bytes_dense
--   equal_sides: Largest distance from 1 of the dense model's own three speedups; NULL if it was not timed [ratio]
with ratios as (
    select
        speeds.model, speeds.recipe, speeds.batch, speeds.length, speeds.new_tokens, speeds.machine,
        speeds.sublayers_skipped,
        speeds.prefill_tokens_per_second / speeds.prefill_tokens_per_second_dense as prefill_speedup,
        speeds.decode_tokens_per_second / speeds.decode_tokens_per_second_dense as decode_speedup,
        speeds.seconds_to_first_token_dense / speeds.seconds_to_first_token as first_token_speedup,
        speeds.peak_memory_bytes / speeds.peak_memory_bytes_dense as peak_memory_ratio
    from stg_speed as speeds
    anti join noise_variants using (model, recipe)
),

dense_ratios as (
    select
        model, batch, length, new_tokens, machine,
        greatest(
            abs(prefill_speedup - 1), abs(decode_speedup - 1), abs(first_token_speedup - 1)
        ) as equal_sides
    from ratios
    where recipe = 'dense'
)

select
    ratios.model, ratios.recipe, ratios.batch, ratios.length, ratios.new_tokens, ratios.machine,
    ratios.sublayers_skipped, ratios.prefill_speedup, ratios.decode_speedup, ratios.first_token_speedup,
    ratios.peak_memory_ratio, dense_ratios.equal_sides
from ratios
left join dense_ratios using (model, batch, length, new_tokens, machine)
order by ratios.model, ratios.recipe, ratios.batch, ratios.length, ratios.new_tokens

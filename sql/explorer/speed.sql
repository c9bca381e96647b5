-- Speed of each variant.
-- grain: one row per model × recipe × batch × length × new tokens × machine.
-- inputs: speed_summary
select
    model,
    recipe,
    batch,
    length,
    new_tokens,
    machine,
    sublayers_skipped,
    prefill_speedup,
    decode_speedup,
    first_token_speedup,
    peak_memory_ratio,
    equal_sides
from speed_summary
order by all

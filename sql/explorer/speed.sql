-- Speed of each variant.
-- grain: one row per model × recipe × batch × length × new tokens × machine.
-- inputs: speed_summary
select model, recipe, batch, length, new_tokens, machine, prefill_speedup, decode_speedup, peak_memory_ratio
from speed_summary
order by all

-- Texts that fall into a loop although the dense model's does not, earliest first.
-- grain: one row per pruned variant × prompt with such a text.
-- inputs: looping_texts
select model, recipe, prompt_id, first_flip_step, collapse_step, parameters_removed_share, kl_step0_nats
from looping_texts
order by model, collapse_step, kl_step0_nats, recipe, prompt_id

-- Which share of lost answers does the first different token lose by itself, and which share is lost by what follows?
-- grain: one row per model × recipe × text_source × metric.
-- key: model, recipe, text_source, metric
-- inputs: lost_answers
-- how to read: let the dense model take the variant's token at the first flip and then continue by itself. If its
--   answer is then wrong, the answer is lost by the first token. If answers were unrelated, first_token_share would be
--   unrelated_share. first_token_loss and following_loss sum to the loss of right answers, gained ones subtracted; an
--   interval that contains 0 shows no loss. The columns _noise are the largest of the noise variants, whose flips are
--   those of rounding; NULL if none was measured. Prompts with options that the dense model only guesses, the dense
--   recipe and noise variants are excluded.
-- reason: says whether an answer is lost at the first different token or later.
-- columns:
--   first_token_loss_noise: Largest first_token_loss of a noise variant [share]
--   following_loss_noise: Largest following_loss of a noise variant [share]
with floors as (
    select
        model, text_source, metric,
        max(first_token_loss) as first_token_loss_noise,
        max(following_loss) as following_loss_noise
    from lost_answers
    where is_noise
    group by all
)

select
    variants.model, variants.recipe, variants.text_source, variants.metric, variants.n_answers, variants.n_right_dense,
    variants.n_lost, variants.n_lost_by_first_token, variants.n_lost_after, variants.n_gained,
    variants.first_token_share, variants.first_token_share_low, variants.first_token_share_high,
    variants.unrelated_share, variants.first_token_loss, variants.first_token_loss_low, variants.first_token_loss_high,
    floors.first_token_loss_noise, variants.following_loss, variants.following_loss_low, variants.following_loss_high,
    floors.following_loss_noise
from lost_answers as variants
left join floors using (model, text_source, metric)
where not variants.is_noise
order by variants.model, variants.text_source, variants.metric, variants.recipe

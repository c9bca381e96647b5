-- Does pruning damage the thinking of a model or the answer after it?
-- grain: one row per pruned variant × part; no row if the dense model does not think in any text.
-- key: model, recipe, part
-- inputs: verdict_evidence
-- how to read: the words of variant_verdict for each part, in the prompts whose dense text thinks. fidelity is about
--   the dense model's tokens before and after the end of its thinking; both models read the dense text. quality is
--   about the right answer, in the thinking and after it. alive is about parts that neither loop nor end before half of
--   the dense part without an answer. Losses are paired by prompt, beyond the null (verdict_evidence). A word is NULL
--   if it was not measured: quality needs a gold answer that the pattern finds in the dense model's part.
-- reason: if only the thinking fails, a variant may answer without it (`template_arguments: {enable_thinking: false}`);
--   if only the answer fails, longer thinking does not help.
-- columns:
--   part: thinking or answer [label]
--   fidelity: holds, fails or too little evidence [label]
--   quality: holds, fails or too little evidence [label]
--   alive: holds, fails or too little evidence [label]
--   loss_fidelity: Share of the part's teacher-forced tokens whose most likely token differs, beyond the null [share]
--   loss_fidelity_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_fidelity: Prompts behind it [prompts]
--   loss_quality: Share of the dense model's right answers in the part that is lost beyond the null [share]
--   loss_quality_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_quality: Right answers behind it [answers]
--   loss_alive: Share of the parts that loop or end early, beyond the null [share]
--   loss_alive_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_alive: Texts behind it [prompts]
with measures as (
    select
        model, recipe, part,
        map_from_entries(list((measure, verdict_evidence))) as judged,
        map_from_entries(
            list((measure, word_of(evidence, loss_low, loss_high, n_units, verdict_tolerance())))
        ) as words
    from verdict_evidence
    where part <> 'whole'
    group by all
)

select
    model, recipe, part,
    words['fidelity'] as fidelity,
    words['writing'] as quality,
    words['alive'] as alive,
    judged['fidelity'].loss as loss_fidelity,
    judged['fidelity'].loss_low as loss_fidelity_low,
    judged['fidelity'].loss_high as loss_fidelity_high,
    judged['fidelity'].n_units as n_fidelity,
    judged['writing'].loss as loss_quality,
    judged['writing'].loss_low as loss_quality_low,
    judged['writing'].loss_high as loss_quality_high,
    judged['writing'].n_units as n_quality,
    judged['alive'].loss as loss_alive,
    judged['alive'].loss_low as loss_alive_low,
    judged['alive'].loss_high as loss_alive_high,
    judged['alive'].n_units as n_alive
from measures
order by model asc, recipe asc, part desc

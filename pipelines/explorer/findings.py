"""What the numbers say, in sentences: each with the SQL behind it, and with a "not" where the paper fails here.

The SQL is only stated here; the caller runs it. The paper's claims as such are the index's table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from pipelines.charts.text import label
from pipelines.published import fact

QUERIES: dict[str, str] = {
    "variants": """\
select model, recipe, method, sublayers_dropped_count, parameters_removed_share, kl_step0_nats,
       kl_teacher_forced_median_nats, kl_free_running_median_nats, first_flip_step_median,
       prompts, prompts_flipped, prompts_collapsed, prompts_graded, prompts_correct
from variant_summary
order by model, recipe""",
    "amplification": """\
select model, lens, count(*) as sublayers,
       median(one_minus_cos_h_mean) as h, median(one_minus_cos_z_mean) as z, median(one_minus_cos_p_mean) as p,
       count(*) filter (where one_minus_cos_z_mean > one_minus_cos_h_mean) as z_over_h,
       count(*) filter (where one_minus_cos_p_mean > one_minus_cos_z_mean) as p_over_z
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where is_changed and scope = 'local'
group by model, lens
order by model, lens desc""",
    "fit": """\
with points as (
    select model, recipe, scope, theorem, estimate, truth
    from estimate_points
    where estimate > 0 and truth > 0 and scope in ('local', 'propagated')
      and lens = (select if(count_if(lens = 'normed') > 0, 'normed', min(lens)) from estimate_points)
),
variants as (
    select model, theorem, scope, recipe, corr(ln(estimate), ln(truth)) as log_correlation
    from points
    group by model, theorem, scope, recipe
),
correlations as (
    select model, theorem,
           median(log_correlation) filter (where scope = 'local') as log_correlation,
           min(log_correlation) filter (where scope = 'local') as log_correlation_min,
           max(log_correlation) filter (where scope = 'local') as log_correlation_max,
           median(log_correlation) filter (where scope = 'propagated') as log_correlation_propagated
    from variants
    where isfinite(log_correlation)
    group by model, theorem
)
select model, theorem, count(*) as points,
       median(estimate / truth) as ratio_median,
       quantile_cont(estimate / truth, 0.1) as ratio_p10,
       quantile_cont(estimate / truth, 0.9) as ratio_p90,
       count(*) filter (where truth > 0.05) as large_points,
       median(estimate / truth) filter (where truth > 0.05) as large_ratio_median,
       any_value(log_correlation) as log_correlation,
       any_value(log_correlation_min) as log_correlation_min,
       any_value(log_correlation_max) as log_correlation_max,
       any_value(log_correlation_propagated) as log_correlation_propagated
from points
left join correlations using (model, theorem)
where scope = 'local'
group by model, theorem
order by model, theorem""",
    "noise": """\
select model, max(kl_noise_p95_nats) as kl_noise_p95_nats,
       count(*) filter (where is_below_noise is not null) as variants,
       string_agg(recipe, ',' order by recipe) filter (where is_below_noise) as below
from variant_summary
where recipe <> 'dense'
group by model
order by model""",
    "claims": """\
select model, claim, measure, says, amount, amount_low, amount_high, n, units, verdict
from paper_claims
order by model, case verdict when 'holds' then 0 when 'does not hold' then 1 else 2 end, claim, measure""",
    "texts": """\
select kld_summary.*
from kld_summary
join variant_summary using (model, recipe)
where method <> 'dense'
order by model, text_id, ppl_pruned, recipe""",
    "options": """\
with ranking as (
    select model, recipe, prompt_id,
           string_agg(option_index, ',' order by p_options_dense desc, option_index) as dense,
           string_agg(option_index, ',' order by p_options_pruned desc, option_index) as pruned,
           sum(p_full_dense) as mass_dense, sum(p_full_pruned) as mass_pruned
    from option_shift
    semi join reference_temperature using (model, recipe, temperature)
    where recipe <> 'dense'
    group by model, recipe, prompt_id
)
select model, count(*) as choices,
       count(*) filter (where split_part(dense, ',', 1) = split_part(pruned, ',', 1)) as argmax_kept,
       count(*) filter (where dense = pruned) as ranking_kept,
       median(mass_dense) as mass_dense_median, median(mass_pruned) as mass_pruned_median
from ranking
group by model
order by model""",
}

TITLES = {
    "variants": "The variants that the findings count",
    "amplification": "How far h, z and p move behind one changed sublayer",
    "fit": "How closely the estimates follow the truth behind one changed sublayer, and how they correlate",
    "noise": "What rounding alone does, and which variants stay below it",
    "claims": "The paper's claims, and whether they hold here",
    "texts": "Perplexity and KL on the study's texts",
    "options": "Whether the choice among the options stays",
}
LENSES = {"raw": "without the final norm (lens raw, as in the paper)", "normed": "after the final norm (lens normed)"}


@dataclass(frozen=True)
class Finding:
    """One sentence or a few.

    Attributes:
        model: of which model.
        theme: what it is about.
        sentence: the finding.
        query: name in QUERIES of the SELECT that gives its numbers.
    """

    model: str
    theme: str
    sentence: str
    query: str


def findings(frames: Mapping[str, pl.DataFrame]) -> list[Finding]:
    """All findings, model by model and theme by theme; a frame without rows of a model adds none for it.

    Args:
        frames: answer to each of `QUERIES`, by its name.
    """
    return [
        Finding(str(model), theme, sentence, name)
        for model in frames["variants"]["model"].unique(maintain_order=True)
        for theme, name, tell in _TELLERS
        for sentence in tell(frames[name].filter(pl.col("model") == model))
    ]


def number(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 100,000."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 0.001 <= abs(value) < 100_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _recipes(frame: pl.DataFrame) -> str:
    return ", ".join(label(str(recipe)) for recipe in frame["recipe"])


def _pruned(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("recipe") != "dense")


def _of(count: int, total: int) -> str:
    return f"all {total}" if count == total else f"{count} of {total}"


def _flips(frame: pl.DataFrame) -> list[str]:
    pruned = _pruned(frame)
    total, flipped, collapsed = (
        int(pruned[name].sum()) for name in ("prompts", "prompts_flipped", "prompts_collapsed")
    )
    if not total:
        return []
    sentence = f"{_of(flipped, total).capitalize()} pruned generations leave the dense text"
    steps = pruned["first_flip_step_median"].drop_nulls()
    if not steps.is_empty():
        low, high = float(steps.min()), float(steps.max())  # type: ignore[arg-type]
        # Steps count from 0; a reader counts tokens from 1.
        where = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        sentence += f", in the median of a variant at step {where} (the first token is step 0)"
    loops = {0: "none falls", 1: "1 falls"}.get(collapsed, f"{collapsed} fall")
    return [f"{sentence}; {loops} into a loop."]


def _answers(frame: pl.DataFrame) -> list[str]:
    # A variant that is pruned but not measured yet has answered no prompt.
    dense, pruned = frame.filter(pl.col("recipe") == "dense"), _pruned(frame).filter(pl.col("prompts") > 0)
    if dense.is_empty() or pruned.is_empty() or not dense["prompts_graded"][0]:
        return []
    before, graded = dense["prompts_correct"][0], dense["prompts_graded"][0]
    if not before:
        return [f"The dense model answers none of its {graded} prompts that have a right answer correctly."]
    keeps = pruned.filter(pl.col("prompts_correct") >= before)
    rest = f"as many or more: {_recipes(keeps)}" if keeps.height else "no variant reaches that"
    return [f"The dense model answers {_of(before, graded)} prompts that have a right answer correctly; {rest}."]


def _first_token(frame: pl.DataFrame) -> list[str]:
    pruned = _pruned(frame).drop_nulls("kl_step0_nats").sort("kl_step0_nats", "recipe")
    if pruned.is_empty():
        return []
    first, last = pruned.row(0, named=True), pruned.row(-1, named=True)
    least = f"{number(first['kl_step0_nats'])} nats ({label(str(first['recipe']))})"
    if pruned.height == 1:
        return [f"At the first generated token the KL from the dense model is {least}."]
    most = f"{number(last['kl_step0_nats'])} nats ({label(str(last['recipe']))})"
    return [f"At the first generated token the KL from the dense model runs from {least} to {most}."]


def _feedback(frame: pl.DataFrame) -> list[str]:
    both = _pruned(frame).drop_nulls(["kl_teacher_forced_median_nats", "kl_free_running_median_nats"])
    if both.is_empty():
        return []
    grows = pl.col("kl_free_running_median_nats") > pl.col("kl_teacher_forced_median_nats")
    more, less = both.filter(grows), both.filter(~grows)
    forced, free = both["kl_teacher_forced_median_nats"].median(), both["kl_free_running_median_nats"].median()
    sentence = (
        f"Reading its own tokens moves a variant further: the median KL per token is {number(float(free))} nats "  # type: ignore[arg-type]
        f"free running and {number(float(forced))} teacher forced, and it is larger free running in "  # type: ignore[arg-type]
        f"{_of(more.height, both.height)} variants."
        if more.height
        else "Reading its own tokens moves no variant further than reading the dense tokens does."
    )
    if less.height:
        sentence += f" The paper's claim that decoding feeds the shift back does not hold here for {_recipes(less)}."
    return [sentence]


def _attention_or_mlp(frame: pl.DataFrame) -> list[str]:
    """One sentence, however many numbers of sublayers were dropped both ways."""
    drops = _pruned(frame).drop_nulls("kl_step0_nats")
    pairs: list[tuple[int, pl.DataFrame, pl.DataFrame]] = []
    for count in sorted(set(drops["sublayers_dropped_count"].drop_nulls()) - {0}):
        same = drops.filter(pl.col("sublayers_dropped_count") == count)
        attn, mlp = (same.filter(pl.col("method") == method) for method in ("attn-drop", "mlp-drop"))
        if attn.height == 1 and mlp.height == 1:
            pairs.append((count, attn, mlp))
    if not pairs:
        return []
    milder = sum(attn["kl_step0_nats"][0] < mlp["kl_step0_nats"][0] for _, attn, mlp in pairs)
    told = "; ".join(
        f"dropping {_sublayers(count, 'attention')} ({_percent(attn)} of the parameters) costs "
        f"{number(attn['kl_step0_nats'][0])} nats at the first token, dropping {_sublayers(count, 'MLP')} "
        f"({_percent(mlp)}) {number(mlp['kl_step0_nats'][0])}"
        for count, attn, mlp in (pairs if len(pairs) == 1 else (pairs[0], pairs[-1]))
    )
    where = "" if len(pairs) == 1 else f" at {_of(milder, len(pairs))} numbers of sublayers that were dropped both ways"
    verdict = f"as in the paper, attention is the milder cut{where}"
    if milder < len(pairs):
        verdict = (
            f"unlike in the paper, attention is {'the milder cut only' if milder else 'not the milder cut'}{where}"
        )
        verdict += "" if where else " here"
    return [f"{told[0].upper()}{told[1:]}: {verdict}."]


def _sublayers(count: int, kind: str) -> str:
    return f"{count} {kind} sublayer{'' if count == 1 else 's'}"


def _percent(frame: pl.DataFrame) -> str:
    return f"{100 * frame['parameters_removed_share'][0]:.1f} %"


def _amplification(frame: pl.DataFrame) -> list[str]:
    told = []
    for row in frame.iter_rows(named=True):
        total = row["sublayers"]
        claim = (
            "The softmax amplifies everywhere."
            if row["p_over_z"] == total
            else f"The paper's claim that the softmax amplifies does not hold for the other {total - row['p_over_z']}."
        )
        told.append(
            f"Behind one changed sublayer, {LENSES[row['lens']]}, the median 1 − cos is {number(row['h'])} in h, "
            f"{number(row['z'])} in z and {number(row['p'])} in p. It is larger in p than in z for "
            f"{_of(row['p_over_z'], total)} sublayers and larger in z than in h for {_of(row['z_over_h'], total)}. "
            + claim
        )
    return told


def _fit(frame: pl.DataFrame) -> list[str]:
    told = []
    for row in frame.iter_rows(named=True):
        theorem = label(row["theorem"])
        sentence = (
            f"{theorem}, behind one changed sublayer: estimate over truth has median {number(row['ratio_median'])}, "
            f"80 % lie between {number(row['ratio_p10'])} and {number(row['ratio_p90'])} ({row['points']:,} points)."
        )
        large = row["large_ratio_median"]
        if large is not None:
            sentence += f" Where the truth is above 0.05 the median is {number(large)}"
            if theorem.startswith("T2"):
                paper = fact("estimates", "t2_ratio_median")
                # Half of the paper's excess is the least that counts as its overshoot.
                sentence += (
                    f" (paper: {paper:g})"
                    if large > (1 + paper) / 2
                    else f", so the overshoot of the paper ({paper:g}) does not show here"
                )
            sentence += "."
        correlation = row["log_correlation"]
        if theorem.startswith("T3") and correlation is not None:
            close = "as close as" if correlation >= 0.99 else "not as close as"
            sentence += (
                f" Variant by variant the logarithms correlate with r = {correlation:.3f} in the median "
                f"({row['log_correlation_min']:.3f} to {row['log_correlation_max']:.3f}), {close} in the paper "
                f"(r = {fact('estimates', 't3_correlation'):g})."
            )
            if (run_whole := row["log_correlation_propagated"]) is not None:
                sentence += f" Behind all pruned sublayers together it is {run_whole:.3f}."
        told.append(sentence)
    return told


def _noise(frame: pl.DataFrame) -> list[str]:
    told = []
    for row in frame.drop_nulls("kl_noise_p95_nats").iter_rows(named=True):
        below = [label(recipe) for recipe in row["below"].split(",")] if row["below"] else []
        verdict = (
            f"the median KL of {', '.join(below)} is not above that, so that nothing can be said of it"
            if below
            else f"the median KL of {_of(row['variants'], row['variants'])} variants is above that"
        )
        told.append(
            f"Rounding alone, without any pruning, moves 95 % of the tokens by at most "
            f"{number(row['kl_noise_p95_nats'])} nats; {verdict}."
        )
    return told


def _texts(frame: pl.DataFrame) -> list[str]:
    told = []
    for (text,), part in frame.group_by("text_id", maintain_order=True):
        ends = [part.row(0, named=True), part.row(-1, named=True)][: part.height]
        perplexities = " to ".join(f"{number(end['ppl_pruned'])} ({label(str(end['recipe']))})" for end in ends)
        divergences = " to ".join(number(end["kl_mean_nats"]) for end in ends)
        agreements = " to ".join(f"{100 * end['top1_agreement']:.1f} %" for end in ends)
        told.append(
            f"Read over {ends[0]['tokens']:,} tokens of the text {label(str(text))}, the dense model has a perplexity "
            f"of {number(ends[0]['ppl_dense'])} and the pruned ones of {perplexities}; their mean KL a token is "
            f"{divergences} nats, and the most likely token stays the same at {agreements} of the tokens."
        )
    return told


def _options(frame: pl.DataFrame) -> list[str]:
    told = []
    for row in frame.iter_rows(named=True):
        kept, total = row["argmax_kept"], row["choices"]
        sentence = (
            f"Among the options alone, {_of(kept, total)} choices stay as the dense model made them; the whole "
            f"ranking stays in {row['ranking_kept']}. All options together hold {number(row['mass_dense_median'])} of "
            f"the dense and {number(row['mass_pruned_median'])} of the pruned probability (medians)."
        )
        if kept < total:
            sentence += f" The paper's claim that pruning keeps the choice does not hold here for {total - kept}."
        if row["mass_dense_median"] > 0.01:
            sentence += (
                f" Unlike in the paper ({number(fact('options', 'mass'))}), the options are not in the tail of the "
                "dense distribution."
            )
        told.append(sentence)
    return told


_TELLERS: tuple[tuple[str, str, Callable[[pl.DataFrame], list[str]]], ...] = (
    ("Writing", "variants", _flips),
    ("Writing", "variants", _answers),
    ("Writing", "variants", _first_token),
    ("Writing", "variants", _feedback),
    ("Writing", "noise", _noise),
    ("Choosing", "options", _options),
    ("Reading", "texts", _texts),
    ("Layers", "amplification", _amplification),
    ("Layers", "variants", _attention_or_mlp),
    ("Estimates", "fit", _fit),
)

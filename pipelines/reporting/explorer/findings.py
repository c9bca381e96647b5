"""Findings of a study as sentences, one per row of `FINDINGS`. Each says whether the paper's claim fails here."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.document_types import FindingEntry
from prunescope.pipelines.reporting.explorer.queries import FINDINGS
from prunescope.pipelines.reporting.published import fact

_Row = Mapping[str, Any]
MAX_NAMES = 8
LENSES = {"raw": "without the final norm (lens raw, as in the paper)", "normed": "after the final norm (lens normed)"}


def findings(frames: Mapping[str, pl.DataFrame], models: Sequence[str]) -> list[FindingEntry]:
    """Return all findings by model, then theme.

    Args:
        frames: result of each statement in `FINDINGS`, by key; a model may have no rows.
        models: names of the models, in display order.
    """
    return [
        {
            "model": label(model, 200),
            "theme": theme,
            "text": prose(sentence),
            "sql": {"key": key, "where": {column: str(row[column]) for column in FINDINGS[key].narrow}},
        }
        for model in models
        for theme, key, write in _WRITERS
        for row in frames[key].filter(pl.col("model").cast(pl.String) == model).iter_rows(named=True)
        if (sentence := write(row)) is not None
    ]


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent between 0.001 and 100,000."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 0.001 <= abs(value) < 100_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def names(recipes: Sequence[str], singular: str = "", plural: str = "") -> str:
    """List recipes, only the first ones of many, with a verb if given: "a, b and 3 more are"."""
    *first, last = [*map(label, recipes[:MAX_NAMES])]
    if len(recipes) > MAX_NAMES:
        first, last = [*first, last], f"{len(recipes) - MAX_NAMES} more"
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"{listed} {singular if len(recipes) == 1 else plural}".rstrip()


def _of(count: int, total: int) -> str:
    return f"all {total}" if count == total else f"{count} of {total}"


def _flips(row: _Row) -> str | None:
    texts, collapsed = row["texts"], row["texts_collapsed"]
    if not texts:
        return None
    sentence = f"{_of(row['texts_flipped'], texts).capitalize()} pruned generations differ from the dense text"
    low, high = row["first_flip_step_min"], row["first_flip_step_max"]
    if low is not None:
        # Say that steps count from 0, because readers count tokens from 1.
        where = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        sentence += f", in the median of a variant from step {where} on (the first token is step 0)"
    loops = {0: "none falls", 1: "1 falls"}.get(collapsed, f"{collapsed} fall")
    return f"{sentence}; {loops} into a loop."


def _answers(row: _Row) -> str:
    correct, graded = row["correct_dense"], row["graded"]
    if not correct:
        return f"The dense model answers none of its {graded} prompts that have a right answer correctly."
    as_good = row["recipes_as_good"]
    variants = f"as many or more: {names(as_good)}" if as_good else "no variant reaches that"
    return f"The dense model answers {_of(correct, graded)} prompts that have a right answer correctly; {variants}."


def _first_token(row: _Row) -> str:
    least, most = (f"{number(row[f'{end}_nats'])} nats ({label(row[f'{end}_recipe'])})" for end in ("least", "most"))
    if row["variants"] == 1:
        return f"At the first generated token the KL from the dense model is {least}."
    return f"At the first generated token the KL from the dense model runs from {least} to {most}."


def _feedback(row: _Row) -> str:
    total, more, noise = row["variants"], row["free_further"], row["noise_free_nats"]
    sentence = (
        f"After the first token that differs, the median KL per token is {number(row['forced_nats'])} nats where both "
        f"models read the dense text and {number(row['own_nats'])} where both read the variant's own (medians of "
        f"{total} variant{'' if total == 1 else 's'}). {own_text(row)}"
    )
    if not row["own_further"]:
        sentence += " The KL shows no feedback; a loop is feedback that it does not show."
    if row["fork_nats"] is None:
        return sentence
    return (
        f"{sentence} Free running compares two different texts: {number(row['free_nats'])} nats"
        f"{'' if noise is None else f', with nothing pruned {number(noise)}'}. After one other token, the dense model "
        f"alone differs from its own text by {number(row['fork_nats'])} nats; "
        f"{names(more, 'exceeds', 'exceed') if more else 'no variant is shown to exceed'} that."
    )


def own_text(row: _Row) -> str:
    """Say how far the variants are from the dense model on own text, beside the dense one; of `findings/feedback`."""
    further, nearer = row["own_further"], row["own_nearer"]
    which = names(further, "is", "are") if further else "no variant is shown to be"
    others = f"; {names(nearer, 'is', 'are')} nearer" if nearer else ""
    return f"On own text, {which} further from the dense model than on the dense text{others}."


def _attention_or_mlp(row: _Row) -> str:
    milder, numbers = row["numbers_attention_milder"], row["numbers"]
    costs = "; ".join(
        f"dropping {_sublayers(row[end], 'attention')} ({percent(row[f'{end}_share_attn'])} of the parameters) costs "
        f"{number(row[f'{end}_kl_attn'])} nats at the first token, dropping {_sublayers(row[end], 'MLP')} "
        f"({percent(row[f'{end}_share_mlp'])}) {number(row[f'{end}_kl_mlp'])}"
        for end in ("fewest", "most")[: min(numbers, 2)]
    )
    where = "" if numbers == 1 else f" at {_of(milder, numbers)} numbers of sublayers that were dropped both ways"
    verdict = f"as in the paper, attention is the milder cut{where}"
    if milder < numbers:
        verdict = (
            f"unlike in the paper, attention is {'the milder cut only' if milder else 'not the milder cut'}{where}"
        )
        verdict += "" if where else " here"
    return f"{costs[0].upper()}{costs[1:]}: {verdict}."


def _sublayers(count: int, kind: str) -> str:
    return f"{count} {kind} sublayer{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """Return a share in per cent with one decimal."""
    return f"{100 * share:.1f} %"


def _amplification(row: _Row) -> str:
    low, high, factor = row["share_amplified_low"], row["share_amplified_high"], row["z_to_p_median"]
    claim = {
        "holds": "The softmax amplifies most shifts.",
        "does not hold": "The paper's claim that the softmax amplifies does not hold here.",
        "as under rounding": "That is as under rounding, and no effect of pruning.",
    }.get(row["verdict"], "Whether the softmax amplifies most shifts, these prompts do not tell.")
    share, null = row["share_amplified"], row["noise_share_amplified"]
    noise = (
        "" if null is None else f"; under rounding alone {percent(null)}, {number(row['noise_z_to_p_median'])} times"
    )
    return (
        f"Behind one changed sublayer, {LENSES[row['lens']]}, the median 1 − cos is {number(row['h'])} in h, "
        f"{number(row['z'])} in z and {number(row['p'])} in p. It is larger in p than in z at {percent(share)} of "
        f"{row['positions']:,} positions (95 % interval {percent(low)} to {percent(high)}), by a median factor of "
        f"{number(factor)}{noise}. {claim}"
    )


def _fit(row: _Row) -> str:
    theorem = label(row["theorem"])
    sentence = (
        f"{theorem}, behind one changed sublayer: the ratio of estimate to truth has the median "
        f"{number(row['ratio_median'])}, 80 % are between {number(row['ratio_p10'])} and "
        f"{number(row['ratio_p90'])} ({row['points']:,} points)."
    )
    large = row["large_ratio_median"]
    if large is not None:
        sentence += f" Where the truth is above 0.05 the median is {number(large)}"
        if theorem.startswith("T2"):
            paper = fact("estimates", "t2_ratio_median")
            # An excess of at least half of the paper's counts as the same overshoot.
            sentence += (
                f" (paper: {paper:g})"
                if large > (1 + paper) / 2
                else f", without the overshoot of the paper ({paper:g})"
            )
        sentence += "."
    correlation = row["plain_correlation"]
    if theorem.startswith("T3") and correlation is not None:
        closeness = "as closely as" if correlation >= 0.99 else "less closely than"
        sentence += (
            f" Within a variant estimate and truth correlate with r = {correlation:.3f} in the median "
            f"({row['plain_correlation_min']:.3f} to {row['plain_correlation_max']:.3f}), {closeness} in the paper "
            f"(r = {fact('estimates', 't3_correlation'):g}); their logarithms with {row['log_correlation']:.3f}."
        )
        if (propagated := row["plain_correlation_propagated"]) is not None:
            sentence += f" Behind all pruned sublayers together r is {propagated:.3f}."
    return sentence


def _noise(row: _Row) -> str:
    below = row["recipes_below"]
    verdict = (
        f"the median KL of {names(below)} is not above that, so that it shows no effect of pruning"
        if below
        else f"the median KL of {_of(row['variants'], row['variants'])} variants is above that"
    )
    return (
        f"Rounding alone, without any pruning, causes a KL of at most {number(row['kl_noise_p95_nats'])} nats at 95 % "
        f"of the tokens; {verdict}."
    )


def _sampling(row: _Row) -> str:
    sentence = (
        f"Drawn with the same random numbers as the dense ones, {_of(row['texts_flipped'], row['texts'])} sampled "
        f"texts part from them; the distributions let {number(row['flips_expected'])} expect. Those of "
        f"{names(row['last_recipes'])} stay together longest: "
    )
    if row["last_step"] is None:
        return f"{sentence}{percent(row['last_equal_share'])} never part."
    # Where nothing is expected behind the last text that parts, the expected step is not known.
    expected = row["last_step_expected"]
    beside = "" if expected is None else f" (expected {number(expected)})"
    return f"{sentence}half have parted by step {number(row['last_step'])}{beside}."


def _texts(row: _Row) -> str:
    ends = ("least", "most")[: min(row["variants"], 2)]
    perplexities = " to ".join(f"{number(row[f'{end}_ppl'])} ({label(row[f'{end}_recipe'])})" for end in ends)
    divergences = " to ".join(number(row[f"{end}_kl_mean_nats"]) for end in ends)
    agreements = " to ".join(percent(row[f"{end}_top1_agreement"]) for end in ends)
    return (
        f"On {row['tokens']:,} tokens of the text {label(str(row['text_id']))}, the dense model has a perplexity of "
        f"{number(row['ppl_dense'])} and the pruned ones of {perplexities}; their mean KL per token is {divergences} "
        f"nats, and the most likely token stays the same at {agreements} of the tokens."
    )


def _options(row: _Row) -> str:
    sentence = (
        f"Among the options alone, {_of(row['argmax_kept'], row['choices'])} choices are those of the dense model; the "
        f"whole ranking is the same in {row['ranking_kept']}. All options together have "
        f"{number(row['mass_dense_median'])} of the dense and "
        f"{number(row['mass_pruned_median'])} of the pruned probability (medians)."
    )
    sentence += {
        "holds": " As in the paper, most questions keep their choice.",
        "does not hold": " Unlike in the paper, most questions do not keep their choice.",
    }.get(row["choice_is_kept"], "")
    if row["options_share"] is not None:
        sentence += f" Among the options lies {percent(row['options_share'])} of the KL over the vocabulary (median)."
    if row["less_share"] is not None:
        null = row["noise_less_share"]
        noise = "" if null is None else f"; with nothing pruned, at {percent(null)}"
        sentence += (
            f" They move less than the rest of the vocabulary at {percent(row['less_share'])} of the questions{noise}."
        )
    if row["mass_dense_median"] > 0.01:
        sentence += (
            f" Unlike in the paper ({number(fact('options', 'mass'))}), the options are not in the tail of the dense "
            "distribution."
        )
    return sentence


_WRITERS: tuple[tuple[str, str, Callable[[_Row], str | None]], ...] = (
    ("Writing", "findings/flips", _flips),
    ("Writing", "findings/answers", _answers),
    ("Writing", "findings/first_token", _first_token),
    ("Writing", "findings/feedback", _feedback),
    ("Writing", "findings/noise", _noise),
    ("Writing", "findings/sampling", _sampling),
    ("Choosing", "findings/options", _options),
    ("Reading", "findings/texts", _texts),
    ("Layers", "findings/amplification", _amplification),
    ("Layers", "findings/attention_or_mlp", _attention_or_mlp),
    ("Estimates", "findings/fit", _fit),
)

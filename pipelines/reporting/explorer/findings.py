"""Findings of a study as sentences, one per row of `FINDINGS`. Each says whether the paper's claim fails here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import counted, label, number, percent, prose
from prunescope.pipelines.reporting.explorer.query_cache import Document, model_name, of_model, source
from prunescope.pipelines.reporting.published import fact

_Row = Mapping[str, Any]
MAX_NAMES = 8
LENSES = {"raw": "without the final norm (lens raw, as in the paper)", "normed": "after the final norm (lens normed)"}


def findings(frames: Mapping[str, pl.DataFrame], models: Sequence[str]) -> list[Document]:
    """Return all findings by model, then theme.

    Args:
        frames: result of each statement in `FINDINGS`, by key; a model may have no rows.
        models: names of the models, in display order.
    """
    return [
        {"model": model_name(model), "theme": theme, "text": prose(sentence), "sql": source(key, row)}
        for model in models
        for theme, key, write in _WRITERS
        for row in of_model(frames[key], model).iter_rows(named=True)
        if (sentence := write(row)) is not None
    ]


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
    if not row["texts"]:
        return None
    sentence = f"{_of(row['texts_flipped'], row['texts']).capitalize()} pruned texts differ from the dense text."
    low, high = row["first_flip_step_min"], row["first_flip_step_max"]
    if low is not None:
        # Say that steps count from 0, because readers count tokens from 1.
        where = f"at step {low:g}" if low == high else f"between steps {low:g} and {high:g}"
        sentence += f" The median text of a variant first differs {where} (the first token is step 0)."
    loops = {0: "None falls", 1: "1 falls"}.get(row["texts_collapsed"], f"{row['texts_collapsed']} fall")
    return f"{sentence} {loops} into a loop."


def _answers(row: _Row) -> str:
    correct, graded = row["correct_dense"], row["graded"]
    if not correct:
        return f"The dense model is right in none of the {graded} prompts with a known answer."
    as_good = row["recipes_as_good"]
    variants = (
        f"{names(as_good, 'is', 'are')} right in at least as many" if as_good else "No variant is right in as many"
    )
    return f"The dense model is right in {_of(correct, graded)} prompts with a known answer. {variants}."


def _first_token(row: _Row) -> str:
    least, most = (f"{number(row[f'{end}_nats'])} nats ({label(row[f'{end}_recipe'])})" for end in ("least", "most"))
    kl = f"is {least}" if row["variants"] == 1 else f"ranges from {least} to {most}"
    return f"At the first generated token, the KL from the dense model {kl}."


def _feedback(row: _Row) -> str:
    total, more, noise = row["variants"], row["free_further"], row["noise_free_nats"]
    sentence = (
        "After the first different token, if both models read the dense text, the median KL per token is "
        f"{number(row['forced_nats'])} nats. If both read the variant's own text, it is {number(row['own_nats'])} "
        f"nats. Both are medians over {counted(total, 'variant')}. {own_text(row)}"
    )
    if not row["own_further"]:
        sentence += " The KL shows no feedback. A loop is feedback, too, but the KL does not show it."
    if row["fork_nats"] is None:
        return sentence
    return (
        f"{sentence} In free running, each model reads its own text. Then the KL is {number(row['free_nats'])} nats. "
        f"{'' if noise is None else f'Without any pruning it is {number(noise)} nats. '}After one different token, the "
        f"dense model alone differs from its own text by {number(row['fork_nats'])} nats. "
        f"{names(more, 'exceeds', 'exceed') if more else 'No variant is shown to exceed'} that."
    )


def own_text(row: _Row) -> str:
    """Say which variants are further from the dense model on their own text than on the dense text.

    `row` is one of `findings/feedback`.
    """
    further, nearer = row["own_further"], row["own_nearer"]
    which = names(further, "is", "are") if further else "no variant is shown to be"
    others = f" {names(nearer, 'is', 'are')} nearer." if nearer else ""
    owner = "their" if len(further or ()) > 1 else "its"
    return f"On {owner} own text, {which} further from the dense model than on the dense text.{others}"


def _attention_or_mlp(row: _Row) -> str:
    milder, numbers = row["numbers_attention_milder"], row["numbers"]
    costs = " ".join(
        f"Dropping {counted(row[end], 'attention sublayer')} ({percent(row[f'{end}_share_attn'])} of the parameters) "
        f"costs {number(row[f'{end}_kl_attn'])} nats at the first token. Dropping {counted(row[end], 'MLP sublayer')} "
        f"({percent(row[f'{end}_share_mlp'])}) costs {number(row[f'{end}_kl_mlp'])} nats."
        for end in ("fewest", "most")[: min(numbers, 2)]
    )
    where = "here" if numbers == 1 else f"at {_of(milder or numbers, numbers)} numbers of dropped sublayers"
    paper, less = ("As", "less") if milder == numbers else ("Unlike", "less only" if milder else "no less")
    return f"{costs} {paper} in the paper, dropping attention costs {less} {where}."


def _amplification(row: _Row) -> str:
    low, high, factor = row["share_amplified_low"], row["share_amplified_high"], row["z_to_p_median"]
    claim = {
        "holds": "The softmax amplifies most shifts.",
        "does not hold": "The paper's claim that the softmax amplifies most shifts does not hold here.",
        "as under rounding": "Rounding alone does the same, so this is not an effect of pruning.",
    }.get(row["verdict"], "These prompts do not show whether the softmax amplifies most shifts.")
    share, null, noise = row["share_amplified"], row["noise_share_amplified"], ""
    if null is not None:
        noise = (
            f" Under rounding alone, the share is {percent(null)} and the factor {number(row['noise_z_to_p_median'])}."
        )
    return (
        f"After one changed sublayer, {LENSES[row['lens']]}, the median 1 − cos is {number(row['h'])} in h, "
        f"{number(row['z'])} in z and {number(row['p'])} in p. It is larger in p than in z at {percent(share)} of "
        f"{row['positions']:,} positions (95 % interval {percent(low)} to {percent(high)}). The median factor is "
        f"{number(factor)}.{noise} {claim}"
    )


def _fit(row: _Row) -> str:
    theorem = label(row["theorem"])
    sentence = (
        f"{theorem}, after one changed sublayer: the median ratio of estimate to truth is "
        f"{number(row['ratio_median'])}. 80 % of {row['points']:,} points are between {number(row['ratio_p10'])} and "
        f"{number(row['ratio_p90'])}."
    )
    large = row["large_ratio_median"]
    if large is not None:
        sentence += f" If the truth is above 0.05, the median is {number(large)}"
        if theorem.startswith("T2"):
            paper = fact("estimates", "t2_ratio_median")
            # An excess of at least half of the paper's counts as the same overshoot.
            is_as_large = large > (1 + paper) / 2
            sentence += f" (paper: {paper:g})" if is_as_large else f", without the overshoot of the paper ({paper:g})"
        sentence += "."
    correlation = row["plain_correlation"]
    if theorem.startswith("T3") and correlation is not None:
        closeness = "as closely as" if correlation >= 0.99 else "less closely than"
        sentence += (
            f" Within a variant, estimate and truth correlate {closeness} in the paper "
            f"(r = {fact('estimates', 't3_correlation'):g}): the median r is {correlation:.3f} "
            f"({row['plain_correlation_min']:.3f} to {row['plain_correlation_max']:.3f}). For their logarithms it is "
            f"{row['log_correlation']:.3f}."
        )
        if (propagated := row["plain_correlation_propagated"]) is not None:
            sentence += f" After all pruned sublayers together it is {propagated:.3f}."
    return sentence


def _noise(row: _Row) -> str:
    below = row["recipes_below"]
    verdict = (
        f"The median KL of {names(below)} is not above that. So it shows no effect of pruning"
        if below
        else f"The median KL of {_of(row['variants'], row['variants'])} variants is above that"
    )
    return (
        f"At 95 % of the tokens, rounding alone, without any pruning, causes a KL of at most "
        f"{number(row['kl_noise_p95_nats'])} nats. {verdict}."
    )


def _sampling(row: _Row) -> str:
    sentence = (
        "The sampled texts were drawn with the same random numbers as the dense ones. "
        f"{_of(row['texts_flipped'], row['texts']).capitalize()} differ from these. The number expected from the "
        f"distributions is {number(row['flips_expected'])}. The texts of {names(row['last_recipes'])} stay the same "
        "longest."
    )
    if row["last_step"] is None:
        return f"{sentence} The share that never differs is {percent(row['last_equal_share'])}."
    # If no text is expected to differ after the last one that does, the expected step is not known.
    expected = row["last_step_expected"]
    in_theory = "" if expected is None else f" The expected step is {number(expected)}."
    return f"{sentence} Half of them differ by step {number(row['last_step'])}.{in_theory}"


def _texts(row: _Row) -> str:
    ends = ("least", "most")[: min(row["variants"], 2)]
    perplexities = " to ".join(f"{number(row[f'{end}_ppl'])} ({label(row[f'{end}_recipe'])})" for end in ends)
    divergences = " to ".join(number(row[f"{end}_kl_mean_nats"]) for end in ends)
    agreements = " to ".join(percent(row[f"{end}_top1_agreement"]) for end in ends)
    return (
        f"On {row['tokens']:,} tokens of the text {label(str(row['text_id']))}, the dense model has a perplexity of "
        f"{number(row['ppl_dense'])}. The pruned models have {perplexities}. Their mean KL per token is {divergences} "
        f"nats. Their most likely token is the dense model's at {agreements} of the tokens."
    )


def _options(row: _Row) -> str:
    sentence = (
        f"Among the options alone, {_of(row['argmax_kept'], row['choices'])} choices are those of the dense model. The "
        f"whole ranking is the same in {row['ranking_kept']}. The median probability of all options together is "
        f"{number(row['mass_dense_median'])} in the dense and {number(row['mass_pruned_median'])} in the pruned model."
    )
    sentence += {
        "holds": " As in the paper, most questions keep their choice.",
        "does not hold": " Unlike in the paper, most questions do not keep their choice.",
    }.get(row["choice_is_kept"], "")
    if row["options_share"] is not None:
        sentence += (
            f" The median share of the options in the KL over the vocabulary is {percent(row['options_share'])}."
        )
    if row["less_share"] is not None:
        null = row["noise_less_share"]
        sentence += f" They move less than the rest of the vocabulary at {percent(row['less_share'])} of the questions."
        sentence += "" if null is None else f" Without any pruning this share is {percent(null)}."
    if row["mass_dense_median"] > 0.01:
        paper = number(fact("options", "mass"))
        sentence += f" Unlike in the paper ({paper}), the options are not in the tail of the dense distribution."
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

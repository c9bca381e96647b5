"""Answers to the main questions: which variants are safe, where the first collapse is, which layers cause the damage.

Their numbers come from the statements `answers/…`.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from prunescope.pipelines.core.verdict_rule import MIN_UNITS
from prunescope.pipelines.reporting.advice import EVIDENCE
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.explorer.document_types import Answer, Link, Source
from prunescope.pipelines.reporting.explorer.findings import number
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache

_MAX_NAMES = 8
# Numbers of units that are not worth stating exactly.
_MANY_UNITS = 100_000
_MEASURES = {
    "top1_change": "the share of tokens whose most likely token changes",
    "kl_step0_nats": "KL at the first token",
    "flipped_share": "the share of texts that change",
    "collapsed_share": "the share of texts that end in a loop",
    "options_changed_share": "the share of choices that change",
}
_Row = Mapping[str, Any]


def basis(verdicts: pl.DataFrame) -> str:
    """Describe the evidence behind the losses of a study's verdicts, the rows of `variant_verdict`, in one line."""
    notes = []
    for kind in ("writing", "choosing"):
        kinds = set(verdicts[f"evidence_{kind}"].cast(pl.String).drop_nulls())
        if words := [text for name, text in EVIDENCE.items() if name in kinds]:
            notes.append(f"{kind.capitalize()} lost, beyond the noise floor: share of {', or of '.join(words)}.")
    return " ".join(notes)


def reason(row: _Row) -> str:
    """Return the numbers behind a variant's verdict, a row of `variant_verdict`, and how its texts changed."""
    parts = [_loss(row, kind) for kind in ("writing", "choosing") if row[f"evidence_{kind}"] is not None]
    if not parts:
        return "nothing was measured that a verdict could rest on"
    parts += [f"{kind} was not measured" for kind in ("writing", "choosing") if row[f"evidence_{kind}"] is None]
    if row["undecided"] is not None:
        subject = "writing and choosing are" if row["undecided"] == "both" else f"{row['undecided']} is"
        parts.append(f"{subject} open{_enough(row['units_needed'], row['unit_needed'])}")
    if row["prompts"]:
        parts.append(f"{row['prompts_flipped']} of {row['prompts']} texts change, {row['prompts_collapsed']} loop")
    if row["is_below_noise"]:
        parts.append("its median KL is not above that of rounding alone")
    return "; ".join(parts)


def _loss(row: _Row, kind: str) -> str:
    ends = (
        "" if row[f"loss_{kind}_low"] is None else f" [{_percent(row, kind, '_low')}, {_percent(row, kind, '_high')}]"
    )
    evidence, units = row[f"evidence_{kind}"], row[f"n_{kind}"]
    unit = {"tokens": "prompt", "options": "question"}.get(evidence, "answer")
    return (
        f"{kind} loses {_percent(row, kind)} %{ends} of {EVIDENCE[evidence]} "
        f"({units} {unit}{'' if units == 1 else 's'}{'' if units >= MIN_UNITS else ', too few'})"
    )


def _percent(row: _Row, kind: str, end: str = "") -> str:
    # Adding 0 turns a rounded −0 into 0.
    return f"{round(100 * row[f'loss_{kind}{end}']) + 0:.0f}"


def _enough(units: float | None, unit: str | None) -> str:
    """Say how many units would decide, if that is known."""
    if units is None:
        return ""
    return (
        f": more than {_MANY_UNITS:,} {unit} are needed" if units > _MANY_UNITS else f": {units:,.0f} {unit} would do"
    )


def answers(frames: QueryCache, model: str) -> list[Answer]:
    """Answer the three questions for one model, and that of retrieval if measured; none without a pruned variant."""
    verdicts, losses = (_first(frames, f"answers/{key}", model) for key in ("safe", "retrieval"))
    if verdicts is None:
        return []
    retrieval = [] if losses is None else [_retrieval(model, losses)]
    if retrieval and not verdicts["measured"]:
        return retrieval  # an encoder has neither texts nor choices
    collapses = _first(frames, "answers/collapse", model)
    return [_safe(frames, model, verdicts), _collapse(model, collapses), _layers(frames, model), *retrieval]


def _rows(frames: QueryCache, key: str, model: str) -> list[_Row]:
    return list(frames.all(key).filter(pl.col("model").cast(pl.String) == model).iter_rows(named=True))


def _first(frames: QueryCache, key: str, model: str) -> _Row | None:
    return next(iter(_rows(frames, key, model)), None)


def source(key: str, **where: str) -> Source:
    """Return the source of a sentence: its statement and the filter of its rows."""
    return {"key": key, "where": where}


def _names(recipes: Sequence[str]) -> str:
    more = f" and {len(recipes) - _MAX_NAMES} more" if len(recipes) > _MAX_NAMES else ""
    return ", ".join(map(label, recipes[:_MAX_NAMES])) + more


def _answer(model: str, question: str, short: str, text: str, sources: list[Source], links: list[Link]) -> Answer:
    return {
        "model": label(model, 200),
        "question": question,
        "short": short,
        "text": text,
        "sql": sources,
        "links": links,
    }


def _safe(frames: QueryCache, model: str, verdicts: _Row) -> Answer:
    sources = [source("answers/safe", model=model)]
    safe, undecided = (verdicts[f"recipes_{name}"] or [] for name in ("safe", "open"))
    nearest: list[str] = verdicts["nearest"] or []
    variants = verdicts["variants"]
    of_all = f"{variants} pruned variant{'' if variants == 1 else 's'}"
    if safe:
        verb = "generates" if len(safe) == 1 else "generate"
        short = f"{len(safe)} of {of_all} {verb} safely: {_names(safe)}."
    else:
        short = f"None of {of_all} generates safely"
        if len(undecided) == variants:
            short = f"Not known: too little evidence on any of {of_all}"
        elif undecided:
            short = f"None of {of_all} is shown to generate safely"
        short += f"; {_nearest(nearest)}." if nearest and variants > 1 else "."
    details = [_ranking(verdicts)] if nearest and variants > 1 else []
    if nearest:
        sources.append(source("ranking", model=model))
    if len(nearest) == 1:
        [row] = [row for row in _rows(frames, "verdicts", model) if row["recipe"] == nearest[0]]
        details.append(f"{label(nearest[0])}: {reason(row)}.")
        sources.append(source("verdicts", model=model, recipe=nearest[0]))
    for kind, words in (
        ("choosing_only", "Choosing only"),
        ("not_safe", "Not safe"),
        ("broken", "Broken"),
        ("open", "Too little evidence"),
    ):
        if recipes := verdicts[f"recipes_{kind}"]:
            details.append(f"{words}: {_names(recipes)}.")
    if verdicts["units_needed"] is not None:
        enough = _enough(verdicts["units_needed"], verdicts["unit_needed"])
        details.append(f"The least is needed for {label(verdicts['recipe_needing'])}{enough}.")
    if verdicts["by_tasks"]:
        sources.append(source("losses", model=model))
    linked = safe or nearest or undecided
    links = [_link(model, recipe) for recipe in linked[:_MAX_NAMES]]
    return _answer(model, "Which variants generate safely?", short, " ".join(details), sources, links)


def _nearest(recipes: Sequence[str]) -> str:
    if len(recipes) == 1:
        return f"the nearest is {label(recipes[0])}"
    return f"the nearest, which cannot be told apart, are {_names(recipes)}"


def _ranking(verdicts: _Row) -> str:
    """State the measure that orders the variants, and the distance to the next one."""
    is_share = not verdicts["measure"].endswith("nats")

    def amount(name: str) -> str:
        return f"{100 * verdicts[name]:.0f} %" if is_share else f"{number(verdicts[name])} nats"

    ends = f"[{amount('amount_low')}, {amount('amount_high')}]"
    text = f"By {_MEASURES[verdicts['measure']]}, the least is {amount('amount')} {ends}"
    if verdicts["recipe_next"] is not None:
        text += f"; the next that can be told apart is {label(verdicts['recipe_next'])} with {amount('amount_next')}"
    return text + (" (paired tests, 95 % over all comparisons)." if verdicts["variants"] > 1 else ".")


def _retrieval(model: str, losses: _Row) -> Answer:
    kept: list[str] = losses["recipes_kept"] or []
    lost: list[str] = losses["recipes_lost"] or []
    undecided: list[str] = losses["recipes_open"] or []
    names = f": {_names(kept)}" if kept else ""
    shown = " is shown to" if undecided and not kept else ""
    short = f"{losses['kept'] or 'None'} of {losses['variants']} pruned variants{shown}{names}."
    details = [
        f"The limit is a loss of a tenth of the dense model's nDCG@10 ({number(losses['ndcg_dense'])}, mean over "
        f"{losses['data_sets']} data set{'' if losses['data_sets'] == 1 else 's'})."
    ]
    if lost:
        details.append(f"{_names(lost)} lose more." if len(lost) > 1 else f"{label(lost[0])} loses more.")
    if undecided:
        details.append(f"Not shown either way: {_names(undecided)}.")
    cosine = losses["worst_cosine"]
    details.append(
        f"{label(losses['worst'])} loses most, {100 * losses['worst_loss']:.0f} %"
        + ("." if cosine is None else f"; its embeddings have a mean cosine of {number(cosine)} with the dense ones.")
    )
    sources = [source("answers/retrieval", model=model)]
    links = [_link(model, recipe) for recipe in (kept or [losses["worst"]])[:_MAX_NAMES]]
    return _answer(model, "Which variants still retrieve?", short, " ".join(details), sources, links)


def _link(model: str, recipe: str) -> Link:
    return {"text": label(recipe), "href": f"#/variant/{quote(f'{model}@{recipe}', safe='')}"}


def _collapse(model: str, collapses: _Row | None) -> Answer:
    links: list[Link] = []
    text = ""
    if collapses is None:
        short = "Not known: no pruned variant has generated a text."
    elif not collapses["variants_collapsed"]:
        short = "Nowhere: no text of a pruned variant falls into a loop where the dense model's does not."
    else:
        mildest, earliest = (
            {name.removeprefix(f"{which}_"): value for name, value in collapses.items() if name.startswith(which)}
            for which in ("mildest", "earliest")
        )
        count, variants = collapses["variants_collapsed"], collapses["variants"]
        nats = mildest["kl_step0_nats"]
        # Without teacher-forced steps no KL orders them, and the one that loops first stands for them.
        which = "the first" if nats is None else "the mildest (by KL at the first token)"
        short = (
            f"In {label(mildest['recipe'])}, {which} of {count} of {variants} pruned variants that loop: prompt "
            f"{label(mildest['prompt_id'])}, from step {_step(mildest)}; the loop is closed at step "
            f"{mildest['collapse_step']}."
        )
        text = (
            f"{label(mildest['recipe'])}: {_loop(mildest)}."
            if nats is None
            else f"By KL at the first token ({number(nats)} nats) it is the mildest that loops where the dense model "
            f"does not: {_loop(mildest)}."
        )
        links.append(_token_link(model, mildest))
        if (earliest["recipe"], earliest["prompt_id"]) != (mildest["recipe"], mildest["prompt_id"]):
            text += f" The earliest loop of all is that of {label(earliest['recipe'])}: {_loop(earliest)}."
            links.append(_token_link(model, earliest))
    sources = [source("answers/collapse", model=model), source("collapses", model=model)]
    return _answer(model, "Where does the first collapse start?", short, text, sources, links)


def _step(loop: _Row) -> int:
    """Return the step of the first flip, or that of the loop if there is no flip."""
    return int(loop["collapse_step"] if loop["first_flip_step"] is None else loop["first_flip_step"])


def _loop(loop: _Row) -> str:
    flip = loop["first_flip_step"]
    where = "" if flip is None else f"differs from the dense one from step {flip} on and "
    return f"its text to prompt {label(loop['prompt_id'])} {where}has closed a loop at step {loop['collapse_step']}"


def _token_link(model: str, loop: _Row) -> Link:
    variant, prompt = (quote(name, safe="") for name in (f"{model}@{loop['recipe']}", loop["prompt_id"]))
    return {
        "text": f"{label(loop['recipe'])}, prompt {label(loop['prompt_id'])}",
        "href": f"#/tokens/{variant}/{prompt}/{_step(loop)}/free",
    }


def _layers(frames: QueryCache, model: str) -> Answer:
    overall, carriers = (_rows(frames, f"answers/{key}", model) for key in ("sublayers", "carriers"))
    parts = _first(frames, "answers/parts", model)
    details: list[str] = []
    sources: list[Source] = []
    links: list[Link] = []
    if carriers:
        recipe = carriers[0]["recipe"]
        listed = ", ".join(f"{_sublayer(row)} ({100 * row['share_of_kl']:.0f} %)" for row in carriers)
        details.append(f"In {label(recipe)}: {listed}, of the sum of the KL that each of its sublayers alone causes.")
        sources.append(source("answers/carriers", model=model))
        links.append(_link(model, recipe))
    if overall:
        listed = ", ".join(f"{_sublayer(row)} ({row['variants_top3']} of {row['variants']})" for row in overall)
        details.append(
            f"Over all variants: {listed}. In brackets: the number of variants in which the sublayer is among the "
            "three with the largest KL, of those that changed it and more than three sublayers."
        )
        sources.append(source("answers/sublayers", model=model))
    if parts is not None:
        details.append(
            f"At the first flip, the most likely token of the whole pruned model differs from layer "
            f"{parts['layer_p50']} on, in the median of {parts['texts']} texts (80 % between {parts['layer_p10']} "
            f"and {parts['layer_p90']}, layers counted from 0)."
        )
        sources.append(source("answers/parts", model=model))
    short = details[0] if details else "Not known: no pruned sublayer was measured after the final norm (lens normed)."
    return _answer(model, "Which layers cause the damage?", short, " ".join(details[1:]), sources, links)


def _sublayer(row: _Row) -> str:
    kind = {"attn": "attention", "mlp": "MLP"}.get(row["sublayer"], row["sublayer"])
    return f"{kind} of layer {row['layer']}"

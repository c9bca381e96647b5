"""Answers to the main questions: which variants are safe, where the first collapse is, which layers cause the damage.

Their numbers come from the statements `answers/…`.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from prunescope.pipelines.reporting.advice import (
    BROKEN,
    CHOOSING_ONLY,
    HALF_LOST,
    LEAST_QUESTIONS,
    NOT_JUDGED,
    SAFE,
    published_kl_nats,
)
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.explorer.document_types import Answer, Link, Source
from prunescope.pipelines.reporting.explorer.findings import number
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache

TOLERANCE = 0.1
_MAX_NAMES = 8
_Row = Mapping[str, Any]


def rule() -> str:
    """Describe the rule of `variant_verdict`."""
    return (
        f"If tasks of both kinds were scored: {SAFE} if writing and choosing each lose at most {TOLERANCE:.0%} of the "
        f"dense model's skill above a guess, {BROKEN} if choosing loses {HALF_LOST:.0%} or more, else {CHOOSING_ONLY}. "
        f"Otherwise the study's prompts decide: {BROKEN} if {HALF_LOST:.0%} or more of the questions change their most "
        f"likely option, else {SAFE} if the KL at the first generated token is below {published_kl_nats():g} nats and "
        f"at most {TOLERANCE:.0%} of the tokens change their most likely one, else {CHOOSING_ONLY}; with fewer than "
        f"{LEAST_QUESTIONS} questions only {SAFE} is possible. A verdict is open if the ends of the 95 % intervals "
        f"give different ones. {NOT_JUDGED}: too little was measured."
    )


def basis(verdicts: pl.DataFrame) -> str:
    """Describe the basis of a study's verdicts, the rows of `variant_verdict`, in one line."""
    notes = []
    of_tasks = set(verdicts.filter(pl.col("basis").cast(pl.String) == "tasks")["measure"].cast(pl.String))
    if "score" in of_tasks:
        notes.append("Lost: share of the dense model's right answers above a guess.")
    if "agreement" in of_tasks:
        condition = "" if len(of_tasks) == 1 else ", if the dense model has too few right answers"
        notes.append(f"Lost{condition}: share of the agreement with the dense model's answers, above a guess.")
    if verdicts["is_certain"].not_().any():
        notes.append("? after a verdict: its intervals allow another one.")
    return " ".join(notes)


def variant_href(model: str, recipe: str) -> str:
    """Return the route of a variant's page."""
    return f"#/variant/{quote(f'{model}@{recipe}', safe='')}"


def tokens_href(model: str, recipe: str, prompt_id: str, step: int) -> str:
    """Return the route of a token of a free-running text."""
    return f"#/tokens/{quote(f'{model}@{recipe}', safe='')}/{quote(prompt_id, safe='')}/{step}/free"


def reason(row: _Row) -> str:
    """Return the numbers behind a variant's verdict, a row of `variant_verdict`, and how its texts changed."""
    if row["basis"] == "tasks":
        measure = "right answers" if row["measure"] == "score" else "its agreement with the dense model"
        text = f"by {measure}, writing loses {_loss(row, 'writing')} and choosing {_loss(row, 'choosing')}"
    elif row["questions"] and row["kl_step0_nats"] is not None:
        text = (
            f"KL at the first token {number(row['kl_step0_nats'])}{_ends(row, 'kl_step0_nats')} nats, "
            f"{_share(row, 'top1_change')} of the tokens and "
            f"{_share(row, 'options_changed')} of the choices change"
        )
        if row["basis"] is None:
            count = "one question is" if row["questions"] == 1 else f"{row['questions']} questions are"
            text += f"; {count} too few to judge choosing ({LEAST_QUESTIONS} are needed)"
    else:
        return "too little was measured"
    if row["is_certain"] is False:
        text += "; the intervals leave the verdict open"
    if row["prompts"]:
        text += f"; {row['prompts_flipped']} of {row['prompts']} texts change, {row['prompts_collapsed']} end in a loop"
    if row["is_below_noise"]:
        text += "; its median KL is not above that of rounding alone"
    return text


def _share(row: _Row, column: str) -> str:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "an unknown share"
    return f"{100 * value:.0f} %" + ("" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]")


def _loss(row: _Row, kind: str) -> str:
    return f"{row[f'loss_{kind}']:.2f}{_ends(row, f'loss_{kind}')}"


def _ends(row: _Row, column: str) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "" if low is None else f" [{low:.2f}, {high:.2f}]"


def answers(frames: QueryCache, model: str) -> list[Answer]:
    """Answer the three questions for one model, and that of retrieval if measured; none without a pruned variant."""
    verdicts, losses = (_first(frames, f"answers/{key}", model) for key in ("safe", "retrieval"))
    if verdicts is None:
        return []
    retrieval = [] if losses is None else [_retrieval(model, losses)]
    if retrieval and len(verdicts["recipes_not_judged"] or ()) == verdicts["variants"]:
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
    safe: list[str] = verdicts["recipes_safe"] or []
    nearest, variants = verdicts["nearest"], verdicts["variants"]
    short = f"{verdicts['safe'] or 'None'} of {variants} pruned variants"
    details = []
    if len(verdicts["recipes_not_judged"] or ()) == variants:
        short = f"Not known: too little was measured to judge any of {variants} pruned variants."
    elif safe:
        short += f": {_names(safe)}{_open(safe, verdicts['open_safe'])}."
    elif nearest is not None:
        short += f"; the nearest is {label(nearest)}."
        [row] = [row for row in _rows(frames, "verdicts", model) if row["recipe"] == nearest]
        details.append(f"{label(nearest)}: {reason(row)}.")
        sources.append(source("verdicts", model=model, recipe=nearest))
    else:
        short += "."
    for kind, words in (("choosing_only", "Choosing only"), ("broken", "Broken"), ("not_judged", "Not judged")):
        if recipes := verdicts[f"recipes_{kind}"]:
            details.append(f"{words}: {_names(recipes)}{_open(recipes, verdicts.get(f'open_{kind}', 0))}.")
    if verdicts["by_tasks"]:
        details.append(
            f"In the tasks, writing loses {_range(verdicts, 'writing')} and choosing {_range(verdicts, 'choosing')} of "
            "the dense model's skill above a guess."
        )
        sources.append(source("losses", model=model))
    if verdicts["by_generations"]:
        details.append("Without scores in tasks of both kinds, the texts to the study's prompts decide.")
    linked = safe or ([nearest] if nearest is not None else verdicts["recipes_not_judged"])
    links = [_link(model, recipe) for recipe in linked[:_MAX_NAMES]]
    return _answer(model, "Which variants generate safely?", short, " ".join(details), sources, links)


def _retrieval(model: str, losses: _Row) -> Answer:
    kept: list[str] = losses["recipes_kept"] or []
    lost: list[str] = losses["recipes_lost"] or []
    names = f": {_names(kept)}" if kept else ""
    short = f"{losses['kept'] or 'None'} of {losses['variants']} pruned variants{names}."
    details = [
        f"The limit is a loss of a tenth of the dense model's nDCG@10 ({number(losses['ndcg_dense'])}, mean over "
        f"{losses['data_sets']} data set{'' if losses['data_sets'] == 1 else 's'})."
    ]
    if lost:
        details.append(f"{_names(lost)} lose more." if len(lost) > 1 else f"{label(lost[0])} loses more.")
    cosine = losses["worst_cosine"]
    details.append(
        f"{label(losses['worst'])} loses most, {100 * losses['worst_loss']:.0f} %"
        + ("." if cosine is None else f"; its embeddings have a mean cosine of {number(cosine)} with the dense ones.")
    )
    sources = [source("answers/retrieval", model=model)]
    links = [_link(model, recipe) for recipe in (kept or [losses["worst"]])[:_MAX_NAMES]]
    return _answer(model, "Which variants still retrieve?", short, " ".join(details), sources, links)


def _open(recipes: Sequence[str], count: int) -> str:
    """Say how many of the verdicts the intervals leave open."""
    if not count:
        return ""
    return " (open within its interval)" if len(recipes) == 1 else f" ({count} of these open within their intervals)"


def _range(losses: _Row, kind: str) -> str:
    low, high = (f"{losses[f'loss_{kind}_{end}']:.2f}" for end in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _link(model: str, recipe: str) -> Link:
    return {"text": label(recipe), "href": variant_href(model, recipe)}


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
        short = (
            f"In {label(mildest['recipe'])}, the mildest (by KL at the first token) of {count} of {variants} pruned "
            f"variants that loop: prompt {label(mildest['prompt_id'])}, from step {_step(mildest)}; the loop is "
            f"closed at step {mildest['collapse_step']}."
        )
        text = (
            f"By KL at the first token ({number(mildest['kl_step0_nats'] or 0.0)} nats) it is the mildest that loops "
            f"where the dense model does not: {_loop(mildest)}."
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
    return {
        "text": f"{label(loop['recipe'])}, prompt {label(loop['prompt_id'])}",
        "href": tokens_href(model, loop["recipe"], loop["prompt_id"], _step(loop)),
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

"""The answers to what a reader comes with: which variants are safe, where the first collapse is, which layers carry it.

Numbers and names are those of `sentences`; here they are put into words.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from prunescope.pipelines.reporting.advice import (
    BROKEN,
    CHOOSING_ONLY,
    GONE,
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
_LISTED = 8
_Row = Mapping[str, Any]


def rule() -> str:
    """How `variant_verdict` judges, in words."""
    return (
        f"Where tasks of both kinds were scored: {SAFE} where writing and choosing each lose at most {TOLERANCE:.0%} "
        f"of the dense model's skill above a guess, {BROKEN} where choosing loses {GONE:.0%} or more, {CHOOSING_ONLY} "
        f"between them. Otherwise the study's prompts decide: {BROKEN} where {GONE:.0%} or more of the questions "
        f"change their likeliest option, else {SAFE} where KL at the first generated token is below "
        f"{published_kl_nats():g} nats and at most {TOLERANCE:.0%} of the tokens change their likeliest one, else "
        f"{CHOOSING_ONLY}; fewer than {LEAST_QUESTIONS} questions leave only {SAFE} to be told. A verdict is open "
        f"where the ends of the 95 % intervals lead to different ones. {NOT_JUDGED}: too little was measured."
    )


def basis(verdicts: pl.DataFrame) -> str:
    """What the verdicts of a study stand on, in a line below its variants.

    Args:
        verdicts: rows of `variant_verdict`.
    """
    told = []
    of_tasks = set(verdicts.filter(pl.col("basis").cast(pl.String) == "tasks")["measure"].cast(pl.String))
    if "score" in of_tasks:
        told.append("Lost: of what the dense model gets right above a guess.")
    if "agreement" in of_tasks:
        words = "Lost" if len(of_tasks) == 1 else "Where it gets too little right"
        told.append(f"{words}: of agreement with the dense model's own answers above a guess, right or wrong ones.")
    if verdicts["is_certain"].not_().any():
        told.append("? after a verdict: its intervals allow another one.")
    return " ".join(told)


def variant_href(model: str, recipe: str) -> str:
    """Route of a variant's page."""
    return f"#/variant/{quote(f'{model}@{recipe}', safe='')}"


def tokens_href(model: str, recipe: str, prompt_id: str, step: int) -> str:
    """Route of a token of one of the texts that it writes by itself."""
    return f"#/tokens/{quote(f'{model}@{recipe}', safe='')}/{quote(prompt_id, safe='')}/{step}/free"


def reason(row: _Row) -> str:
    """By which numbers a variant of `variant_verdict` was judged, and what its texts did."""
    if row["basis"] == "tasks":
        by = "right answers" if row["measure"] == "score" else "its agreement with the dense model"
        told = f"by {by}, writing loses {_loss(row, 'writing')} and choosing {_loss(row, 'choosing')}"
    elif row["questions"] and row["kl_step0_nats"] is not None:
        told = (
            f"KL at the first token {number(row['kl_step0_nats'])}{_ends(row, 'kl_step0_nats')} nats, "
            f"{_share(row, 'top1_change')} of the tokens and "
            f"{_share(row, 'options_changed')} of the choices change"
        )
        if row["basis"] is None:
            count = "one question tells" if row["questions"] == 1 else f"{row['questions']} questions tell"
            told += f"; {count} too little of choosing ({LEAST_QUESTIONS} are needed)"
    else:
        return "too little was measured"
    if row["is_certain"] is False:
        told += "; the intervals leave the verdict open"
    if row["prompts"]:
        told += f"; {row['prompts_flipped']} of {row['prompts']} texts change, {row['prompts_collapsed']} end in a loop"
    if row["is_below_noise"]:
        told += "; its median KL is not above what rounding alone makes"
    return told


def _share(row: _Row, column: str) -> str:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "an unknown part"
    return f"{100 * value:.0f} %" + ("" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]")


def _loss(row: _Row, kind: str) -> str:
    return f"{row[f'loss_{kind}']:.2f}{_ends(row, f'loss_{kind}')}"


def _ends(row: _Row, column: str) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "" if low is None else f" [{low:.2f}, {high:.2f}]"


def answers(frames: QueryCache, model: str) -> list[Answer]:
    """The three questions, answered of one model, and what retrieval loses; none where nothing was pruned."""
    verdicts, found = (_first(frames, f"answers/{key}", model) for key in ("safe", "retrieval"))
    if verdicts is None:
        return []
    retrieval = [] if found is None else [_retrieval(model, found)]
    if retrieval and len(verdicts["recipes_not_judged"] or ()) == verdicts["variants"]:
        return retrieval  # an encoder: it neither writes nor chooses
    collapses = _first(frames, "answers/collapse", model)
    return [_safe(frames, model, verdicts), _collapse(model, collapses), _layers(frames, model), *retrieval]


def _rows(frames: QueryCache, key: str, model: str) -> list[_Row]:
    return list(frames.all(key).filter(pl.col("model").cast(pl.String) == model).iter_rows(named=True))


def _first(frames: QueryCache, key: str, model: str) -> _Row | None:
    return next(iter(_rows(frames, key, model)), None)


def source(key: str, **where: str) -> Source:
    """The statement of a sentence, with what chooses the rows that it speaks of."""
    return {"key": key, "where": where}


def _names(recipes: Sequence[str]) -> str:
    more = f" and {len(recipes) - _LISTED} more" if len(recipes) > _LISTED else ""
    return ", ".join(map(label, recipes[:_LISTED])) + more


def _safe(frames: QueryCache, model: str, found: _Row) -> Answer:
    sources = [source("answers/safe", model=model)]
    names: list[str] = found["recipes_safe"] or []
    nearest = found["nearest"]
    short = f"{found['safe'] or 'None'} of {found['variants']} pruned variants"
    rest = []
    if len(found["recipes_not_judged"] or ()) == found["variants"]:
        short = f"Not known: too little was measured to judge any of {found['variants']} pruned variants."
    elif names:
        short += f": {_names(names)}{_open(names, found['open_safe'])}."
    elif nearest is not None:
        short += f"; the nearest is {label(nearest)}."
        [row] = [row for row in _rows(frames, "verdicts", model) if row["recipe"] == nearest]
        rest.append(f"Of {label(nearest)}: {reason(row)}.")
        sources.append(source("verdicts", model=model, recipe=nearest))
    else:
        short += "."
    for kind, words in (("choosing_only", "Choosing only"), ("broken", "Broken"), ("not_judged", "Not judged")):
        if others := found[f"recipes_{kind}"]:
            rest.append(f"{words}: {_names(others)}{_open(others, found.get(f'open_{kind}', 0))}.")
    if found["by_tasks"]:
        rest.append(
            f"In the tasks writing loses {_range(found, 'writing')} and choosing {_range(found, 'choosing')} of what "
            "the dense model has above a guess."
        )
        sources.append(source("losses", model=model))
    if found["by_generations"]:
        rest.append("Without scores of tasks of both kinds the texts to the study's prompts decide.")
    shown = names or ([nearest] if nearest is not None else found["recipes_not_judged"])
    return {
        "model": label(model, 200),
        "question": "Which variants generate safely?",
        "short": short,
        "text": " ".join(rest),
        "sql": sources,
        "links": [_link(model, recipe) for recipe in shown[:_LISTED]],
    }


def _retrieval(model: str, found: _Row) -> Answer:
    kept: list[str] = found["recipes_kept"] or []
    lost: list[str] = found["recipes_lost"] or []
    short = f"{found['kept'] or 'None'} of {found['variants']} pruned variants" + (
        f": {_names(kept)}." if kept else "."
    )
    cosine = found["worst_cosine"]
    told = [
        f"Kept is what loses at most a tenth of the dense model's nDCG@10 ({number(found['ndcg_dense'])}, mean over "
        f"{found['data_sets']} data set{'' if found['data_sets'] == 1 else 's'})."
    ]
    if lost:
        told.append(f"More is lost by {_names(lost)}.")
    told.append(
        f"{label(found['worst'])} loses most, {100 * found['worst_loss']:.0f} %"
        + ("." if cosine is None else f"; its embeddings have a mean cosine of {number(cosine)} with the dense ones.")
    )
    return {
        "model": label(model, 200),
        "question": "Which variants still retrieve?",
        "short": short,
        "text": " ".join(told),
        "sql": [source("answers/retrieval", model=model)],
        "links": [_link(model, recipe) for recipe in (kept or [found["worst"]])[:_LISTED]],
    }


def _open(recipes: Sequence[str], count: int) -> str:
    """How many of the verdicts might be another one within its intervals."""
    if not count:
        return ""
    return " (open within its interval)" if len(recipes) == 1 else f" (for {count} of these open within the intervals)"


def _range(found: _Row, kind: str) -> str:
    low, high = (f"{found[f'loss_{kind}_{end}']:.2f}" for end in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _link(model: str, recipe: str) -> Link:
    return {"text": label(recipe), "href": variant_href(model, recipe)}


def _collapse(model: str, found: _Row | None) -> Answer:
    links: list[Link] = []
    text = ""
    if found is None:
        short = "Not known: no pruned variant has written a text."
    elif not found["variants_collapsed"]:
        short = "Nowhere: no text of a pruned variant falls into a loop where the dense model's does not."
    else:
        mildest, earliest = (
            {name.removeprefix(f"{which}_"): value for name, value in found.items() if name.startswith(which)}
            for which in ("mildest", "earliest")
        )
        count, variants = found["variants_collapsed"], found["variants"]
        short = (
            f"In {label(mildest['recipe'])}, the mildest (by KL at the first token) of {count} of {variants} pruned "
            f"variants that loop: prompt {label(mildest['prompt_id'])}, from step {_step(mildest)}; the loop is "
            f"closed at step {mildest['collapse_step']}."
        )
        text = (
            f"By KL at the first token ({number(mildest['kl_step0_nats'] or 0.0)} nats) it is the mildest that loops "
            f"where the dense model does not: {_told(mildest)}."
        )
        links.append(_token_link(model, mildest))
        if (earliest["recipe"], earliest["prompt_id"]) != (mildest["recipe"], mildest["prompt_id"]):
            text += f" The earliest loop of all is that of {label(earliest['recipe'])}: {_told(earliest)}."
            links.append(_token_link(model, earliest))
    return {
        "model": label(model, 200),
        "question": "Where does the first collapse start?",
        "short": short,
        "text": text,
        "sql": [source("answers/collapse", model=model), source("collapses", model=model)],
        "links": links,
    }


def _step(loop: _Row) -> int:
    """Where it begins to go wrong: at the first other token, or where the loop is seen."""
    return int(loop["collapse_step"] if loop["first_flip_step"] is None else loop["first_flip_step"])


def _told(loop: _Row) -> str:
    """Steps count from 0, as in the tables."""
    flip = loop["first_flip_step"]
    where = "" if flip is None else f"leaves the dense one at step {flip} and "
    return f"its text to prompt {label(loop['prompt_id'])} {where}has closed a loop at step {loop['collapse_step']}"


def _token_link(model: str, loop: _Row) -> Link:
    return {
        "text": f"{label(loop['recipe'])}, prompt {label(loop['prompt_id'])}",
        "href": tokens_href(model, loop["recipe"], loop["prompt_id"], _step(loop)),
    }


def _layers(frames: QueryCache, model: str) -> Answer:
    overall, carriers = (_rows(frames, f"answers/{key}", model) for key in ("sublayers", "carriers"))
    parts = _first(frames, "answers/parts", model)
    told: list[str] = []
    sources: list[Source] = []
    links: list[Link] = []
    if carriers:
        recipe = carriers[0]["recipe"]
        listed = ", ".join(f"{_place(row)} ({100 * row['share_of_kl']:.0f} %)" for row in carriers)
        told.append(f"In {label(recipe)}: {listed}, of the KL that its sublayers make one by one.")
        sources.append(source("answers/carriers", model=model))
        links.append(_link(model, recipe))
    if overall:
        listed = ", ".join(f"{_place(row)} ({row['variants_top3']} of {row['variants']})" for row in overall)
        told.append(
            f"Over all variants: {listed}. In brackets: of how many variants that changed this sublayer and more than "
            "three it is among the three costliest."
        )
        sources.append(source("answers/sublayers", model=model))
    if parts is not None:
        told.append(
            f"At the first other token, the likeliest one of the whole pruned model differs for good from behind layer "
            f"{parts['layer_p50']} on in the median of {parts['texts']} texts (80 % between {parts['layer_p10']} and "
            f"{parts['layer_p90']}, layers counted from 0)."
        )
        sources.append(source("answers/parts", model=model))
    return {
        "model": label(model, 200),
        "question": "Which layers carry it?",
        "short": told[0] if told else "Not known: no pruned sublayer was measured after the final norm (lens normed).",
        "text": " ".join(told[1:]),
        "sql": sources,
        "links": links,
    }


def _place(row: _Row) -> str:
    kind = {"attn": "attention", "mlp": "MLP"}.get(row["sublayer"], row["sublayer"])
    return f"{kind} of layer {row['layer']}"

"""The answers to what a reader comes with: which variants are safe, where the first collapse is, which layers carry it.

Verdicts are those of the view variant_verdict; here they are put into words.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import polars as pl

from pipelines.advice import BROKEN, CHOOSING_ONLY, GONE, NOT_JUDGED, SAFE, VERDICTS, published_kl_nats
from pipelines.charts.text import label
from pipelines.explorer.findings import number
from pipelines.explorer.frames import Frames
from pipelines.explorer.shapes import Answer, Link

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
        f"{CHOOSING_ONLY}. {NOT_JUDGED}: neither was measured."
    )


def variant_href(model: str, recipe: str) -> str:
    """Route of a variant's page."""
    return f"#/variant/{quote(f'{model}@{recipe}', safe='')}"


def tokens_href(model: str, recipe: str, prompt_id: str, step: int) -> str:
    """Route of a token of one of its texts."""
    return f"#/tokens/{quote(f'{model}@{recipe}', safe='')}/{quote(prompt_id, safe='')}/{step}"


def reason(row: _Row) -> str:
    """By which numbers a variant of `variant_verdict` was judged, and what its texts did."""
    if row["basis"] == "tasks":
        by = "right answers" if row["measure"] == "score" else "its agreement with the dense model"
        told = f"by {by}, writing loses {_loss(row, 'writing')} and choosing {_loss(row, 'choosing')}"
        if row["is_certain"] is False:
            told += "; the intervals leave the verdict open"
    elif row["basis"] == "generations":
        told = (
            f"KL at the first token {number(row['kl_step0_nats'])} nats, {_share(row['top1_change'])} of the tokens "
            f"and {_share(row['options_changed'])} of the choices change"
        )
    else:
        return "too little was measured"
    if row["prompts"]:
        told += f"; {row['prompts_flipped']} of {row['prompts']} texts change, {row['prompts_collapsed']} end in a loop"
    if row["is_below_noise"]:
        told += "; its median KL is not above what rounding alone makes"
    return told


def _share(value: float | None) -> str:
    return "an unknown part" if value is None else f"{100 * value:.0f} %"


def _loss(row: _Row, kind: str) -> str:
    low, high = row[f"loss_{kind}_low"], row[f"loss_{kind}_high"]
    spread = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{row[f'loss_{kind}']:.2f}{spread}"


def answers(frames: Frames, model: str) -> list[Answer]:
    """The three questions, answered of one model; none where nothing was pruned."""
    mine = pl.col("model").cast(pl.String) == model
    verdicts = frames.all("verdicts").filter(mine)
    if verdicts.is_empty():
        return []
    collapses = frames.all("collapses").filter(mine)
    return [
        _safe(model, verdicts),
        _collapse(model, collapses, verdicts),
        _layers(frames, model, collapses, verdicts),
    ]


def _names(rows: pl.DataFrame) -> str:
    names = [label(recipe) for recipe in rows["recipe"].cast(pl.String)]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _safe(model: str, verdicts: pl.DataFrame) -> Answer:
    order = pl.col("verdict").replace_strict(dict(zip(VERDICTS, range(len(VERDICTS)), strict=True)))
    ranked = verdicts.sort(order, "loss_writing", "loss_choosing", "kl_step0_nats", "recipe", nulls_last=True)
    by = {verdict: ranked.filter(pl.col("verdict") == verdict) for verdict in VERDICTS}
    safe = by[SAFE]
    text = f"{safe.height or 'None'} of {verdicts.height} pruned variants"
    text += f": {_names(safe)}{_open(safe)}." if safe.height else "."
    judged = ranked.filter(pl.col("verdict") != NOT_JUDGED)
    if not safe.height and judged.height:
        nearest = judged.row(0, named=True)
        text += f" The nearest is {label(nearest['recipe'])}: {reason(nearest)}."
    for verdict, words in {CHOOSING_ONLY: "Choosing only", BROKEN: "Broken", NOT_JUDGED: "Not judged"}.items():
        if by[verdict].height:
            text += f" {words}: {_names(by[verdict])}{_open(by[verdict])}."
    scored = verdicts.filter(pl.col("basis") == "tasks")
    if scored.height:
        text += (
            f" In the tasks writing loses {_range(scored['loss_writing'])} and choosing "
            f"{_range(scored['loss_choosing'])} of what the dense model has above a guess."
        )
    if verdicts.filter(pl.col("basis") == "generations").height:
        text += " Without scores of tasks of both kinds the texts to the study's prompts decide."
    shown = (safe if safe.height else judged if judged.height else ranked).head(_LISTED)
    return {
        "model": label(model, 200),
        "question": "Which variants generate safely?",
        "text": text,
        "sql": ["verdicts", "losses"] if scored.height else ["verdicts"],
        "links": [_link(model, recipe) for recipe in shown["recipe"].cast(pl.String)],
    }


def _open(rows: pl.DataFrame) -> str:
    """How many of the verdicts might be another one within the intervals of the losses."""
    count = rows.filter(~pl.col("is_certain")).height
    if not count:
        return ""
    return " (open within its interval)" if rows.height == 1 else f" (for {count} of these open within the intervals)"


def _range(losses: pl.Series) -> str:
    low, high = (f"{bound:.2f}" for bound in losses.sort().gather([0, -1]).to_list())
    return low if low == high else f"{low} to {high}"


def _link(model: str, recipe: str) -> Link:
    return {"text": label(recipe), "href": variant_href(model, recipe)}


def mildest_collapse(collapses: pl.DataFrame) -> _Row | None:
    """The loop of the variant that moved the first token least."""
    ranked = collapses.sort("kl_step0_nats", "collapse_step", "recipe", "prompt_id", nulls_last=True)
    return ranked.row(0, named=True) if ranked.height else None


def _collapse(model: str, collapses: pl.DataFrame, verdicts: pl.DataFrame) -> Answer:
    links: list[Link] = []
    mildest = mildest_collapse(collapses)
    if mildest is None:
        text = "No text of a pruned variant falls into a loop where the dense model's does not."
    else:
        earliest = collapses.row(0, named=True)
        count = collapses["recipe"].n_unique()
        text = (
            f"{count} of {verdicts.height} pruned variants fall into a loop where the dense model does not. The "
            f"mildest of them, by KL at the first token ({number(mildest['kl_step0_nats'] or 0.0)} nats), is "
            f"{_told(mildest)}."
        )
        links.append(_token_link(model, mildest))
        if (earliest["recipe"], earliest["prompt_id"]) != (mildest["recipe"], mildest["prompt_id"]):
            text += f" The earliest loop of all is that of {_told(earliest)}."
            links.append(_token_link(model, earliest))
    return {
        "model": label(model, 200),
        "question": "Where does the first collapse start?",
        "text": text,
        "sql": ["collapses"],
        "links": links,
    }


def _told(row: _Row) -> str:
    """Steps count from 0, as in the tables."""
    flip = row["first_flip_step"]
    where = "" if flip is None else f"leaves the dense one at step {flip} and "
    return (
        f"{label(row['recipe'])}: its text to prompt {label(row['prompt_id'])} {where}has closed a loop at step "
        f"{row['collapse_step']}"
    )


def _token_link(model: str, row: _Row) -> Link:
    step = row["collapse_step"] if row["first_flip_step"] is None else row["first_flip_step"]
    return {
        "text": f"{label(row['recipe'])}, prompt {label(row['prompt_id'])}",
        "href": tokens_href(model, row["recipe"], row["prompt_id"], step),
    }


def _layers(frames: Frames, model: str, collapses: pl.DataFrame, verdicts: pl.DataFrame) -> Answer:
    mine = pl.col("model").cast(pl.String) == model
    overall, carriers = (frames.all(key).filter(mine) for key in ("carriers_overall", "carriers"))
    parts = frames.all("parts").filter(mine).drop_nulls("from_layer")
    told: list[str] = []
    links: list[Link] = []
    most = overall.filter(pl.col("variants_top3") > 0).head(3)
    if most.height:
        listed = ", ".join(
            f"{_place(row)} ({row['variants_top3']} of {row['variants']})" for row in most.iter_rows(named=True)
        )
        told.append(
            "Pruned alone, these sublayers cost most – in brackets, among the three costliest of how many variants "
            f"that changed them and more than three in all: {listed}."
        )
    mildest = mildest_collapse(collapses)
    recipe = mildest["recipe"] if mildest else verdicts.sort("kl_step0_nats", nulls_last=True)["recipe"][0]
    first = carriers.filter(pl.col("recipe").cast(pl.String) == recipe, pl.col("share_of_kl") > 0).head(3)
    if first.height:
        listed = ", ".join(f"{_place(row)} {100 * row['share_of_kl']:.0f} %" for row in first.iter_rows(named=True))
        told.append(f"Of the sum in {label(recipe)}: {listed}.")
        links.append(_link(model, recipe))
    if parts.height:
        low, middle, high = (int(parts["from_layer"].quantile(share, "nearest") or 0) for share in (0.1, 0.5, 0.9))
        told.append(
            f"At the first other token, the likeliest one of the whole pruned model differs for good from behind layer "
            f"{middle} on in the median of {parts.height} texts (80 % between {low} and {high}, layers counted from 0)."
        )
    return {
        "model": label(model, 200),
        "question": "Which layers carry it?",
        "text": " ".join(told) or "No layer was measured.",
        "sql": [
            key
            for key, frame in (("carriers_overall", overall), ("carriers", carriers), ("parts", parts))
            if frame.height
        ],
        "links": links,
    }


def _place(row: _Row) -> str:
    kind = {"attn": "attention", "mlp": "MLP"}.get(row["sublayer"], row["sublayer"])
    return f"{kind} of layer {row['layer']}"

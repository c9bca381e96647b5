"""Answers to the main questions: which variants answer right, which loop, how long texts stay the same, and why.

Their numbers come from the statements `verdicts`, `ranking`, `collapses` and `answers/…`.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import quote

import polars as pl

from prunescope.pipelines.core.verdict_rule import MIN_UNITS
from prunescope.pipelines.reporting.advice import EVIDENCE, VERDICTS
from prunescope.pipelines.reporting.charts.display_text import counted, label, number, percent
from prunescope.pipelines.reporting.explorer.findings import MAX_NAMES, names, sentences
from prunescope.pipelines.reporting.explorer.query_cache import Document, QueryCache, model_name, of_model, source

_Row = Mapping[str, Any]


def basis(verdicts: pl.DataFrame) -> str:
    """Describe in one line the evidence behind the losses of a study's verdicts, the rows of `variant_verdict`."""
    notes = []
    for kind in ("writing", "choosing"):
        kinds = set(verdicts[f"evidence_{kind}"].cast(pl.String).drop_nulls())
        if words := [text for name, text in EVIDENCE.items() if name in kinds]:
            notes.append(f"{kind.capitalize()} lost, beyond what rounding changes: share of {', or of '.join(words)}.")
    return " ".join(notes)


def reason(row: _Row) -> str:
    """Return the numbers behind a variant's verdict, a row of `variant_verdict`."""
    parts = []
    if row["n_fidelity"] is not None:
        parts.append(f"same tokens: {row['fidelity']}, {_loss(row, 'fidelity')} change ({_count(row, 'fidelity')})")
    for kind in ("writing", "choosing"):
        if (evidence := row[f"evidence_{kind}"]) is not None:
            lost = f"{_loss(row, kind)} of {EVIDENCE[evidence]} lost"
            parts.append(f"right answers in {kind}: {row[kind]}, {lost} ({_count(row, kind, 'answer')})")
    if row["n_alive"] is not None:
        texts = f"{row['prompts_lost']:.0f} of {_count(row, 'alive', 'text')} loop or end early"
        parts.append(f"alive: {row['alive']}, {texts}, {_loss(row, 'alive')} beyond the dense model's")
    if row["would_decide"] is not None:
        parts.append(f"enough would be {row['would_decide']}")
    if row["is_below_noise"]:
        parts.append("its median KL is not above that of rounding alone")
    return "; ".join(parts) or "nothing was measured that a verdict could rest on"


def _loss(row: _Row, kind: str) -> str:
    # A variant that is worse than guessing has lost everything above a guess.
    loss, low, high = (end and min(end, 1) for end in (row[f"loss_{kind}{name}"] for name in ("", "_low", "_high")))
    return percent(loss, 0) + ("" if low is None else f" [{percent(low, 0, '')}, {percent(high, 0, '')}]")


def _count(row: _Row, kind: str, unit: str = "prompt") -> str:
    units = row[f"n_{kind}"]
    return counted(units, unit) + ("" if units >= MIN_UNITS else ", too few")


def answers(frames: QueryCache, model: str) -> list[Document]:
    """Answer the main questions for one model, and that of retrieval if measured; none without a pruned variant."""
    rows, losses = _rows(frames, "verdicts", model), _first(frames, "answers/retrieval", model)
    if not rows:
        return []
    retrieval = [] if losses is None else [_retrieval(model, losses)]
    measured = ("n_fidelity", "n_writing", "n_choosing", "n_alive")
    if retrieval and all(row[name] is None for row in rows for name in measured):
        return retrieval  # an encoder has neither texts nor choices
    return [_right(model, rows), _alive(frames, model, rows), _same(frames, model, rows), _layers(frames, model),
            *retrieval]  # fmt: skip


def _rows(frames: QueryCache, key: str, model: str) -> list[_Row]:
    return list(of_model(frames.all(key), model).iter_rows(named=True))


def _first(frames: QueryCache, key: str, model: str) -> _Row | None:
    return next(iter(_rows(frames, key, model)), None)


def _answer(
    model: str, question: str, short: str, text: str, sources: Sequence[str], links: list[Document]
) -> Document:
    """Return an answer in one or two lines, with details and the keys of the statements of its numbers."""
    return {
        "model": model_name(model),
        "question": question,
        "short": short,
        "text": text,
        "sql": [source(key, model=model) for key in sources],
        "links": links,
    }


def _of_word(rows: Sequence[_Row], column: str, word: str) -> list[_Row]:
    return [row for row in rows if row[column] == word]


def _listed(rows: Sequence[_Row], singular: str = "", plural: str = "") -> str:
    return names([row["recipe"] for row in rows], singular, plural)


def _grouped(rows: Sequence[_Row], column: str, singular: str, plural: str) -> str:
    """List the numbers of variants, the largest first and equal ones together: "a and b have 6; c has 1"."""
    ordered = sorted(rows, key=lambda row: (-row[column], row["recipe"]))
    groups = [(value, list(group)) for value, group in groupby(ordered, key=lambda row: row[column])]
    return "; ".join(f"{_listed(group, singular, plural)} {value:.0f}" for value, group in groups)


def _right(model: str, rows: Sequence[_Row]) -> Document:
    kept, lost = (_of_word(rows, "quality_together", word) for word in ("holds", "fails"))
    parts = [f"{_listed(kept, 'surely loses', 'surely lose')} at most a tenth of the right answers."] if kept else []
    if lost:
        parts.append(f"{_listed(lost, 'surely loses', 'surely lose')} more than a tenth of the right answers.")
    if unknown := _of_word(rows, "quality_together", "too little evidence"):
        which = _listed(unknown) if kept or lost else "any variant"
        parts.append(f"There are too few right answers to be sure of {which}.")
    if graded := [row for row in rows if row["prompts_graded"]]:
        prompts = max(row["prompts_graded"] for row in graded)
        dense = f"The dense model answers {rows[0]['prompts_correct_dense']} of {prompts} prompts right"
        counts = f"{dense}; {_grouped(graded, 'prompts_correct', 'answers', 'answer')}."
        parts.insert(len(parts) if kept or lost else 0, counts)
    verdicts = sorted({row["verdict"] for row in rows}, key=VERDICTS.index)
    listed = ", ".join(f"{word} ({_listed(_of_word(rows, 'verdict', word))})" for word in verdicts)
    losses = [
        f"{label(row['recipe'])} loses {_loss(row, kind)} of the right {adjective} answers. "
        for row in lost[:MAX_NAMES]
        for kind, adjective in (("writing", "written"), ("choosing", "chosen"))
        if row[kind] == "fails"
    ]
    text = f"{''.join(losses)}Verdicts by variant: {listed}."
    links = [_link(model, row["recipe"]) for row in kept[:MAX_NAMES]]
    return _answer(model, "Which variants still answer right?", " ".join(parts), text, ["verdicts"], links)


def _alive(frames: QueryCache, model: str, rows: Sequence[_Row]) -> Document:
    question, sources, links = "Which variants loop or stop early?", ["verdicts"], []
    written = [row for row in rows if row["n_alive"] is not None]
    if not written:
        return _answer(model, question, "Not known: no pruned variant has generated a text.", "", sources, [])
    lost, held = (_of_word(written, "alive_together", word) for word in ("fails", "holds"))
    verbs = "surely loops or stops", "surely loop or stop"
    which = _listed(lost, *verbs) if lost else "No variant is shown to loop or stop"
    short = (
        f"{which} early in more than a tenth of the texts. The dense model has "
        f"{rows[0]['prompts_collapsed_dense']} such texts of {max(row['n_alive'] for row in written)}; "
        f"{_grouped(written, 'prompts_lost', 'has', 'have')}."
    )
    details = [f"{_listed(held, *verbs)} early in at most a tenth of the texts."] if held else []
    if loops := _rows(frames, "collapses", model):
        sources.append("collapses")
        # Without teacher-forced steps there is no KL to order them; then the one that loops first is named.
        mildest = min(loops, key=lambda row: math.inf if row["kl_step0_nats"] is None else row["kl_step0_nats"])
        details.append(
            f"The least damaged variant that loops is {label(mildest['recipe'])}: its text to prompt "
            f"{label(mildest['prompt_id'])} repeats itself for the third time by step {mildest['collapse_step']}."
        )
        step = mildest["collapse_step"] if mildest["first_flip_step"] is None else mildest["first_flip_step"]
        variant, prompt = (quote(name, safe="") for name in (f"{model}@{mildest['recipe']}", mildest["prompt_id"]))
        text = f"{label(mildest['recipe'])}, prompt {label(mildest['prompt_id'])}"
        links.append({"text": text, "href": f"#/tokens/{variant}/{prompt}/{step}/own"})
    return _answer(model, question, short, " ".join(details), sources, links)


def _same(frames: QueryCache, model: str, rows: Sequence[_Row]) -> Document:
    question, sources = "How long do the texts stay the same?", ["verdicts"]
    read = [row for row in rows if row["n_fidelity"] is not None]
    if not read:
        return _answer(model, question, "Not known: no tokens were compared.", "", sources, [])
    parts = []
    if held := _of_word(read, "fidelity_together", "holds"):
        parts.append(f"{_listed(held, 'surely changes', 'surely change')} at most a tenth of the dense model's tokens.")
    written = [row for row in read if row["prompts"]]
    if same := [row for row in written if row["first_other_step"] is None]:
        parts.append(f"At least half of the texts of {_listed(same)} stay the same to the end.")
    if flips := [row for row in written if row not in same]:
        steps = _grouped(flips, "first_other_step", "by step", "by step")
        parts.append(f"Half of the texts differ from the dense ones (the first token is step 0): {steps}.")
    if own := _first(frames, "findings/feedback", model):
        parts.append(sentences("own_text", own))
        sources.append("findings/feedback")
    changes = ", ".join(
        f"{label(row['recipe'])} {_loss(row, 'fidelity')}"
        for row in sorted(read, key=lambda row: (row["loss_fidelity"], row["recipe"]))[:MAX_NAMES]
    )
    details = f"Tokens of the dense text that change: {changes}. {_nearest(frames, model)}"
    links = [_link(model, row["recipe"]) for row in held[:MAX_NAMES]]
    sources.append("ranking")
    return _answer(model, question, " ".join(parts) or details, details, sources, links)


def _nearest(frames: QueryCache, model: str) -> str:
    """Name the nearest variants of each band that remove about as many parameters, if the band has several."""
    ranked = [row for row in _rows(frames, "ranking", model) if row["n_variants"] > 1 and row["is_nearest"]]
    sentences = []
    for _, band in groupby(ranked, key=lambda row: row["band"]):
        nearest = list(band)
        alike = "" if len(nearest) == 1 else ", without a proven difference between them"
        sentences.append(
            f"Among {nearest[0]['n_variants']} variants that remove about "
            f"{percent(nearest[0]['band_removed_share'], 0)} of the parameters, "
            f"{_listed(nearest, 'changes', 'change')} the fewest tokens{alike} (paired tests, 95 % over the "
            "comparisons)."
        )
    return " ".join(sentences)


def _retrieval(model: str, losses: _Row) -> Document:
    kept, lost, undecided = (losses[f"recipes_{word}"] or [] for word in ("kept", "lost", "open"))
    listed = f": {names(kept)}" if kept else ""
    shown = " is shown to" if undecided and not kept else ""
    short = f"{losses['kept'] or 'None'} of {losses['variants']} pruned variants{shown}{listed}."
    details = [
        f"The limit is a loss of a tenth of the dense model's nDCG@10 ({number(losses['ndcg_dense'])}, mean over "
        f"{counted(losses['data_sets'], 'data set')})."
    ]
    if lost:
        details.append(f"{names(lost, 'loses', 'lose')} more.")
    if undecided:
        details.append(f"Not shown either way: {names(undecided)}.")
    cosine = losses["worst_cosine"]
    details.append(
        f"{label(losses['worst'])} loses most, {percent(losses['worst_loss'], 0)}"
        + ("." if cosine is None else f"; its embeddings have a mean cosine of {number(cosine)} with the dense ones.")
    )
    links = [_link(model, recipe) for recipe in (kept or [losses["worst"]])[:MAX_NAMES]]
    return _answer(model, "Which variants still retrieve?", short, " ".join(details), ["answers/retrieval"], links)


def _link(model: str, recipe: str) -> Document:
    return {"text": label(recipe), "href": f"#/variant/{quote(f'{model}@{recipe}', safe='')}"}


def _layers(frames: QueryCache, model: str) -> Document:
    overall, carriers = (_rows(frames, f"answers/{key}", model) for key in ("sublayers", "carriers"))
    parts = _first(frames, "answers/parts", model)
    details, sources, links = list[str](), list[str](), list[Document]()
    if carriers:
        recipe = carriers[0]["recipe"]
        listed = ", ".join(f"the {_sublayer(row)} ({percent(row['share_of_kl'], 0)})" for row in carriers)
        details.append(f"In {label(recipe)} the KL, summed over sublayers changed alone, comes mostly from {listed}.")
        sources.append("answers/carriers")
        links.append(_link(model, recipe))
    if overall:
        listed = ", ".join(f"the {_sublayer(row)} ({row['variants_top3']} of {row['variants']})" for row in overall)
        details.append(
            f"The sublayers that are most often among the three with the largest KL are {listed}, counted over the "
            "variants that changed them and more than three sublayers."
        )
        sources.append("answers/sublayers")
    if parts is not None:
        details.append(
            f"At the first flip, the most likely token of the whole pruned model differs from layer "
            f"{parts['layer_p50']} on, in the median of {parts['texts']} texts (80 % between {parts['layer_p10']} "
            f"and {parts['layer_p90']}, layers counted from 0)."
        )
        sources.append("answers/parts")
    short = details[0] if details else "Not known: no pruned sublayer was measured after the final norm (lens normed)."
    return _answer(model, "Which layers cause the damage?", short, " ".join(details[1:]), sources, links)


def _sublayer(row: _Row) -> str:
    kind = {"attn": "attention", "mlp": "MLP"}.get(row["sublayer"], row["sublayer"])
    return f"{kind} of layer {row['layer']}"

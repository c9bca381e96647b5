"""One self-contained HTML page of a study: findings, table, charts, texts; it loads nothing from anywhere.

What the sentences and charts say is not decided here.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, TypeAlias

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from pipelines.explorer.findings import QUERIES, Finding, number
from pipelines.charts.text import label, prose
from pipelines.charts.theme import AnyChart

ReportFigure: TypeAlias = tuple[str, str, AnyChart, str]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(count: float) -> str:
    """A whole number, or the half that a median of steps can be."""
    return f"{count:,g}"


# Column of variant_summary → heading, explanation, and how its values are written.
_COLUMNS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "parameters_removed_share": ("removed, %", "parameters removed over all parameters of the model", _percent),
    "sparsity": ("sparsity, %", "share of the prunable weights that are zero", _percent),
    "sublayers_dropped_count": ("dropped", "sublayers dropped", _count),
    "kl_step0_nats": (
        "KL at token 1, nats",
        "KL(dense ‖ pruned) at the first generated token, mean over prompts",
        number,
    ),
    "kl_teacher_forced_median_nats": ("KL forced, nats", "median over tokens, both reading the dense tokens", number),
    "kl_free_running_median_nats": ("KL free, nats", "median over tokens, each reading its own tokens", number),
    "top1_agreement": (
        "same top token, %",
        "share of tokens with the same most likely token, teacher forced",
        _percent,
    ),
    "first_flip_step_median": ("first flip, step", "first step whose token differs, median over prompts", _count),
    "prompts_flipped": ("flipped", "generations that leave the dense text", _count),
    "prompts_collapsed": ("collapsed", "generations that fall into a loop", _count),
    "prompts_correct": ("correct", "right answers", _count),
    "prompts_graded": ("graded", "prompts that have a right answer", _count),
    "prompts": ("prompts", "prompts generated from", _count),
    "options_argmax_kept": ("choices kept", "questions whose option stays the most likely", _count),
    "questions": ("questions", "multiple-choice questions", _count),
}


def render_report(
    study_name: str,
    findings: Sequence[Finding],
    summary: pl.DataFrame,
    figures: Sequence[ReportFigure],
    texts: pl.DataFrame,
    provenance: dict[str, Any],
) -> str:
    """The page as a string of HTML.

    Args:
        study_name: name of the study.
        findings: the sentences, each with its SQL.
        summary: rows of `variant_summary`.
        figures: title, caption, chart and the SQL that fed it.
        texts: model, recipe, prompt_id, prompt_text, text, text_dense, first_flip_step, collapse_step.
        provenance: facts by name; values may be nested.
    """
    bundle, script, style = _bundle(), _part("report.js"), _part("report.css")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.charts"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        study=label(study_name),
        policy=_policy([bundle, script], style),
        bundle=Markup(bundle),  # noqa: S704 - vl_convert's own libraries
        script=Markup(script),  # noqa: S704 - ours
        style=Markup(style),  # noqa: S704 - ours
        models=[label(str(model)) for model in summary["model"].unique(maintain_order=True)],
        recipes=[label(str(recipe)) for recipe in summary["recipe"].unique(maintain_order=True)],
        findings=[(prose(finding.sentence), prose(QUERIES[finding.query])) for finding in findings],
        headings=_headings(summary),
        rows=_rows(summary),
        figures=[
            {"title": prose(title), "caption": prose(caption), "spec": _embedded(_spec(chart)), "sql": prose(sql)}
            for title, caption, chart, sql in figures
        ],
        prompts=_prompts(texts),
        provenance=[(label(name), _fact(value)) for name, value in provenance.items()],
    )


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    # The stub of vl_convert forgets that the snippet is optional.
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]


def _part(name: str) -> str:
    return (resources.files("pipelines.charts") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(scripts: Sequence[str], style: str) -> str:
    """Only these very scripts and this style, no network at all, no eval."""
    return (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _spec(chart: AnyChart) -> dict[str, Any]:
    """The chart's JSON; the page has its own heading, so of the chart's title only the subtitle stays."""
    spec: dict[str, Any] = chart.to_dict()
    del spec["$schema"]
    title = spec.pop("title", {})
    if title.get("subtitle"):
        spec["title"] = {"text": title["subtitle"], "fontSize": 12, "fontWeight": "normal", "color": "#555555"}
    return spec


def _embedded(spec: dict[str, Any]) -> Markup:
    """JSON that no text inside it can close or reopen: `<`, `>` and `&` only occur in strings and are escaped."""
    text = json.dumps(spec, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _headings(summary: pl.DataFrame) -> list[tuple[str, str]]:
    shown = [(heading, doc) for name, (heading, doc, _) in _COLUMNS.items() if name in summary.columns]
    model = [("model", "dense model")] if summary["model"].n_unique() > 1 else []
    return [*model, ("recipe", "way to prune it"), *shown]


def _rows(summary: pl.DataFrame) -> list[dict[str, Any]]:
    """Per variant: names, and (text, value to sort by) of each number."""
    rows = []
    for row in summary.iter_rows(named=True):
        cells = []
        for name, (_, _, write) in _COLUMNS.items():
            if name in row:
                value = row[name]
                cells.append(("–", "") if value is None else (write(value), value))
        rows.append({"model": label(str(row["model"])), "recipe": label(str(row["recipe"])), "cells": cells})
    return rows


def _prompts(texts: pl.DataFrame) -> list[dict[str, Any]]:
    """Per model and prompt: the dense text, and each variant's text split where it leaves the dense one."""
    prompts = []
    for (model, prompt_id), part in texts.group_by("model", "prompt_id", maintain_order=True):
        dense = part["text_dense"][0] or ""
        variants = []
        for row in part.filter(pl.col("recipe") != "dense").iter_rows(named=True):
            text = row["text"] or ""
            shorter = min(len(text), len(dense))
            same = next((index for index in range(shorter) if text[index] != dense[index]), shorter)
            is_equal = text == dense
            variants.append(
                {
                    "recipe": label(str(row["recipe"])),
                    "same": prose(text[:same]),
                    "rest": "" if is_equal else prose(text[same:]),
                    "is_equal": is_equal,
                    "first_flip_step": row["first_flip_step"],
                    "collapse_step": row["collapse_step"],
                }
            )
        prompts.append(
            {
                "model": label(str(model)),
                "prompt_id": label(str(prompt_id)),
                "prompt_text": prose(part["prompt_text"][0] or ""),
                "dense": prose(dense),
                "variants": variants,
            }
        )
    return prompts


def _fact(value: object) -> str:
    return prose(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str))

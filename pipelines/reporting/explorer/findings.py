"""Findings of a study as sentences, one per row of `FINDINGS`. Each says whether the paper's claim fails here.

The sentences are in `templates/findings.j2`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import polars as pl

from prunescope.pipelines.core.templates import package_templates
from prunescope.pipelines.reporting.charts.display_text import counted, label, number, percent, prose
from prunescope.pipelines.reporting.explorer.query_cache import Document, model_name, of_model, source
from prunescope.pipelines.reporting.published import fact

MAX_NAMES = 8
# Statements by theme, in the order of the page.
_THEMES = {
    "Writing": ("flips", "answers", "first_token", "feedback", "noise", "sampling"),
    "Choosing": ("options",),
    "Reading": ("texts",),
    "Layers": ("amplification", "attention_or_mlp"),
    "Estimates": ("fit",),
}


def findings(frames: Mapping[str, pl.DataFrame], models: Sequence[str]) -> list[Document]:
    """Return all findings by model, then theme.

    Args:
        frames: result of each statement in `FINDINGS`, by key; a model may have no rows.
        models: names of the models, in display order.
    """
    return [
        {"model": model_name(model), "theme": theme, "text": prose(text), "sql": source(f"findings/{name}", row)}
        for model in models
        for theme, statements in _THEMES.items()
        for name in statements
        for row in of_model(frames[f"findings/{name}"], model).iter_rows(named=True)
        if (text := sentences(name, row))
    ]


def sentences(name: str, row: Mapping[str, Any]) -> str:
    """Return what a macro of the template says about a row."""
    return " ".join(str(getattr(_template().module, name)(row)).split())


@cache
def _template() -> jinja2.Template:
    environment = package_templates("pipelines.reporting.explorer", trim_blocks=True)
    environment.globals |= {function.__name__: function for function in (counted, fact, label, names, number, percent)}
    return environment.get_template("findings.j2")


def names(recipes: Sequence[str], singular: str = "", plural: str = "") -> str:
    """List recipes, only the first ones of many, with a verb if given: "a, b and 3 more are"."""
    *first, last = [*map(label, recipes[:MAX_NAMES])]
    if len(recipes) > MAX_NAMES:
        first, last = [*first, last], f"{len(recipes) - MAX_NAMES} more"
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"{listed} {singular if len(recipes) == 1 else plural}".rstrip()

"""Reports made of the synthetic frames, for the tests of the page and of the browser.

Nothing of the real warehouse belongs here.
"""

import polars as pl

from pipelines.charts.registry import FIGURES
from pipelines.charts.report import render_report
from pipelines.explorer.findings import QUERIES, Finding, findings
from tests.pipelines.charts import frames


def page(**marts: pl.DataFrame) -> str:
    figures = [
        (drawing.title, figure.caption, drawing.chart, figure.query)
        for figure in FIGURES.values()
        for drawing in figure.draw_all(frames.ask(figure.query, **marts))
    ]
    found = findings({name: frames.ask(query, **marts) for name, query in QUERIES.items()})
    summary = marts.get("variant_summary", frames.variant_summary())
    texts = marts.get("texts", frames.texts())
    return render_report("demo", found, summary, figures, texts, {"seed": 0, "libraries": {"torch": "2.9"}})


def hostile_page() -> str:
    """Every text of the page that comes from outside is an attack."""
    names = frames.HOSTILE
    unnamed = {frames.estimate_points, frames.paper_claims}  # they have no recipes to name
    marts = {mart.__name__: mart((names[0],), names[1:4]) for mart in frames.MARTS if mart not in unnamed}
    marts["token_trace"] = frames.token_trace((names[0],), names[1:4], prompts=names[:2], words=names)
    marts["option_shift"] = frames.option_shift((names[0],), names[1:4], questions=names[:1], options=names[:4])
    texts = frames.texts((names[0],), names[1:4], prompts=names[:2]).with_columns(
        pl.lit("\n".join(names)).alias("text"),
        pl.lit(names[1]).alias("prompt_text"),
        pl.lit(names[0]).alias("text_dense"),
    )
    figures = [
        (drawing.title, figure.caption, drawing.chart, figure.query)
        for figure in FIGURES.values()
        for drawing in figure.draw_all(frames.ask(figure.query, **marts))
    ]
    found = [Finding(name, name) for name in names]
    facts = {name: {"nested": name} for name in names}
    return render_report(names[0], found, marts["variant_summary"], figures, texts, facts)

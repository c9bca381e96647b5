"""What is kept of the dense model against the share of parameters removed, with the best of each size joined.

What counts as kept is `methods.KEPT`.
"""

import altair as alt
import polars as pl

from pipelines.charts import methods, theme

TITLE = "What is left for what was removed"
CAPTION = (
    "One point a variant that removes parameters; the stepped line joins the variants that no other beats in both, "
    "starting at the dense model, and their names stand beside them. Masked weights count as removed, quantization "
    f"removes nothing and is left out. {methods.KEPT_CAPTION}"
)
QUERY = f"""\
with kept as (
    {methods.KEPT}
)
select model, recipe, method, parameters_removed_share, sparsity, measure, kept, kept_se, n_tasks
from kept
inner join variant_summary using (model, recipe)
where parameters_removed_share > 0 and kept is not null
order by model, measure, parameters_removed_share, kept desc, recipe"""  # noqa: S608 - a constant


def frontier(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with `is_best`: no other row of the same measure removes as much and keeps more, or more and as much."""
    other = frame.select("measure", removed="parameters_removed_share", other="kept")
    beaten = (
        frame.with_row_index("row")
        .join(other, on="measure")
        .filter(
            (pl.col("removed") >= pl.col("parameters_removed_share")) & (pl.col("other") >= pl.col("kept")),
            (pl.col("removed") > pl.col("parameters_removed_share")) | (pl.col("other") > pl.col("kept")),
        )["row"]
    )
    return frame.with_columns(~pl.int_range(pl.len(), dtype=pl.UInt32).is_in(beaten.implode()).alias("is_best"))


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of one model, one panel per measure."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant removes parameters and was measured")
    named = methods.labelled(frontier(theme.with_variant(frame)), "method")
    named, order = methods.panel_titles(methods.with_interval(named, "kept", "kept_se"), "measure", methods.KEPT_TITLES)
    starts = pl.DataFrame(
        [
            {
                "panel": p,
                "variant": "dense",
                "is_best": True,
                "is_dense": True,
                "parameters_removed_share": 0.0,
                "kept": 1.0,
            }
            for p in order
        ]
    ).cast({"parameters_removed_share": named["parameters_removed_share"].dtype})
    points = pl.concat([starts, named.with_columns(is_dense=pl.lit(value=False))], how="diagonal")
    # Variants of one place share a label, which would lie on itself.
    place = ["panel", "parameters_removed_share", "kept"]
    names = (
        points.filter("is_best")
        .group_by(place, maintain_order=True)
        .agg(pl.col("variant").str.join(", ").alias("label"), pl.col("variant").first())
    )
    points = points.join(names, on=[*place, "variant"], how="left", nulls_equal=True)
    marks = methods.encodings(named["method"])
    removed = points["parameters_removed_share"]
    x = alt.X(
        "parameters_removed_share:Q",
        title="parameters removed",
        scale=alt.Scale(domain=[0, 1.3 * float(removed.max())], nice=False, padding=6),  # type: ignore[arg-type]
        axis=alt.Axis(format="~%", grid=False, tickCount=5),
    )
    scale = methods.padded(points["kept"], points["low"], points["high"]) if points["low"].count() else None
    scale = scale or methods.padded(points["kept"])
    y = alt.Y("kept:Q", title="kept of the dense model", scale=scale, axis=alt.Axis(format="~%", tickCount=6))
    base = alt.Chart().encode(x=x)
    best = base.transform_filter("datum.is_best")
    pruned = base.transform_filter("!datum.is_dense")
    chart = alt.layer(
        best.mark_line(interpolate="step-before", strokeWidth=1.2, color=theme.GREY).encode(
            y=y, order="parameters_removed_share:Q"
        ),
        pruned.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1, opacity=0.6)
        .encode(y=alt.Y("low:Q", title="kept of the dense model"), y2="high:Q", color=marks["color"]),
        pruned.mark_point(filled=True, size=50, opacity=0.9).encode(
            y=y,
            **marks,
            tooltip=["variant:N", "method:N", "parameters_removed_share:Q", "kept:Q", "low:Q", "high:Q", "n_tasks:Q"],
        ),
        best.transform_filter("isValid(datum.label)")
        .mark_text(align="left", dx=7, dy=-5, fontSize=10, limit=130)
        .encode(y=y, text="label:N"),
        data=theme.rows(
            points.select(
                "panel",
                "variant",
                "label",
                "method",
                "is_best",
                "is_dense",
                "parameters_removed_share",
                "kept",
                "low",
                "high",
                "n_tasks",
            )
        ),
    )
    return theme.themed(
        chart.properties(width=300, height=230)
        .facet(
            facet=alt.Facet("panel:N", title=None, sort=order), columns=3, title=theme.title(TITLE, theme.models(frame))
        )
        .resolve_axis(x="independent", y="independent")
    )

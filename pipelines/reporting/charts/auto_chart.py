"""A chart of any question's answer, its form chosen from the key and the columns; every row is one mark.

Which rows there are, and where the picture goes, is the caller's business.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import method_encoding, theme
from prunescope.pipelines.reporting.charts.display_text import label

# More marks than a picture shows apart, or a browser draws at once.
MOST_MARKS = 5000
MOST_PANELS = 24
MOST_COLORS = len(theme.CATEGORIES)
# What has an order goes along the x axis, the first that varies.
_ALONG = ("step", "position", "layer", "decile", "temperature", "dropped", "k")
# A median or estimate is drawn with its interval where the answer has one.
_BOUNDS = (("_low", "_high"), ("_p10", "_p90"))
# The figure that the question asks for, where it is not the one with an interval or the first.
_VALUES = {
    "q11_first_flip": "first_flip_step",
    "q12_flip_to_collapse": "steps_to_collapse",
    "q13_free_running_against_teacher_forced": "kl_free_running_median_nats",
    "q16_options_against_vocabulary": "kl_share",
    "q17_ranking_lost": "kendall_tau_mean",
    "q18_options_in_the_tail": "mass_dense",
    "q24_attention_mlp_block": "kl_ratio",
    "q25_pattern_cost": "kl_ratio",
}
# A second figure of the question's, drawn as the size of the points.
_SIZES = {"q11_first_flip": "margin_dense"}
# Fewer prompts carry no interval, as the headers of the questions say.
_FEWEST_PROMPTS = 5


def draw(name: str, frame: pl.DataFrame, key: Sequence[str], asks: str) -> theme.AnyChart:
    """The answer as points over its key, with intervals where it has them and lines where rows follow each other.

    Args:
        name: the question.
        frame: its rows, all of them.
        key: columns that identify a row.
        asks: the question in words, for the title.

    Returns:
        A chart of one column; it says which, and what it leaves out.

    Raises:
        InputError: there are more rows than a picture shows, or none of its columns is a number.
    """
    title = textwrap.wrap(asks, 90)
    if frame.is_empty():
        return theme.no_data("\n".join(title), "the answer has no rows")
    if frame.height > MOST_MARKS:
        raise InputError(
            f"--chart: {frame.height:,} rows are more than a picture shows ({MOST_MARKS:,}); ask for less with "
            "--model, --recipe, --variant or --prompt"
        )
    value, low, high = _value(name, frame, key)
    unbounded = ""
    if low and high and frame[low].null_count() == frame.height:
        unbounded = f"no interval: {low} and {high} are NULL in every row{_reason(frame)}"
        low = high = None
    size = _SIZES.get(name)
    shown = frame.with_columns(pl.col(column).cast(pl.Float64) for column in (value, low, high) if column)
    missing = shown[value].is_null() | shown[value].is_nan()
    shown = shown.filter(~missing)
    if shown.is_empty():
        return theme.no_data("\n".join(title), f"{value} is NULL in every row")
    varying = [column for column in key if frame[column].n_unique() > 1]
    constant = [f"{column} {label(str(frame[column][0]))}" for column in key if column not in varying]
    along = next((column for column in _ALONG if column in varying and frame[column].dtype.is_numeric()), None)
    along = along or ("recipe" if "recipe" in varying or not varying else varying[0])
    rest = [column for column in varying if column != along]
    color = next((column for column in _by_series(rest) if frame[column].n_unique() <= MOST_COLORS), None)
    panels = [column for column in rest if column != color]
    while panels and frame.select(panels).n_unique() > MOST_PANELS:
        panels.pop()
    told = {along, color, *panels}
    untold = [column for column in varying if column not in told]
    subtitle = [
        value + (f", with {low} to {high}" if low else "") + (f"; larger points: larger {size}" if size else ""),
        unbounded,
        ", ".join(constant),
        f"points of one place differ in {', '.join(untold)}" if untold else "",
        f"without {int(missing.sum())} rows in which it is NULL" if missing.any() else "",
    ]
    return _chart(shown, (along, value, low, high, size), color, panels, not untold, theme.title(title, *subtitle))  # type: ignore[arg-type]


def _reason(frame: pl.DataFrame) -> str:
    """Why an answer has no interval, where its number of prompts says it."""
    most = frame["n_prompts"].max() if "n_prompts" in frame.columns else None
    if not isinstance(most, int) or most >= _FEWEST_PROMPTS:
        return ""
    return f", because {most} prompts carry none ({_FEWEST_PROMPTS} would)"


def _by_series(columns: Sequence[str]) -> list[str]:
    """Recipes are what one compares, so they get the colours before anything else."""
    return sorted(columns, key=lambda column: column != "recipe")


def _value(name: str, frame: pl.DataFrame, key: Sequence[str]) -> tuple[str, str | None, str | None]:
    """The column to draw and the two that bound it."""
    others = [column for column in frame.columns if column not in key and frame[column].dtype.is_numeric()]
    for column in others:
        for below, above in _BOUNDS:
            stem = column.removesuffix("_median")
            if name not in _VALUES and {stem + below, stem + above} <= set(others) and column != stem + below:
                return column, stem + below, stem + above
    chosen = _VALUES.get(name, "")
    figures = [column for column in others if frame[column].dtype.is_float()]
    if chosen not in others:
        if not others:
            raise InputError(f"--chart: {name} has no column of numbers to draw")
        chosen = (figures or others)[0]
    return chosen, None, None


def _chart(
    shown: pl.DataFrame,
    columns: tuple[str, str, str | None, str | None, str | None],
    color: str | None,
    panels: Sequence[str],
    is_whole: bool,
    title: alt.TitleParams,
) -> theme.AnyChart:
    along, value, low, high, size = columns
    bounds = [column for column in (low, high) if column]
    named = shown.with_columns(
        pl.concat_str([pl.col(column).cast(pl.String) for column in panels], separator=" · ").alias("panel")
        if panels
        else pl.lit("").alias("panel")
    )
    series = [*([color] if color else []), *panels]
    named = named.sort(*series, along).with_columns(_runs(named.sort(*series, along), along, series))
    sizes = [size] if size else []
    named = named.select(*dict.fromkeys([along, value, *bounds, *sizes, *series, "panel", "run"]))
    is_ordered = shown[along].dtype.is_numeric()
    # A line joins what one key leads through in order; where points of one place differ it would join strangers.
    x = alt.X(f"{along}:Q" if is_ordered else f"{along}:N", title=along)
    if is_ordered and shown[along].dtype.is_integer():
        x = theme.whole_axis(along, along, shown[along])
    scale, axis = _scale(shown.select(value, *bounds))
    y = alt.Y(f"{value}:Q", title=value, scale=scale, axis=axis)
    tooltip = [
        alt.Tooltip(column, type="quantitative" if named[column].dtype.is_numeric() else "nominal")
        for column in named.columns
        if column not in {"panel", "run"}
    ]
    base = theme.Chart().encode(x=x, tooltip=tooltip)
    if color:
        is_method = color.endswith("method")
        scale_of: dict[str, Any] = (
            {"scale": method_encoding.color_scale(shown[color].cast(pl.String))} if is_method else {}
        )
        base = base.encode(color=alt.Color(f"{color}:N", sort=theme.names(shown, color), **scale_of))
        if not is_ordered:  # equal values of one place stand side by side
            base = base.encode(xOffset=alt.XOffset(f"{color}:N", sort=theme.names(shown, color)))
    layers = [base.mark_rule(opacity=0.5).encode(y=alt.Y(f"{low}:Q"), y2=alt.Y2(f"{high}:Q"))] if bounds else []
    if is_ordered and is_whole:
        layers.append(base.mark_line(strokeWidth=1.2, opacity=0.6).encode(y=y, detail=alt.Detail("run:N")))
    points = base.mark_point(filled=True, size=35, opacity=0.85).encode(y=y)
    if size:
        points = points.encode(size=alt.Size(f"{size}:Q", title=size, scale=alt.Scale(range=[15, 260])))
    layers.append(points)
    width = 260 if panels else 560
    layered = alt.layer(*layers, data=theme.rows(named)).properties(width=width, height=200 if panels else 320)
    if not panels:
        return theme.themed(layered.properties(title=title))
    header = alt.Header(title=" · ".join(panels))
    return theme.themed(layered.facet(facet=alt.Facet("panel:N", header=header), columns=3).properties(title=title))


def _scale(values: pl.DataFrame) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic axis for positive values that span more than two powers of ten, else an ordinary one."""
    finite = [column.drop_nulls().filter(column.drop_nulls().is_finite()) for column in values.iter_columns()]
    low, high = theme.extent(*finite)
    if low > 0 and high / low > 100:
        return theme.decades(low, high)
    return alt.Scale(zero=False), alt.Axis()


def _runs(frame: pl.DataFrame, along: str, others: Sequence[str]) -> pl.Expr:
    """Numbers the stretches without a gap, so that no line crosses a layer of which there is no row."""
    if not frame[along].dtype.is_integer():
        return pl.lit(0).alias("run")
    gap = pl.col(along).cast(pl.Int64).diff() != 1
    return (gap.over(others) if others else gap).fill_null(value=True).cum_sum().alias("run")

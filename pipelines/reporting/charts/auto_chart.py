"""Chart of any question's answer, with one mark per row; its form follows from the key and the columns."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import method_encoding, theme
from prunescope.pipelines.reporting.charts.display_text import label

# More marks are indistinguishable, and slow in a browser.
MAX_MARKS = 5000
MAX_PANELS = 24
MAX_COLORS = len(theme.CATEGORIES)
# Ordered columns for the x axis; the first one that varies is used.
_ORDERED = ("step", "position", "layer", "decile", "temperature", "dropped", "k")
# Types of columns that contain names.
_NAMES = (pl.String, pl.Boolean, pl.Categorical, pl.Enum)
# Suffixes of the columns that bound an interval.
_BOUNDS = (("_low", "_high"), ("_p10", "_p90"))
# The column to draw, if it is neither the one with an interval nor the first float.
_VALUES = {
    "q11_first_flip": "first_flip_step",
    "q12_flip_to_collapse": "steps_to_collapse",
    "q13_own_text_against_forced": "own_minus_forced_nats",
    "q16_options_against_vocabulary": "options_share",
    "q17_ranking_lost": "kendall_tau_mean",
    "q18_options_in_the_tail": "mass_dense",
    "q24_attention_mlp_block": "kl_ratio",
    "q25_pattern_cost": "kl_ratio",
}
# A second column, drawn as the size of the points.
_SIZES = {"q11_first_flip": "margin_dense"}
# Questions give no interval for fewer prompts, as their headers say.
_MIN_PROMPTS = 2
_NO_FIELD = re.compile(r"\W")


def draw(name: str, frame: pl.DataFrame, key: Sequence[str], asks: str) -> theme.AnyChart:
    """Draw one column of an answer as points over its key, with its intervals, and lines along an ordered x axis.

    Args:
        name: the question.
        frame: all rows of the answer.
        key: columns that identify a row.
        asks: the question in words, for the title.

    Returns:
        A chart whose subtitle names the column and what the chart leaves out.

    Raises:
        InputError: the answer has more than MAX_MARKS rows, or no column of numbers.
    """
    title = textwrap.wrap(asks, 90)
    if frame.is_empty():
        return theme.no_data("\n".join(title), "the answer has no rows")
    if frame.height > MAX_MARKS:
        raise InputError(
            f"{frame.height:,} rows are more than a picture shows ({MAX_MARKS:,}); ask for less, such as one model, "
            "recipe or prompt"
        )
    value, low, high = _value(name, frame, key)
    no_interval = ""
    if low and high and frame[low].null_count() == frame.height:
        prompts = frame["n_prompts"].max() if "n_prompts" in frame.columns else None
        is_too_few = isinstance(prompts, int) and prompts < _MIN_PROMPTS
        because = ", because one prompt carries none (two would)" if is_too_few else ""
        no_interval = f"no interval: {low} and {high} are NULL in every row{because}"
        low = high = None
    size = _SIZES.get(name)
    shown = frame.with_columns(pl.col(column).cast(pl.Float64) for column in (value, low, high) if column)
    missing = shown[value].is_null() | shown[value].is_nan()
    shown = shown.filter(~missing)
    if shown.is_empty():
        return theme.no_data("\n".join(title), f"{value} is NULL in every row")
    varying = [column for column in key if frame[column].n_unique() > 1]
    constant = [f"{column} {label(str(frame[column][0]))}" for column in key if column not in varying]
    along = next((column for column in _ORDERED if column in varying and frame[column].dtype.is_numeric()), None)
    along = along or ("recipe" if "recipe" in (varying or key) else (varying or key)[0])
    others = [column for column in varying if column != along]
    # Recipes get colours first, because answers are compared by recipe.
    by_recipe = sorted(others, key=lambda column: column != "recipe")
    color = next((column for column in by_recipe if frame[column].n_unique() <= MAX_COLORS), None)
    panels = [column for column in others if column != color]
    while panels and frame.select(panels).n_unique() > MAX_PANELS:
        panels.pop()
    hidden = [column for column in others if column not in {color, *panels}]
    subtitle = [
        value + (f", with {low} to {high}" if low else "") + (f"; larger points: larger {size}" if size else ""),
        no_interval,
        ", ".join(constant),
        f"points of one place differ in {', '.join(hidden)}" if hidden else "",
        f"without {int(missing.sum())} rows in which it is NULL" if missing.any() else "",
    ]
    return _chart(shown, (along, value, low, high, size), color, panels, not hidden, theme.title(title, *subtitle))  # type: ignore[arg-type]


def draw_rows(rows: pl.DataFrame) -> theme.AnyChart:
    """Draw the rows of any query as `draw` does, over its columns of names and its ordered columns.

    Raises:
        InputError: as `draw`, or there is no such column.
    """
    key = [name for name in rows.columns if rows[name].dtype in _NAMES or name in _ORDERED]
    if not key:
        raise InputError("a chart needs a column of names, steps or layers, and a column of numbers")
    return draw("the answer", rows, key, "")


def _value(name: str, frame: pl.DataFrame, key: Sequence[str]) -> tuple[str, str | None, str | None]:
    """Return the column to draw and the two that bound its interval."""
    others = [column for column in frame.columns if column not in key and frame[column].dtype.is_numeric()]
    if not others:
        raise InputError(f"{name} has no column of numbers to draw")
    for column in others if name not in _VALUES else ():
        for below, above in _BOUNDS:
            stem = column.removesuffix("_median")
            if {stem + below, stem + above} <= set(others) and column != stem + below:
                return column, stem + below, stem + above
    if (chosen := _VALUES.get(name)) in others:
        return chosen, None, None
    floats = [column for column in others if frame[column].dtype.is_float()]
    return (floats or others)[0], None, None


def _chart(
    shown: pl.DataFrame,
    columns: tuple[str, str, str | None, str | None, str | None],
    color: str | None,
    panels: Sequence[str],
    is_whole: bool,
    title: alt.TitleParams,
) -> theme.AnyChart:
    # Vega reads `max(kl)` as an aggregate and `kl.nats` as a path, so such columns get other names in the data.
    own = {f"column {n}" if _NO_FIELD.search(name) else name: name for n, name in enumerate(shown.columns)}
    field = {name: renamed for renamed, name in own.items()}
    shown = shown.rename(field)
    along, value = field[columns[0]], field[columns[1]]
    low, high, size = (field[column] if column else None for column in columns[2:])
    color, panels = field[color] if color else None, [field[column] for column in panels]
    bounds = [column for column in (low, high) if column]
    series = [*([color] if color else []), *panels]
    named = shown.sort(*series, along)
    panel = pl.concat_str(pl.col(panels).cast(pl.String), separator=" · ") if panels else pl.lit("")
    named = named.with_columns(panel.alias("panel"), _runs(named, along, series).alias("run"))
    sizes = [size] if size else []
    named = named.select(*dict.fromkeys([along, value, *bounds, *sizes, *series, "panel", "run"]))
    is_ordered = shown[along].dtype.is_numeric()
    x = alt.X(f"{along}:Q" if is_ordered else f"{along}:N", title=own[along])
    if is_ordered and shown[along].dtype.is_integer():
        x = theme.whole_axis(along, own[along], shown[along])
    finite = [shown[column].drop_nulls() for column in (value, *bounds)]
    lowest, highest = theme.extent(*(column.filter(column.is_finite()) for column in finite))
    is_wide = lowest > 0 and highest / lowest > 100
    scale, axis = theme.decades(lowest, highest) if is_wide else (alt.Scale(zero=False), alt.Axis())
    y = alt.Y(f"{value}:Q", title=own[value], scale=scale, axis=axis)
    tooltip = [
        alt.Tooltip(column, title=own[column], type="quantitative" if named[column].dtype.is_numeric() else "nominal")
        for column in named.columns
        if column not in {"panel", "run"}
    ]
    base = theme.Chart().encode(x=x, tooltip=tooltip)
    if color:
        colors: dict[str, Any] = {}
        if color.endswith("method"):
            colors["scale"] = method_encoding.scale(shown[color].cast(pl.String))
        base = base.encode(color=alt.Color(f"{color}:N", title=own[color], sort=theme.names(shown, color), **colors))
        if not is_ordered:  # so that equal values do not overlap
            base = base.encode(xOffset=alt.XOffset(f"{color}:N", sort=theme.names(shown, color)))
    layers = [base.mark_rule(opacity=0.5).encode(y=alt.Y(f"{low}:Q"), y2=alt.Y2(f"{high}:Q"))] if bounds else []
    if is_ordered and is_whole:  # if hidden columns vary, a line would join unrelated points
        layers.append(base.mark_line(strokeWidth=1.2, opacity=0.6).encode(y=y, detail=alt.Detail("run:N")))
    points = base.mark_point(filled=True, size=35, opacity=0.85).encode(y=y)
    if size:
        points = points.encode(size=alt.Size(f"{size}:Q", title=own[size], scale=alt.Scale(range=[15, 260])))
    layers.append(points)
    width = 260 if panels else 560
    layered = alt.layer(*layers, data=theme.rows(named)).properties(width=width, height=200 if panels else 320)
    if not panels:
        return theme.themed(layered.properties(title=title))
    header = alt.Header(title=" · ".join(own[column] for column in panels))
    return theme.themed(layered.facet(facet=alt.Facet("panel:N", header=header), columns=3).properties(title=title))


def _runs(frame: pl.DataFrame, along: str, others: Sequence[str]) -> pl.Expr:
    """Number the series of consecutive values, so that no line crosses a gap such as a layer without a row."""
    if not frame[along].dtype.is_integer():
        return pl.lit(0)
    gap = pl.col(along).cast(pl.Int64).diff() != 1
    return (gap.over(others) if others else gap).fill_null(value=True).cum_sum()

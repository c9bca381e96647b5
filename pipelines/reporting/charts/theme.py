"""How every chart looks: colours, sizes, axis titles, the empty chart.

What a chart shows does not belong here.
"""

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any, Self, TypeAlias

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.charts.publication_size import Specification

# Okabe and Ito's palette, told apart with every common colour blindness.
# Light enough for a dark screen and dark enough for paper; text on a coloured cell chooses for itself.
BLUE, GREEN, VERMILLION, ORANGE = "#0072B2", "#009E73", "#D55E00", "#E69F00"
PURPLE, SKY, OLIVE, GREY, INK = "#CC79A7", "#56B4E9", "#8F8F2E", "#7F7F7F", "#222222"
CATEGORIES = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, OLIVE, GREY]

SPACES = ("h", "z", "p")
SPACE_TITLES = {"h": "h, hidden state", "z": "z, logits", "p": "p, probabilities"}
SPACE_COLORS = [BLUE, GREEN, VERMILLION]
SPACE_SHAPES = ["circle", "square", "triangle-up"]
SUBLAYER_TITLES = {"attn": "attention", "mlp": "MLP"}

# Where a chart without data keeps its reason; Vega ignores it.
_MISSING = "no data"
_FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
AnyChart: TypeAlias = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
)

MONOSPACE = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


class _Rows(alt.InlineData):
    """Rows that all copies of a chart share; Altair copies a chart some ten times while it is put together."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Chart(alt.Chart):
    """A chart whose copies share its data, mark and encoding.

    Layering, facets and concatenation copy each chart inside them, some sixty times in all; of a copy they replace
    properties and change nothing inside them.
    """

    def __deepcopy__(self, memo: object) -> Self:
        """Copy the chart alone."""
        return self.copy(deep=False)


def inline(values: list[dict[str, Any]]) -> alt.InlineData:
    """Rows as data inside the chart."""
    data = _Rows(values=[])
    # Filled afterwards: the constructor checks value by value, which takes longer than drawing.
    data["values"] = values
    return data


_floats = pl.selectors.float()
_finite = pl.when(_floats.is_finite()).then(_floats).name.keep()


def rows(frame: pl.DataFrame) -> alt.InlineData:
    """The frame as data inside the chart, every value as it is; null, and what JSON lacks, NaN and ∞, are left out."""
    return inline(
        [
            {name: value for name, value in row.items() if value is not None}
            for row in frame.with_columns(_finite).iter_rows(named=True)
        ]
    )


def names(frame: pl.DataFrame, column: str) -> list[str]:
    """The column's labels in the order in which the query gave them."""
    return frame[column].unique(maintain_order=True).to_list()


def distinct_labels(texts: Iterable[str], limit: int = 40) -> dict[str, str]:
    """Text → its label; texts that look the same once they are cut get a number, so that they stay apart."""
    labels: dict[str, str] = {}
    for text in texts:
        if text not in labels:
            shown = label(text, limit)
            numbered = (f"{shown} #{number}" for number in itertools.count(2))
            labels[text] = next(name for name in itertools.chain([shown], numbered) if name not in labels.values())
    return labels


def with_variant(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with `variant`: the recipe's name, with the model's before it where the frame has several models."""
    named = frame.with_columns(pl.col("model", "recipe").cast(pl.String))
    variant = pl.col("recipe").replace_strict(distinct_labels(named["recipe"]), return_dtype=pl.String)
    if named["model"].n_unique() > 1:
        variant = pl.col("model").replace_strict(distinct_labels(named["model"])) + "@" + variant
    return named.with_columns(variant.alias("variant"))


def models(frame: pl.DataFrame) -> str:
    """The model names for a subtitle."""
    return ", ".join(label(name) for name in names(frame, "model"))


def temperatures(frame: pl.DataFrame) -> str:
    """The temperatures for a subtitle."""
    return "T = " + ", ".join(f"{temperature:g}" for temperature in sorted(frame["temperature"].unique()))


def prompts(count: int) -> str:
    """How many prompts a figure stands on, for a subtitle."""
    return f"{count} prompts" if count != 1 else "1 prompt"


def title(text: str, *subtitles: str) -> alt.TitleParams:
    """A chart's title; the subtitles say which model, scope, lens and temperature."""
    return alt.TitleParams(text=text, subtitle=[line for line in subtitles if line])


def without_zeros(zeros: int) -> str:
    """What a subtitle says about values that a logarithmic axis cannot show; nothing where it shows all."""
    if not zeros:
        return ""
    values = "1 value" if zeros == 1 else f"{zeros:,} values"
    return f"without {values} of exactly 0, which a logarithmic axis cannot show"


def has_logarithm(column: str) -> pl.Expr:
    """Whether a value has a place on a logarithmic axis; zero, null and NaN have none."""
    return (pl.col(column) > 0) & pl.col(column).is_finite()


def extent(*columns: pl.Series) -> tuple[float, float]:
    """Smallest and largest value of columns that hold at least one."""
    both = pl.concat([column.cast(pl.Float64).alias("value") for column in columns])
    return float(both.min()), float(both.max())  # type: ignore[arg-type]


def decades(low: float, high: float, ticks: int = 5) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic scale and axis over whole powers of ten around positive values, ticked at powers of ten only."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    every = math.ceil((last - first) / ticks)
    values = [float(f"1e{power}") for power in range(first, last + 1, every)]
    return (
        alt.Scale(type="log", domain=[float(f"1e{first}"), float(f"1e{last}")], nice=False),
        alt.Axis(values=values, labelExpr="format(datum.value, datum.value < 0.001 ? '~e' : '~r')"),
    )


def whole_axis(column: str, text: str, values: pl.Series) -> alt.X:
    """An x axis of whole numbers, at most eight of them ticked, also where there are only two."""
    first, last = int(values.min()), int(values.max())  # type: ignore[arg-type]
    every = next(
        size
        for power in itertools.count()
        for size in (10**power, 2 * 10**power, 5 * 10**power)
        if (last - first) / size <= 7
    )
    ticks = range(math.ceil(first / every) * every, last + 1, every)
    return alt.X(
        f"{column}:Q",
        title=text,
        scale=alt.Scale(domain=[first, last], nice=False, padding=8),
        axis=alt.Axis(values=list(ticks), format="d", grid=False),
    )


def variant_row(frame: pl.DataFrame) -> alt.Row:
    """A row of panels for each `variant`, in the order of the frame; `row_names` writes their names."""
    return alt.Row("variant:N", title=None, sort=names(frame, "variant"), header=alt.Header(labels=False))


def row_names(column: str, first: str, above: int) -> alt.Chart:
    """A layer that writes the variant's name above the first panel of its row, where a long one has room.

    Args:
        column: field of the facet's columns.
        first: its value in the first column.
        above: pixels between the name and the panel.
    """
    once: alt.Chart = (
        Chart()
        .transform_filter(alt.datum[column] == first)
        .transform_aggregate(groupby=["variant", column])
        .mark_text(align="left", baseline="bottom", fontSize=12, fontWeight="bold")
        .encode(x=alt.value(0), y=alt.value(-above), text=alt.Text("variant:N"))
    )
    return once


def tooltip(*fields: str) -> list[alt.Tooltip]:
    """Fields under their own names.

    Altair searches all its classes for a channel that is named by a string alone; so every encoding names its class.
    """
    return [alt.Tooltip(field) for field in fields]


def no_data(text: str, needs: str) -> AnyChart:
    """The chart of an empty frame, which says what would fill it; `missing` tells it from others."""
    return themed(
        Chart(inline([{"message": f"no data: {needs}"}]), width=480, height=60, title=title(text))
        .properties(usermeta={_MISSING: needs})
        .mark_text(fontSize=13, color=GREY)
        .encode(text=alt.Text("message:N"))
    )


def missing(specification: Specification) -> str | None:
    """Why a chart shows nothing; None where it shows data."""
    reason: str | None = specification.get("usermeta", {}).get(_MISSING)
    return reason


def config(dark: bool = False) -> dict[str, Any]:
    """The common look as a plain Vega-Lite config: on white for paper, or on near black for screens.

    Marks that must stand out from either ground take `style="ink"`, gaps between cells `style="gap"`, and quiet lines
    `style="quiet"`, so that one specification serves both.
    """
    ink, quiet, grid, ground = ("#e6e6e6", "#9a9a9a", "#33363b", "#1b1d21") if dark else (INK, GREY, "#ececec", "white")
    faint = "#b4b4b4" if dark else "#555555"
    return {
        "background": ground,
        "font": _FONT,
        "padding": 8,
        "view": {"stroke": "#44474d" if dark else "#dddddd"},
        "axis": {
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelColor": ink,
            "titleColor": ink,
            "gridColor": grid,
            "domainColor": quiet,
            "tickColor": quiet,
            "labelLimit": 220,
        },
        "header": {
            "labelFontSize": 12,
            "labelFontWeight": "bold",
            "labelColor": ink,
            "titleColor": ink,
            "labelLimit": 270,
        },
        "legend": {
            "orient": "top",
            "labelFontSize": 12,
            "labelColor": ink,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titleColor": ink,
            "labelLimit": 400,
            "titleLimit": 600,
        },
        "title": {
            "anchor": "start",
            "fontSize": 15,
            "color": ink,
            "subtitleFontSize": 12,
            "subtitleColor": faint,
            "offset": 10,
        },
        "text": {"color": ink},
        "range": {"category": CATEGORIES},
        "style": {
            "ink": {"color": ink},
            "quiet": {"color": quiet},
            "gap": {"stroke": ground},
            "group-title": {"fill": ink},
            "group-subtitle": {"fill": faint},
        },
    }


def themed(chart: AnyChart) -> AnyChart:
    """The chart with the common look, which stands in its JSON so that it looks the same everywhere."""
    # In place, because a copy of a chart copies every chart inside it several times.
    chart.config = alt.Config(**config())
    return chart


def dressed(specification: Specification, *, dark: bool = False) -> Specification:
    """A chart with the light or the dark look instead of its own."""
    return {**specification, "config": config(dark=dark)}


def vega_lite(specification: Specification) -> bytes:
    """A specification as a file of Vega-Lite JSON, the same bytes every time."""
    return (json.dumps(specification, allow_nan=False, sort_keys=True) + "\n").encode()

"""Common look of all charts: colours, scales, axes, titles, the empty chart."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Self, TypeAlias, TypeVar, cast

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts.display_text import counted, label
from prunescope.pipelines.reporting.charts.publication_size import Specification

# Okabe and Ito's palette: safe for all common kinds of colour blindness, readable on dark screens and on paper.
BLUE, GREEN, VERMILLION, ORANGE = "#0072B2", "#009E73", "#D55E00", "#E69F00"
PURPLE, SKY, OLIVE, GREY, INK = "#CC79A7", "#56B4E9", "#8F8F2E", "#7F7F7F", "#222222"
CATEGORIES = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, OLIVE, GREY]

SPACE_TITLES = {"h": "h, hidden state", "z": "z, logits", "p": "p, probabilities"}
SPACE_COLORS = [BLUE, GREEN, VERMILLION]
SPACE_SHAPES = ["circle", "square", "triangle-up"]
SUBLAYER_TITLES = {"attn": "attention", "mlp": "MLP"}

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Key of `usermeta`, which Vega ignores, with the reason why a chart has no data.
_MISSING = "no data"
# The package's font comes first (publication_size.py), so that a picture is the same on every machine. A browser
# without it takes the next.
_FONT = "Arimo, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONOSPACE = "'DejaVu Sans Mono', ui-monospace, Menlo, Consolas, monospace"
AnyChart: TypeAlias = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
)
# What a figure's module draws: the chart, and the lines of its subtitle.
Drawn: TypeAlias = tuple[AnyChart, list[str]]
_Channel = TypeVar("_Channel", alt.Color, alt.Shape, alt.StrokeDash)

# Legends of points and of lines. Marks are pale; legends are not.
POINTS = alt.Legend(symbolOpacity=1, symbolSize=70)
LINES = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
# A line that data are compared with: equal values, chance, no change.
DASHED: dict[str, Any] = {"strokeDash": [4, 3], "strokeWidth": 1}
# Names beside points.
NAMES: dict[str, Any] = {"align": "left", "dx": 7, "dy": -6, "fontSize": 10, "limit": 130}


class NoData(Exception):  # noqa: N818 - it is no error of the program
    """A reason why rows have nothing to draw; the chart says it."""


class _SharedRows(alt.InlineData):
    """Data that all copies of a chart share, because Altair copies a chart about ten times while composing it."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Chart(alt.Chart):
    """Chart whose copies share its data, mark and encoding.

    Layering, facets and concatenation make about sixty copies of each chart inside them. They replace properties of a
    copy but never modify the values of properties, so a shallow copy is safe.
    """

    def __deepcopy__(self, memo: object) -> Self:
        """Return a shallow copy."""
        return self.copy(deep=False)


def inline(values: list[dict[str, Any]]) -> alt.InlineData:
    """Return rows as inline data of a chart."""
    data = _SharedRows(values=[])
    # Set after construction: the constructor validates every value, which takes longer than drawing.
    data["values"] = values
    return data


def rows(frame: pl.DataFrame) -> alt.InlineData:
    """Return the frame as inline data of a chart, without null, and without NaN and ∞, which JSON does not have."""
    floats = pl.selectors.float()
    finite = frame.with_columns(pl.when(floats.is_finite()).then(floats).name.keep())
    return inline(
        [{name: value for name, value in row.items() if value is not None} for row in finite.iter_rows(named=True)]
    )


def stacked(
    frame: pl.DataFrame, keep: Sequence[str], name: str, titles: Mapping[str, str], parts: Sequence[str]
) -> pl.DataFrame:
    """Return one row per row and quantity, from columns `<quantity>_<part>`.

    The columns `keep` stay. The column `name` has the quantity's title, the columns `parts` its values.
    """
    return pl.concat(
        frame.select(
            *keep,
            pl.lit(title).alias(name),
            *(pl.col(f"{quantity}_{part}").cast(pl.Float64).alias(part) for part in parts),
        )
        for quantity, title in titles.items()
    )


def names(frame: pl.DataFrame, column: str) -> list[str]:
    """Return the distinct values of a column in the order of the rows."""
    return frame[column].unique(maintain_order=True).to_list()


def distinct_labels(texts: Iterable[str], limit: int = 40) -> dict[str, str]:
    """Map each text to its label; labels that would be equal after shortening get numbers."""
    labels: dict[str, str] = {}
    for text in texts:
        if text not in labels:
            shown = label(text, limit)
            numbered = (f"{shown} #{number}" for number in itertools.count(2))
            labels[text] = next(name for name in itertools.chain([shown], numbered) if name not in labels.values())
    return labels


def with_variant(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column `variant`: the recipe's label, with the model's before it if the frame has several models."""
    named = frame.with_columns(pl.col("model", "recipe").cast(pl.String))
    variant = pl.col("recipe").replace_strict(distinct_labels(named["recipe"]), return_dtype=pl.String)
    if named["model"].n_unique() > 1:
        variant = pl.col("model").replace_strict(distinct_labels(named["model"])) + "@" + variant
    return named.with_columns(variant.alias("variant"))


def labels(frame: pl.DataFrame, column: str) -> str:
    """Return the labels of a column's distinct values, for a subtitle."""
    return ", ".join(label(name) for name in names(frame, column))


def largest(frame: pl.DataFrame, column: str) -> int:
    """Return the largest value of a column of integers that is not empty."""
    return int(frame[column].max())  # type: ignore[arg-type]


def size(frame: pl.DataFrame, column: str = "prompts") -> str:
    """Return the largest number of prompts, or of things named by another column, for a subtitle."""
    return counted(largest(frame, column), column.removesuffix("s"))


_PARTS: dict[str, Callable[[pl.DataFrame], str]] = {
    "model": lambda frame: labels(frame, "model"),
    "prompt_id": lambda frame: f"prompt {labels(frame, 'prompt_id')}",
    "question": lambda frame: f"question {labels(frame, 'prompt_id')}",
    "prompts": size,
    "temperature": lambda frame: "T = " + ", ".join(f"{one:g}" for one in sorted(frame["temperature"].unique())),
    "lens": lambda frame: f"lens {labels(frame, 'lens')}",
}


def about(frame: pl.DataFrame, columns: str = "model", *others: str) -> str:
    """Return a line of a subtitle: what the rows have in common, by column, and other parts that are not empty."""
    return " · ".join([*(_PARTS[column](frame) for column in columns.split()), *filter(None, others)])


def finished(module: ModuleType, frame: pl.DataFrame, draw: str = "draw") -> AnyChart:
    """Return a figure's chart with title and look; without rows, one that says what is missing.

    Args:
        module: states TITLE, NEEDS (what a study without rows lacks) and the drawing function.
        frame: rows of the figure's query.
        draw: name of the function, which may raise NoData.
    """
    if frame.is_empty():
        return no_data(module.TITLE, module.NEEDS)
    try:
        chart, subtitles = getattr(module, draw)(frame)
    except NoData as reason:
        return no_data(module.TITLE, str(reason))
    chart.title = title(module.TITLE, *subtitles)
    return themed(chart)


def title(text: str, *subtitles: str) -> alt.TitleParams:
    """Return a chart's title with those subtitles that are not empty."""
    return alt.TitleParams(text=text, subtitle=[line for line in subtitles if line])


def has_logarithm(column: str) -> pl.Expr:
    """Return whether a logarithmic axis can show a value, which excludes zero, null and NaN."""
    return (pl.col(column) > 0) & pl.col(column).is_finite()


def extent(*columns: pl.Series) -> tuple[float, float]:
    """Return the smallest and the largest value of columns that are not all empty."""
    both = pl.concat([column.cast(pl.Float64).alias("value") for column in columns])
    return float(both.min()), float(both.max())  # type: ignore[arg-type]


def decades(low: float, high: float, ticks: int = 5) -> tuple[alt.Scale, alt.Axis]:
    """Return a logarithmic scale and axis that begin, end and have their ticks at powers of ten.

    Args:
        low: smallest value to show, positive.
        high: largest value to show.
        ticks: approximate maximum number of ticks.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    every = math.ceil((last - first) / ticks)
    values = [float(f"1e{power}") for power in range(first, last + 1, every)]
    return (
        alt.Scale(type="log", domain=[float(f"1e{first}"), float(f"1e{last}")], nice=False),
        alt.Axis(values=values, labelExpr=powers_of_ten(values)),
    )


def powers_of_ten(values: Sequence[float]) -> str:
    """Return the expression that labels ticks or colours at 0 and at powers of ten in one notation: 10⁻³, 10⁰."""
    texts = ["10" + str(round(math.log10(value))).translate(_SUPERSCRIPTS) if value else "0" for value in values]
    return f"{json.dumps(texts, ensure_ascii=False)}[indexof({json.dumps(list(values))}, datum.value)]"


def whole_axis(column: str, text: str, values: pl.Series) -> alt.X:
    """Return an x axis of integers with at most eight ticks, all at integers."""
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
        axis=alt.Axis(values=list(ticks), format="d", grid=False, labelOverlap="greedy"),
    )


def nominal(channel: type[_Channel], field: str, domain: Iterable[str], values: Iterable[Any], **keys: Any) -> _Channel:  # noqa: ANN401
    """Return a channel without a title that maps the values of a nominal field to fixed colours, shapes or dashes."""
    return channel(f"{field}:N", title=None, scale=alt.Scale(domain=[*domain], range=[*values]), **keys)


def balanced(panels: int, most: int) -> int:
    """Return the number of columns, at most `most`, that leaves the fewest empty places in rows of panels."""
    return math.ceil(panels / math.ceil(panels / most))


def variant_grid(
    chart: AnyChart, frame: pl.DataFrame, column: alt.Column, row_space: int, column_space: int
) -> alt.FacetChart:
    """Return a row of panels per `variant`, in the order of the frame; `row_names` writes their headings."""
    row = alt.Row("variant:N", title=None, sort=names(frame, "variant"), header=alt.Header(labels=False))
    spacing = alt.RowColnumber(row=row_space, column=column_space)
    # Flush, so that a long name above a panel does not move the panels.
    return cast(alt.FacetChart, chart.facet(row=row, column=column, bounds="flush", spacing=spacing))


def row_names(first: str, above: int) -> alt.Chart:
    """Return a layer that writes the variant's name above the first panel of its row, where a long name fits.

    Args:
        first: `quantity` of the first column of panels.
        above: pixels between the name and the panel.
    """
    panels = Chart().transform_filter(alt.datum["quantity"] == first)
    panels = panels.transform_aggregate(groupby=["variant", "quantity"])
    text = panels.mark_text(align="left", baseline="bottom", fontSize=12, fontWeight="bold")
    return cast(alt.Chart, text.encode(x=alt.value(0), y=alt.value(-above), text=alt.Text("variant:N")))


def tooltip(fields: str) -> list[alt.Tooltip]:
    """Return tooltip channels of fields such as "variant:N layer", which are quantitative unless they say otherwise.

    Charts name every channel by its class, because Altair searches all its classes for a channel given as a string.
    """
    return [alt.Tooltip(field if ":" in field else f"{field}:Q") for field in fields.split()]


def span(low: alt.X | alt.Y, high: str) -> dict[str, Any]:
    """Return the encoding of a bar or band from one field to another, such as an interval."""
    return {"x": low, "x2": alt.X2(high)} if isinstance(low, alt.X) else {"y": low, "y2": alt.Y2(high)}


def valid(chart: alt.Chart, *fields: str) -> alt.Chart:
    """Return a layer of the rows in which the fields are known."""
    return chart.transform_filter(" && ".join(f"isValid(datum.{field})" for field in fields))


def faceted(
    chart: AnyChart,
    field: str,
    order: Sequence[Any],
    columns: int,
    **keys: Any,  # noqa: ANN401
) -> alt.FacetChart:
    """Return a panel per value of a field, in rows of so many columns; `header` and other keys are Altair's."""
    header: Any = {"header": alt.Header(**keys.pop("header"))} if "header" in keys else {}
    facets: alt.FacetChart = cast(alt.Chart, chart).facet(
        facet=alt.Facet(field if ":" in field else f"{field}:N", title=None, sort=order, **header),
        columns=columns,
        **keys,
    )
    return facets


def with_room(points: Iterable[tuple[Any, ...]], width: float, height: float) -> list[bool]:
    """Return which points (panel, x, y) have room for a name: none before them is closer in both directions."""
    taken: list[tuple[Any, ...]] = []
    found = []
    for panel, x, y in points:
        found.append(all(panel != other or abs(x - a) >= width or abs(y - b) >= height for other, a, b in taken))
        taken += [(panel, x, y)] if found[-1] else []
    return found


def no_data(text: str, needs: str) -> AnyChart:
    """Return the chart of an empty frame, which names what is missing; `missing` returns that reason."""
    return themed(
        Chart(inline([{"message": f"no data: {needs}"}]), width=480, height=60, title=title(text))
        .properties(usermeta={_MISSING: needs})
        .mark_text(fontSize=13, color=GREY)
        .encode(text=alt.Text("message:N"))
    )


def missing(specification: Specification) -> str | None:
    """Return the reason why a chart has no data; None if it has data."""
    reason: str | None = specification.get("usermeta", {}).get(_MISSING)
    return reason


def config(dark: bool = False) -> dict[str, Any]:
    """Return the common look as a Vega-Lite config: on white for paper, or on near black for screens.

    One specification serves both backgrounds, because marks whose colour depends on the background have a style: `ink`
    for strong contrast, `quiet` for faint lines, `gap` for the space between cells.
    """
    ink, quiet, grid, ground = ("#e6e6e6", "#9a9a9a", "#33363b", "#1b1d21") if dark else (INK, GREY, "#ececec", "white")
    faint = "#b4b4b4" if dark else "#555555"
    inked = {"labelColor": ink, "titleColor": ink}
    titled = {"titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": ground,
        "font": _FONT,
        "padding": 8,
        "view": {"stroke": "#44474d" if dark else "#dddddd"},
        "axis": {
            **titled,
            **inked,
            "labelFontSize": 11,
            "gridColor": grid,
            "domainColor": quiet,
            "tickColor": quiet,
            "labelLimit": 220,
        },
        "header": {**inked, "labelFontSize": 12, "labelFontWeight": "bold", "labelLimit": 270},
        "legend": {**titled, **inked, "orient": "top", "labelFontSize": 12, "labelLimit": 400, "titleLimit": 600},
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
    """Set the common look in a chart's own JSON, so that it looks the same everywhere, and return the chart."""
    # In place, because copying a chart copies every chart inside it several times.
    chart.config = alt.Config(**config())
    return chart


def dressed(specification: Specification, *, dark: bool = False) -> Specification:
    """Return a specification with the light or the dark look instead of its own."""
    return {**specification, "config": config(dark=dark)}


def vega_lite(specification: Specification) -> bytes:
    """Return a specification as a Vega-Lite JSON file, the same bytes every time."""
    return (json.dumps(specification, allow_nan=False, sort_keys=True) + "\n").encode()
